"""Weights in files and folders: their mean and deviation, pickles, shards, and the embedded package."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from torch import nn

from nearfar import models
from nearfar.core import progress
from nearfar.core.errors import NearfarError
from nearfar.features.encode import encode
from nearfar.features.extract import fingerprint
from nearfar.integrations.sklearn import EncoderTransformer, FewShotClassifier
from nearfar.models import embedded
from nearfar.training.run import export, is_run, load

NET = "timm:test_resnet"  # of timm, 0.5 M parameters
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # what timm says of this network
OWN = ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
TOLD = {"image_mean": list(OWN[0]), "image_std": list(OWN[1])}


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """Progress is shown, as on the command line."""
    progress.show(True)
    yield
    progress.show(False)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    with models.seeded(3, "resnet"):
        found: dict[str, torch.Tensor] = timm.create_model("test_resnet", num_classes=5).state_dict()
    return found


@pytest.fixture
def plain(state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    """A file of the plain network, which says nothing of images."""
    path = tmp_path / "plain.safetensors"
    safetensors.torch.save_file(state, path)
    return path


def folder_of(place: Path, state: Mapping[str, torch.Tensor], **said: Any) -> Path:
    """Write a folder as timm does, with what `said` says of its images."""
    place.mkdir()
    safetensors.torch.save_file(dict(state), place / "model.safetensors")
    (place / "config.json").write_text(
        json.dumps({"architecture": "test_resnet", "num_classes": 5, "pretrained_cfg": said})
    )
    return place


def figures(named: str | Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    encoder = load(named).encoder
    return encoder.mean, encoder.std


# Mean and deviation


def test_a_file_that_knows_its_mean_and_deviation_keeps_them(
    state: dict[str, torch.Tensor], plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = models.encoder(NET, stem="standard", size=32, weights=str(plain), mean=OWN[0], std=OWN[1])
    file = tmp_path / "encoder.safetensors"
    safetensors.torch.save_file(made.state_dict(), file)
    capsys.readouterr()
    run = load(f"{NET}@32={file}")
    assert (run.encoder.mean, run.encoder.std) == OWN and fingerprint(run.encoder) == fingerprint(made)
    # One that was trained on pictures as they are knows that too.
    bare = models.encoder(NET, stem="standard", size=32)
    safetensors.torch.save_file(bare.state_dict(), file)
    assert figures(f"{NET}@32={file}") == (models.ZERO, models.ONE)
    assert capsys.readouterr().err == ""


def test_figures_that_are_assumed_are_told_once_and_others_can_be_given(
    plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert figures(f"{NET}={plain}") == HALF
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{plain} does not say the mean and deviation" in said
    assert "timm's for test_resnet are taken: mean 0.5 0.5 0.5, deviation 0.5 0.5 0.5" in said
    place, content = plain.parent / "preprocessor_config.json", said[said.index("{") :]
    assert str(place) in said and load(f"{NET}={plain}") and capsys.readouterr().err == ""
    place.write_text(content)  # what the sentence gives is a file as it is
    assert figures(f"{NET}={plain}") == HALF
    place.write_text(json.dumps(TOLD))
    run = load(f"{NET}={plain}")
    assert (run.encoder.mean, run.encoder.std) == OWN and run.preprocess.size == 160
    place.write_text(
        json.dumps({**TOLD, "size": {"shortest_edge": 64}, "crop_size": 56, "do_center_crop": True})
    )
    run = load(f"{NET}={plain}")
    assert (run.encoder.mean, run.preprocess.size, run.preprocess.short_side) == (OWN[0], 56, 64)
    assert models.encoder(NET, size=64, weights=str(plain)).mean == OWN[0]
    assert capsys.readouterr().err == ""


def test_timms_note_beside_a_file_counts_if_it_is_of_the_same_network(
    plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = plain.parent / "config.json"
    cfg = {"mean": OWN[0], "std": OWN[1], "input_size": [3, 48, 48], "license": "mit"}
    note.write_text(json.dumps({"architecture": "test_vit", "pretrained_cfg": cfg}))
    assert figures(f"{NET}={plain}") == HALF and "does not say" in capsys.readouterr().err
    note.write_text(json.dumps({"architecture": "test_resnet.r160_in1k", "pretrained_cfg": cfg}))
    run = load(f"{NET}={plain}")
    assert (run.encoder.mean, run.preprocess.size, run.provenance["licence"]) == (OWN[0], 48, "mit")
    assert capsys.readouterr().err == ""
    for other in ("[]", "{", json.dumps({"architecture": "test_resnet", "mean": [0.5], "std": "x"})):
        note.write_text(other)
        assert figures(f"{NET}={plain}") == HALF


def test_a_folder_without_mean_and_deviation_says_what_is_taken(
    state: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "net", state, input_size=[3, 64, 64], mean=OWN[0], std=[0.2, 0.0, 0.3])
    assert figures(folder)[1] == IMAGENET[1]
    said = capsys.readouterr().err
    assert (
        f"{folder} does not say the mean and deviation" in said
        and "ImageNet's, timm's default, are taken" in said
    )
    (folder / "preprocessor_config.json").write_text(json.dumps(TOLD))
    assert figures(folder) == OWN and capsys.readouterr().err == ""


def test_what_nearfar_does_not_follow_is_told(
    state: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = {"input_size": [3, 64, 64], "mean": OWN[0], "std": OWN[1]}
    load(folder_of(tmp_path / "border", state, **how, crop_mode="border"))
    said = capsys.readouterr().err
    assert "not square nearfar takes the centre" in said and "pad it to a square" in said
    for mode in ("center", "squash"):
        assert load(folder_of(tmp_path / mode, state, **how, crop_mode=mode)).preprocess.fit == mode
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("mode", ["center", "squash"])
def test_an_image_is_prepared_as_its_makers_say(
    state: dict[str, torch.Tensor], tmp_path: Path, interpolation: str, mode: str
) -> None:
    how = {"input_size": [3, 64, 64], "mean": OWN[0], "std": OWN[1], "crop_pct": 0.8}
    folder = folder_of(tmp_path / "net", state, **how, interpolation=interpolation, crop_mode=mode)
    run, filter = load(folder), Image.Resampling[interpolation.upper()]
    coarse = np.random.default_rng(0).integers(0, 256, (30, 48, 3), np.uint8)
    drawn = np.asarray(Image.fromarray(coarse).resize((240, 150), Image.Resampling.LANCZOS))
    # timm's transforms, by Pillow: the short side, or both where it squashes, to 64 / .8, and the centre.
    sides = (80, 80) if mode == "squash" else (128, 80)
    whole = Image.fromarray(drawn).resize(sides, filter)
    left, top = (whole.width - 64) // 2, (whole.height - 64) // 2
    theirs = np.asarray(whole.crop((left, top, left + 64, top + 64)), np.float32) / 255
    seen = encode(nn.Flatten(), run.preprocess, [drawn], device="cpu").reshape(3, 64, 64).transpose(1, 2, 0)
    assert np.abs(seen - theirs).max() < 1e-6


# The side of images


def test_a_folder_takes_images_of_another_side(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "net", state, input_size=[3, 64, 64], mean=OWN[0], std=OWN[1])
    named = f"{folder}@96"
    assert is_run(named) and is_run(folder) and not is_run(f"{folder}@x") and not is_run(f"{tmp_path}/no@96")
    run = load(named)
    assert (run.preprocess.size, run.name, run.encoder.mean) == (96, named, OWN[0])
    assert load(folder).preprocess.size == 64
    with pytest.raises(NearfarError, match="give 8 to 1024"):
        load(f"{folder}@4")
    shutil.copytree(folder, named)  # a folder that is really called so is opened as itself
    assert is_run(named) and load(named).preprocess.size == 64
    (tmp_path / "net@96" / "config.json").unlink()
    export(tmp_path / "net@96", run.encoder, run.preprocess, run.provenance)
    assert load(named).path == Path(named) and load(named).preprocess.size == 96
    with pytest.raises(NearfarError, match="is a run, whose images have 96 px; leave @32 out"):
        load(f"{named}@32")


# Pickles and shards


@pytest.mark.parametrize(
    "names",
    [
        ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"),
        ("weights.pth",),
    ],
)
def test_the_command_that_a_refusal_gives_converts_a_pickle(
    names: tuple[str, ...], state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    right = folder_of(tmp_path / "right", state, mean=OWN[0], std=OWN[1])
    folder = tmp_path / "it's here"
    shutil.copytree(right, folder)
    (folder / "model.safetensors").unlink()
    keys = list(state)
    for at, name in enumerate(names):
        torch.save({key: state[key] for key in keys[at :: len(names)]}, folder / name)
    torch.save({}, folder / "optimizer.pt")
    with pytest.raises(NearfarError, match=r"are a pickle \(.*\), which can run any code") as raised:
        load(folder)
    command = str(raised.value).partition("maker: ")[2]
    program, flag, code = shlex.split(command)  # as a shell takes it apart
    assert (program, flag) == ("python", "-c") and "optimizer" not in code
    exec(code, {})
    assert fingerprint(load(folder).encoder) == fingerprint(load(right).encoder)


def test_weights_in_several_files_are_read_by_their_index(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "net", state, mean=OWN[0], std=OWN[1])
    whole = fingerprint(load(folder).encoder)
    (folder / "model.safetensors").unlink()
    keys, index = list(state), {}
    for at in range(2):
        name = f"model-0000{at + 1}-of-00002.safetensors"
        safetensors.torch.save_file({key: state[key] for key in keys[at::2]}, folder / name)
        index |= dict.fromkeys(keys[at::2], name)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    assert fingerprint(load(folder).encoder) == whole
    last = folder / "model-00002-of-00002.safetensors"
    last.rename(tmp_path / last.name)
    with pytest.raises(NearfarError, match=r"no such file; model.safetensors.index.json names it, so give"):
        load(folder)
    for elsewhere in (f"../{last.name}", str(tmp_path / last.name), "..\\x.safetensors", "x.bin"):
        path.write_text(json.dumps({"weight_map": {**index, keys[1]: elsewhere}}))
        with pytest.raises(NearfarError, match="no .safetensors file beside it"):
            load(folder)
    for damaged in ("{", "[]", '{"weight_map": {"a": 1}}'):
        path.write_text(damaged)
        with pytest.raises(NearfarError, match=r"index\.json"):
            load(folder)


def test_weights_under_another_name_are_pointed_at(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "net", state)
    (folder / "model.safetensors").rename(folder / "vit.safetensors")
    with pytest.raises(NearfarError, match=r"holds no model.safetensors; rename vit.safetensors if"):
        load(folder)
    (folder / "vit.safetensors").unlink()
    with pytest.raises(NearfarError, match=r"holds no model.safetensors; give a whole folder"):
        load(folder)


class Hub(BaseHTTPRequestHandler):
    """Plays the hub with the one repository org/name."""

    files: Mapping[str, bytes] = {}

    def log_message(self, *words: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        commit, path = "a" * 40, self.path.partition("?")[0]
        headers = {"X-Repo-Commit": commit, "Content-Type": "application/json"}
        name = path.rpartition("/")[2]
        if path.startswith("/api/models/org/name/tree/"):
            told = [
                {"type": "file", "path": key, "size": len(value), "oid": hashlib.sha1(value).hexdigest()}
                for key, value in self.files.items()
            ]
            body = json.dumps(told).encode()
        elif path.startswith("/api/models/org/name"):
            body = json.dumps(
                {"id": "org/name", "sha": commit, "siblings": [{"rfilename": key} for key in self.files]}
            ).encode()
        elif path.startswith("/org/name/resolve/") and name in self.files:
            body = self.files[name]
            headers["ETag"] = hashlib.sha1(body).hexdigest()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def test_a_repository_that_holds_a_pickle_alone_says_how_to_convert_it(
    state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    folder = folder_of(tmp_path / "net", state, mean=OWN[0], std=OWN[1])
    note, kept = (folder / "config.json").read_bytes(), (folder / "model.safetensors").read_bytes()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    try:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "one"))
        monkeypatch.setattr(Hub, "files", {"config.json": note, "pytorch_model.bin": b"x"})
        with pytest.raises(NearfarError) as raised:
            load("hf:org/name")
        said = str(raised.value)
        assert "are a pickle (pytorch_model.bin), which can run any code" in said
        assert "hf download org/name --local-dir name" in said
        assert "torch.load('name/pytorch_model.bin', weights_only=True), 'name/model.safetensors'" in said
        assert not [*(tmp_path / "one").rglob("*.bin")]  # and it was not fetched
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "two"))
        monkeypatch.setattr(Hub, "files", {"config.json": note, "model.safetensors": kept})
        assert figures("hf:org/name@64") == OWN
    finally:
        server.shutdown()
        server.server_close()


# The embedded encoder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package like the embedded one's: a pickle of EfficientNet-Lite0, and code that must not run."""
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "PACKAGE", "stand_in_of_weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "stand_in_of_weights" / embedded.FILE
    file.parent.mkdir(parents=True)
    (tmp_path / "stand_in_of_weights" / "__init__.py").write_text("raise SystemExit('was imported')")
    return file


def test_the_packages_pickle_is_converted_once(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with models.seeded(5, "lite"):
        state = timm.create_model("efficientnet_lite0").state_dict()
    torch.save({f"_own.{at}": value for at, value in enumerate(state.values())}, package)
    monkeypatch.setattr(embedded, "SHA256", hashlib.sha256(package.read_bytes()).hexdigest())
    run = load("known")
    kept = tmp_path / "cache" / "known" / "efficientnet_lite0.safetensors"
    converted = safetensors.torch.load_file(kept)
    assert {*converted} == {*state} and all(torch.equal(converted[key], state[key]) for key in state)
    assert run.encoder.mean == run.encoder.std == (0.5, 0.5, 0.5)
    shutil.rmtree(package.parents[1])  # it is needed once
    assert fingerprint(load("known").encoder) == fingerprint(run.encoder)
    # The same weights under the name of their network are known by their bytes; other weights are not.
    assert figures(f"{embedded.NAME}={kept}") == IMAGENET and "does not say" in capsys.readouterr().err
    monkeypatch.setattr(embedded, "TENSORS", embedded.digest_of(converted))
    safetensors.torch.save_file(converted, tmp_path / "mine.safetensors", metadata={"format": "pt"})
    same = load(f"{embedded.NAME}@96={tmp_path / 'mine.safetensors'}")
    assert fingerprint(same.encoder) == fingerprint(run.encoder) and same.preprocess.size == 96
    assert same.provenance["licence"] == "apache-2.0" and capsys.readouterr().err == ""


@pytest.mark.skipif(embedded._installed() is None, reason="needs the extra nearfar[known]")
def test_the_real_weights_are_known_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path))
    file = embedded.weights()
    assert figures(f"{embedded.NAME}={file}") == HALF


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('code of the pickle ran')",)


def test_even_the_right_file_runs_no_code(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": Malicious()}, package)
    monkeypatch.setattr(embedded, "SHA256", hashlib.sha256(package.read_bytes()).hexdigest())
    with pytest.raises(Exception, match="eights"):
        load("known")
    assert not embedded._kept().exists()


def test_estimators_take_a_known_encoder(plain: Path, labelled: Path, tmp_path: Path) -> None:
    (plain.parent / "preprocessor_config.json").write_text(json.dumps(TOLD))
    named, files = f"{NET}@32={plain}", sorted((labelled / "train").rglob("*.png"))[::8]
    pictures, labels = [str(path) for path in files], [path.parent.name for path in files]
    found = EncoderTransformer.load(named)
    vectors = found.transform(pictures)
    np.testing.assert_allclose(vectors, load(named).encode(pictures), atol=1e-5)
    assert (
        vectors.shape == (len(files), len(found.get_feature_names_out()))
        and found.run_.encoder.mean == OWN[0]
    )
    few = FewShotClassifier().fit(vectors, labels)
    assert few.score(vectors, labels) > 1 / len({*labels})
    found.save(tmp_path / "saved")
    assert np.array_equal(EncoderTransformer.load(tmp_path / "saved").transform(pictures), vectors)
    # Training goes on from it, with its mean and deviation.
    how = {"steps": 1, "batch_size": 4, "device": "cpu", "health_checks": 0, "lr": 0.0}
    trained = EncoderTransformer(weights=named, **how).fit(pictures)
    assert trained.run_.encoder.mean == OWN[0] and trained.run_.preprocess.size == 32
    np.testing.assert_allclose(trained.transform(pictures), vectors, atol=1e-4)
