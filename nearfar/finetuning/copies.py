"""Keeps copies of images from being on both sides of a split, where they would make figures too high."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..analysis.duplicates import Collection, duplicate_pairs
from ..analysis.split_copies import split_copies
from ..analysis.text_copies import Texts, TextThreshold
from ..core.errors import NearfarError
from ..core.text import counted
from ..data.dataset import Subset
from ..data.modality import Modality
from .task_types import Labelled, Rows

_NOT_BOTH = "such are on one side of each split, never on both."
_HOW = "saved again, resized, turned or mirrored"


def copies_apart(
    data: Labelled, tests: Labelled | None, kind: Modality, preprocess: Any
) -> tuple[Labelled, list[str]]:
    """Make groups of training images that are copies of one another, and count test images that are such.

    Copies are equal byte for byte; or, of images that were decoded once, saved again, resized, turned by
    quarters or mirrored. Those of
    texts have the same words, and test texts most of their runs of words.

    Args:
        data: the training images; groups that they have stay as they are.
        tests: the test images, or None.
        kind: of data.
        preprocess: how texts were split into tokens.

    Returns:
        The training images, of which each group stays on one side of a split; and what a user has to know.
    """
    words = _words(data, preprocess) if kind.name == "text" else None
    how = "byte for byte" if words is None else "word for word"
    order: dict[Any, int] = {}
    own = np.array([order.setdefault(one, len(order)) for one in _digests(data, words)], np.int64)
    repeated, notes = len(own) - len(order), []
    once = np.unique(own, return_index=True)[1]
    train = _pictures(data, once) if kind.pictures and len(own) else None
    if len(own) and data.groups is None:
        if repeated:
            same = counted(repeated, f"training {kind.one} is")
            notes.append(f"{same} the same as another, {how}; {_NOT_BOTH}")
        a, b = (np.empty(0, np.int64),) * 2 if train is None else split_copies(train, None)[:2]
        links = coo_array((np.ones(len(a)), (a, b)), (len(once), len(once)))
        count, group = connected_components(links, directed=False)
        if count < len(once):
            near = counted(len(once) - count, f"training {kind.one} is")
            notes.append(f"{near} nearly the same as another, {_HOW}; {_NOT_BOTH}")
        if count < len(own):
            data = replace(data, groups=group.astype(np.int64)[own])
    if tests is None:
        return data, notes
    asked = None if words is None else _words(tests, preprocess)
    known = np.array([one in order for one in _digests(tests, asked)], np.bool_)
    of = counted(len(tests), f"test {kind.one} is")
    if known.any():
        notes.append(f"{known.sum():,} of {of} trained on too, {how}, so test figures are too high.")
    if train is not None and not known.all():
        others = len(np.unique(split_copies(_pictures(tests, np.flatnonzero(~known)), train)[0]))
        if others:
            notes.append(
                f"{others:,} of {of} nearly the same as one trained on, {_HOW}, so test figures are too high."
            )
    if words is not None and asked is not None:
        near_pairs = duplicate_pairs(asked, words, TextThreshold().min_similarity)
        if others := len(set(near_pairs.a.tolist()) - set(np.flatnonzero(known).tolist())):
            notes.append(
                f"{others:,} of {of} nearly the same as one trained on, so test figures are too high."
            )
    return data, notes


def _pictures(data: Labelled, rows: Rows) -> Collection:
    return Collection.of(None, Subset(data.dataset, rows))


def _words(data: Labelled, preprocess: Any) -> Texts:
    from ..text.tokenizer import texts_of  # images need no file of texts

    return Texts.of(texts_of(data.dataset, preprocess.tokenizer))


def _digests(data: Labelled, words: Texts | None) -> Sequence[Any]:
    """Give the digests of the images' files, or of texts' words; none where unknown, as without a cache."""
    if words is not None:
        return words.digests
    with suppress(NearfarError):
        digests: npt.NDArray[Any] | Sequence[Any] = getattr(data.dataset, "digests", ())
        return [one.tobytes() for one in digests]
    return []
