"""The table of modalities, and how one is found by its name. None is imported before it is used."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from ..core.errors import NearfarError, nearest
from .modality import Modality

IMAGES = "images"
MODALITIES = {
    IMAGES: "nearfar.data.image_modality",
    "sound": "nearfar.data.sound_modality",
    "text": "nearfar.data.text_modality",
    "pairs": "nearfar.data.pair_modality",
}
"""Name to the module whose `MODALITY` is the one object of that kind of data."""


@functools.cache
def _load(module: str) -> Modality:
    found: Modality = importlib.import_module(module).MODALITY
    return found


def modality(name: str) -> Modality:
    """Find a kind of data.

    Args:
        name: one of `MODALITIES`.

    Raises:
        NearfarError: there is no such kind.
    """
    if name not in MODALITIES:
        raise NearfarError(f"there is no kind of data {name!r}; {nearest(name, MODALITIES)}")
    return _load(MODALITIES[name])


def modality_of(what: Any) -> Modality:
    """Find the kind of data of a source, a data set or settings of `prepare`: images, unless they say.

    Args:
        what: has `modality`, a name, or is of images.
    """
    return modality(getattr(what, "modality", IMAGES))
