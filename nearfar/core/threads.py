"""Runs work in threads and gives the results in order, with a bounded number in advance."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
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
