"""Vectors by other engines: those of torch, and never mixed with them silently."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import nearfar
from benchmarks.exports import cosines
from nearfar import models
from nearfar.core import progress
from nearfar.core.errors import NearfarError
from nearfar.embedding import engines
from nearfar.images.views import Preprocess
from nearfar.models import every_scale
from nearfar.stores.base import StoreInfo
from nearfar.training.run import export, load


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "a"
    folder.mkdir()
    encoder = every_scale.finished(models.encoder("resnet8", size=16, seed=3)).eval()
    export(folder, encoder, Preprocess.of(16, "bilinear"), {"nearfar": "0", "source": "a test"})
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for at in range(9):
        small = Image.fromarray(draw.integers(0, 256, (5, 5, 3), np.uint8))
        small.resize((24 + at, 30), Image.Resampling.BICUBIC).save(folder / f"{at}.png")
    return folder


def test_a_store_takes_the_vectors_of_one_engine() -> None:
    held, other = StoreInfo(8, "abc"), StoreInfo(8, "abc", engine="openvino")
    held.check_compatible(held, "photos.nf")
    with pytest.raises(NearfarError, match="openvino gives others; add --engine torch"):
        held.check_compatible(other, "photos.nf")
    assert StoreInfo.read('{"dim": 8, "encoder": "abc"}', "photos.nf") == held


def test_an_engine_that_cannot_be_used_is_one_sentence(run: Path, photos: Path) -> None:
    with pytest.raises(NearfarError, match="choose from torch, onnx, openvino"):
        nearfar.embed(run, photos, engine="tensorrt")
    with pytest.raises(NearfarError, match="computes on the CPU, not on cuda"):
        nearfar.embed(run, photos, engine="openvino", device="cuda")


@pytest.mark.parametrize(("engine", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_engines_embed_into_files_parts_and_stores(
    engine: str, package: str, run: Path, photos: Path, tmp_path: Path
) -> None:
    pytest.importorskip(package)
    opened = load(run)
    net = engines.network(opened, engines.place("auto", engine), engine)
    x = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        assert cosines(net(x).numpy(), opened.encoder(x).numpy()).min() > engines.CLOSE
        for weight in opened.encoder.parameters():  # torch's network is another one from now on
            weight.add_(torch.rand_like(weight))
        net.least = None
        with pytest.raises(NearfarError, match="gives other vectors than torch"):
            net(x)
    ours, parts, store = nearfar.embed(run, photos), tmp_path / "parts", tmp_path / "a.nf"
    made = nearfar.embed(run, photos, out=parts, part="1/1", engine=engine, batch_size=4)
    assert made.encoded == 9
    with pytest.raises(NearfarError, match="differs in: engine"):
        nearfar.embed(run, photos, out=parts, part="1/1")
    nearfar.embed(run, join=parts, out=tmp_path / "a.npy")
    assert cosines(np.load(tmp_path / "a.npy"), ours.vectors).min() > engines.CLOSE
    least = json.loads((tmp_path / "a.json").read_text())["cosine_to_torch"]
    assert engines.CLOSE <= least <= 1
    nearfar.embed(run, photos, out=parts, part="1/1", engine=engine)  # nothing is left to do
    assert json.loads((parts / "part-1-of-1" / "part.json").read_text())["cosine_to_torch"] == least
    nearfar.embed(run, join=parts, store=store)
    assert nearfar.open_store(store).notes("digest") == {"cosine_to_torch": least}
    with pytest.raises(NearfarError, match=f"add --engine {engine}"):
        nearfar.embed(run, photos, store=store)


@pytest.mark.parametrize("slow", [False, True])
def test_the_engine_says_how_much_faster_it_is(
    slow: bool, run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An engine that computes as torch does, and then waits or does not."""
    opened = load(run)

    def compute(x: np.ndarray) -> np.ndarray:
        time.sleep(0.2 * slow)
        return opened.encoder(torch.from_numpy(x)).detach().numpy()

    def other(x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.1)
        return opened.encoder(x)

    net = engines.OtherEngine(other, "onnx", compute, "float32")
    progress.show(True)
    try:
        found = net(torch.rand(20, 3, 16, 16))
    finally:
        progress.show(False)
    said = capsys.readouterr().err
    assert len(found) == 20 and (net.times < 0.8 if slow else net.times > 1.2)
    assert f"{net.times:.1f} times as fast as torch" in said and "on the first 16 images" in said
    assert ("it is slower: leave --engine onnx out" in said) == slow


@pytest.mark.parametrize(("engine", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_files_and_stores_keep_the_least_cosine_to_torch(
    engine: str, package: str, run: Path, photos: Path, tmp_path: Path
) -> None:
    pytest.importorskip(package)
    made, store = tmp_path / "a.parquet", tmp_path / "a.nf"
    nearfar.embed(run, photos, out=made, engine=engine)
    told = json.loads(pq.read_schema(made).metadata[b"nearfar"])
    assert told["engine"] == engine and engines.CLOSE <= told["cosine_to_torch"] <= 1
    nearfar.embed(run, photos, store=store, engine=engine)
    kept = nearfar.open_store(store).notes("digest")["cosine_to_torch"]
    assert engines.CLOSE <= kept <= 1
    engines.note_closeness(nearfar.open_store(store), {"cosine_to_torch": 1.0})  # closer: the least is kept
    assert nearfar.open_store(store).notes("digest") == {"cosine_to_torch": kept}
    nearfar.embed(run, photos, store=store, engine=engine)  # nothing is new
    assert nearfar.open_store(store).notes("digest") == {"cosine_to_torch": kept}


def test_a_file_keeps_the_name_of_its_engine(run: Path, photos: Path, tmp_path: Path) -> None:
    made = tmp_path / "a.parquet"
    nearfar.embed(run, photos, out=made)
    assert json.loads(pq.read_schema(made).metadata[b"nearfar"])["engine"] == "torch"
    assert "cosine_to_torch" not in json.loads(pq.read_schema(made).metadata[b"nearfar"])
