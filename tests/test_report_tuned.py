"""Reports of fine-tuned runs: figures with intervals, classes, mistakes with pictures, origin."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from drawn_labels import write_boxes, write_masks
from PIL import Image

import nearfar
from nearfar import models
from nearfar.core.errors import NearfarError
from nearfar.finetuning import class_figures
from nearfar.finetuning.outcome import Finetuned
from nearfar.health.verdict import Verdict
from nearfar.images.views import Preprocess
from nearfar.reports import tuned as report_tuned
from nearfar.training.run import export

pytest.importorskip("matplotlib")
WORDS = {"device": "cpu", "workers": 1, "precision": "float32"}


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "start"
    folder.mkdir()
    encoder = models.encoder("resnet10_w16", size=16, seed=3)
    export(folder, encoder.eval(), Preprocess.of(16), {"nearfar": "0", "source": "a test"})
    return folder


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Path:
    """Three classes that nothing tells apart, so that mistakes are sure."""
    root, draw = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 6)):
        for kind in ("ape", "<bee>", "cat"):
            for at in range(count):
                path = root / part / kind / f"{at}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw.integers(0, 255, (16, 16, 3)).astype(np.uint8)).save(path)
    return root


def tuned(start: Path, data: Path, out: Path, **how) -> Path:
    nearfar.finetune(start, train=data / "train", test=data / "test", out=out, **how, **WORDS)
    return out


def test_a_classification_shows_its_surest_mistakes(start, noise, tmp_path) -> None:
    run = tuned(start, noise, tmp_path / "c", mode="linear")
    made = nearfar.report(run, out=tmp_path / "c.html")
    text = made.path.read_text()
    assert made.sections == ("figures", "classes", "mistakes", "training", "provenance") and not made.missing
    result = json.loads((run / "task.json").read_text())["result"]
    found = result["figures"]["test"]["fine-tuned"]
    assert f"{100 * found['low']:.1f} to {100 * found['high']:.1f}" in text
    assert found["low"] < found["accuracy"] < found["high"] and result["verdict"]["reason"][1:] in text
    wrong = round(18 * (1 - found["accuracy"]))
    assert text.count("data:image/webp") == wrong > 3
    assert "<bee>" not in text and "&lt;bee&gt;" in text and "<script" not in text
    (said,) = re.findall(r'<p class="sum">(.*?)</p>', text)
    share = f"{100 * found['accuracy']:.1f}\u00a0%"
    assert said.startswith(
        f"The fine-tuned network reaches accuracy {share} on 18 test images; it was compared"
    )
    assert "What does this not say?" in text and "not for other cameras" in text
    assert f"nearfar finetune {start} --train {noise / 'train'}" in text
    with pytest.raises(NearfarError, match="shows that run alone"):
        nearfar.report(run, run, out=tmp_path / "x.html")
    with pytest.raises(NearfarError, match="--train is for reports on pretrainings"):
        nearfar.report(run, out=tmp_path / "x.html", train=noise / "train", test=noise / "test")


def test_clips_are_called_clips() -> None:
    rows = {"fine-tuned": {"accuracy": 0.5, "low": 0.4, "high": 0.6}}
    per_class = {"a": {"recall": 0.5, "images": 4}}
    result = Finetuned(
        Path("r"), "classify", "linear", ("a",), {"held-out": rows}, {"held-out": 8, "train": 20}, "accuracy",
        {"steps": 4, "batch_size": 4}, per_class, Verdict("learnt", "it did", None),
    )  # fmt: skip
    run = SimpleNamespace(
        preprocess=SimpleNamespace(modality="sound"),
        folder=Path("none"),
        config={"asked": {"run": "start"}},
        log=list,
    )
    one = report_tuned.TunedRun("r", run, result, (), "")
    made = [report_tuned._figures(one), report_tuned._classes(one), report_tuned._training(one)]
    said = " ".join(map(str, [*made, report_tuned.sentence(one), *report_tuned.answers(one)]))
    assert "8 held-out clips" in said and "chosen on the held-out clips" in said and "other sources" in said
    assert not re.search(r"\bimages?\b", said)


def test_images_that_are_gone_are_asked_for(start, noise, tmp_path) -> None:
    nearfar.finetune(start, train=noise / "train", out=tmp_path / "c", mode="linear", **WORDS)
    made = nearfar.report(tmp_path / "c", out=tmp_path / "c.html")
    assert "had no test images" in made.missing["mistakes"]
    made = nearfar.report(tmp_path / "c", out=tmp_path / "d.html", test=noise / "test")
    assert not made.missing and made.bytes > 20_000


def test_masks_and_boxes_are_shown_beside_the_truth(start, tmp_path) -> None:
    pytest.importorskip("faster_coco_eval")
    for part, first in (("train", 0), ("test", 20)):
        write_masks(tmp_path / "cells" / part, 6, first=first)
        write_boxes(tmp_path / "boxes" / part, 6, first=first)
    how = {"side": 32, "epochs": 1, "holdout": 0, "batch_size": 3}
    for task, data, count in (("segment", "cells", 3), ("detect", "boxes", 2)):
        run = tuned(start, tmp_path / data, tmp_path / task, task=task, **how)
        made = nearfar.report(run, out=tmp_path / f"{task}.html")
        text = made.path.read_text()
        assert text.count("data:image/webp") == 6 * count and not made.missing, task
        assert ("mIoU " in text) if task == "segment" else (" missed, " in text)


def test_individuals_are_shown_with_whom_they_are_taken_for(start, noise, tmp_path) -> None:
    run = tuned(start, noise, tmp_path / "r", task="reidentify", mode="linear")
    made = nearfar.report(run, out=tmp_path / "r.html")
    text = made.path.read_text()
    wrong = round(18 * (1 - json.loads((run / "task.json").read_text())["result"]["figures"]["test"][
        "fine-tuned"]["rank_1"]))  # fmt: skip
    assert text.count("data:image/webp") == 3 * min(wrong, 12) and "taken for" in text


def test_the_interval_of_several_labels_is_that_of_resampling() -> None:
    draw = np.random.default_rng(0)
    truth = (draw.random((80, 2)) < 0.4).astype(np.float32)
    logits = (2 * truth - 1 + draw.normal(0, 2, (80, 2))).round(1).astype(np.float32)  # with equal scores
    found = class_figures.of_labels(logits, truth, ("a", "b"), 1.0).values
    drawn = []
    for _ in range(400):
        rows = draw.integers(0, 80, 80)
        own = [(logits[rows, at].astype(float), truth[rows, at] > 0.5) for at in (0, 1)]
        drawn.append(np.mean([class_figures.average_precision(*one) for one in own]))
    assert found["low"] < found["mAP"] < found["high"]
    assert np.allclose([found["low"], found["high"]], np.quantile(drawn, [0.025, 0.975]), atol=0.03)
