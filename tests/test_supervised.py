"""Supervised training, the yardstick: it counts the classes itself, and refuses what has no labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small import pictures, small

import nearfar
from nearfar.cli.main import main

TINY = {"steps": 6, "batch_size": 16, "encoder": "resnet10_w16", "precision": "float32", "workers": 1}


def test_it_learns_from_labels_and_records_how_many_classes_there_are(tmp_path):
    draw = np.random.default_rng(0)
    labels = np.arange(48) % 3
    pixels = draw.integers(0, 160, (48, 16, 16, 3), np.uint8)
    pixels[np.arange(48), :, :, labels] += 90  # the class is the strongest colour
    colours = {"jitter": 0.0, "grayscale": 0.0}
    run = nearfar.pretrain(
        (pixels, labels), out=tmp_path / "run", **{**TINY, "steps": 30, "method": "supervised"}, **colours
    )
    assert run.config["settings"] == {"classes": 3}
    accuracy = [line["accuracy"] for line in run.log()]
    assert np.mean(accuracy[:3]) < 0.7 < 0.9 < np.mean(accuracy[-3:])  # chance is a third
    again = nearfar.pretrain((pixels, labels), out=tmp_path / "again", like=tmp_path / "run")
    assert again.config["settings"] == {"classes": 3}


def test_check_proposes_it_where_there_are_labels(labelled):
    check = nearfar.check(labelled / "train", **{**TINY, "method": "supervised"})
    assert check.plan is not None and check.plan.method == "supervised"


def test_the_gradient_is_that_of_the_labels_given():
    module, batch = small("supervised").double(), pictures(6)
    batch.views[:] = [view.double() for view in batch.views]
    loss = module(batch).terms["cross_entropy"]
    logits = torch.cat(module.embed(batch)[:2])
    chosen = logits.log_softmax(1).gather(1, batch.labels.repeat(2)[:, None])
    torch.testing.assert_close(loss, -chosen.mean())


def test_a_flat_folder_is_refused_in_a_sentence_before_the_first_step(photos, tmp_path, capsys):
    words = ["pretrain", str(photos), "--method", "supervised", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "96 files outside any class folder" in said
    assert "move each into a folder of its class, or give a .csv with labels" in said
    assert not (tmp_path / "run").exists()


def test_one_class_and_too_few_classes_are_refused_in_a_sentence(labelled, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
    how = {**TINY, "method": "supervised", "out": tmp_path / "run"}
    with pytest.raises(nearfar.NearfarError, match="two classes or more, not 1; give images"):
        nearfar.pretrain((pixels, np.zeros(20, int)), **how)
    with pytest.raises(nearfar.NearfarError, match="--classes is 3, but the labels hold 4"):
        nearfar.pretrain(labelled / "train", **how, classes=3)
    with pytest.raises(nearfar.NearfarError, match="images without labels are not enough"):
        nearfar.pretrain(pixels, **how)
    assert not (tmp_path / "run").exists()
