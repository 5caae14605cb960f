"""Search, label errors, new classes and what to label next, against slow loops and planted answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.semi_supervised import LabelSpreading

from nearfar.analysis import few_shot, label_errors, label_propagation, query
from nearfar.analysis.wrong_labels import count_wrong
from nearfar.core.errors import NearfarError
from nearfar.evaluation import few_label_fits
from nearfar.features import logistic
from nearfar.features.knn import choose_vote, knn_votes, top_k


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 written digits of 8 x 8 pixels: scikit-learn's own."""
    x, y = load_digits(return_X_y=True)
    return x.astype(np.float32), y.astype(np.int64)


def blobs(sizes: list[int], d: int = 8, noise: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows about orthogonal directions, one a class."""
    draw = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(sizes)), sizes)
    return (np.eye(d)[y] + noise * draw.normal(size=(len(y), d))).astype(np.float32), y


# Search


def ranked(x: np.ndarray, wanted: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    likeness, rows = top_k(torch.from_numpy(wanted[None]), torch.from_numpy(x), count)
    return likeness[0].numpy(), rows[0].numpy()


def test_a_query_is_rocchios() -> None:
    likes, dislikes = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    sum_ = np.zeros(5)
    for row in likes:
        sum_ += row / np.sqrt((row**2).sum()) / 3
    for row in dislikes:
        sum_ -= query.DISLIKE * row / np.sqrt((row**2).sum()) / 3
    found = query.query(likes, dislikes)
    np.testing.assert_allclose(found, sum_ / np.linalg.norm(sum_), atol=1e-6)
    np.testing.assert_allclose(query.query(10 * likes, 0.1 * dislikes), found, atol=1e-6)  # length is nothing


def test_a_query_for_one_image_ranks_by_the_cosine_to_it() -> None:
    x = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    cosine = x @ x[7] / np.linalg.norm(x, axis=1) / np.linalg.norm(x[7])
    likeness, rows = ranked(x, query.query(x[7:8]), 50)
    assert rows[0] == 7
    np.testing.assert_array_equal(rows, np.argsort(-cosine))
    np.testing.assert_allclose(likeness, np.sort(cosine)[::-1], atol=1e-6)


def test_a_dislike_turns_the_search_away() -> None:
    x = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]] + np.float32(0.01)
    both = (x[0] + x[2])[None]
    assert set(ranked(x, query.query(both), 3)[1]) == {0, 1, 2}
    assert set(ranked(x, query.query(both, x[2:3]), 2)[1]) == {0, 1}


def test_a_search_for_nothing_is_refused() -> None:
    x = np.eye(3, dtype=np.float32)
    with pytest.raises(NearfarError, match="needs an example"):
        query.query(x[:0], x)
    with pytest.raises(NearfarError, match="cancel out"):
        query.query(np.stack([x[0], -x[0]]))


# Label errors


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
    x, y = digits[0][:300], digits[1][:300]
    ours = label_errors.neighbour_shares(x, y, 10, k=7)
    for row in (0, 17, 299):
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


def test_a_conformal_threshold_keeps_its_rate_on_random_labels() -> None:
    away = []
    for seed in range(40):
        draw = np.random.default_rng(seed)
        x = draw.normal(size=(240, 16)).astype(np.float32)
        y = np.arange(40) % 4
        found = few_shot.classify(x[40:], x[:40], y, list("abcd"), reject=0.1)
        away += [found.predicted == few_shot.UNCLASSIFIED]
    assert np.mean(away) <= 0.1 + 3 * np.std(np.mean(away, axis=1)) / np.sqrt(40)


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


# New classes


def test_one_image_a_class_is_its_nearest_neighbour(digits: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = digits
    shown = np.array([np.flatnonzero(y == n)[0] for n in range(10)])
    found = few_shot.classify(x, x[shown], y[shown], [str(n) for n in range(10)])
    z = few_shot.centred(x, few_shot.origin(x, x[shown], y[shown], 10))
    np.testing.assert_array_equal(found.nearest, KNeighborsClassifier(1).fit(z[shown], y[shown]).predict(z))
    assert found.threshold is None and (found.predicted == found.nearest).all()  # too few to promise a rate
    np.testing.assert_allclose(found.similarity[shown], 1, atol=1e-5)


def test_images_of_one_class_or_one_image_get_their_class() -> None:
    x, y = blobs([40, 40, 40, 40], noise=0.3)
    x += 3  # as of networks that end with a rectifier: all vectors point about one way
    shown = np.concatenate([np.flatnonzero(y == number)[:5] for number in range(4)])
    names, right = list("abcd"), []
    for number in range(4):
        rest = np.setdiff1d(np.flatnonzero(y == number), shown)
        most = np.concatenate([rest, np.flatnonzero(y == (number + 1) % 4)[5:8]])
        for asked in (rest, most, *rest[:5, None]):
            found = few_shot.classify(x[asked], x[shown], y[shown], names, reject=0)
            right.append((found.predicted == y[asked]).mean())
    assert np.min(right[::7]) > 0.85 and np.mean(right) > 0.95
    lone = few_shot.classify(x, x[:1], y[:1], ["a"], reject=0)  # one example of one class
    assert roc_auc_score(y == 0, lone.similarity) > 0.95


def test_left_out_examples_are_judged_by_the_others() -> None:
    x, y = blobs([3, 2, 1], noise=0.5)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = []
    for row in range(5):  # the last class has no other
        best = -2.0
        for c in range(3):
            own = [x[i] for i in range(6) if y[i] == c and i != row]
            centre = np.mean(own, axis=0)
            best = max(best, float(centre @ x[row] / np.linalg.norm(centre)))
        expected.append(best)
    np.testing.assert_allclose(few_shot.left_out_similarity(x, y, 3), expected, atol=1e-5)


def test_a_threshold_keeps_its_promise() -> None:
    draw = np.random.default_rng(0)
    assert few_shot.threshold(np.arange(18.0), 0.05) is None
    assert few_shot.threshold(np.arange(19.0), 0.05) == 0.0
    assert few_shot.threshold(np.arange(39.0), 0.05) == 1.0
    assert few_shot.threshold(np.arange(39.0), 0.0) is None
    below = [draw.normal() < few_shot.threshold(draw.normal(size=39), 0.1) for _ in range(4000)]
    assert np.mean(below) == pytest.approx(0.1, abs=0.015)


def test_images_of_other_classes_are_left_unclassified(digits: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = digits
    known = y < 5
    kept, turned, area = [], [], []
    for draw in range(10):
        order = np.random.default_rng(draw).permutation(len(y))
        shown = np.concatenate([order[y[order] == n][:8] for n in range(5)])
        found = few_shot.classify(x, x[shown], y[shown], list("01234"), reject=0.05)
        away = found.predicted == few_shot.UNCLASSIFIED
        assert (found.predicted[known & ~away] == y[known & ~away]).mean() > 0.9
        kept.append(away[known].mean())
        turned.append(away[~known].mean())
        area.append(roc_auc_score(known, found.similarity))
    assert np.mean(kept) < 0.08 and np.mean(turned) > 0.25 and np.mean(area) > 0.85
    told = json.loads(json.dumps(found.to_json()))
    assert sum(told["counts"].values()) == len(x) and told["counts"][""] == away.sum()


def test_spreading_is_scikit_learns(digits: tuple[np.ndarray, np.ndarray]) -> None:
    x = few_shot.centred(digits[0][:300], digits[0].mean(axis=0))
    y = np.full(300, -1)
    y[:40] = digits[1][:40]
    links = label_propagation.graph(x, k=10)
    assert abs(links - links.T).max() < 1e-7
    cosine = x @ x.T
    np.fill_diagonal(cosine, -2)
    weight = np.zeros((300, 300))
    for row in range(300):
        near = np.argsort(-cosine[row])[:10]
        weight[row, near] = np.maximum(cosine[row, near], 0) ** label_propagation.POWER
    weight = np.maximum(weight, weight.T)
    root = np.sqrt(weight.sum(axis=1))
    np.testing.assert_allclose(links.toarray(), weight / root / root[:, None], atol=1e-6)
    # Its kernel is asked for weights and normalises them as here; a diagonal of zeros stays one.
    theirs = LabelSpreading(
        kernel=lambda a, b: weight, alpha=label_propagation.ALPHA, max_iter=5000, tol=1e-9
    ).fit(x, y)
    ours = label_propagation.propagate(x, y, 10, k=10)
    np.testing.assert_allclose(ours, theirs.label_distributions_, atol=2e-3)


def test_labels_spread_along_chains_and_not_across_gaps() -> None:
    angle = np.concatenate([np.linspace(0, 1.2, 20), np.linspace(1.9, 3.1, 20)])
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    labels = np.full(40, -1)
    labels[[19, 39]] = 0, 1  # the first chain's label lies nearest to the second chain's start
    shares = label_propagation.propagate(x, labels, 2, k=4)
    assert (shares[:20].argmax(axis=1) == 0).all() and (shares[20:].argmax(axis=1) == 1).all()
    with pytest.raises(NearfarError, match="no labels to propagate"):
        label_propagation.propagate(x, np.full(40, -1), 2)


def test_spreading_beats_the_jump_with_one_label_a_class(digits: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = digits
    jump, far = [], []
    for draw in range(5):
        order = np.random.default_rng(draw).permutation(len(y))
        shown = np.array([order[y[order] == n][0] for n in range(10)])
        names = [str(n) for n in range(10)]
        jump.append((few_shot.classify(x, x[shown], y[shown], names).predicted == y).mean())
        far.append((few_shot.classify(x, x[shown], y[shown], names, propagate=True).predicted == y).mean())
    assert np.mean(far) > np.mean(jump) + 0.1


def test_naming_refuses_what_it_cannot_do() -> None:
    x, y = blobs([3, 3])
    with pytest.raises(NearfarError, match="no example of 'c'"):
        few_shot.classify(x, x, y, ["a", "b", "c"])
    with pytest.raises(NearfarError, match="--reject is 1"):
        few_shot.classify(x, x, y, ["a", "b"], reject=1.0)


# What to label next
