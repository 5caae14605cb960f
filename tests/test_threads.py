"""Work in threads: results in order, a bounded number ahead, and an early end when something fails."""

from __future__ import annotations

import threading
import time

import pytest

from nearfar.core.threads import map_in_order
from nearfar.data.reading import each


def test_results_come_in_order_whichever_is_ready_first() -> None:
    def work(item: int) -> int:
        time.sleep(0.002 * (item % 3 == 0))
        return item * item

    assert list(map_in_order(work, range(50), threads=4, ahead=8)) == [item * item for item in range(50)]


def test_no_more_than_asked_for_is_made_ahead() -> None:
    begun: list[int] = []
    results = map_in_order(lambda item: begun.append(item), range(100), threads=4, ahead=5)
    for taken in range(1, 20):
        next(results)
        assert len(begun) <= taken + 5
    results.close()
    assert len(begun) <= 19 + 5


def test_an_error_comes_at_its_place_and_ends_the_work() -> None:
    def work(item: int) -> int:
        if item == 7:
            raise ValueError("seven")
        return item

    results = map_in_order(work, range(10**6), threads=3, ahead=4)
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(ValueError, match="seven"):
        next(results)


def test_each_does_everything_once_and_stops_at_an_error() -> None:
    lock, done = threading.Lock(), list[int]()

    def work(item: int) -> None:
        with lock:
            done.append(item)
        if item == 40 and len(limit):
            raise ValueError("forty")

    limit: list[int] = []
    each(1000, work, threads=3, what="Testing")
    assert sorted(done) == list(range(1000))
    done.clear()
    limit.append(1)
    with pytest.raises(ValueError, match="forty"):
        each(10**6, work, threads=3, what="Testing")
    assert len(done) < 10**5
