"""Keeps copies of images from being on both sides of a split, where they would make figures too high."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np

from ..core.errors import NearfarError
from ..core.text import counted
from ..data.modality import Modality
from .task_types import Labelled


def copies_apart(data: Labelled, tests: Labelled | None, kind: Modality) -> tuple[Labelled, list[str]]:
    """Make groups of training images that are the same byte for byte, and count test images that are such.

    Args:
        data: the training images; groups that they have stay as they are.
        tests: the test images, or None.
        kind: of data.

    Returns:
        The training images, of which each group stays on one side of a split; and what a user has to know.
    """
    order: dict[bytes, int] = {}
    own = np.array([order.setdefault(one, len(order)) for one in _digests(data)], np.int64)
    repeated, notes = len(own) - len(order), []
    if repeated and data.groups is None:
        data = replace(data, groups=own)
        same = counted(repeated, f"training {kind.one} is")
        notes.append(
            f"{same} the same as another, byte for byte; such are on one side of each split, never on both."
        )
    both = 0 if tests is None else sum(one in order for one in _digests(tests))
    if tests is not None and both:
        of = counted(len(tests), f"test {kind.one} is")
        notes.append(f"{both:,} of {of} trained on too, byte for byte, so test figures are too high.")
    return data, notes


def _digests(data: Labelled) -> list[bytes]:
    """Give the digests of the images' files; none where they are not known, as without a cache."""
    with suppress(NearfarError):
        return [one.tobytes() for one in getattr(data.dataset, "digests", ())]
    return []
