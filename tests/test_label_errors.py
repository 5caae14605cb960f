"""Wrong labels are found and counted: against loops, planted errors, and labels drawn at random."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from small_vectors import blobs, digits  # noqa: F401

from nearfar.analysis import label_errors
from nearfar.analysis.wrong_labels import count_wrong
from nearfar.core.errors import NearfarError
from nearfar.evaluation import few_label_fits
from nearfar.features import logistic
from nearfar.features.knn import choose_vote, knn_votes, top_k


def slow_joint(shares: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The confident joint by plain loops."""
    n, m = shares.shape
    limit = [np.mean([shares[i, j] for i in range(n) if labels[i] == j]) for j in range(m)]
    counts = np.zeros((m, m))
    for i in range(n):
        sure = [j for j in range(m) if shares[i, j] >= limit[j]]
        if sure:
            counts[labels[i], max(sure, key=lambda j: shares[i, j])] += 1
    joint = np.zeros((m, m))
    for a in range(m):
        for b in range(m):
            joint[a, b] = counts[a, b] / counts[a].sum() * (labels == a).sum()
    return joint / joint.sum()


def test_the_confident_joint_is_that_of_its_loops() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 4, 200)
    shares = draw.dirichlet(np.ones(4), 200) + 2 * np.eye(4)[labels]
    shares = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
    joint = label_errors.confident_joint(shares, labels)
    np.testing.assert_allclose(joint, slow_joint(shares, labels), atol=1e-12)
    np.testing.assert_allclose(joint.sum(axis=1), np.bincount(labels) / 200)


def test_a_sure_model_counts_the_flips_exactly() -> None:
    truth = np.repeat([0, 1, 2], 100)
    given = truth.copy()
    given[:10], given[150:155] = 1, 2
    joint = label_errors.confident_joint(np.eye(3, dtype=np.float32)[truth], given)
    np.testing.assert_allclose(300 * joint, [[90, 0, 0], [10, 95, 0], [0, 5, 100]])


def test_neighbours_vote_as_scikit_learns(digits: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = digits[0][:300], digits[1][:300] // 2 + np.random.default_rng(0).integers(0, 6, 300)
    ours = label_errors.neighbour_shares(x, y, 10, k=7)  # of labels so noisy every neighbour counts
    for row in range(0, 300, 7):
        rest = np.arange(300) != row
        theirs = KNeighborsClassifier(7, metric="cosine").fit(x[rest], y[rest])
        np.testing.assert_allclose(ours[row], theirs.predict_proba(x[[row]])[0], atol=1e-6)


def test_out_of_fold_shares_never_saw_the_label(digits: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = digits[0][:400], digits[1][:400].copy()
    noise = np.random.default_rng(0).integers(0, 10, 400)
    shares = label_errors.out_of_fold(x, noise, 10, seed=0)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert (shares.argmax(axis=1) == noise).mean() < 0.2  # what cannot be learnt is not known
    assert (label_errors.out_of_fold(x, y, 10, seed=0).argmax(axis=1) == y).mean() > 0.9


def test_neither_a_fit_nor_its_penalty_sees_the_fold_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    x, real, unseen = np.random.default_rng(0).normal(size=(100, 3)).astype("f4"), label_errors._likeliest, []

    def spied(fitted: torch.Tensor, y: torch.Tensor, asked: torch.Tensor, *rest: Any) -> logistic.Probe:
        known = fitted[:, 0].tolist() + asked[:, 0].tolist()
        assert len(known) == len(set(known)) == 80  # what the penalty is chosen by is not fitted on
        unseen.append({*x[:, 0].tolist()} - set(known))
        return real(fitted, y, asked, *rest)

    monkeypatch.setattr(label_errors, "_likeliest", spied)
    label_errors.out_of_fold(x, np.arange(100) % 4, 4, seed=0)
    assert [len(rows) for rows in unseen] == [20] * 5 and set.union(*unseen) == {*x[:, 0].tolist()}


def by_chance(right: np.ndarray, classes: int) -> bool:
    """Whether answers are right as often as chance, up to three standard errors above."""
    return right.mean() <= 1 / classes + 3 * np.sqrt((1 - 1 / classes) / classes / len(right))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n", "d", "classes"), [(600, 8, 3), (600, 128, 10), (300, 400, 2), (1200, 64, 300)])
def test_random_labels_are_known_no_better_than_by_chance(seed: int, n: int, d: int, classes: int) -> None:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, d)).astype(np.float32)
    y = np.arange(n) % classes
    draw.shuffle(y)
    assert by_chance(label_errors.out_of_fold(x, y, classes, seed).argmax(axis=1) == y, classes)
    assert by_chance(label_errors.neighbour_shares(x, y, classes).argmax(axis=1) == y, classes)
    found = label_errors.find_label_errors(x, y, [str(at) for at in range(classes)], seed=seed)
    assert by_chance(found.suggested == y, classes) and by_chance(np.arange(n) < found.accuracy * n, classes)
    assert abs(found.doubt.mean() - (1 - 1 / classes)) < 0.02, "a doubt is the share of other labels"


def test_choices_on_held_out_rows_know_nothing_of_the_test() -> None:
    """The k of k-NN and the penalties, chosen and fitted on random labels, then asked for others."""
    draw = np.random.default_rng(5)
    x = torch.from_numpy(draw.normal(size=(1500, 60)).astype(np.float32))
    y = torch.from_numpy(draw.integers(0, 4, 1500))
    fitted, asked, test = slice(0, 400), slice(400, 500), slice(500, None)
    likeness, who = top_k(x[asked], x[fitted], 100)
    vote = choose_vote(likeness, y[fitted][who], y[asked], 4)
    likeness, who = top_k(x[test], x[:500], vote.k)
    shares = knn_votes(likeness, y[:500][who], 4, vote.temperature)
    assert by_chance((shares.argmax(dim=1) == y[test]).numpy(), 4)
    chosen = logistic.choose(x[fitted], y[fitted], x[asked], y[asked], 4)
    whole = logistic.fit(x[:500], y[:500], 4, chosen.l2, start=chosen)
    assert by_chance((whole.predict(x[test]) == y[test]).numpy(), 4)
    order = y[:500].argsort(stable=True)
    few = few_label_fits.linear(x[:500][order], y[:500][order], 4, logistic.standards(x[:500]))
    assert by_chance((few.predict(x[test]) == y[test]).numpy(), 4)


@pytest.mark.parametrize("signal, noise, decay", [(1, 1, 0.97), (1, 1.5, 0.97), (0.6, 1, 0.95)])
def test_wrong_labels_of_many_small_classes_are_found_as_by_cold_folds(
    signal: float, noise: float, decay: float
) -> None:
    draw = np.random.default_rng(7)
    n, d, classes = 1320, 256, 41
    truth = np.arange(n) % classes
    x = signal * draw.normal(size=(classes, d))[truth] + noise * draw.normal(size=(n, d))
    mixed = np.maximum((x * decay ** np.arange(d)) @ np.linalg.qr(draw.normal(size=(d, d)))[0], 0)
    x = (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)
    wrong = draw.random(n) < 0.1
    given = np.where(wrong, (truth + draw.integers(1, classes, n)) % classes, truth)
    found = label_errors.find_label_errors(x, given, [str(at) for at in range(classes)])
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    cold = LogisticRegression(C=30, max_iter=300)
    theirs = cross_val_predict(cold, x - x.mean(axis=0), given, method="predict_proba", cv=folds)
    w, rows = int(wrong.sum()), np.arange(n)
    assert 118 < w < 150 and found.accuracy <= 1 - w / n + 0.01  # nobody can agree with a wrong label
    assert wrong[found.order[:w]].sum() >= wrong[np.argsort(theirs[rows, given])[:w]].sum() - 3
    # Doubts are probabilities: among labels of like doubt, as many are not the likeliest as the doubts say.
    shares = label_errors.out_of_fold(x, given, classes, 0)
    near = label_errors.neighbour_shares(x, given, classes)
    told = label_errors.calibrated(shares * (near + label_errors.PRIOR_VOTE), given)
    np.testing.assert_allclose(told[rows, given], 1 - found.doubt, atol=1e-6)
    np.testing.assert_array_equal(told.argmax(axis=1), found.suggested)
    right, sure = told.argmax(axis=1) == given, told.max(axis=1)
    for part in np.array_split(np.argsort(sure), 5):
        assert abs(sure[part].mean() - right[part].mean()) < 0.09
    assert abs(sure.mean() - right.mean()) < 0.03


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_planted_label_errors_are_found(digits: tuple[np.ndarray, np.ndarray], rate: float) -> None:
    x, truth = digits
    draw = np.random.default_rng(3)
    wrong = draw.random(len(truth)) < rate
    given = np.where(wrong, (truth + draw.integers(1, 10, len(truth))) % 10, truth)
    found = label_errors.find_label_errors(x, given, [str(n) for n in range(10)])
    assert average_precision_score(wrong, found.doubt) > 0.95
    assert label_errors.precision_at(found.order, wrong, int(wrong.sum())) > 0.9
    assert found.wrong.low <= found.wrong.count <= found.wrong.high
    assert found.wrong.count == pytest.approx(wrong.sum(), rel=0.35)
    assert (found.suggested[wrong] == truth[wrong]).mean() > 0.93
    assert found.doubt.min() >= 0 and found.doubt.max() <= 1
    assert (np.diff(found.doubt[found.order]) <= 0).all()
    told = json.loads(json.dumps(found.to_json()))
    assert len(told["rows"]) == found.wrong.count and told["rows"][0]["row"] == found.order[0]
    again = label_errors.find_label_errors(x, given, [str(n) for n in range(10)])
    np.testing.assert_array_equal(again.order, found.order)


@pytest.mark.parametrize("rate, kind", [(0.0, "any"), (0.01, "any"), (0.03, "pair"), (0.1, "any")])
@pytest.mark.parametrize("strength", [0.4, 1.0])  # the classifier gives 70 and 100 % of true labels
def test_wrong_labels_are_counted_within_a_factor_of_two(strength: float, rate: float, kind: str) -> None:
    draw, classes, count, dim = np.random.default_rng(5), 10, 3000, 32
    centres = draw.normal(size=(classes, dim))
    centres *= strength / np.linalg.norm(centres, axis=1, keepdims=True)
    truth = draw.integers(0, classes, count)
    x = (centres[truth] + draw.normal(size=(count, dim)) / dim**0.5).astype(np.float32)
    wrong = draw.random(count) < rate
    other = truth ^ 1 if kind == "pair" else (truth + draw.integers(1, classes, count)) % classes
    given = np.where(wrong, other, truth)
    shares = label_errors.out_of_fold(x, given, classes, 0)
    found = count_wrong(shares, given, label_errors.confident_joint(shares, given))
    assert found.low <= found.count <= found.high
    assert wrong.sum() / 2 <= found.count <= 2 * wrong.sum() + 3


def test_label_errors_need_two_classes_of_two() -> None:
    x, y = blobs([5, 5, 1])
    with pytest.raises(NearfarError, match="'c' has 1"):
        label_errors.find_label_errors(x, y, ["a", "b", "c"])
    with pytest.raises(NearfarError, match="two classes"):
        label_errors.find_label_errors(x[:5], y[:5], ["a"])
    with pytest.raises(NearfarError, match="and there is none; label"):
        label_errors.find_label_errors(x[:0], y[:0], [])
    few = [0, 1, 5, 6]
    found = label_errors.find_label_errors(x[few], y[few], ["a", "b"])  # as few as that will do
    assert np.isfinite(found.doubt).all()
