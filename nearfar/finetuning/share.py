"""Takes a share of labelled images, as if no others had been labelled: for learning curves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..core import rng
from ..core.errors import NearfarError
from ..features.probes import validation_split
from .task_types import Labelled, Rows

TESTED = 0.2  # of the images are the test, where none was given
TEST_SEED = 0  # so that every seed and every share is tested on the same images


def take_share(
    data: Labelled, tests: Labelled | None, strata: Rows, share: float, seed: int, noun: str
) -> tuple[Labelled, Labelled, list[str]]:
    """Keep a share of the labelled images, and test images that are the same for every share.

    Args:
        data: n labelled images.
        tests: the test images; None to hold a fifth of `data` out, before a share is taken of the rest.
        strata: (n,) numbers; the share is taken of the images of each.
        share: above 0, up to 1.
        seed: names the draw.
        noun: the word for several examples, such as clips.

    Returns:
        The images to learn from, the test images, and what a user has to know.

    Raises:
        NearfarError: there are too few images to hold some out.
    """
    notes, every = [], len(data)
    if tests is None:
        names = tuple(map(str, range(int(strata.max()) + 1))) if every else ()
        held = validation_split(strata, names, TEST_SEED, data.groups, TESTED) if every else np.zeros(0, bool)
        out, rest = np.flatnonzero(held), np.flatnonzero(~held)
        if not (data.tells(out) and data.tells(rest)):
            raise NearfarError(
                f"{data.name} has too few {noun} to hold some out for a test; give others with --test."
            )
        tests, data, strata = data.take(out), data.take(rest), strata[rest]
        notes.append(f"{len(tests):,} of the {every:,} {noun} are the test, the same for every share.")
    rows = np.flatnonzero(drawn(strata, data.groups, share, seed))
    return data.take(rows), tests, notes


def drawn(strata: Rows, groups: Rows | None, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Draw a share of the images of each stratum; what is drawn for a small share is in every larger one.

    Args:
        strata: (n,) numbers.
        groups: (n,) numbers of the groups that images belong to, which are drawn whole, or None.
        share: of the images, above 0, up to 1.
        seed: names the draw.

    Returns:
        (n,) bool; a stratum has at least one image, or one group.
    """
    units = np.arange(len(strata)) if groups is None else np.unique(groups, return_inverse=True)[1]
    first = np.unique(units, return_index=True)[1]
    sizes, kinds = np.bincount(units), strata[first]  # a group is of the stratum of its first image
    taken = np.zeros(len(first), np.bool_)
    for kind in np.unique(kinds).tolist():
        own = np.flatnonzero(kinds == kind)
        own = own[rng.permutation(rng.fold(seed, "share", kind), len(own))]
        before = np.cumsum(sizes[own]) - sizes[own]
        taken[own[before < max(1, round(share * int(sizes[own].sum())))]] = True
    return taken[units]


def some_of(data: Labelled, count: int, seed: int) -> Labelled:
    """Take about so many images from everywhere: those of a class often stand side by side.

    Args:
        data: n labelled images.
        count: how many, about; a group, such as an identity, is taken whole.
        seed: names the draw.

    Returns:
        The images, in their order; all of them where there are no more.
    """
    if len(data) <= count:
        return data
    kept = drawn(np.zeros(len(data), np.int64), data.groups, count / len(data), seed)
    return data.take(np.flatnonzero(kept))


def half_of(rows: Rows, groups: Rows | None, seed: int) -> npt.NDArray[np.bool_]:
    """Draw half of some rows; a group stays on one side.

    Args:
        rows: (n,) of the images.
        groups: a number of each image's group, or None.
        seed: names the draw.

    Returns:
        (n,) bool.
    """
    key = rng.fold(seed, "halves")
    if groups is None:
        return np.asarray(rng.permutation(key, len(rows)) % 2 == 0)
    named = np.unique(groups[rows], return_inverse=True)[1]
    return np.asarray(rng.permutation(key, int(named.max()) + 1)[named] % 2 == 0)
