"""Near neighbours among many rows: copies are found in cells as they are by comparing all."""

import numpy as np
import pytest
import torch

from nearfar.analysis import cells
from nearfar.features.knn import top_k


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(cells, "CELL", 64)
    monkeypatch.setattr(cells, "BRANCHES", 4)
    monkeypatch.setattr(cells, "SAMPLE", 16)


def mixed(count, seed=0):
    """Rows about thirty centres, as images of a collection are."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(30, 16, generator=draw)
    return centres[torch.arange(count) % 30] + 0.4 * torch.randn(count, 16, generator=draw)


def test_copies_are_found_in_cells():
    x = mixed(3000)
    copies = x[:300] + 0.02 * torch.randn(300, 16, generator=torch.Generator().manual_seed(1))
    both = torch.cat([x, copies])
    found = cells.near_rows(both, both, 5, exclude_self=True, few=0)
    assert found.shape == (3300, 5)
    assert np.mean([3000 + row in found[row] for row in range(300)]) > 0.98
    assert not (found == np.arange(3300)[:, None]).any(), "no row is its own neighbour"
    assert all(len({*line} - {-1}) == sum(row >= 0 for row in line) for line in found.tolist())
    exact = top_k(both, both, 5, exclude_self=True)[1].numpy()
    assert np.mean([len({*a} & {*b}) / 5 for a, b in zip(found.tolist(), exact.tolist(), strict=True)]) > 0.8


def test_most_similar_first_and_the_same_each_time():
    x = mixed(1000)
    found = cells.near_rows(x[:50], x, 4, few=0)
    unit = torch.nn.functional.normalize(x, dim=1)
    value = (unit[:50, None] * unit[found]).sum(2).numpy()
    assert (np.diff(value, axis=1) <= 1e-6).all() and (found[:, 0] == np.arange(50)).all()
    assert np.array_equal(found, cells.near_rows(x[:50], x, 4, few=0))
    assert np.array_equal(cells.near_rows(x[:50], x, 4), top_k(x[:50], x, 4)[1].numpy())


def test_many_equal_rows_end_and_find_each_other():
    x = torch.cat([torch.ones(1000, 16), mixed(200)])
    found = cells.near_rows(x, x, 3, exclude_self=True, few=0)
    assert (found[:1000] >= 0).all() and (found[:1000] < 1000).all()
    zero = torch.zeros(500, 16)
    assert (cells.near_rows(zero, zero, 3, exclude_self=True, few=0) >= 0).all()
