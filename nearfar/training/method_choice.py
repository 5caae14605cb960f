"""Chooses a run's method where none is named: by the kind of data, and for captions by the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import methods
from ..core.errors import NearfarError, nearest
from ..data.modalities import IMAGES, modality
from ..data.open import with_captions
from . import recipes
from .settings import Training

AUTO = "auto"


def usual_method(data: Any, given: Mapping[str, Any], recipe: str = AUTO, device: str = "cpu") -> str:
    """Name the method that learns from data where none is named.

    Args:
        data: as `pretrain` takes it.
        given: explicit settings by name; `modality` and `batch_size` count.
        recipe: a name in `recipes.RECIPES`, which has a batch of its own, or "auto".
        device: where to compute, "cpu", "cuda" or "mps".

    Returns:
        A name in `methods.METHODS`.
    """
    named = given.get("modality") or Training.modality
    kind = (with_captions(data) or IMAGES) if named == Training.modality else named
    side = 224  # of images: whatever it is, a recipe's batch is the same
    made = recipes.RECIPES.get(recipe) or recipes.RECIPES[recipes.choose(device, side)]
    return modality(kind).usual_method(given.get("batch_size") or made(side).training.batch_size)


def choose_method(method: str, data: Any, given: Mapping[str, Any], recipe: str = AUTO) -> str:
    """Give the method that is named, or the usual one.

    Args:
        method: a name in `methods.METHODS`, or "auto".
        data, given, recipe: as in `usual_method`; `device` in `given` counts too.

    Raises:
        NearfarError: there is no such method.
    """
    from ..core.device import device_named  # which imports torch

    if method == AUTO:
        return usual_method(data, given, recipe, device_named(str(given.get("device", AUTO))).type)
    if method not in methods.METHODS:
        raise NearfarError(f"there is no method {method!r}; {nearest(method, methods.METHODS)}")
    return method
