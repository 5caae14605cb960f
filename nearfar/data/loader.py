"""Turns a store of images into batches of views, in the order and with the draws that the seed names.

Which images a step sees, and how each becomes its views, are functions of (seed, step); a feed can
therefore start at any step, and the number of threads and processes never changes a pixel. One thread
prepares batches ahead, and the kernels under it release the GIL, so no worker processes are needed.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ..core import rng
from .batch import ALTERNATES, Batch, leaves
from .groups import Partners
from .modalities import modality_of
from .sampler import Sampler, Shuffled

AHEAD = 3  # batches ready before they are asked for; the feed holds at most this many plus two


class Examples(Protocol):
    """What a loader needs of a data set: how many examples, and some of them."""

    def __len__(self) -> int: ...

    def gather(self, rows: npt.NDArray[np.int64]) -> Any:
        """Give the block of these rows' examples."""
        ...


class Targets(Protocol):
    """A vector of each example of a data set, as a teacher gives it."""

    def gather(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Give the vectors of these rows."""
        ...


class DataLoader:
    """An endless iterator of batches from a given step on; close it when done.

    Batches are prepared from the first time that one is asked for. At most AHEAD + 2 are held at a time:
    AHEAD that are ready or in the making, the one in use, and the one before, which is let go of when the
    next is taken. On a device, besides, the bytes of one batch of images and `kernels.batched.ROOM`.
    """

    def __init__(
        self,
        dataset: Examples,
        recipes: Sequence[Any],
        *,
        size: int,
        batch_size: int,
        seed: int,
        start: int = 0,
        threads: int = 1,
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        world: int = 1,
        pin: bool = False,
        device: torch.device | None = None,
        labels: npt.NDArray[np.int64] | None = None,
        sampler: Sampler | None = None,
        targets: Targets | None = None,
        groups: npt.NDArray[np.int64] | None = None,
        early_size: int | None = None,
        whole_from: int | None = None,
    ) -> None:
        """Say what to prepare.

        Args:
            store: where the pixels are.
            recipes: the settings of each view, as a method's `views` gives them.
            size: side of a full view in pixels.
            batch: images a step over all processes; a multiple of `world`.
            seed: of the run.
            start: the first step to prepare.
            threads: CPU threads for decoding and views.
            dtype: of the views, float32 or bfloat16.
            rank: this process's number; it gets its own slice of each batch.
            world: number of processes.
            pin: whether to put the views in page-locked memory, for a GPU.
            device: where to compute the views, and to leave them; None for the CPU's threads.
            labels: one for every row of the data set, for a method that needs them.
            sampler: chooses the rows of each batch; None to shuffle.
            targets: the vectors of a teacher, for a method that needs them.
            groups: one number for every row: every second view is then of another image of the group.
            early_size: side of a full view in the first steps; None for `size`.
            whole_from: the step from which views have their whole side; None if that is not known yet. It may
                be set later, to a step more than AHEAD + 2 after the last that was taken.
        """
        self.early_size, self.whole_from = early_size, whole_from
        self.dataset, self.size, self.batch_size, self.seed = dataset, size, batch_size, seed
        self.views, self.modality = list(recipes), modality_of(dataset)
        self.threads, self.dtype, self.rank, self.world, self.pin = threads, dtype, rank, world, pin
        self.device = device
        self.sampler, self.targets = sampler or Shuffled(), targets
        self.partners = None if groups is None else Partners(groups)
        self.labels = None if labels is None else torch.from_numpy(labels)
        self.waited = 0.0  # seconds the consumer has spent waiting for data
        self._made = self._taken = 0  # batches
        self._lane = _Lane(device)
        # One batch fewer than AHEAD, since the thread holds one more until there is room for it.
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(AHEAD - 1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(start,), name="nearfar-feed", daemon=True)

    def make(self, step: int) -> Batch:
        """Make this process's share of one step's batch, here and now.

        Args:
            step: counted from 0.

        Returns:
            The batch; each of its views is (n, 3, its side, its side) in [0, 1], channels last.
        """
        images = len(self.dataset)
        labels = None if self.labels is None else self.labels.numpy()
        rows, turns = self.sampler.rows(
            step, images=images, batch_size=self.batch_size, seed=self.seed, labels=labels
        )
        share = self.batch_size // self.world
        own = slice(self.rank * share, (self.rank + 1) * share)
        rows, turns = rows[own], turns[own]
        epoch = step // (images // self.batch_size)
        sides = [self._gather(rows, turns)]
        if self.partners is not None:  # every second view is of these
            sides.append(self._gather(self.partners.of(rows, rng.fold(self.seed, "partner", step)), turns))
        early = self.early_size is not None and (self.whole_from is None or step < self.whole_from)
        size = self.early_size if early and self.early_size is not None else self.size
        made = []
        for number, view in enumerate(self.views):
            names, block, there = sides[number % len(sides)]
            key, kind = rng.fold(self.seed, "view", epoch, number), self.modality
            draws = kind.draw(view, key, names, block, size)
            if (other := getattr(view, "alternate", None)) is not None:
                second = kind.draw(replace(view, recipe=other), key, names, block, size)
                draws = draws.mixed(second, ALTERNATES)
            x = kind.apply(there, draws, view, size, dtype=self.dtype, threads=self.threads)
            made.append(x.pin_memory() if self.pin else x)
        places = torch.from_numpy(rows)
        marks = None if self.labels is None else self.labels[places]
        others = None
        if any(getattr(view, "alternate", None) is not None for view in self.views):
            others = torch.zeros(len(rows), dtype=torch.bool)
            others[ALTERNATES] = True
        told = None if self.targets is None else torch.from_numpy(self.targets.gather(rows))
        return Batch(made, places, marks, rng.fold(self.seed, "batch", step), others, told)

    def _gather(
        self, rows: npt.NDArray[np.int64], turns: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], Any, Any]:
        """Fetch examples: names of their draws, and the block, also where views are computed."""
        block = self.dataset.gather(rows)
        there = block if self.device is None else self.modality.place(block, self.device)
        return rows + len(self.dataset) * turns, block, there  # what comes again gets other views

    def _work(self, step: int) -> None:
        while not self._stop.is_set():
            item: Batch | BaseException
            try:
                with self._lane.preparing():
                    item = self.make(step)
            except BaseException as error:  # handed to the consumer, which raises it
                item = error
            self._made += 1
            while not self._stop.is_set():
                try:
                    self._ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(item, BaseException):
                return
            step += 1

    def wait_until_ready(self) -> None:
        """Wait until as many batches are ready as are held in advance, or none comes any more."""
        while self._made - self._taken < AHEAD and self._thread.is_alive():
            time.sleep(0.002)

    def __iter__(self) -> Iterator[Batch]:
        if self._thread.ident is None:
            self._thread.start()
        while True:
            asked = time.perf_counter()
            item = self._ready.get()
            self._taken += 1
            self.waited += time.perf_counter() - asked
            if isinstance(item, BaseException):
                raise item
            self._lane.hand_over(item)
            yield item
            self._lane.given_back()

    def close(self) -> None:
        """Stop preparing, and wait for the thread to end."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()


class _Lane:
    """Where on a device batches are prepared: on CUDA a stream of its own, separate from the consumer's.

    The streams wait for each other; of the processor's threads only the preparing one ever waits, if the
    device is AHEAD + 2 batches behind the consumer, so that the bound on memory holds there too.
    """

    def __init__(self, device: torch.device | None) -> None:
        self.stream = torch.cuda.Stream(device) if device is not None and device.type == "cuda" else None
        self._made: queue.SimpleQueue[torch.cuda.Event] = queue.SimpleQueue()
        self._used: queue.SimpleQueue[torch.cuda.Event] = queue.SimpleQueue()
        self._ahead = 0  # batches prepared, less those whose use is known to be over

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """Prepare a batch here, once the one AHEAD + 2 before it is out of use."""
        if self.stream is None:
            yield
            return
        if self._ahead == AHEAD + 2:
            self._used.get().synchronize()
            self._ahead -= 1
        with torch.cuda.stream(self.stream):
            yield
            self._made.put(self.stream.record_event())
        self._ahead += 1

    def hand_over(self, batch: Batch) -> None:
        """Let the consumer's stream wait for the next batch."""
        if self.stream is None:
            return
        current = torch.cuda.current_stream(self.stream.device)
        current.wait_event(self._made.get())
        for tensor in leaves(batch.views):
            tensor.record_stream(current)

    def given_back(self) -> None:
        """Note that the consumer has asked the device for all that it wants of its batch."""
        if self.stream is not None:
            self._used.put(torch.cuda.current_stream(self.stream.device).record_event())


def seconds_a_batch(feed: DataLoader, tries: int = 2) -> float:
    """Measure how long a real batch takes to make, where the feed makes it, and nothing else runs.

    Args:
        feed: not yet asked for batches.
        tries: batches to time, after one that warms up.

    Returns:
        The quickest one's seconds.
    """
    taken = []
    for step in range(1 + tries):
        began = time.perf_counter()
        feed.make(step)
        if feed.device is not None and feed.device.type == "cuda":
            torch.cuda.synchronize(feed.device)
        taken.append(time.perf_counter() - began)
    return min(taken[1:])
