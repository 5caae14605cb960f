"""Anomaly scores: right on planted answers, a promise that holds, figures that agree with slow counting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

import nearfar
from nearfar import models
from nearfar.analysis import conformal
from nearfar.analysis.anomalies import neighbour, score_anomalies, score_detection, threshold
from nearfar.analysis.anomaly_detectors import DETECTORS, centred, detector
from nearfar.analysis.planted_oddities import plant_oddities
from nearfar.core.errors import NearfarError
from nearfar.features.extract import fingerprint
from nearfar.images.views import Preprocess
from nearfar.stores import StoreInfo, open_store
from nearfar.stores.arrow_rows import fixed
from nearfar.training.run import export


def cloud(count: int, middles: np.ndarray, seed: int, spread: float = 0.35) -> np.ndarray:
    """Points about some middles, in turn."""
    draws = np.random.default_rng(seed)
    return (middles[np.arange(count) % len(middles)] + spread * draws.standard_normal((count, 8))).astype(
        "f4"
    )


def modes() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Normal images of four kinds, more of them, and strange ones: between two kinds, and far off."""
    axes = 3 * np.eye(8)
    kinds = np.concatenate([axes[:2], -axes[:2]])
    near, far = (axes[:1] + axes[1:2]) / 2**0.5, 3 * np.eye(8)[4:5]
    return cloud(800, kinds, 0), cloud(200, kinds, 1), cloud(100, near, 2), cloud(100, far, 3)


def test_knn_is_the_kth_smallest_distance() -> None:
    normal, asked = (x + np.float32(1) for x in modes()[:2])
    assert not centred(normal)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (asked.astype("f8"), normal.astype("f8")))
    slow = np.sort(1 - a @ b.T, axis=1)
    for k in (1, 5):
        assert detector(normal, k=k)(asked) == pytest.approx(slow[:, k - 1], abs=1e-6)
    alone = np.sort(1 - b @ b.T + 9 * np.eye(len(b)), axis=1)[:, 4]
    assert score_anomalies(normal, k=5).scores == pytest.approx(alone, abs=1e-6)


def test_distances_count_where_the_normal_images_have_their_mean_at_0() -> None:
    normal, asked, *_ = modes()
    assert centred(normal)
    slow = np.sort(np.linalg.norm(asked[:, None].astype("f8") - normal[None], axis=2), axis=1)
    for k in (1, 5):
        assert detector(normal, k=k)(asked) == pytest.approx(slow[:, k - 1], abs=1e-5)


def test_both_halves_of_the_normal_images_are_scored_in_one_way() -> None:
    draws = np.random.default_rng(0)
    # Of few images around 0, one half may seem to be around 0 and the other not.
    x = (3 * draws.standard_normal((60, 64))).astype("f4")
    normal, differ = np.ones(len(x), bool), 0
    for seed in range(20):
        found = score_anomalies(x, normal, seed=seed)
        halves = [centred(x[half]) for half in (~found.unseen, found.unseen)]
        differ += halves[0] != halves[1]
        assert found.flagged is not None and found.flagged.mean() < 0.3
    assert differ > 2


def test_what_is_no_number_is_refused_by_angle_and_by_distance() -> None:
    normal, asked = (x.copy() for x in modes()[:2])
    asked[3, 2] = np.nan
    for base in (normal, normal + np.float32(1)):
        with pytest.raises(NearfarError, match="not finite"):
            detector(base)(asked)


def pointing(count: int, seed: int, length: float = 1.0, towards: float = 0.0) -> np.ndarray:
    """Vectors in all directions, of lengths about one; or with a part of all in one direction."""
    draws = np.random.default_rng(seed)
    x = draws.standard_normal((count, 64)) / 8
    x[:, 0] += towards
    return (length * (1 + 0.1 * draws.standard_normal((count, 1))) * x).astype("f4")


@pytest.mark.parametrize("count", [20, 200, 2000])
def test_vectors_that_point_everywhere_are_told_from_others(count: int) -> None:
    assert centred(pointing(count, 0)) and not centred(pointing(count, 0, towards=0.5))


@pytest.mark.parametrize("method", DETECTORS[:3])
def test_an_encoder_of_the_normal_images_alone_tells_others_by_their_length(method: str) -> None:
    """Its vectors are centred on the normal images, so that these point everywhere, and so do the others."""
    normal, held, odd = pointing(1000, 0), pointing(200, 1), pointing(200, 2, length=1.5)
    truth = np.arange(400) >= 200
    score = detector(normal, method)
    assert roc_auc_score(truth, score(np.concatenate([held, odd]))) > 0.95


def test_images_of_another_world_are_first_and_a_rare_kind_is_found_too() -> None:
    """A collection of four kinds and of a few of a fifth, by its own encoder; and some with long vectors."""
    middles = np.eye(64, dtype="f4")[:5]
    kinds = [pointing(250, at, 1.0) * 0.5 + middles[at] for at in range(4)]
    rare, world = pointing(8, 5) * 0.5 + middles[4], pointing(8, 6, length=9.0)
    x = np.concatenate([*kinds, rare, world])
    x -= x[:1000].mean(0)
    scores = score_anomalies(x).scores
    assert set(np.argsort(-scores)[:8]) == set(range(1008, 1016))
    assert roc_auc_score(np.arange(1008) >= 1000, scores[:1008]) > 0.99


def test_lengths_that_are_all_alike_change_no_score() -> None:
    x = pointing(300, 0, towards=0.5)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    alone = np.sort(1 - x.astype("f8") @ x.T.astype("f8") + 9 * np.eye(300), axis=1)
    assert score_anomalies(x, k=5).scores == pytest.approx(alone[:, 4], abs=1e-6)


@pytest.mark.parametrize("k", [1, 5])
def test_an_unusual_length_counts_in_deviations_of_usual_scores(k: int) -> None:
    normal = (2 + np.random.default_rng(5).standard_normal((80, 6))).astype("f4")
    longer = 9 * normal[:3]  # whose angles are those of normal ones
    lengths = np.linalg.norm(normal, axis=1).astype("f8")
    a = normal / lengths[:, None]
    usual = np.sort(1 - a @ a.T + 9 * np.eye(80), axis=1)[:, k - 1]  # each against the others

    def middle(x: np.ndarray) -> tuple[float, float]:
        return float(np.median(x)), 1.4826 * float(np.median(abs(x - np.median(x))))

    (score, scores), (length, spread) = middle(usual), middle(lengths)
    wanted = score + scores * ((9 * lengths[:3] - length) / spread - 3)
    assert detector(normal, k=k)(longer) == pytest.approx(wanted, rel=1e-4)


def test_one_cloud_is_easy_for_all_and_several_for_knn_alone() -> None:
    normal, held, between, far = modes()
    one, other = cloud(400, np.full((1, 8), 2.0), 5), cloud(200, np.full((1, 8), 2.0), 6)
    # A strange kind between the normal kinds: inside the one ellipse that covers them all.
    found = {}
    for method in DETECTORS[:3]:  # those for the vectors of any encoder
        easy = detector(one, method)
        assert roc_auc_score([0] * 200 + [1] * 100, easy(np.concatenate([other, far]))) > 0.99, method
        score = detector(normal, method)
        found[method] = roc_auc_score([0] * 200 + [1] * 100, score(np.concatenate([held, between])))
    assert found["knn"] > 0.97
    assert found["mahalanobis"] < found["knn"] - 0.1 and found["forest"] < found["knn"] - 0.1


def test_five_neighbours_stand_contamination_that_one_does_not() -> None:
    normal, held, _, far = modes()
    dirty = np.concatenate([normal, far[:4]])  # some strange ones among the normal
    truth = [0] * 200 + [1] * 96
    figures = [roc_auc_score(truth, detector(dirty, k=k)(np.concatenate([held, far[4:]]))) for k in (1, 5)]
    assert figures[1] > figures[0] and figures[1] > 0.99


def test_the_false_alarm_rate_is_kept_on_average_and_varies_as_told() -> None:
    draws = np.random.default_rng(0)
    fresh = np.linspace(0, 1, 20001)[1:]  # the scores' own distribution, so that a share is exact
    shares, inside = [], 0
    for _ in range(2000):
        made = threshold(draws.random(59), 0.1)
        shares.append((fresh > made.value).mean())
        inside += made.low <= shares[-1] <= made.high
    assert np.mean(shares) == pytest.approx(0.1, abs=0.003)  # 6 of 60 ranks
    assert inside / 2000 == pytest.approx(0.9, abs=0.025)


def test_no_image_is_scored_by_what_was_fitted_on_it() -> None:
    normal, held, _, far = modes()
    x = np.concatenate([normal, held, far])
    is_normal = np.arange(len(x)) < 800
    found = score_anomalies(x, is_normal, fpr=0.05)
    assert found.scores[is_normal].min() > 1e-4  # its own distance would be 0
    flagged = found.flagged
    assert flagged is not None and flagged[1000:].all() and flagged[800:1000].mean() < 0.1
    assert found.unseen.sum() == 700 and found.unseen[800:].all()
    assert found.threshold is not None and found.threshold.held_out == 400
    again = score_anomalies(x, is_normal, fpr=0.05)
    assert np.array_equal(found.scores, again.scores)


@pytest.mark.parametrize("ties", [False, True])
def test_figures_agree_with_pair_counting_and_scikit_learn(ties: bool) -> None:
    draws = np.random.default_rng(1)
    anomalous = draws.random(150) < 0.2
    scores = draws.standard_normal(150) + anomalous
    scores = np.round(scores) if ties else scores
    pairs = np.sign(scores[anomalous][:, None] - scores[~anomalous][None]).mean() / 2 + 0.5
    found = score_detection(scores, anomalous)
    assert found.auroc[0] == pytest.approx(pairs, abs=1e-12)
    assert found.auroc[0] == pytest.approx(roc_auc_score(anomalous, scores), abs=1e-12)
    assert found.ap[0] == pytest.approx(average_precision_score(anomalous, scores), abs=1e-12)
    assert (found.anomalous, found.normal) == (anomalous.sum(), (~anomalous).sum())


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    hit = 0
    for seed in range(60):
        draws = np.random.default_rng(seed)
        anomalous = np.arange(120) < 40
        # Two normal distributions a distance of 1 apart: AUROC is Phi(1 / sqrt 2) = 0.7602.
        low, high = score_detection(draws.standard_normal(120) + anomalous, anomalous).auroc[1:]
        hit += low <= 0.7602 <= high
    assert hit >= 52  # 57 are expected; fewer than 52 come once in 200


def test_mistakes_are_told() -> None:
    normal, *_ = modes()
    with pytest.raises(NearfarError, match="did you mean mahalanobis"):
        detector(normal, "mahalanobi")
    with pytest.raises(NearfarError, match="at least 5, or a smaller k"):
        detector(normal[:3])
    with pytest.raises(NearfarError, match="name at least 38 normal images"):
        score_anomalies(normal, np.arange(800) < 30)
    with pytest.raises(NearfarError, match="between 0 and 1"):
        threshold(np.ones(9), 5)
    with pytest.raises(NearfarError, match="none of 3"):
        score_detection(np.ones(3), np.zeros(3, bool))


def kinds(spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Six kinds of forty images each: clouds of this spread about corners that are 1.4 apart."""
    draw = np.random.default_rng(0)
    labels = np.arange(240) % 6
    x = np.eye(6)[labels] + spread * draw.standard_normal((240, 6))
    return x.astype(np.float32), labels


def test_odd_images_of_one_kind_do_not_hide_each_other() -> None:
    draw = np.random.default_rng(0)
    kinds = draw.normal(size=(4, 24))
    x = np.concatenate([kinds[np.arange(560) % 3], np.repeat(kinds[3:], 18, axis=0)])
    x = (x + 0.5 * draw.normal(size=x.shape)).astype(np.float32)
    odd = np.arange(len(x)) >= 560
    first = [odd[np.argsort(-score_anomalies(x, k=k).scores)[:18]].sum() for k in (None, 5)]
    assert first[0] >= 16 > 2 * first[1]
    assert [neighbour(count) for count in (3, 125, 578, 10**6)] == [5, 5, 23, 50]


def test_planted_oddities_tell_a_strong_encoder_from_one_that_knows_nothing() -> None:
    x, labels = kinds(0.05)
    strong = plant_oddities(x, labels)
    assert strong is not None and (strong.by, strong.planted, strong.found) == ("labels", 24, 24)
    assert not strong.weak and "24 of 24" in str(strong) and "too weak" not in str(strong)
    weak = plant_oddities(x, np.random.default_rng(1).permutation(labels))
    assert weak is not None and weak.weak and weak.found <= 6 and "too weak" in str(weak)
    assert weak.to_json()["weak"] is True
    clips = plant_oddities(x, labels, noun="clips")
    assert "4 clips of one class" in str(clips) and "image" not in str(clips)
    few = np.flatnonzero(np.isin(labels, (0, 1)))[:40]
    small = plant_oddities(x[few], np.repeat([0, 1], (36, 4)))
    assert "most anomalous 5 %" in str(strong) and "most anomalous 10 %" in str(small)  # 4 of 40


LEARNT = {"method": "simclr", "weights": None}


@pytest.mark.parametrize(
    ("run", "advised"),
    [
        ("runs/gone", True),
        ("known", False),
        ("timm:resnet18", False),
        (LEARNT, True),
        (LEARNT | {"weights": "known"}, False),
        (LEARNT | {"method": "distill", "teacher": {"name": "known", "licence": "Apache-2.0"}}, False),
        ({"source": "timm:resnet18", "licence": "Apache-2.0"}, False),
    ],
)
def test_who_has_an_encoder_of_these_images_alone_is_advised_to_look_with_a_known_one(
    run: str | dict[str, Any], advised: bool, tmp_path: Path
) -> None:
    mark, dim = "abc", 8
    if isinstance(run, dict):
        encoder = models.encoder("resnet8", size=16)
        (tmp_path / "run").mkdir()
        export(tmp_path / "run", encoder, Preprocess(size=16), run)
        run, mark, dim = str(tmp_path / "run"), fingerprint(encoder), encoder.dim
    store = open_store(tmp_path / "s.nf", StoreInfo(dim, mark, run))
    x = np.random.default_rng(0).normal(size=(60, dim)).astype(np.float32)
    store.upsert(pa.table({"id": [f"{at:02d}.jpg" for at in range(60)], "vector": fixed(x)}))
    assert ("embed known" in str(nearfar.anomalies(store))) == advised


def test_without_labels_clusters_are_planted_and_the_sentence_says_what_that_means() -> None:
    x, labels = kinds(0.05)
    found = plant_oddities(x, np.full_like(labels, -1))
    assert found is not None and found.by == "clusters" and "only labels would tell" in str(found)
    assert plant_oddities(x[:20]) is None


@pytest.mark.parametrize("fpr", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_out_of_range_is_refused_with_and_without_normal_images(fpr: float) -> None:
    x = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    for normal in (None, np.ones(40, bool)):
        with pytest.raises(NearfarError, match="--fpr is"):
            score_anomalies(x, normal, fpr=fpr)


def test_a_rate_too_small_for_any_number_of_images_is_a_sentence() -> None:
    x = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    with pytest.raises(NearfarError, match="cannot guarantee"):
        score_anomalies(x, np.ones(40, bool), fpr=1e-320)
    assert [conformal.least_count(rate) for rate in (0.05, 0.01, 0.5)] == [19, 99, 1]


@pytest.mark.parametrize("rate", [0.05, 0.29, 0.3, 1 / 3, 1 / 49, 1 / 103])  # of which some are rounded down
def test_a_rate_is_kept_by_no_fewer_images_than_are_told(rate: float) -> None:
    count = conformal.least_count(rate)
    assert (conformal.rank(count, rate), conformal.rank(count - 1, rate)) == (1, 0)
    assert (conformal.rank(99, 0.29), conformal.rank(99, 0.57)) == (29, 57)
