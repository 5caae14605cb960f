"""Finds pictures that are on two sides of a split: saved again, resized, turned by quarters or mirrored.

Data sets often come with turned and mirrored copies of each picture. So that these lie alike, each picture is
turned until the quarter of it with the most structure is at the top left, and mirrored until of its two
neighbours the one with more is at the top right. Then copies are found as those that were not turned are.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch.nn import functional

from ..images.decode import Pixels
from .cells import near_rows
from .duplicates import MIN_SIMILARITY, Collection, Vectors
from .structure import Read, Rows

NEIGHBOURS = 8  # most alike by coarse structure that each image is compared with
ALIKE = 0.98  # cosine of structures from which pixels are compared: docs/decisions.md, "Copies in a split"
MOST = 10_000  # pairs compared by their pixels, at most: two minutes


def split_copies(images: Collection, others: Collection | None) -> tuple[Rows, Rows, Vectors]:
    """Find the pairs of pictures that are copies, whole ones, however they lie.

    Args:
        images: n pictures.
        others: those of the other side; None for pairs of one side.

    Returns:
        (p,) rows of images, (p,) of the others, and how similar they are, (p,) from 0 to 1; a pair may be
        there more than once.
    """
    sides = [(images, others), (laid(images), None if others is None else laid(others))]
    found = [_alike(*pair) for pair in sides]
    a, b, similarity = (np.concatenate(rows) for rows in zip(*found, strict=True))
    return a, b, similarity


def _alike(images: Collection, others: Collection | None) -> tuple[Rows, Rows, Vectors]:
    """Find pairs whose structure is nearly equal, and whose pixels then agree."""
    base, own = others or images, others is None
    mine = _flat(images)
    theirs = mine if own else _flat(base)
    k = min(NEIGHBOURS, len(theirs) - own)
    if k < 1:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    who = torch.from_numpy(near_rows(mine, theirs, k, exclude_self=own))
    cosine = torch.stack([(mine * theirs[at]).sum(1) for at in who.unbind(1)], 1)
    near, place = ((cosine >= ALIKE) & (who >= 0)).nonzero().unbind(1)
    order = cosine[near, place].argsort(descending=True, stable=True)
    return _confirmed(images, base, near[order].numpy(), who[near, place][order].numpy(), own)


def _confirmed(
    images: Collection, base: Collection, a: Rows, b: Rows, own: bool
) -> tuple[Rows, Rows, Vectors]:
    """Compare pairs by their pixels, the likeliest first, and none that would tell nothing new.

    Of one side a pair is left out if its pictures are joined by confirmed pairs already; of two sides each
    picture needs one copy. So ten copies of a picture cost nine comparisons.
    """
    ends = list(zip(a.tolist(), b.tolist() if own else [len(images)] * len(b), strict=True))
    joined, left, room = _Joined(range(len(images) + 1)), list(range(len(ends))), MOST
    similarity = np.zeros(len(ends), np.float32)
    while left and room:
        trial = _Joined(joined)
        asked = [at for at in left if trial.join(*ends[at])][:room]
        rows, room = np.array(asked), room - len(asked)
        similarity[rows] = images.similarity(base, a[rows], b[rows])
        for at in rows[similarity[rows] >= MIN_SIMILARITY].tolist():
            joined.join(*ends[at])
        tried = set(asked)
        left = [at for at in left if at not in tried and joined.apart(*ends[at])]
    good = similarity >= MIN_SIMILARITY
    return a[good], b[good], similarity[good]


class _Joined(list[int]):
    """Disjoint sets of numbers: of each number another one of its set, and of one in each set itself."""

    def root(self, at: int) -> int:
        """Give the number that stands for a set."""
        while self[at] != at:
            self[at] = at = self[self[at]]
        return at

    def apart(self, a: int, b: int) -> bool:
        """Tell whether two numbers are in two sets."""
        return self.root(a) != self.root(b)

    def join(self, a: int, b: int) -> bool:
        """Make one set of two, and tell whether they were two."""
        new = self.apart(a, b)
        self[self.root(a)] = self.root(b)
        return new


def _flat(images: Collection) -> torch.Tensor:
    """Give the structure of whole pictures as vectors of length 1, (n, d) float32."""
    return functional.normalize(images.structure[:, 0].float().flatten(1), dim=1)


def laid(images: Collection) -> Collection:
    """Turn pictures so that turned and mirrored copies of one lie alike.

    Args:
        images: n pictures.

    Returns:
        The same pictures, by quarter turns and mirrorings of each.
    """
    quarters = functional.adaptive_avg_pool2d(images.structure[:, :1].float().abs(), 2).flatten(1)  # (n, 4)
    turns = torch.tensor([0, 1, 3, 2])[quarters.argmax(1)]  # of the quarter at each corner, to the top left
    structure = torch.stack([_turned(x, int(n)) for x, n in zip(images.structure, turns, strict=True)])
    quarters = functional.adaptive_avg_pool2d(structure[:, :1].float().abs(), 2).flatten(1)
    mirrored = quarters[:, 2] > quarters[:, 1]
    structure[mirrored] = structure[mirrored].transpose(2, 3)

    def again(read: Read) -> Read:
        def pictures(rows: Rows) -> list[Pixels | None]:
            how = zip(read(rows), turns[rows].tolist(), mirrored[rows].tolist(), strict=True)
            return [_picture(*each) for each in how]

        return pictures

    large = None if images.originals is None else again(images.originals)
    made = dataclasses.replace(images, small=again(images.small), originals=large)
    made.__dict__["structure"] = structure  # of which it is the cached property
    return made


def _turned(x: torch.Tensor, turns: int) -> torch.Tensor:
    return x.rot90(turns, (1, 2))


def _picture(x: Pixels | None, turns: int, mirrored: bool) -> Pixels | None:
    if x is None:
        return None
    x = np.rot90(x, turns)
    return np.ascontiguousarray(x.transpose(1, 0, 2) if mirrored else x)
