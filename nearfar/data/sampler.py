"""Which rows make a batch: a fresh order every epoch, or several images of each of a batch's classes.

A step's rows are a function of the seed and the step, whatever came before, and however many threads and
processes there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..core import rng
from ..core.errors import NearfarError

Rows = npt.NDArray[np.int64]


class Sampler(Protocol):
    """Chooses the rows of each step."""

    def rows(
        self, step: int, *, images: int, batch_size: int, seed: int, labels: Rows | None
    ) -> tuple[Rows, Rows]:
        """Choose the rows of one step, over all processes.

        Args:
            step: counted from 0; an epoch is `images // batch_size` steps.
            images: images in the data set.
            batch_size: images a step, at most `images`.
            seed: of the run.
            labels: (images,) int64, from 0 up, for a sampler that needs them.

        Returns:
            (batch_size,) int64 row numbers, and (batch_size,) int64, how often the epoch drew each before.
        """
        ...


@dataclass(frozen=True)
class Shuffled:
    """A fresh order every epoch, each image at most once in it; the rest that fills no batch is left out."""

    def rows(
        self, step: int, *, images: int, batch_size: int, seed: int, labels: Rows | None = None
    ) -> tuple[Rows, Rows]:
        """Choose the rows of one step; see `Sampler`."""
        epoch, place = divmod(step, images // batch_size)
        rows = _order(seed, epoch, images)[place * batch_size : (place + 1) * batch_size]
        return rows, np.zeros_like(rows)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, images: int) -> Rows:
    return rng.permutation(rng.fold(seed, "shuffle", epoch), images)


@dataclass(frozen=True)
class ClassBalanced:
    """Batches of P classes with `per_class` images each (P x K); each batch draws its own classes.

    Where there are too few classes to fill a batch, it holds them all, each with more images, shared evenly.
    A class goes through its images in a fresh order; an image comes twice in a batch only if its class is
    small.

    Source:
        Hermans, Beyer and Leibe 2017, "In defense of the triplet loss for person re-identification",
        section 2.
    """

    per_class: int  # K, 1 or more

    def rows(
        self, step: int, *, images: int, batch_size: int, seed: int, labels: Rows | None
    ) -> tuple[Rows, Rows]:
        """Choose the rows of one step; see `Sampler`."""
        assert labels is not None
        members = _members(labels.tobytes())
        number = min(len(members), batch_size // self.per_class)
        if number < 1:
            raise NearfarError(
                f"--per-class is {self.per_class}, more than the {batch_size} images of a batch; "
                f"give at most {batch_size}."
            )
        epoch, place = divmod(step, images // batch_size)
        classes, before = _classes(seed, epoch, images // batch_size, len(members), number)
        share, more = divmod(batch_size, number)  # the first `more` classes have one image more
        most = share + (more > 0)
        rows, turns = [], []
        for position, (kind, earlier) in enumerate(zip(classes[place], before[place], strict=True)):
            own = members[kind]
            # The class's order is cut into pieces of `most`; what remains of it waits for the next order.
            turn, piece = divmod(int(earlier), max(1, len(own) // most))
            order = rng.permutation(rng.fold(seed, "class", epoch, int(kind), turn), len(own))
            some = own[order[piece * most : (piece + 1) * most]]
            count = np.arange(share + (position < more))
            rows.append(some[count % len(some)])
            turns.append(turn * -(-most // len(some)) + count // len(some))
        # Mixed, so that a process's slice of the batch, or a chunk of it, holds what the whole does.
        mixed = rng.permutation(rng.fold(seed, "mix", step), batch_size)
        return np.concatenate(rows)[mixed], np.concatenate(turns)[mixed]


@lru_cache(maxsize=2)
def _members(labels: bytes) -> list[Rows]:
    """List the rows of each class that has any."""
    plain = np.frombuffer(labels, np.int64)
    order = np.argsort(plain, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(plain[order])) + 1)


@lru_cache(maxsize=2)
def _classes(seed: int, epoch: int, steps: int, classes: int, number: int) -> tuple[Rows, Rows]:
    """Draw the classes of each step of an epoch, (steps, number), and how often it drew each before."""
    drawn = np.stack(
        [rng.permutation(rng.fold(seed, "classes", epoch, step), classes)[:number] for step in range(steps)]
    )
    flat = drawn.ravel()
    order = np.argsort(flat, kind="stable")
    starts = np.searchsorted(flat[order], flat[order])
    before = np.empty_like(flat)
    before[order] = np.arange(len(flat)) - starts
    return drawn, before.reshape(drawn.shape)
