"""Vectors of words in the space of images, for runs that have an encoder of texts beside that of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..core.errors import NearfarError
from ..data.csv_files import read_text
from ..data.modalities import IMAGES
from ..features.extract import Vectors
from ..training.run import Run

TEMPLATES = ("a photo of a {}", "a picture of a {}", "{}")
"""Sentences in which the name of a class stands, as captions have it."""


def text_run(run: Run) -> Run:
    """Give the encoder of texts that belongs to an encoder of images.

    Args:
        run: of images.

    Raises:
        NearfarError: it has none.
    """
    if run.preprocess.modality != IMAGES:
        raise NearfarError(
            f"{run.name} encodes {run.preprocess.modality}; name a run on images with captions, as nearfar "
            "pretrain DATA --method siglip makes one."
        )
    if run.text is None:
        raise NearfarError(
            f"{run.name} has no encoder of texts, so its images cannot be found by words; train one on "
            "images with captions: nearfar pretrain DATA --method siglip"
        )
    return run.text


def read_names(path: str | Path) -> tuple[str, ...]:
    """Read the names of classes, one a line.

    Args:
        path: a text file.

    Raises:
        NearfarError: it cannot be read, or holds fewer than two names, or one twice.
    """
    names = [line.strip() for line in read_text(Path(path)).splitlines() if line.strip()]
    if len(names) < 2 or len(set(names)) < len(names):
        what = "fewer than two names" if len(names) < 2 else "a name twice"
        raise NearfarError(f"{path} holds {what}; write each class once, one a line.")
    return tuple(names)


def check_templates(templates: Sequence[str]) -> None:
    """Refuse sentences in which no name can stand.

    Args:
        templates: as `of_names` takes them.
    """
    if not templates:
        raise NearfarError("there is no template; give one, such as 'a photo of a {}'.")
    lacking = next((one for one in templates if "{}" not in one), None)
    if lacking is not None:
        raise NearfarError(f"the template {lacking!r} has no {{}}, where the name of a class stands; add it.")


def of_names(run: Run, names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> Vectors:
    """Give each class a vector: the mean of its name's in several sentences, each scaled to length 1.

    Args:
        run: of images, with an encoder of texts.
        names: of the classes.
        templates: sentences with {} for the name.

    Returns:
        (len(names), d) float32 of length 1.

    Raises:
        NearfarError: a template lacks {}, or the run has no encoder of texts.

    Source:
        Radford et al. 2021, CLIP, section 3.1.4.
    """
    check_templates(templates)
    told = [template.replace("{}", name.replace("_", " ")) for name in names for template in templates]
    rows = text_run(run).encode(told, normalize_embeddings=True)
    mean = rows.reshape(len(names), len(templates), -1).mean(axis=1)
    found: Vectors = (mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)).astype(
        np.float32
    )
    return found
