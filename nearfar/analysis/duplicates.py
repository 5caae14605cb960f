"""Finds duplicate and near-duplicate images, as groups, or as leaks between two stores.

Features and coarse structure choose what to compare, pixels decide: one is laid upon the other, and what
counts is the place where they differ most. How much a copy may differ is measured on copies that are made of
the collection's own images. A group is an image and its own near copies; never a chain, in which each is like
the next and the last has nothing of the first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from ..core import progress
from ..data.dataset import ImageDataset, Subset
from ..images.decode import Pixels
from .cells import near_rows
from .difference import APART, differences
from .structure import READ, Read, Rows, fits, similar_structure, structure

CANDIDATES = 10  # nearest by features that each image is compared with
ALIKE = 4  # most similar by structure, for each way to lie one upon the other
CLOSEST = 5  # of all these, by how well their structures fit, that are compared pixel by pixel
LEAST_FIT = 0.65  # correlation of structures below which two images are no copies
COMMON = 0.05  # share of a collection's variation that a direction of its background has, at least
MIN_SIMILARITY = 0.65  # from which two are near copies, unless `calibrate` has chosen another

Vectors = npt.NDArray[np.float32]


class Comparable(Protocol):
    """Examples compared by what they are: images as a `Collection`, texts as `text_copies.Texts`."""

    @property
    def digests(self) -> Sequence[str]:
        """n texts, equal for what is the same; "" for unknown."""

    def __len__(self) -> int:
        """Count the examples."""

    def candidates(self, others: Self | None) -> tuple[Rows, Rows]:
        """Choose the pairs that are compared."""

    def similarity(self, other: Self, a: Rows, b: Rows) -> Vectors:
        """Compare pairs: (p,) from 0 to 1."""

    def some(self, rows: Rows) -> Self:
        """Take some of these, without their digests."""


Kind = TypeVar("Kind", bound=Comparable)


@dataclass(frozen=True)
class Collection:
    """What is known of n images.

    Attributes:
        x: (n, d) float32 features.
        digests: n texts, equal for equal bytes; "" for unknown.
        small: gives pictures of some rows, None for a missing one; thumbnails will do.
        originals: gives larger ones of the same; None if there are none.
    """

    x: Vectors
    digests: Sequence[str]
    small: Read
    originals: Read | None = None

    @classmethod
    def of(cls, x: Vectors | None, dataset: ImageDataset | Subset) -> Self:
        """Take decoded images.

        Args:
            x: (n, d) float32 features; None if candidates come from elsewhere.
            dataset: n images.
        """
        x = np.empty((len(dataset), 0), np.float32) if x is None else x
        digests = [digest.tobytes().hex() for digest in dataset.digests]
        return cls(x, digests, lambda rows: [dataset[int(row)] for row in rows])

    def __len__(self) -> int:
        """Count the images."""
        return len(self.x)

    @cached_property
    def structure(self) -> torch.Tensor:
        """(n, z, side, side) float16, as `structure.structure` gives it."""
        return structure(self.small, len(self))

    def some(self, rows: Rows) -> Self:
        """Take some images of these, without their digests."""
        parts = [None if read is None else _of(read, rows) for read in (self.small, self.originals)]
        assert parts[0] is not None
        made = type(self)(self.x[rows], [""] * len(rows), parts[0], parts[1])
        made.__dict__["structure"] = self.structure[rows]
        return made

    def similarity(self, other: Collection, a: Rows, b: Rows) -> npt.NDArray[np.float32]:
        """Compare pairs by their pixels.

        Args:
            other: the collection of the second of each pair.
            a, b: (p,) rows.

        Returns:
            (p,) from 0 to 1, where nothing differs at any place: 1 less the greatest difference.
        """
        return self._confirmed(other, a, b, self._fit(other, a, b))

    def candidates(self, others: Collection | None) -> tuple[Rows, Rows]:
        """Choose what is compared pixel by pixel: each image with the few whose structure fits it best.

        Args:
            others: the collection of the second of each pair; None for this one.

        Returns:
            (p,) rows of this collection, and (p,) of the other.
        """
        base, own = (self, True) if others is None else (others, False)
        most = len(base) - own
        x, y = centred(self.x, None if own else base.x)
        near = near_rows(x, y, min(CANDIDATES, most), exclude_self=own)
        alike = similar_structure(self.structure, None if own else base.structure, min(ALIKE, most))
        who = np.concatenate([near, alike], axis=1)
        a, b = np.arange(len(self)).repeat(who.shape[1]), who.reshape(-1)
        a, b = a[b >= 0], b[b >= 0]
        if own:
            a, b = np.minimum(a, b), np.maximum(a, b)
        a, b = np.unique(np.stack([a, b], axis=1), axis=0).T
        fit = self._fit(base, a, b)
        kept = np.zeros(len(a), np.bool_)
        for side in (a, b):
            order = np.lexsort((-fit, side))
            start = np.searchsorted(side[order], side[order])  # where this image's pairs begin
            kept[order[np.arange(len(order)) - start < CLOSEST]] = True
            if not own:  # of the second collection, nothing asks for copies
                break
        kept &= fit >= LEAST_FIT
        return a[kept], b[kept]

    def _fit(self, other: Collection, a: Rows, b: Rows) -> npt.NDArray[np.float32]:
        """Say how well the structures of pairs correlate, at the best of a few shifts and zooms."""
        parts = [
            fits(self.structure[a[low : low + READ]], other.structure[b[low : low + READ]]).score[:, 0]
            for low in range(0, len(a), READ)
        ]
        found: npt.NDArray[np.float32] = torch.cat([torch.empty(0), *parts]).numpy()
        return found

    def _confirmed(
        self, other: Collection, a: Rows, b: Rows, fit: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        found = np.zeros(len(a), np.float32)
        near = np.flatnonzero(fit >= LEAST_FIT)
        for mine, theirs in ((self.small, other.small), (self.originals, other.originals)):
            if mine is None and theirs is None:
                continue
            one, two = mine or self.small, theirs or other.small
            found[near] = _compared(self, other, a[near], b[near], one, two)
            near = near[found[near] > 1 - APART]  # what differs in small differs in full
        return found


def _of(read: Read, rows: Rows) -> Read:
    return lambda some: read(rows[some])


def _compared(
    images: Collection, others: Collection, a: Rows, b: Rows, mine: Read, theirs: Read
) -> npt.NDArray[np.float32]:
    """Compare pairs by their pixels, some in memory at a time."""
    found = np.zeros(len(a), np.float32)
    for low in range(0, len(a), READ):
        if len(a) > READ:  # not for each group
            progress.stage("comparing pictures by their pixels", low, len(a))
        rows, columns = a[low : low + READ], b[low : low + READ]
        first, second = _pictures(mine, rows), _pictures(theirs, columns)
        pairs = [at for at in range(len(rows)) if first[at] is not None and second[at] is not None]
        ways = fits(images.structure[rows[pairs]], others.structure[columns[pairs]])
        one, two = ([x for at in pairs if (x := side[at]) is not None] for side in (first, second))
        found[[low + at for at in pairs]] = (1 - differences(one, two, ways)).clip(0, 1)
    return found


def _pictures(read: Read, rows: Rows) -> list[Pixels | None]:
    """Read each picture once, however many pairs it is in."""
    once, place = np.unique(rows, return_inverse=True)
    found = read(once)
    return [found[at] for at in place]


def centred(x: Vectors, others: Vectors | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Take off what a collection has in common: its mean, and the few directions that most of it follows.

    Args:
        x: (n, d) float32 features.
        others: (m, d), of the collection; None for x itself.

    Returns:
        Both without the mean of the second, and without each direction that has at least `COMMON` of its
        variation; only the mean goes where hardly anything would be left.
    """
    base = torch.from_numpy(x if others is None else others)
    mean = base.mean(dim=0)
    sample = base[:: max(1, len(base) // 4096)] - mean
    _, lengths, directions = torch.linalg.svd(sample, full_matrices=False)
    share = lengths.square() / lengths.square().sum().clamp_min(1e-12)
    common = directions[share >= COMMON]
    if share[share < COMMON].sum() < 1e-4 or len(base) < 4 * len(common):
        common = common[:0]
    parts = [base - mean] if others is None else [torch.from_numpy(x) - mean, base - mean]
    made = [part - (part @ common.T) @ common for part in parts]
    return made[0], made[-1]


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
        same: (m,) bool, the same byte for byte as the keeper, or as another copy of it that comes before.
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
    images: Kind, others: Kind | None = None, min_similarity: float = MIN_SIMILARITY
) -> DuplicatePairs:
    """Find pairs of nearly the same images, within a collection or between two.

    Args:
        images: n images.
        others: the images they may be copies of; None for one another, each pair once.
        min_similarity: least similarity of a near copy, such as `calibrate` chooses.

    Returns:
        The pairs: `a` of `images`, `b` of `others`. Each image is compared with the `CLOSEST` of those that
        are near by features or by structure, and with the first that has the same bytes.
    """
    base = images if others is None else others
    if len(images) == 0 or len(base) - (others is None) < 1:
        none = np.empty(0, np.int64)
        return DuplicatePairs(none, none, np.empty(0, np.float32), np.empty(0, np.bool_))
    a, b = images.candidates(others)
    equal = _equal(images, others)
    same = np.arange(len(a) + len(equal[0])) >= len(a)
    near = np.concatenate([images.similarity(base, a, b), np.ones(len(equal[0]), np.float32)])
    a, b = (np.concatenate([one, two]) for one, two in zip((a, b), equal, strict=True))
    if others is None:
        a, b = np.minimum(a, b), np.maximum(a, b)
    # Of a pair that is there twice, the one with the same bytes is kept.
    order = np.lexsort((b, a, ~same, -near))
    order = order[near[order] >= min_similarity]
    _, first = np.unique(np.stack([a[order], b[order]], axis=1), axis=0, return_index=True)
    order = order[np.sort(first)]
    return DuplicatePairs(a[order], b[order], near[order], same[order])


def _equal(images: Kind, others: Kind | None) -> tuple[Rows, Rows]:
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
    images: Kind, quality: Sequence[Any], min_similarity: float = MIN_SIMILARITY
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
    stars = _stars(images.some(single), min_similarity)

    found = []
    for members in stars:
        rows, near, same = [], [], []
        for at, similarity in members:
            row = int(single[at])
            more = copies.get(row, [])
            rows += [row, *more]
            near += [similarity] * (1 + len(more))
            same += [False] + [True] * len(more)
        if len(rows) > 1:
            found.append((rows, near, same))
    found.sort(key=lambda item: (-len(item[0]), item[0][0]))
    return DuplicateGroups(
        np.array([row for rows, _, _ in found for row in rows], np.int64),
        np.array([number for number, (rows, _, _) in enumerate(found) for _ in rows], np.int64),
        np.array([value for _, near, _ in found for value in near], np.float32),
        np.array([value for *_, same in found for value in same], np.bool_),
    )


def _stars(images: Kind, min_similarity: float) -> list[list[tuple[int, float]]]:
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
