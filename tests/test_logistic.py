"""Logistic regression against scikit-learn on the same standardised features."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from nearfar.core.errors import NearfarError
from nearfar.features import logistic


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return torch.from_numpy(x), torch.from_numpy(y)


@pytest.mark.parametrize(("l2", "rows"), [(1e-1, None), (1e-3, None), (1e-2, 40)])  # 40: fewer than features
def test_it_is_scikit_learns_optimum(digits, l2, rows):
    x, y = (part[:rows] for part in digits)
    found = logistic.fit(x, y, 10, l2, tolerance=1e-8, steps=1000)
    scaled = StandardScaler().fit_transform(x.numpy())
    theirs = LogisticRegression(C=1 / (len(x) * l2), tol=1e-9, max_iter=20_000).fit(scaled, y.numpy())
    ours = torch.softmax(x @ found.weight + found.bias, 1).numpy()
    assert np.abs(ours - theirs.predict_proba(scaled)).max() < 1e-5


def test_the_gradient_is_autograds(digits):
    x, y = digits[0][:50], digits[1][:50]
    problem = logistic._Problem(x, y, 10)
    w = torch.randn(65, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = (x - problem.mean) * problem.inverse @ w[:64] + w[64]
    loss = torch.nn.functional.cross_entropy(logits, y) + 0.05 * w[:64].square().sum()
    loss.backward()
    value, gradient = problem.value(w.detach(), 0.1)
    assert abs(value - loss.item()) < 1e-12
    assert torch.allclose(gradient, w.grad, atol=1e-12)


def test_float32_gives_the_same_answers(digits):
    x, y = digits
    wide, narrow = logistic.fit(x, y, 10, 1e-2), logistic.fit(x.float(), y, 10, 1e-2)
    assert (wide.predict(x) == narrow.predict(x.float())).float().mean() > 0.998


def test_a_start_changes_the_way_and_not_its_end(digits):
    x, y = torch.cat([digits[0], torch.full((len(digits[0]), 1), 7.0)], 1), digits[1]
    cold = logistic.fit(x, y, 10, 1e-2, tolerance=1e-9, steps=1000)
    start = logistic.fit(x[::2], y[::2], 10, 1e-1)
    warm = logistic.fit(x, y, 10, 1e-2, start=start, tolerance=1e-9, steps=1000)
    assert torch.allclose(cold.weight, warm.weight, atol=1e-5) and torch.allclose(
        cold.bias, warm.bias, atol=1e-6
    )
    again = logistic.fit(x, y, 10, 1e-2, start=cold, tolerance=1e-7)
    assert again.steps == 0 and torch.allclose(again.weight, cold.weight, atol=1e-12)


def test_rows_in_pieces_change_nothing(digits, monkeypatch):
    x, y = digits
    whole = logistic.fit(x, y, 10, 1e-2, tolerance=1e-9)
    monkeypatch.setattr(logistic, "CELLS", 1000)
    assert torch.allclose(logistic.fit(x, y, 10, 1e-2, tolerance=1e-9).weight, whole.weight, atol=1e-6)


def test_dead_and_huge_features_do_no_harm(digits):
    x, y = digits
    x = torch.cat([x * 1e4, torch.full((len(x), 1), 7.0)], 1).float()
    found = logistic.fit(x, y, 10, 1e-2)
    assert torch.isfinite(found.weight).all() and (found.weight[-1] == 0).all()
    assert (found.predict(x) == y).float().mean() > 0.97


def test_a_constant_table_answers_the_most_frequent_class():
    found = logistic.fit(torch.ones(10, 3), torch.tensor([1] * 7 + [0] * 3), 2, 1e-2)
    assert found.predict(torch.ones(2, 3)).tolist() == [1, 1]


def test_the_chosen_penalty_is_as_good_as_the_best_on_noisy_labels():
    make = torch.Generator().manual_seed(0)

    def draw(n):
        x, y = torch.randn(n, 60, generator=make), torch.arange(n) % 2
        x[:, :20] += 0.5 * y[:, None]
        flip = torch.rand(n, generator=make) < 0.2
        return x, torch.where(flip, 1 - y, y)

    x, y = draw(100)
    held, truth = draw(3000)
    right = {
        l2: (logistic.fit(x, y, 2, l2).predict(held) == truth).float().mean().item()
        for l2 in logistic.STRENGTHS
    }
    chosen = logistic.choose(x, y, held, truth, 2).l2
    assert right[chosen] >= max(right.values()) - 0.01
    assert right[chosen] > right[logistic.STRENGTHS[-1]] + 0.02


def test_what_cannot_be_fitted_is_refused():
    x, y = torch.ones(4, 2), torch.tensor([0, 1, 0, 1])
    with pytest.raises(NearfarError, match="one label per row"):
        logistic.fit(x, y[:3], 2, 1.0)
    with pytest.raises(NearfarError, match="two classes"):
        logistic.fit(x, y * 0, 1, 1.0)
    with pytest.raises(NearfarError, match="not finite"):
        logistic.fit(x / 0, y, 2, 1.0)
