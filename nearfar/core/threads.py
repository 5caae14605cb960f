"""Runs work in threads: results in order, a bounded number in advance, and torch's own threads put to one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Generator[Result, None, None]:
    """Apply a function to each item, in threads, while the caller uses the results.

    Args:
        work: makes one result; called from several threads at once.
        items: what it is given, one at a time; read as the work proceeds.
        threads: how many threads.
        ahead: results that may be made, or waiting to be made, beyond the one in use; at least 1.

    Yields:
        The results, in the order of the items.

    Raises:
        Exception: what `work` raised, at the place of its item. Then, as when the caller stops early, items
            not yet begun are dropped, and those in work are waited for.
    """
    running: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                running.append(pool.submit(work, item))
                if len(running) > ahead:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch divide no operation among threads, in this thread and in those that are started meanwhile."""
    import torch  # which what else is here does not need

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
