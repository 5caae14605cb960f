"""Keeps copies of images from being on both sides of a split, where they would make figures too high."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..analysis.cells import near_rows
from ..analysis.duplicates import MIN_SIMILARITY, Collection, duplicate_pairs
from ..analysis.text_copies import Texts, TextThreshold
from ..core.errors import NearfarError
from ..core.text import counted
from ..data.dataset import Subset
from ..data.modality import Modality
from .task_types import Labelled, Rows

NEIGHBOURS = 3  # most alike by coarse structure that each image is compared with
ALIKE = 0.98  # cosine of structures from which pixels are compared: docs/decisions.md, "Copies in a split"
MOST = 5000  # pairs compared by their pixels, at most: a minute
_NOT_BOTH = "such are on one side of each split, never on both."


def copies_apart(
    data: Labelled, tests: Labelled | None, kind: Modality, preprocess: Any
) -> tuple[Labelled, list[str]]:
    """Make groups of training images that are copies of one another, and count test images that are such.

    Copies are equal byte for byte; or, of images that were decoded once, saved again or resized. Those of
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
    train = _Side.of(data, once) if kind.pictures and len(own) else None
    if len(own) and data.groups is None:
        if repeated:
            same = counted(repeated, f"training {kind.one} is")
            notes.append(f"{same} the same as another, {how}; {_NOT_BOTH}")
        a, b = (np.empty(0, np.int64),) * 2 if train is None else train.near(None)
        links = coo_array((np.ones(len(a)), (a, b)), (len(once), len(once)))
        count, group = connected_components(links, directed=False)
        if count < len(once):
            near = counted(len(once) - count, f"training {kind.one} is")
            notes.append(f"{near} nearly the same as another, saved again or resized; {_NOT_BOTH}")
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
        others = len(np.unique(_Side.of(tests, np.flatnonzero(~known)).near(train)[0]))
        if others:
            notes.append(
                f"{others:,} of {of} nearly the same as one trained on, saved again or resized, so test "
                "figures are too high."
            )
    if words is not None and asked is not None:
        near_pairs = duplicate_pairs(asked, words, TextThreshold().min_similarity)
        if others := len(set(near_pairs.a.tolist()) - set(np.flatnonzero(known).tolist())):
            notes.append(
                f"{others:,} of {of} nearly the same as one trained on, so test figures are too high."
            )
    return data, notes


@dataclass(frozen=True)
class _Side:
    """Different images of one side, and their coarse structure as (n, d) float32."""

    images: Collection
    x: torch.Tensor

    @classmethod
    def of(cls, data: Labelled, rows: Rows) -> _Side:
        images = Collection.of(None, Subset(data.dataset, rows))
        x = images.structure[:, 0].float().flatten(1)
        return cls(images, torch.nn.functional.normalize(x, dim=1))

    def near(self, other: _Side | None) -> tuple[Rows, Rows]:
        """Find the pairs of images that are copies: rows of this side, and of the other or this one."""
        base, own = other or self, other is None
        k = min(NEIGHBOURS, len(base.x) - own)
        if k < 1:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        who = torch.from_numpy(near_rows(self.x, base.x, k, exclude_self=own))
        cosine = torch.stack([(self.x * base.x[at]).sum(1) for at in who.unbind(1)], 1)
        near, place = ((cosine >= ALIKE) & (who >= 0)).nonzero().unbind(1)
        order = cosine[near, place].argsort(descending=True)[:MOST]
        a, b = near[order].numpy(), who[near, place][order].numpy()
        good = self.images.similarity(base.images, a, b) >= MIN_SIMILARITY
        return a[good], b[good]


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
