"""Exact neighbours against a full sort, and votes against plain loops."""

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.core.errors import NearfarError
from nearfar.features import knn, selection


def slow(queries, base, k, exclude_self=False):
    q = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    b = base / np.linalg.norm(base, axis=1, keepdims=True)
    s = q @ b.T
    if exclude_self:
        np.fill_diagonal(s, -np.inf)
    index = np.argsort(-s, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(s, index, 1), index


@pytest.mark.parametrize("tile, rows", [(1 << 24, 1 << 18), (64, 16), (1, 1)])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_top_k_is_a_full_sort_at_any_tiling(monkeypatch, tile, rows, exclude_self):
    monkeypatch.setattr(knn, "TILE", tile)
    monkeypatch.setattr(knn, "ROWS", rows)
    x = np.random.default_rng(0).normal(size=(53, 7))
    queries = x if exclude_self else x[:20] + 0.3
    similarity, index = knn.top_k(
        torch.from_numpy(queries), torch.from_numpy(x), 9, exclude_self=exclude_self
    )
    right, who = slow(queries, x, 9, exclude_self)
    assert np.allclose(similarity.numpy(), right, atol=1e-12)
    assert np.array_equal(index.numpy(), who)
    if exclude_self:
        assert not (index == torch.arange(len(x))[:, None]).any()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    share=st.floats(0, 1),
    values=st.sampled_from([1, 2, 5, 1000]),
    exclude_self=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_compiled_pass_finds_those_of_a_full_sort(rows, share, values, exclude_self, seed):
    # Whole numbers, so that products are exact and ties abound; tiles of a few rows and columns.
    draw = np.random.default_rng(seed)
    base = draw.integers(-values, values + 1, (rows + exclude_self, 3)).astype(np.float32)
    queries = base if exclude_self else draw.integers(-values, values + 1, (9, 3)).astype(np.float32)
    k = max(1, round(share * rows))
    products = queries @ base.T
    if exclude_self:
        np.fill_diagonal(products, -np.inf)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "QUERIES", 4)
        patch.setattr(selection, "SPAN", 7)
        value, column = (
            found.numpy()
            for found in selection.nearest(
                torch.from_numpy(queries), torch.from_numpy(base), k, exclude_self=exclude_self
            )
        )
    assert np.array_equal(value, -np.sort(-products, axis=1)[:, :k])
    assert np.array_equal(np.take_along_axis(products, column, 1), value)
    assert all(len({*row}) == k for row in column.tolist())


def test_many_rows_go_the_compiled_way_and_find_the_same(monkeypatch):
    x = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    before = knn.top_k(x, x, 50, exclude_self=True)
    monkeypatch.setattr(knn, "MANY", 1)
    with monkeypatch.context() as patch:  # as where numba is missing
        patch.setitem(sys.modules, "nearfar.features.selection", None)
        assert torch.equal(knn.top_k(x, x, 50, exclude_self=True)[1], before[1])
    monkeypatch.setattr(knn, "largest", None)  # would fail if called
    after = knn.top_k(x, x, 50, exclude_self=True)
    assert torch.allclose(before[0], after[0], atol=1e-6) and torch.equal(before[1], after[1])


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 700),
    share=st.floats(0, 1),
    values=st.sampled_from([2, 5, 1000]),
    seed=st.integers(0, 99),
)
def test_the_largest_are_those_of_a_full_sort(rows, columns, share, values, seed):
    # Few distinct values, so that ties abound; a third of them minus infinity, as a masked row's own.
    draw = np.random.default_rng(seed)
    x = draw.integers(0, values, (rows, columns)).astype(np.float32)
    x[draw.random(x.shape) < 0.3] = -np.inf
    k = max(1, round(share * columns))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knn, "SHORT", 8)
        value, column = (found.numpy() for found in knn.largest(torch.from_numpy(x), k))
    assert np.array_equal(value, -np.sort(-x, axis=1)[:, :k])
    assert np.array_equal(np.take_along_axis(x, column, 1), value)
    assert all(len(set(row)) == k for row in column.tolist())


@pytest.mark.parametrize("columns", [64, 65, 66, 67])
def test_the_largest_at_either_end_are_found(columns, monkeypatch):
    monkeypatch.setattr(knn, "SHORT", 8)
    up = torch.arange(columns, dtype=torch.float32)
    value, column = knn.largest(torch.stack([up, -up]), 3)
    assert column.tolist() == [[columns - 1, columns - 2, columns - 3], [0, 1, 2]]
    assert value.tolist() == [[columns - 1, columns - 2, columns - 3], [0, -1, -2]]


def test_enough_rows_for_several_levels_of_groups():
    make = torch.Generator().manual_seed(3)
    queries, base = (
        torch.randn(5, 8, generator=make).double(),
        torch.randn(20_003, 8, generator=make).double(),
    )
    similarity, index = knn.top_k(queries, base, 50)
    right, who = slow(queries.numpy(), base.numpy(), 50)
    assert np.allclose(similarity.numpy(), right, atol=1e-12) and np.array_equal(index.numpy(), who)


def test_unit_scales_and_refuses_as_it_says():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e30, 0.0]])
    assert torch.allclose(knn.unit(x)[:2], torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    assert torch.isfinite(knn.unit(x)).all()  # its squares overflow, yet every value is finite
    for bad in (torch.nan, torch.inf):
        with pytest.raises(NearfarError, match="not finite"):
            knn.unit(torch.tensor([[1.0, bad]]))


def test_top_k_finds_every_other_row_once():
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    _, index = knn.top_k(x, x, 29, exclude_self=True)
    for row, found in enumerate(index.tolist()):
        assert sorted([*found, row]) == list(range(30))


def test_votes_are_the_plain_loops():
    similarity = torch.tensor([[0.9, 0.7, 0.2], [0.5, 0.5, 0.4]], dtype=torch.float64)
    labels = torch.tensor([[2, 0, 0], [1, 0, 1]])
    votes = knn.knn_votes(similarity, labels, 4, 0.1)
    for row in range(2):
        weights = [0.0] * 4
        for s, label in zip(similarity[row].tolist(), labels[row].tolist(), strict=True):
            weights[label] += math.exp(s / 0.1)
        assert np.allclose(votes[row].numpy(), np.array(weights) / sum(weights), atol=1e-12)


def test_votes_stay_finite_at_a_tiny_temperature():
    votes = knn.knn_votes(torch.tensor([[1.0, -1.0]]), torch.tensor([[1, 0]]), 2, 1e-4)
    assert votes.tolist() == [[0.0, 1.0]]


def test_a_vote_is_chosen_where_it_matters():
    # The nearest neighbour is always wrong and the four after it are right: k = 1 must lose.
    similarity = torch.tensor([[0.9, 0.8, 0.8, 0.8, 0.8]]).repeat(10, 1)
    truth = torch.arange(10) % 2
    labels = torch.cat([1 - truth[:, None], truth[:, None].repeat(1, 4)], 1)
    vote = knn.choose_vote(similarity, labels, truth, 2)
    assert vote.k == 5
    votes = knn.knn_votes(similarity[:, : vote.k], labels[:, : vote.k], 2, vote.temperature)
    assert torch.equal(votes.argmax(1), truth)
    # Of equals the fewest neighbours and the lowest temperature.
    sure = knn.choose_vote(similarity, truth[:, None].repeat(1, 5), truth, 2)
    assert sure == knn.Vote(1, knn.TEMPERATURES[0])


def test_wrong_questions_are_refused_in_a_sentence():
    x = torch.ones(3, 2)
    with pytest.raises(NearfarError, match="ask for 1 to 2"):
        knn.top_k(x, x, 3, exclude_self=True)
    with pytest.raises(NearfarError, match="same rows"):
        knn.top_k(x[:1], x, 1, exclude_self=True)
    x[1, 0] = torch.nan
    with pytest.raises(NearfarError, match="not finite"):
        knn.top_k(x, x, 1)


def test_zero_rows_are_alike_to_nothing():
    similarity, _ = knn.top_k(torch.zeros(1, 3), torch.eye(3), 3)
    assert similarity.abs().max() == 0


@pytest.mark.parametrize("size", [1e-42, 1e-25, 1e-12, 1.0, 1e19, 1e30, 5e37])
def test_rows_of_any_size_are_scaled_to_length_1(size: float) -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.3, 0.4]]) * torch.tensor([[size], [1.0], [1.0]])
    scaled = torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6, 0.8]])
    torch.testing.assert_close(knn.unit(x), scaled, rtol=0, atol=2e-3 if size < 1e-40 else 1e-6)
    for bad in (float("nan"), float("inf")):
        x[0, 0] = bad
        with pytest.raises(NearfarError, match="not finite"):
            knn.unit(x)
