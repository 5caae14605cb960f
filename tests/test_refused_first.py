"""What is wrong on a command line is said before the work that it would spoil."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import nearfar
from nearfar.cli.main import main
from nearfar.core.errors import NearfarError


def photos(folder: Path, count: int = 8) -> Path:
    """Make a folder of small images."""
    folder.mkdir()
    draws = np.random.default_rng(0)
    for number in range(count):
        values = draws.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("query", "settings", "told"),
    [
        (nearfar.image_map, {"method": "tsen"}, "tsne"),
        (nearfar.suggest, {"method": "margins"}, "margin"),
        (nearfar.suggest, {"limit": 0}, "--limit is 0"),
        (nearfar.curate, {"limit": -1}, "--limit is -1"),
        (nearfar.label_errors, {"limit": 0}, "--limit is 0"),
        (nearfar.clusters, {"method": "kmean"}, "not a clustering method"),
        (nearfar.clusters, {"n_clusters": 0}, "--n-clusters is 0"),
        (nearfar.clusters, {"min_cluster_size": -5}, "--min-cluster-size is -5"),
        (nearfar.anomalies, {"method": "kn"}, "knn"),
        (nearfar.anomalies, {"k": 0}, "--k is 0"),
        (nearfar.anomalies, {"fpr": float("nan")}, "--fpr is nan"),
        (nearfar.anomalies, {"limit": 0}, "--limit is 0"),
        (nearfar.export, {"to": "csv", "out": "a.txt"}, "does not end in .csv"),
        (nearfar.export, {"to": "csv", "out": "photos/0.png/a.csv"}, "0.png is no folder"),
        (nearfar.export, {"to": "tensorboard", "out": "photos"}, "--out photos already exists"),
        (nearfar.classes, {"examples": "photos", "reject": 2.0}, "--reject is 2"),
        (nearfar.classes, {"examples": "photos", "templates": ["a photo"]}, "'a photo' has no {}"),
        (nearfar.classes, {"names": "nothing.txt"}, "nothing.txt"),
        (nearfar.classes, {"names": "nothing.txt", "reject": 0.2}, "--reject needs --examples"),
        (nearfar.classes, {"examples": "photos", "templates": ["a {}"]}, "--templates are for --names"),
        (nearfar.clusters, {"method": "hdbscan", "n_clusters": 3}, "--n-clusters is for kmeans and temi"),
        (nearfar.clusters, {"min_cluster_size": 5}, "--min-cluster-size is for --method hdbscan"),
        (nearfar.anomalies, {"method": "forest", "k": 3}, "--k is for --method knn"),
        (nearfar.anomalies, {"fpr": 0.2}, "say with --normal"),
        (nearfar.anomalies, {"parts": True, "k": 3}, "--k is for whole images"),
        (nearfar.classes, {"names": "names.txt", "propagate": True}, "--propagate needs --examples"),
    ],
)
def test_a_wrong_setting_is_refused_before_a_folder_is_embedded(
    query: Callable[..., Any],
    settings: dict[str, Any],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    with pytest.raises(NearfarError) as error:
        query("photos", **settings)
    assert told in str(error.value)
    assert os.listdir(tmp_path) == ["photos"]


@pytest.mark.parametrize(
    "start",
    [
        lambda data, out: nearfar.pretrain(data, out=out, steps=1, encoder="resnet8"),
        lambda data, out: nearfar.compare(data, methods=["simclr", "byol"], out=out, steps=1),
        lambda data, out: nearfar.sweep(data, out=out, steps=1, trials=10),
        lambda data, out: nearfar.adopt("timm:resnet18", out=out),
    ],
    ids=["pretrain", "compare", "sweep", "adopt"],
)
def test_a_folder_whose_name_is_no_text_is_refused_before_anything_is_trained(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    data = photos(tmp_path / "photos")
    for out in (tmp_path / os.fsdecode(b"r\xe9"), tmp_path / os.fsdecode(b"r\xe9") / "a"):
        with pytest.raises(NearfarError, match="is not UTF-8 text; name another one with --out"):
            start(data, out)
    assert os.listdir(tmp_path) == ["photos"]


def test_a_name_that_python_was_told_not_to_read_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")  # as under LC_ALL=C PYTHONUTF8=0
    name = tmp_path / "rün".encode().decode("ascii", "surrogateescape")
    with pytest.raises(NearfarError, match="reads names as ascii; set PYTHONUTF8=1"):
        nearfar.adopt("timm:there-is-none", out=name)


def test_adopt_refuses_a_place_before_weights_are_fetched(tmp_path: Path) -> None:
    data = photos(tmp_path / "photos")
    with pytest.raises(NearfarError, match="is not empty; choose another folder"):
        nearfar.adopt("timm:there-is-none", out=data)
    with pytest.raises(NearfarError, match=r"0\.png is no folder"):
        nearfar.adopt("timm:there-is-none", out=data / "0.png")
    assert len(os.listdir(data)) == 8


@pytest.mark.parametrize(("to", "bank"), [("onnx", None), ("torch", None), ("onnx", "bank.safetensors")])
def test_export_refuses_a_place_before_anything_is_loaded(to: str, bank: str | None, tmp_path: Path) -> None:
    data = photos(tmp_path / "photos")
    for out, told in ((data, "already exists"), (data / "0.png" / "a", r"0\.png is no folder")):
        with pytest.raises(NearfarError, match=told):
            nearfar.export(tmp_path / "no-run", to=to, bank=bank, out=out)
    assert len(os.listdir(data)) == 8


def test_finetune_refuses_a_place_before_the_encoder_is_loaded(tmp_path: Path) -> None:
    data = photos(tmp_path / "photos")
    with pytest.raises(NearfarError, match=r"0\.png is no folder"):
        nearfar.finetune(tmp_path / "no-run", train=data, out=data / "0.png")


@pytest.mark.parametrize("address", ["s3://key:hunter2@bucket/x", "hf:org/name?token=hunter2", "https://h/x"])
def test_no_folder_is_made_in_the_place_of_an_address(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    for words in (
        ["pretrain", "photos", "--steps", "1", "--out", address],
        ["embed", "known", "photos", "--out", f"{address}.npz"],
        ["embed", "known", "photos", "--part", "1/2", "--out", address],
        ["store", address.replace("://", ":/")],
        ["predict", "runs/c", "photos", "--out", f"{address}.csv"],
        ["finetune", "known", "--train", "photos", "--out", address],
        ["learning-curve", "known", "--train", "photos", "--out", address],
        ["adopt", "timm:there-is-none", "--out", address],
        ["export", "runs/a", "--to", "onnx", "--out", address],
        ["sweep", "photos", "--steps", "1", "--trials", "12", "--out", address],
        ["report", "runs/a", "--out", f"{address}.html"],
    ):
        assert main(words) == 2, words
        said = capfd.readouterr().err
        assert "is an address" in said and "hunter2" not in said, (words, said)
    assert os.listdir(tmp_path) == ["photos"]


def test_weights_that_cannot_be_fetched_are_told_at_once_with_one_try(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """No server stands at the port, and the cache of the hub's library is empty."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("a second try"))
    assert main(["adopt", "timm:resnet18", "--out", str(tmp_path / "a")]) == 2
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and f"{address} does not answer" in told and "check the network" in told
    assert constants.HF_HUB_OFFLINE is False and not (tmp_path / "a").exists()
