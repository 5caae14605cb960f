"""What the known encoder gives beside a training, told by a sample of labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import nearfar
from nearfar.cli.main import main
from nearfar.data.open import open_data
from nearfar.training import known_check
from nearfar.training.run import Run, load

HOW: dict[str, Any] = {"limit": 1 << 20, "device": torch.device("cpu"), "threads": 1}
SHORT: dict[str, Any] = {"steps": 1, "batch_size": 4, "image_size": 32, "health_checks": 0}


@pytest.fixture
def twins(tmp_path: Path) -> Path:
    """Twenty images of noise, ten of a class, and a copy of each, which is an image's nearest other one."""
    draw = np.random.default_rng(0)
    for number in range(20):
        image = Image.fromarray(draw.integers(0, 256, (32, 32, 3), np.uint8))
        for copy in ("x", "y"):
            place = tmp_path / "twins" / ("a" if number % 2 else "b") / f"{number}{copy}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            image.save(place)
    return tmp_path / "twins"


@pytest.fixture(autouse=True)
def unhurried(known_installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample is whole, on a busy machine too."""
    monkeypatch.setattr(known_check, "SECONDS", 60.0)


def test_a_run_that_tells_nothing_apart_has_not_paid(twins: Path, tmp_path: Path) -> None:
    run = nearfar.pretrain(twins, out=tmp_path / "run", **SHORT)
    good = known_check.compare_known(twins, run, **HOW)
    assert good is not None and (good.images, good.own, good.known, good.p) == (40, 1.0, 1.0, 1.0)
    assert "too few images to tell" in str(good)
    with torch.no_grad():
        for weight in run.encoder.parameters():
            weight.zero_()
    bad = known_check.compare_known(twins, Run(None, run.encoder, run.preprocess, {}, {}), **HOW)
    assert bad is not None and bad.known == 1 and bad.own <= 0.6 and bad.p < 0.001
    assert "the known encoder is better here" in str(bad)
    better = known_check.KnownComparison(bad.images, bad.known, bad.own, bad.p)
    assert "training paid" in str(better)
    for flat in (twins / "a", twins / "b"):  # of one class, or of none, nothing can be told
        assert known_check.compare_known(flat, load(tmp_path / "run"), **HOW) is None


def test_a_long_training_says_it_before_and_after(
    twins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(name: str, *more: str) -> str:
        flags = [f"--{key.replace('_', '-')}={value}" for key, value in SHORT.items()]
        assert main(["pretrain", str(twins), "--out", str(tmp_path / name), *flags, *more]) == 0
        return capsys.readouterr().err

    assert "known encoder" not in said("short")
    monkeypatch.setattr(known_check, "LONG", 4)
    long = said("long")
    before, after = long.index("known encoder: the nearest other image"), long.index("by this run and in")
    assert before < long.index("done: 1 step") < after
    assert "known encoder" not in said("labels", "--method", "supervised")  # which has seen what would tell


def test_images_of_many_bits_have_one_range_as_they_have_where_they_are_embedded(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for number, (label, most) in enumerate([("dark", 900), ("bright", 60_000)] * 4):
        (tmp_path / label).mkdir(exist_ok=True)
        values = draw.integers(0, most, (32, 32), np.uint16)
        Image.fromarray(values).save(tmp_path / label / f"{number}.png")
    source, run = open_data(tmp_path, labels=True), load("known")
    sample = known_check._Sample(source, *HOW.values())
    sample.encode(run)
    np.testing.assert_allclose(sample.x.numpy(), run.encode(source)[sample.rows], atol=1e-5)
