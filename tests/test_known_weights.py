"""Weights in files and folders: the mean, the deviation and the side that belong to them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from small_known import HALF, IMAGENET, OWN, figures, folder_of, heard, state  # noqa: F401
from torch import nn

from nearfar import models
from nearfar.core.errors import NearfarError
from nearfar.features.encode import encode
from nearfar.features.extract import fingerprint
from nearfar.integrations.sklearn import EncoderTransformer, FewShotClassifier
from nearfar.training.run import export, is_run, load

NET = "timm:test_resnet"  # of timm, 0.5 M parameters
TOLD = {"image_mean": list(OWN[0]), "image_std": list(OWN[1])}


@pytest.fixture
def plain(state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    """A file of the plain network, which says nothing of images."""
    path = tmp_path / "plain.safetensors"
    safetensors.torch.save_file(state, path)
    return path


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


# Estimators


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
