"""What tests of finetune and predict share: pictures of four classes, an encoder, a run of a head on it."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nearfar
from nearfar import models
from nearfar.features import probes
from nearfar.images.views import Preprocess
from nearfar.training.run import export

FULL = {"mode": "full", "lr": 0.01, "batch_size": 32, "precision": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """Folders train/ and test/, each with four classes: noise with a little more of a colour, 16 px."""
    root, draw = tmp_path_factory.mktemp("data") / "labelled", np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 15)):
        for kind in range(4):
            folder = root / part / f"kind{kind}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draw.normal(90, 30, (16, 16, 3)) + draw.normal(0, 8, 3)
                pixels += 90 * np.array([kind & 1, kind >> 1, 0])
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03d}.png")
    return root


@pytest.fixture(scope="module")
def start(labelled, tmp_path_factory) -> Path:
    """A run folder whose encoder has random weights and measured batch norms."""
    return a_start("resnet10_w16", labelled, tmp_path_factory.mktemp("runs") / "start")


def a_start(name: str, labelled: Path, folder: Path) -> Path:
    from nearfar.data import cache
    from nearfar.data.sources import open_source

    folder.mkdir()
    preprocess = Preprocess.of(16)
    source = open_source(labelled / "train", labels=True)
    some = cache.load(source, short_side=None, max_pixels=10**6, max_bad=0.0, threads=1)
    encoder = probes.untrained(models.encoder(name, size=16, seed=3), some, preprocess, 3, "cpu")
    export(folder, encoder, preprocess, {"nearfar": "0", "source": "a test"})
    return folder


@pytest.fixture(scope="module")
def linear(start, labelled, tmp_path_factory):
    """A finished run of a head on the frozen encoder."""
    out = tmp_path_factory.mktemp("runs") / "linear"
    return nearfar.finetune(start, train=labelled / "train", test=labelled / "test", out=out, mode="linear")


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
