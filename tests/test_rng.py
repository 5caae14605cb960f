"""Randomness by name: the same draw for the same name, in any company and any order."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nearfar.core import rng

KEYS = st.integers(0, 2**64 - 1)


def test_golden_values_never_change() -> None:
    """A change here changes every run that anyone ever recorded."""
    assert rng.fold(0, "shuffle", 3) == 14231123187841777054
    assert rng.uniform(12345, [0, 1, 2**40], 3).tolist() == [
        [0.4988858699798584, 0.4581311345100403, 0.5383267402648926],
        [0.015829086303710938, 0.5009453892707825, 0.1775110960006714],
        [0.006627500057220459, 0.3687543272972107, 0.17985957860946655],
    ]
    assert rng.permutation(7, 10).tolist() == [6, 3, 9, 1, 2, 0, 5, 7, 8, 4]


@given(KEYS, st.lists(st.integers(0, 2**40), min_size=1, max_size=30))
def test_a_draw_does_not_depend_on_the_others(key: int, ids: list[int]) -> None:
    whole = rng.uniform(key, ids, 5)
    order = np.random.default_rng(0).permutation(len(ids))
    assert np.array_equal(rng.uniform(key, np.array(ids)[order], 5), whole[order])
    assert np.array_equal(rng.uniform(key, ids[:1], 5), whole[:1])
    assert np.array_equal(rng.uniform(key, ids, 2), whole[:, :2])


def test_draws_are_uniform_and_their_columns_and_rows_unrelated() -> None:
    u = rng.uniform(rng.fold(1, "uniform"), np.arange(200_000), 4)
    assert u.dtype == np.float32 and u.min() >= 0 and u.max() < 1
    for column in u.T:
        counts = np.histogram(column, 64, (0, 1))[0]
        expected = len(u) / 64
        assert ((counts - expected) ** 2 / expected).sum() < 120  # chi-square, 63 degrees: p = 1e-5
    assert np.abs(np.corrcoef(u.T) - np.eye(4)).max() < 0.012
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 0.012


def test_keys_and_seeds_give_unrelated_draws() -> None:
    ids = np.arange(50_000)
    draws = [rng.uniform(rng.fold(seed, "a"), ids, 1)[:, 0] for seed in range(4)]
    draws += [rng.uniform(key, ids, 1)[:, 0] for key in range(4)]
    assert np.abs(np.corrcoef(draws) - np.eye(8)).max() < 0.025


def test_fold_tells_names_apart() -> None:
    names = [(), ("a",), ("b",), ("a", "b"), ("ab",), ("b", "a"), (1,), ("1",), (1, 1), (11,), (-1,), ("",)]
    keys = [rng.fold(seed, *name) for seed in (0, 1, -1, 2**70) for name in names]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 2**64 for key in keys)


@given(KEYS, st.integers(0, 300))
def test_permutations_hold_every_number_once(key: int, n: int) -> None:
    order = rng.permutation(key, n)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))
    assert np.array_equal(order, rng.permutation(key, n))


def test_no_images_no_draws() -> None:
    assert rng.uniform(3, [], 4).shape == (0, 4)


def test_every_image_of_an_epoch_has_its_own_draws() -> None:
    draws = rng.uniform(rng.fold(0, "views", 0), np.arange(5_000), 2)
    assert len(np.unique(np.ascontiguousarray(draws).view(np.uint64))) == 5_000
