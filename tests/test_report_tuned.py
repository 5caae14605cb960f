"""Reports of fine-tuned runs: figures with intervals, classes, mistakes with pictures, origin."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from drawn_labels import write_boxes, write_masks
from PIL import Image

import nearfar
from nearfar import models
from nearfar.core.errors import NearfarError
from nearfar.finetuning import class_figures
from nearfar.images.views import Preprocess
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
    assert f"nearfar finetune {start} --train {noise / 'train'}" in text
    with pytest.raises(NearfarError, match="shows that run alone"):
        nearfar.report(run, run, out=tmp_path / "x.html")
    with pytest.raises(NearfarError, match="--train is for reports on pretrainings"):
        nearfar.report(run, out=tmp_path / "x.html", train=noise / "train", test=noise / "test")


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
