"""Finds duplicate and near-duplicate images, as groups, or as leaks between two stores.

Features choose what to compare, pixels and features together decide. A group is an image and its own near
copies; never a chain, in which each is like the next and the last has nothing of the first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..features.knn import top_k, unit
from .pixel_similarity import Rows, pixel_similarity

CANDIDATES = 10  # nearest by features that each image is compared with
MIN_SIMILARITY = 0.94  # similarity from which two are near copies; docs/uses.md tells what it was chosen by

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Collection:
    """What is known of n images: `x` (n, d) float32 features, `fine` as `zoomed` gives it, n digests."""

    x: Vectors
    fine: torch.Tensor
    digests: Sequence[str]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.x)

    def similarity(self, other: Collection, a: Rows, b: Rows) -> npt.NDArray[np.float32]:
        """Compare pairs: the mean of their pixel similarity and of the cosine of their features.

        Args:
            other: the collection of the second of each pair.
            a, b: (p,) rows.

        Returns:
            (p,) from -1 to 1.
        """
        mine, theirs = (unit(torch.from_numpy(x[rows])) for x, rows in ((self.x, a), (other.x, b)))
        cosine = (mine * theirs).sum(dim=1).numpy()
        return (pixel_similarity(self.fine, other.fine, a, b) + cosine) / 2


@dataclass(frozen=True)
class DuplicatePairs:
    """Pairs of nearly the same images, the most similar first; `same` if byte for byte. All are (p,)."""

    a: Rows
    b: Rows
    similarity: npt.NDArray[np.float32]
    same: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.a)

    def to_json(self) -> dict[str, Any]:
        """Give the pairs in plain values."""
        return {name: value.tolist() for name, value in vars(self).items()}


@dataclass(frozen=True)
class DuplicateGroups:
    """Groups of nearly the same images.

    Attributes:
        rows: (m,) the images that are in a group; groups stand together, each behind its keeper.
        group: (m,) the group's number, from 0; the largest come first.
        similarity: (m,) to the keeper; 1 for the keeper itself and for what is the same byte for byte.
        same: (m,) bool, the same as the keeper byte for byte; false for the keeper.
    """

    rows: Rows
    group: Rows
    similarity: npt.NDArray[np.float32]
    same: npt.NDArray[np.bool_]

    @property
    def keep(self) -> npt.NDArray[np.bool_]:
        """(m,) bool: the one of each group to keep."""
        return np.diff(self.group, prepend=-1) > 0

    def to_json(self) -> dict[str, Any]:
        """Give the groups in plain values."""
        return {**{name: value.tolist() for name, value in vars(self).items()}, "keep": self.keep.tolist()}


def duplicate_pairs(
    images: Collection, others: Collection | None = None, min_similarity: float = MIN_SIMILARITY
) -> DuplicatePairs:
    """Find pairs of nearly the same images, within a collection or between two.

    Args:
        images: n images.
        others: the images they may be copies of; None for one another, each pair once.
        min_similarity: least similarity of a near copy.

    Returns:
        The pairs: `a` of `images`, `b` of `others`. Each image is compared with its `CANDIDATES` nearest by
        features, and with the first that has the same bytes.
    """
    base = images if others is None else others
    k = min(CANDIDATES, len(base) - (others is None))
    if len(images) == 0 or k < 1:
        none = np.empty(0, np.int64)
        return DuplicatePairs(none, none, np.empty(0, np.float32), np.empty(0, np.bool_))
    x, y = (torch.from_numpy(one.x) for one in (images, base))
    cosine, who = top_k(x, y, k, exclude_self=others is None)
    # Below this cosine, pixels cannot make up for it: the similarity is the mean of both.
    a, place = np.nonzero(cosine.numpy() >= 2 * min_similarity - 1)
    b = who.numpy()[a, place]
    equal = _equal(images, others)
    a, b = (np.concatenate([one, two]) for one, two in zip((a, b), equal, strict=True))
    if others is None:
        a, b = np.minimum(a, b), np.maximum(a, b)
    a, b = np.unique(np.stack([a, b], axis=1), axis=0).T
    same = np.array([images.digests[i] == base.digests[j] != "" for i, j in zip(a, b, strict=True)], np.bool_)
    near = np.where(same, np.float32(1), images.similarity(base, a, b))
    kept = np.flatnonzero(near >= min_similarity)
    order = kept[np.lexsort((b[kept], a[kept], ~same[kept], -near[kept]))]
    return DuplicatePairs(a[order], b[order], near[order], same[order])


def _equal(images: Collection, others: Collection | None) -> tuple[Rows, Rows]:
    """Pair each image with the first that has the same bytes, whatever the features say."""
    first: dict[str, int] = {}
    for row, digest in enumerate((others or images).digests):
        first.setdefault(digest, row)
    found = [
        (row, first[digest])
        for row, digest in enumerate(images.digests)
        if digest and digest in first and (others is not None or first[digest] != row)
    ]
    rows = np.array(found, np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def duplicate_groups(
    images: Collection, quality: Sequence[Any], min_similarity: float = MIN_SIMILARITY
) -> DuplicateGroups:
    """Group nearly the same images about one to keep.

    From the best image on, each that is in no group yet gathers its own near copies: first those found by
    features, then their copies, as far as they are near copies of it too. So every image of a group is a
    near copy of the one that is kept.

    Args:
        images: n images.
        quality: n values that sort; the greatest is kept, of equals the first.
        min_similarity: least similarity of a near copy.

    Returns:
        The groups of two and more.
    """
    order = np.array(sorted(range(len(images)), key=lambda row: (quality[row], -row), reverse=True), np.int64)
    first: dict[str, int] = {}
    copies = defaultdict(list)
    for row in order.tolist():
        digest = images.digests[row]
        keeper = first.setdefault(digest, row) if digest else row
        if keeper != row:
            copies[keeper].append(row)
    single = np.array([row for row in order.tolist() if first.get(images.digests[row], row) == row], np.int64)
    stars = _stars(_some(images, single), min_similarity)

    found = []
    for members in stars:
        rows, near, same = [], [], []
        for number, (at, similarity) in enumerate(members):
            row = int(single[at])
            more = copies.get(row, [])
            rows += [row, *more]
            near += [similarity] * (1 + len(more))
            same += [False] + [number == 0] * len(more)
        if len(rows) > 1:
            found.append((rows, near, same))
    found.sort(key=lambda item: (-len(item[0]), item[0][0]))
    return DuplicateGroups(
        np.array([row for rows, _, _ in found for row in rows], np.int64),
        np.array([number for number, (rows, _, _) in enumerate(found) for _ in rows], np.int64),
        np.array([value for _, near, _ in found for value in near], np.float32),
        np.array([value for *_, same in found for value in same], np.bool_),
    )


def _some(images: Collection, rows: Rows) -> Collection:
    return Collection(images.x[rows], images.fine[rows], [""] * len(rows))


def _stars(images: Collection, min_similarity: float) -> list[list[tuple[int, float]]]:
    """Let each image in turn gather its near copies: lists of rows and similarities, the centre first."""
    near: dict[int, dict[int, float]] = defaultdict(dict)
    found = duplicate_pairs(images, min_similarity=min_similarity)
    for a, b, value in zip(found.a.tolist(), found.b.tolist(), found.similarity.tolist(), strict=True):
        near[a][b] = near[b][a] = value
    taken: set[int] = set()
    stars = []
    for centre in range(len(images)):
        if centre in taken:
            continue
        members = {centre: 1.0}
        asked, fresh = {centre}, {row: value for row, value in near[centre].items() if row not in taken}
        while fresh:
            members |= fresh
            asked |= fresh.keys()
            # Copies of the copies may be the centre's own, though ten others stood nearer to it.
            further = np.array(sorted({row for one in fresh for row in near[one]} - asked - taken), np.int64)
            asked |= set(further.tolist())
            value = images.similarity(images, np.full_like(further, centre), further) if len(further) else []
            fresh = {
                row: float(v) for row, v in zip(further.tolist(), value, strict=True) if v >= min_similarity
            }
        taken |= members.keys()
        stars.append(sorted(members.items(), key=lambda item: (item[0] != centre, -item[1], item[0])))
    return stars
