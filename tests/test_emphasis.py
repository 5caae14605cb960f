"""Emphasis against its definition by eigenvectors, and what it is for: groups that few labels name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nearfar.evaluation.few_label_fits import linear
from nearfar.features.emphasis import FEW, LEAST, Emphasis
from nearfar.features.logistic import standards


def groups(count: int = 600, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Three groups that twenty of two hundred features tell apart by little each; all others are noise."""
    draw = np.random.default_rng(seed)
    y = draw.integers(0, 3, count)
    x = draw.normal(size=(count, 200))
    x[:, :20] += 1.2 * draw.normal(size=(3, 20))[y]
    return torch.from_numpy(x * draw.uniform(0.1, 10, 200) + 3), torch.from_numpy(y)


def test_products_are_those_of_directions_multiplied_by_their_deviations() -> None:
    x, _ = groups()
    found = Emphasis.of(x)
    assert found is not None
    mean, inverse = standards(x)
    z = (x - mean) * inverse
    variance, directions = torch.linalg.eigh(z.T @ z / len(z))
    slow = (z @ directions) * variance.sqrt()
    slow *= (z.square().sum() / slow.square().sum()).sqrt()
    made = found(x)
    torch.testing.assert_close(made @ made.T, slow @ slow.T, rtol=1e-4, atol=1e-2)
    assert float(made.square().mean()) == pytest.approx(float(z.square().mean()), rel=1e-3)


def test_a_classifier_of_emphasised_features_is_one_of_features_as_they_are() -> None:
    x, _ = groups()
    found = Emphasis.of(x)
    assert found is not None
    draw = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(n, generator=draw, dtype=x.dtype) for n in ((200, 3), (3,)))
    own, rest = found.probe_weight(weight, bias)
    torch.testing.assert_close(x @ own + rest, found(x) @ weight + bias, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("each", [1, 2])
def test_few_labels_tell_more_where_all_images_say_how_they_vary(each: int) -> None:
    plain, emphasised = [], []
    for seed in range(8):
        x, y = groups(seed=seed)
        rows = torch.cat([torch.nonzero(y == name)[:each, 0] for name in range(3)])
        scaling, emphasis = standards(x), Emphasis.of(x)
        for told, into in ((None, plain), (emphasis, emphasised)):
            answers = linear(x[rows], y[rows], 3, scaling, told).predict(x)
            into.append(float((answers == y).double().mean()))
    assert np.mean(emphasised) > np.mean(plain) + 0.05


def test_many_labels_and_small_collections_are_left_as_they_are() -> None:
    x, y = groups()
    rows = torch.cat([torch.nonzero(y == name)[: FEW + 1, 0] for name in range(3)])
    scaling = standards(x)
    with_all = linear(x[rows], y[rows], 3, scaling, Emphasis.of(x))
    torch.testing.assert_close(with_all.weight, linear(x[rows], y[rows], 3, scaling).weight)
    assert Emphasis.of(x[: LEAST - 1]) is None
    assert Emphasis.of(torch.ones(200, 4)) is None
