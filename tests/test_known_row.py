"""A known encoder beside a run: prepared as its makers do it, ranked, and paired on the same images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import known_vit

from nearfar import models
from nearfar.core.shapes import check_shape
from nearfar.evaluation import known_row
from nearfar.evaluation.differences import compare
from nearfar.evaluation.evaluate import evaluate
from nearfar.evaluation.ranking import Candidate, EncoderCost, rank
from nearfar.health.verdict import judge
from nearfar.images.views import Preprocess
from nearfar.models import embedded
from nearfar.reports import scoring
from nearfar.training import run_shapes
from nearfar.training.adopt import adopt
from nearfar.training.run import Run, load


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a small random vision transformer for 32 px, with weights from a file."""
    return known_vit(tmp_path_factory.mktemp("weights"), 32)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, models.encoder("resnet10_w16", size=16, seed=0).eval(), Preprocess.of(16), {}, {})


def test_a_known_encoder_is_a_row_with_its_own_images(run: Run, labelled: Path, vit: str) -> None:
    parts = {"train": labelled / "train", "test": labelled / "test", "baselines": ("pixels",)}
    found = evaluate(run, known=vit, **parts)
    alone = evaluate(vit, known="none", **parts)
    # The row is what the known encoder gets by itself: nothing of the run's preprocessing is in it.
    for classifier in ("knn", "linear"):
        assert np.array_equal(found.answers[classifier]["known"], alone.answers[classifier]["encoder"])
    assert set(found.knn) == {"encoder", "pixels", "known", "combined", "chance"}
    assert "known encoder" in found.table()
    assert found.costs["known"].parameters == sum(p.numel() for p in load(vit).encoder.parameters())
    assert found.costs["known"].image_size == 32 and found.costs["encoder"].image_size == 16
    plain = json.loads(json.dumps(found.to_json()))
    assert plain["ranking"]["sentences"] == found.ranking().sentences()
    assert scoring.sentences(plain)[-2:] == found.ranking().sentences()
    assert alone.encoder["sha256"] == load(vit).provenance["sha256"]
    assert not (run.path / "nothing").exists() and (run.path / "evaluation.json").exists()


def test_runs_and_known_encoders_are_ranked_and_paired(run: Run, labelled: Path, vit: str) -> None:
    parts = {"train": labelled / "train", "test": labelled / "test", "baselines": ("pixels", "untrained")}
    found = evaluate(run, vit, **parts)
    assert found.runs == (str(run.path), vit)
    ranked = [(row.name, scores["knn"].accuracy) for row, scores in found.ranking().rows]
    assert {name for name, _ in ranked} == {str(run.path), vit, "raw pixels", "an untrained network"}
    assert [score for _, score in ranked] == sorted((score for _, score in ranked), reverse=True)
    assert {(first, second) for first, second, *_ in found.pairs} == {(str(run.path), vit)}
    assert found.table().startswith("ranked by k-NN") and found.to_json()["ranking"]["rows"][0]["knn"]
    kept = json.loads((run.folder / "evaluation.json").read_text())
    assert kept["ranking"] == json.loads(json.dumps(found.ranking().to_json()))
    assert kept["known"] == vit and not kept["known_is_start"]
    assert kept["knn"]["known"]["accuracy"] == found.evaluations[1].knn["encoder"].accuracy
    assert scoring.sentences(kept)[-2:] == found.ranking().sentences()
    shown = scoring.blocks({"a": kept})
    (table,) = (block for block in shown if getattr(block, "caption", "").startswith("What is best"))
    assert [row[0] for row in table.rows] == [name for name, _ in ranked]
    by_name = {row[0]: row for row in table.rows}
    assert by_name[vit][3] == f"{found.evaluations[1].costs['encoder'].parameters:,}"
    assert by_name["raw pixels"][3:] == ("–", "–", "–")
    both = [
        block.text
        for block in scoring.blocks({"a": kept, "b": kept}, several=True)[:8]
        if hasattr(block, "text")
    ]
    assert both.count(f"{found.ranking().sentences()[0]}.") == 1  # said once, of no run alone
    check_shape(kept, run_shapes.EVALUATION, "")


def test_an_encoder_alone_is_ranked_among_the_baselines(run: Run, labelled: Path) -> None:
    how: dict[str, Any] = {"train": labelled / "train", "test": labelled / "test", "known": "none"}
    found = evaluate(run, baselines=("pixels", "untrained"), **how)
    kept = json.loads((run.folder / "evaluation.json").read_text())
    said = kept["ranking"]["sentences"]
    assert said == found.ranking().sentences() and said[0].startswith("k-NN: best on these images is ")
    assert {row["name"] for row in kept["ranking"]["rows"]} >= {"the encoder", "raw pixels"}
    assert said[0] not in found.table()  # the sentences on baselines are there
    assert evaluate(run, baselines=(), **how).ranking() is None


def test_the_start_is_known_by_its_weights_however_it_is_written(
    run: Run, labelled: Path, vit: str, tmp_path: Path
) -> None:
    how: dict[str, Any] = {"train": labelled / "train", "test": labelled / "test", "baselines": ("pixels",)}
    adopted = adopt(vit, out=tmp_path / "start")

    def begun(weights: str) -> Run:
        folder = tmp_path / "begun"
        return replace(run, path=folder, provenance={"method": "simclr", "weights": weights})

    (tmp_path / "begun").mkdir()
    for weights in (f"{adopted.folder}/", str(adopted.folder), vit):
        for row in (adopted, load(vit)):
            assert known_row.is_start(begun(weights), row), (weights, row.name)
    for weights in ("", "timm:resnet18", str(tmp_path / "gone"), str(tmp_path / "begun")):
        assert not known_row.is_start(begun(weights), adopted)

    trained = begun(f"{adopted.folder}/")
    found = evaluate(trained, **how)  # the start is its row without being named
    assert found.known == str(adopted.folder) and found.known_is_start
    paired = evaluate(trained, adopted, **how)  # and is no second one where it is evaluated too
    kept = json.loads((trained.folder / "evaluation.json").read_text())
    assert paired.evaluations[0].known == "" and kept["known_is_start"]
    assert [row["name"] for row in kept["ranking"]["rows"]].count(str(adopted.folder)) == 1
    against = [item["baseline"] for item in kept["summary"]["knn"]["against"]]
    assert sorted(against) == ["known", "pixels"]
    for outcome, name in (("worse", "worse than its start"), ("better", "")):
        for item in (one for found in kept["summary"].values() for one in found["against"]):
            item["outcome"] = outcome
        verdict = judge([], evaluation=kept, start=trained.provenance["weights"])
        assert (verdict.name if verdict else "") == name


def test_the_sentence_says_who_is_best_by_how_much_and_at_what_cost() -> None:
    truth = np.arange(200) % 2
    good, bad = truth.copy(), truth.copy()
    good[:20], bad[:80] = 1 - good[:20], 1 - bad[:80]
    cost = EncoderCost(3_400_000, 224, "apache-2.0", 55.4)
    rows = [Candidate("a", {"knn": bad}), Candidate("b", {"knn": good}, cost)]
    gap = compare(truth, good, bad, 0)
    heard = str(replace(cost, noun="clips", unit="frames"))
    assert heard == "3.40 M parameters, 55 clips/s of 224 frames, licence apache-2.0"
    assert rank(truth, rows, 0).sentences() == [
        f"k-NN: best on these images is b, by 30.0 over a ({100 * gap.low:.1f} to {100 * gap.high:.1f} "
        "points); "
        "b has 3.40 M parameters, 55 images/s of 224 px, licence apache-2.0"
    ]
    same = rank(truth, [Candidate("a", {"knn": good}), Candidate("b", {"knn": good})], 0)
    assert same.sentences() == ["k-NN: best on these images is a, but b is no different (0.0 to 0.0 points)"]


def test_the_default_row_is_bounded(run: Run, monkeypatch: pytest.MonkeyPatch, vit: str) -> None:
    monkeypatch.setattr(embedded, "there", lambda: False)
    assert known_row.open_row(run, None, 10) == (None, "")
    monkeypatch.setattr(embedded, "there", lambda: True)
    row, reason = known_row.open_row(run, None, known_row.MAX_IMAGES + 1)
    assert row is None and "10,001 images" in reason
    assert known_row.open_row(run, "none", 10) == (None, "")
    known, _ = known_row.open_row(run, vit, 10**9)
    assert known is not None and known_row.open_row(known, vit, 10) == (None, "")
