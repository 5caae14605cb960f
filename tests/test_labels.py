"""Search and new classes, against slow loops, scikit-learn and planted answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.semi_supervised import LabelSpreading
from small_vectors import blobs, digits  # noqa: F401

from nearfar.analysis import few_shot, label_propagation, query
from nearfar.core.errors import NearfarError
from nearfar.features.knn import top_k

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


# New classes


def test_a_conformal_threshold_keeps_its_rate_on_random_labels() -> None:
    away = []
    for seed in range(40):
        draw = np.random.default_rng(seed)
        x = draw.normal(size=(240, 16)).astype(np.float32)
        y = np.arange(40) % 4
        found = few_shot.classify(x[40:], x[:40], y, list("abcd"), reject=0.1)
        away += [found.predicted == few_shot.UNCLASSIFIED]
    assert np.mean(away) <= 0.1 + 3 * np.std(np.mean(away, axis=1)) / np.sqrt(40)


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
