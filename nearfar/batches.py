"""Turns a store of images into batches of views, in the order and with the draws that the seed names.

Which images a step sees, and how each becomes its views, are functions of (seed, step); a feed can
therefore start at any step, and the number of threads and processes never changes a pixel. One thread
prepares batches ahead, and the kernels under it release the GIL, so no worker processes are needed.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import torch

from . import kernels, rng, views
from .settings import Views

if TYPE_CHECKING:
    from .data.store import Block

AHEAD = 3  # batches ready before they are asked for; the feed holds at most this many plus two


class Images(Protocol):
    """What a feed needs of a store: how many images, and some of them."""

    def __len__(self) -> int: ...

    def gather(self, rows: npt.NDArray[np.int64]) -> Block:
        """Give the images of these rows."""
        ...


def rows_of(step: int, *, images: int, batch: int, seed: int) -> npt.NDArray[np.int64]:
    """Name the images of one step: a fresh order every epoch, each image at most once in it.

    Args:
        step: counted from 0.
        images: images in the store.
        batch: images a step, at most `images`; the rest of an epoch that fills no batch is left out.
        seed: of the run.

    Returns:
        (batch,) int64 row numbers.
    """
    epoch, place = divmod(step, images // batch)
    return _order(seed, epoch, images)[place * batch : (place + 1) * batch]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, images: int) -> npt.NDArray[np.int64]:
    return rng.permutation(rng.fold(seed, "shuffle", epoch), images)


class Feed:
    """An endless iterator of (rows, views) from a given step on; close it when done."""

    def __init__(
        self,
        store: Images,
        recipes: tuple[Views, ...],
        *,
        size: int,
        batch: int,
        seed: int,
        start: int = 0,
        threads: int = 1,
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        world: int = 1,
        pin: bool = False,
    ) -> None:
        """Start preparing batches.

        Args:
            store: where the pixels are.
            recipes: the settings of each view of an image.
            size: side of a view in pixels.
            batch: images a step over all processes; a multiple of `world`.
            seed: of the run.
            start: the first step to prepare.
            threads: CPU threads for decoding and views.
            dtype: of the views, float32 or bfloat16.
            rank: this process's number; it gets its own slice of each batch.
            world: number of processes.
            pin: whether to put the views in page-locked memory, for a GPU.
        """
        self.store, self.recipes, self.size, self.batch, self.seed = store, recipes, size, batch, seed
        self.threads, self.dtype, self.rank, self.world, self.pin = threads, dtype, rank, world, pin
        self.waited = 0.0  # seconds the consumer has spent waiting for data
        self._ready: queue.Queue[tuple[torch.Tensor, list[torch.Tensor]] | BaseException] = queue.Queue(AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(start,), name="nearfar-feed", daemon=True)
        self._thread.start()

    def make(self, step: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Make this process's share of one step's batch, here and now.

        Args:
            step: counted from 0.

        Returns:
            (n,) int64 rows, and one (n, 3, size, size) tensor in [0, 1], channels last, per view.
        """
        images = len(self.store)
        rows = rows_of(step, images=images, batch=self.batch, seed=self.seed)
        share = self.batch // self.world
        rows = rows[self.rank * share : (self.rank + 1) * share]
        block = self.store.gather(rows)
        epoch = step // (images // self.batch)
        made = []
        for number, recipe in enumerate(self.recipes):
            key = rng.fold(self.seed, "view", epoch, number)
            draws = views.draw(recipe, key, rows, block.height, block.width, self.size)
            pixels = kernels.apply(
                block, draws, self.size, recipe.interpolation, dtype=self.dtype, threads=self.threads
            )
            made.append(pixels.pin_memory() if self.pin else pixels)
        return torch.from_numpy(rows), made

    def _work(self, step: int) -> None:
        while not self._stop.is_set():
            item: tuple[torch.Tensor, list[torch.Tensor]] | BaseException
            try:
                item = self.make(step)
            except BaseException as error:  # handed to the consumer, which raises it
                item = error
            while not self._stop.is_set():
                try:
                    self._ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(item, BaseException):
                return
            step += 1

    def __iter__(self) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
        while True:
            asked = time.perf_counter()
            item = self._ready.get()
            self.waited += time.perf_counter() - asked
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Stop preparing, and wait for the thread to end."""
        self._stop.set()
        self._thread.join()
