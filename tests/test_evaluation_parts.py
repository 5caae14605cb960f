"""The parts of an evaluation against closed forms, slow loops and independent implementations."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torchmetrics.functional.classification import multiclass_calibration_error
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP

from nearfar.evaluation import calibration, clustering, few_label_fits, few_labels, retrieval, svm
from nearfar.evaluation.accuracy import most_confused, score
from nearfar.evaluation.differences import compare
from nearfar.evaluation.label_efficiency import label_efficiency, labels_needed
from nearfar.features import logistic
from nearfar.features.knn import unit


def rows(n, d, classes, seed, spread=1.0):
    """Features in clouds, one a class."""
    draw = np.random.default_rng(seed)
    y = np.arange(n) % classes
    middle = np.random.default_rng(99).normal(0, 1, (classes, d))
    return torch.from_numpy((middle[y] + spread * draw.normal(0, 1, (n, d))).astype(np.float32)), y


# Retrieval


def test_retrieval_is_torchmetrics():
    base, labels = rows(300, 8, 5, 0, spread=2.0)
    queries, truth = rows(40, 8, 5, 1, spread=2.0)
    found = retrieval.retrieval(queries, truth, base, labels)
    cosine = torch.nn.functional.cosine_similarity(queries[:, None], base[None], dim=2)
    which = torch.arange(40)[:, None].expand(-1, 300)
    hit = torch.from_numpy(labels[None] == truth[:, None])
    # torchmetrics takes nothing below 0 for a hit, so the cosines are raised.
    flat = [(1 + cosine).flatten(), hit.flatten(), which.flatten()]
    assert found.map == pytest.approx(float(RetrievalMAP()(*flat)), abs=1e-6)
    for k in (1, 5, 10):
        assert found.recall[k] == pytest.approx(float(RetrievalHitRate(top_k=k)(*flat)), abs=1e-6)


def test_retrieval_in_tiles_is_retrieval_at_once(monkeypatch):
    base, labels = rows(60, 4, 3, 0)
    queries, truth = rows(31, 4, 3, 1)
    whole = retrieval.retrieval(queries, truth, base, labels)
    monkeypatch.setattr(retrieval, "TILE", 60 * 7)
    tiled = retrieval.retrieval(queries, truth, base, labels)
    assert tiled.map == pytest.approx(whole.map) and tiled.recall == whole.recall


def test_average_precision_by_hand():
    base = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5], [0.0, 1.0]])
    found = retrieval.retrieval(torch.tensor([[1.0, 0.0]]), np.array([1]), base, np.array([0, 1, 0, 1]))
    assert found.map == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert found.recall == {1: 0.0, 5: 1.0, 10: 1.0}


@pytest.mark.parametrize("length", [1.0, 0.0, -1.0])
def test_where_all_are_equally_alike_nothing_is_found(length):
    base, labels = torch.ones(40, 3), np.arange(40) % 4
    found = retrieval.retrieval(torch.full((4, 3), length), np.arange(4), base, labels)
    assert found.recall == {1: 0.0, 5: 0.0, 10: 0.0}  # the wrong ones count as first
    assert found.map == pytest.approx(np.mean(np.arange(1, 11) / np.arange(31, 41)))


# Support vector machine


@pytest.mark.parametrize("seed", [0, 1])
def test_the_support_vector_machine_is_chosen_as_scikit_learn_chooses(seed):
    x, y = rows(120, 6, 4, seed, spread=1.2)
    asked, truth = rows(80, 6, 4, seed + 10, spread=1.2)
    held = np.arange(120) % 5 == 0
    probe = SimpleNamespace(x=x, y=torch.from_numpy(y), validation=held)
    found, chosen = svm.SupportVectors.classify(probe, SimpleNamespace(x=asked), 0)
    grid = {"svc__C": list(svm.PENALTIES)}
    theirs = GridSearchCV(make_pipeline(StandardScaler(), SVC()), grid, cv=PredefinedSplit(held - 1))
    theirs.fit(x.numpy(), y)
    assert chosen == {"C": theirs.best_params_["svc__C"], "images": 120}
    assert (found == theirs.predict(asked.numpy())).all() and (found == truth).mean() > 0.5


def test_the_support_vector_machine_learns_nothing_of_random_labels():
    draw = np.random.default_rng(0)
    x, asked = (torch.from_numpy(draw.normal(0, 1, (n, 5)).astype(np.float32)) for n in (300, 600))
    y, truth = draw.integers(0, 3, 300), draw.integers(0, 3, 600)
    probe = SimpleNamespace(x=x, y=torch.from_numpy(y), validation=np.arange(300) % 5 == 0)
    found, _ = svm.SupportVectors.classify(probe, SimpleNamespace(x=asked), 0)
    assert abs((found == truth).mean() - 1 / 3) < 0.077  # four standard errors


# Calibration


def test_calibration_error_is_torchmetrics():
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(500, 7, generator=draw)
    truth = torch.randint(0, 7, (500,), generator=draw)
    found = calibration.reliability(logits, truth.numpy())
    theirs = multiclass_calibration_error(torch.softmax(logits, 1), truth, 7, n_bins=15, norm="l1")
    assert found.ece == pytest.approx(float(theirs), abs=1e-6)
    assert sum(each.images for each in found.bins) == 500 and found.bins[0].accuracy is None


def test_calibration_by_hand():
    # Ten answers with probability 0.75, of which five are right: a gap of 0.25.
    logits = torch.tensor([[math.log(3.0), 0.0]]).repeat(10, 1)
    found = calibration.reliability(logits, np.arange(10) % 2)
    assert (found.ece, found.confidence, found.accuracy) == pytest.approx((0.25, 0.75, 0.5))
    # A third, as one of three answers has that says nothing, is the border of two bins: the lower one's.
    border = calibration.reliability(torch.zeros(6, 3), np.arange(6) % 3)
    assert [each.images for each in border.bins] == [0] * 4 + [6] + [0] * 10
    assert border.bins[4].high == pytest.approx(1 / 3) and border.ece == pytest.approx(0)


# Clusters


def test_clusters_of_separate_clouds_are_the_classes():
    x, y = rows(120, 16, 4, 0, spread=0.1)
    found = clustering.agreement(y, clustering.kmeans(unit(x).numpy(), 4, seed=0))
    assert (found.accuracy, found.nmi, found.ari) == pytest.approx((1, 1, 1))


def test_agreement_by_hand():
    truth, found = np.array([0, 0, 0, 1, 1, 1]), np.array([2, 2, 1, 1, 1, 0])
    got = clustering.agreement(truth, found)
    assert got.accuracy == pytest.approx(4 / 6)  # 2 -> 0 and 1 -> 1; cluster 0 goes unmatched
    # Of 15 pairs 2 are together in both, 6 in the truth and 4 in the clusters.
    assert got.ari == pytest.approx((2 - 6 * 4 / 15) / ((6 + 4) / 2 - 6 * 4 / 15))
    both = np.array([[2, 1, 0], [0, 2, 1]])[:, ::-1] / 6
    p, q = both.sum(1), both.sum(0)
    mutual = sum(v * math.log(v / (p[i] * q[j])) for (i, j), v in np.ndenumerate(both) if v)
    entropies = [-sum(v * math.log(v) for v in side) for side in (p, q)]
    assert got.nmi == pytest.approx(mutual / (sum(entropies) / 2))


def test_clusters_of_one_class_are_not_measured():
    x, _ = rows(20, 8, 1, 0)
    outputs = SimpleNamespace(x=x)
    assert clustering.ClusterAgreement.measure(None, outputs, np.full(20, 2), 0) is None
    assert clustering.ClusterAgreement.measure(None, outputs, np.arange(20) % 2, 0) is not None


def test_clusters_do_not_depend_on_the_call():
    x, _ = rows(90, 8, 3, 0, spread=3.0)
    one, other = (clustering.kmeans(x.numpy(), 3, seed=1) for _ in range(2))
    assert np.array_equal(one, other)


# Few labels


def test_a_fit_in_few_coordinates_is_scikit_learns_in_all():
    x, y = rows(24, 60, 3, 0, spread=2.0)
    everything, _ = rows(500, 60, 3, 5, spread=2.0)
    asked, _ = rows(50, 60, 3, 1, spread=2.0)
    mean, inverse = logistic.standards(everything)
    found = few_label_fits.linear(x, torch.from_numpy(y), 3, (mean, inverse))
    theirs = LogisticRegression(C=1 / (24 * found.l2), tol=1e-8, max_iter=5000)
    theirs.fit(((x - mean) * inverse).numpy(), y)
    want = theirs.predict_proba(((asked - mean) * inverse).numpy())
    assert np.allclose(torch.softmax(found.logits(asked), 1).numpy(), want, atol=2e-3)


def test_few_coordinates_hold_all_lengths_and_angles():
    z = rows(24, 60, 3, 0)[0].double()
    z[5] = z[4]  # a row twice: they are of no full rank
    place, factor = few_label_fits.coordinates(z)
    assert place.shape == factor.shape == (24, 24)
    torch.testing.assert_close(place @ place.T, z @ z.T, rtol=1e-6, atol=1e-6)


def test_prototypes_are_the_nearest_means():
    x, y = rows(40, 5, 4, 0)
    asked, _ = rows(30, 5, 4, 1)
    found = few_label_fits.prototypes(x, torch.from_numpy(y), 5).predict(asked)
    means = torch.stack([x[y == k].mean(0) for k in range(4)])
    assert torch.equal(found, torch.cdist(asked, means).argmin(1))


def test_draws_are_stratified_nested_and_named():
    labels = np.repeat([0, 1, 2], [500, 300, 3])
    made = few_labels.sizes(labels, 3)
    by_name = {size.name: size for size in made}
    assert by_name["1 a class"].counts == (1, 1, 1) and by_name["4 a class"].counts == (4, 4, 3)
    assert by_name["1 %"].counts == (5, 3, 1) and by_name["10 %"].counts == (50, 30, 1)
    assert made[-1].name == "all" and made[-1].labels == 803
    assert [size.labels for size in made] == sorted({size.labels for size in made})
    names = ("a", "b", "c")
    small, large = (few_labels.draw(labels, names, by_name[f"{k} a class"], 0, 7) for k in (2, 8))
    assert np.bincount(labels[small]).tolist() == [2, 2, 2] and len(set(small)) == 6
    assert set(small) <= set(large)
    assert not np.array_equal(small, few_labels.draw(labels, names, by_name["2 a class"], 0, 8))
    assert np.array_equal(small, few_labels.draw(labels, names, by_name["2 a class"], 0, 7))


def test_the_penalty_is_chosen_by_the_labels_drawn():
    # One feature tells a little, the others nothing.
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(2).repeat_interleave(20)
    noise = torch.randn(40, 30, generator=draw)
    clear = torch.cat([noise, 0.6 * (y[:, None] - 0.5)], 1)
    slow = []
    for l2 in logistic.STRENGTHS:
        right = 0
        for fold in range(4):
            out = (torch.arange(40) % 20) % 4 == fold
            fit = LogisticRegression(C=1 / (30 * l2), tol=1e-8, max_iter=5000).fit(clear[~out], y[~out])
            right += int((torch.from_numpy(fit.predict(clear[out])) == y[out]).sum())
        slow.append(right)
    # The path ends after two penalties without a gain.
    best = next(at for at in range(5) if max(slow[at + 1 : at + 3]) <= slow[at])
    assert few_label_fits.penalty(clear, y, 2) == logistic.STRENGTHS[best]
    assert few_label_fits.penalty(clear[[0, 20]], y[[0, 20]], 2) == few_label_fits.PENALTY
    assert few_label_fits.penalty(clear[[0, 1]], y[[0, 1]], 2) == few_label_fits.PENALTY
    assert (
        few_label_fits.penalty(clear[[0, 1, 20]], y[[0, 1, 20]], 2) in logistic.STRENGTHS
    )  # the one of a kind is kept


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_a_group_is_held_out_whole_where_the_penalty_is_chosen(seed):
    # Rows of a group are nearly the same: with half of it fitted, the weakest penalty knows the rest.
    draw = torch.Generator().manual_seed(seed)
    y, groups = torch.arange(2).repeat_interleave(20), np.arange(40) // 2
    x = torch.randn(20, 30, generator=draw)[groups] + 0.1 * torch.randn(40, 30, generator=draw)
    x = torch.cat([x, y[:, None] - 0.5], 1)
    slow = []
    for l2 in logistic.STRENGTHS:
        right = 0
        for fold in range(4):
            out = torch.from_numpy((groups % 10) % 4 == fold)
            fit = LogisticRegression(C=1 / (int((~out).sum()) * l2), tol=1e-8, max_iter=5000)
            right += int((torch.from_numpy(fit.fit(x[~out], y[~out]).predict(x[out])) == y[out]).sum())
        slow.append(right)
    best = next(at for at in range(5) if max(slow[at + 1 : at + 3]) <= slow[at])
    assert few_label_fits.penalty(x, y, 2, groups) == logistic.STRENGTHS[best]
    own = few_label_fits.penalty(x, y, 2)
    assert few_label_fits.penalty(x, y, 2, np.arange(40)) == own
    # Where a class is of one group, nothing would be left to know it by.
    assert few_label_fits.penalty(x, y, 2, np.repeat([0, 1], 20)) == few_label_fits.PENALTY


def test_labels_needed_are_read_off_the_curve():
    curve = {10: [0.2, 0.2], 100: [0.4, 0.4], 1000: [0.5]}
    assert labels_needed(curve, 0.3) == pytest.approx(math.sqrt(1000))
    assert labels_needed(curve, 0.1) == 10 and labels_needed(curve, 0.5) == pytest.approx(1000)
    assert labels_needed(curve, 0.6) is None


def test_the_sentence_says_whether_it_helped():
    flat = {10: [0.2] * 3, 100: [0.3] * 3, 1000: [0.41]}
    better = {10: [0.4, 0.41, 0.39], 100: [0.5] * 3, 1000: [0.6]}
    found = label_efficiency({"encoder": better, "pixels": flat}, 10, "1 a class")
    assert found.helped is True and found.needed["pixels"] == pytest.approx(10 ** (2 + 10 / 11))
    assert str(found).startswith("Did self-supervision help? Yes: with 10 labels (1 a class)")
    worse = label_efficiency({"encoder": flat, "pixels": better}, 10, "1 a class")
    assert worse.helped is False and worse.needed["pixels"] == 10
    luck = {10: [0.1, 0.3, 0.2], 100: [0.3] * 3, 1000: [0.41]}
    assert label_efficiency({"encoder": luck, "pixels": flat}, 10, "1 a class").helped is None
    never = label_efficiency({"encoder": {10: [0.9] * 3, 1000: [0.9]}, "pixels": flat}, 10, "1 a class")
    assert "raw pixels would need more than all 1,000" in str(never)


# Pairs


def test_mcnemar_and_the_interval_against_loops():
    draw = np.random.default_rng(0)
    truth = np.zeros(400, np.int64)
    first, second = (draw.random(400) > 0.3).astype(np.int64), (draw.random(400) > 0.4).astype(np.int64)
    found = compare(truth, first, second, seed=0)
    won, lost = int(((first == 0) & (second == 1)).sum()), int(((first == 1) & (second == 0)).sum())
    assert (found.first_only, found.second_only) == (won, lost)
    assert found.difference == pytest.approx((won - lost) / 400)
    tail = sum(math.comb(won + lost, k) for k in range(min(won, lost) + 1)) / 2 ** (won + lost)
    assert found.p == pytest.approx(min(1.0, 2 * tail))
    gaps = (first == 0).astype(int) - (second == 0)
    means = [gaps[draw.integers(0, 400, 400)].mean() for _ in range(2000)]
    assert np.allclose([found.low, found.high], np.quantile(means, [0.025, 0.975]), atol=0.01)


def test_a_run_does_not_differ_from_itself():
    answers = np.arange(50) % 3
    found = compare(np.zeros(50, np.int64), answers, answers, 0)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1.0)


# Scores


def test_a_score_counts_by_hand():
    found = score(np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1]), ("a", "b", "c"), {})
    assert found.accuracy == 0.5
    assert found.confusion.tolist() == [[1, 2, 0], [0, 1, 0], [0, 0, 0]]
    a, b, c = found.per_class
    assert (a.recall, a.precision, b.recall, b.precision) == (1 / 3, 1.0, 1.0, 1 / 3)
    assert (c.images, c.recall, c.precision) == (0, None, None)
    assert most_confused(found) == [("a", "b", 2)]
