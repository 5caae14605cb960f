"""Cuts a batch among threads of a CPU: each has a replica of the method, and they meet once a step.

torch's own threads divide every operation and wait for each other at its end, a thousand times a step. Where
another process takes the core of one, all wait for it each time. Here each thread takes a share of the images
through the whole network, forward and backward, and torch divides nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..core import collectives, distributed
from ..core.threads import one_torch_thread
from ..methods.base import Method
from ..models.bank import Bank
from ..models.queue import Queue

Result = TypeVar("Result")

LEAST = 16  # images in a share: batch norm counts over a share


class Replicas:
    """A method and copies of it that share its weights, a thread each; close them when done.

    Weights are the same memory in all. Each copy has gradients of its own, and the buffers that a forward
    pass may change, which are batch norm's running statistics.
    """

    def __init__(self, method: Method, count: int) -> None:
        """Make the copies.

        Args:
            method: on its device, in training mode; the first of the replicas.
            count: how many, at least 1.
        """
        self.modules = [method, *(_replica(method) for _ in range(count - 1))]
        self.count = count
        self._pool: ThreadPoolExecutor | None = None

    @property
    def method(self) -> Method:
        """The method itself."""
        return self.modules[0]

    def shares(self, images: int) -> list[slice]:
        """Cut a batch into consecutive shares, which differ by one image at most.

        Args:
            images: in the batch, of this process.

        Returns:
            A slice for each replica.
        """
        ends = [images * number // self.count for number in range(self.count + 1)]
        return [slice(start, end) for start, end in zip(ends[:-1], ends[1:], strict=True)]

    def run(self, work: Callable[[int], Result]) -> list[Result]:
        """Do something for every replica at the same time, each in its thread.

        Args:
            work: is given the number of a replica.

        Returns:
            The results, in the order of the replicas.

        Raises:
            Exception: what `work` raised first, in that order, once all have ended.
        """
        if self.count == 1:
            return [work(0)]
        if self._pool is None:
            # The number of torch's threads is each thread's own; this one's is 1 for the whole of a step.
            self._pool = ThreadPoolExecutor(self.count - 1, "nearfar-replica", torch.set_num_threads, (1,))
        others = [self._pool.submit(work, number) for number in range(1, self.count)]
        try:
            first = work(0)
        finally:
            for other in others:
                other.exception()  # waits
        return [first, *(other.result() for other in others)]

    def run_all(self, tasks: Iterable[Callable[[], None]]) -> None:
        """Do tasks that do not depend on each other; a thread that is free takes the next.

        Args:
            tasks: in any order, the longest first at best.
        """
        left = iter(list(tasks))

        def take(_: int) -> None:
            for task in left:
                task()

        self.run(take)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Let all of a step be computed by one thread a replica."""
        if self.count == 1:
            yield
        else:
            with one_torch_thread():
                yield

    @torch.no_grad()
    def begin(self) -> None:
        """Give the copies the buffers that the method has now."""
        for copied in self.modules[1:]:
            for mine, theirs in zip(own_buffers(copied), own_buffers(self.method), strict=True):
                mine.copy_(theirs)

    @torch.no_grad()
    def finish(self) -> None:
        """Add the copies' gradients to the method's, and average running statistics, in a fixed order."""
        for copied in self.modules[1:]:
            for weight, other in zip(self.method.parameters(), copied.parameters(), strict=True):
                if other.grad is not None:
                    weight.grad = other.grad if weight.grad is None else weight.grad.add_(other.grad)
                    other.grad = None
        if self.count > 1:
            self._average_buffers()

    def _average_buffers(self) -> None:
        """Average what floats, over the replicas of all processes; counts are the same in all."""
        found = [list(own_buffers(module)) for module in self.modules]
        average(*found)
        floats = [buffer for buffer in found[0] if buffer.is_floating_point()]
        if distributed.world() > 1 and floats:
            flat = torch.cat([buffer.flatten() for buffer in floats])
            mean = collectives.total(flat) / distributed.world()
            for buffer, part in zip(floats, mean.split([buffer.numel() for buffer in floats]), strict=True):
                buffer.copy_(part.view(buffer.shape))

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


def _replica(method: Method) -> Method:
    """Copy a method, but for the memory of its weights, queues and banks, which only `after_step` changes."""
    memo: dict[int, object] = {}
    for weight in method.parameters():
        memo[id(weight)] = nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
    for part in method.modules():
        if isinstance(part, (Bank, Queue)):
            memo[id(part)] = part
    return copy.deepcopy(method, memo)


@torch.no_grad()
def average(first: Sequence[Tensor], *others: Sequence[Tensor]) -> None:
    """Bring into the first buffers the mean of all, where they float; counts are the same in all.

    Args:
        first: changed in place.
        others: the same buffers of other replicas, or after other parts of a batch.
    """
    for mine, *theirs in zip(first, *others, strict=True):
        if theirs and mine.is_floating_point():
            # So that what none has changed stays what it is, to the last bit.
            mine += torch.stack([(other - mine) / (1 + len(theirs)) for other in theirs]).sum(0)


def own_buffers(module: nn.Module) -> Iterator[Tensor]:
    """List the buffers that a forward pass may change, of which each replica has its own.

    Args:
        module: a method.

    Yields:
        All but those of queues and banks.
    """
    for part in module.modules():
        if not isinstance(part, (Bank, Queue)):
            yield from part.buffers(recurse=False)


def why_whole(method: Method) -> str:
    """Tell why a method's batches cannot be cut.

    Args:
        method: on the CPU.

    Returns:
        The reason, as the rest of a sentence; empty if they can.
    """
    if type(method).embed is Method.embed:
        return f"{type(method).__name__} has no embed"
    if "_code" in method.f.__dict__:
        return "the network is compiled"
    try:
        _replica(method)
    except Exception as error:  # whatever a network keeps that cannot be copied
        return f"the network cannot be copied ({type(error).__name__})"
    return ""
