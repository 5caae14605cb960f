"""The verbs finetune and predict on masks and boxes: resuming, predictions, stores, sheets."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from drawn_labels import HEIGHT, WIDTH, write_boxes, write_masks
from PIL import Image

import nearfar
from nearfar import models
from nearfar.cli.main import main
from nearfar.core.errors import NearfarError
from nearfar.data import pixel_labels
from nearfar.data.box_labels import open_box_labels
from nearfar.features import chunked
from nearfar.finetuning import predict as predicting
from nearfar.finetuning import segment, session
from nearfar.finetuning.detect import Config, Detection
from nearfar.finetuning.task_types import Setup, Where
from nearfar.finetuning.tuned import open_result
from nearfar.images.files import MAX_PIXELS
from nearfar.images.views import Preprocess
from nearfar.training import checkpoint
from nearfar.training.run import export

WORDS = {"side": 32, "batch_size": 4, "precision": "float32", "device": "cpu", "workers": 1}


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A run folder whose encoder has random weights."""
    folder = tmp_path_factory.mktemp("runs") / "start"
    folder.mkdir()
    encoder = models.encoder("resnet10_w16", size=32, seed=3)
    export(folder, encoder.eval(), Preprocess.of(32), {"nearfar": "0", "source": "a test"})
    return folder


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cells")
    write_masks(folder / "train", 8)
    write_masks(folder / "test", 4, first=20)
    return folder


@pytest.fixture(scope="module")
def boxes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("boxes")
    write_boxes(folder / "train", 8, "coco")
    write_boxes(folder / "test", 4, "yolo", first=20)
    return folder


@pytest.fixture(scope="module")
def segmented(start, cells, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "s"
    nearfar.finetune(
        start,
        train=cells / "train",
        test=cells / "test",
        out=out,
        task="segment",
        scratch=True,
        epochs=2,
        **WORDS,
    )
    return out


@pytest.fixture(scope="module")
def detected(start, boxes, tmp_path_factory) -> Path:
    pytest.importorskip("faster_coco_eval")
    out = tmp_path_factory.mktemp("runs") / "d"
    nearfar.finetune(
        start,
        train=boxes / "train",
        test=boxes / "test",
        out=out,
        task="detect",
        finest=8,
        epochs=4,
        holdout=0,
        **WORDS,
    )
    return out


def test_a_vision_transformer_of_one_size_says_which(tmp_path) -> None:
    write_masks(tmp_path / "masks", 4)
    write_boxes(tmp_path / "boxes", 4)
    encoder, plan = models.encoder("torchvision:vit_b_16", size=32), Preprocess.of(32)
    run: Any = SimpleNamespace(encoder=encoder)  # of so many weights that a file of them takes long
    for task, said in (
        (segment.Segmentation(segment.Config(side=40)), "give --side 32, or leave it out"),
        (Detection(Config(tile=64)), "give --tile 32, or leave it out"),
    ):
        with pytest.raises(NearfarError, match=said):
            task.begin(run)
    task = segment.Segmentation()
    task.begin(run)
    task.read(tmp_path / "masks", plan, Where())
    assert task.side == 32
    task = Detection()  # which sees windows of that size then, on a pyramid that is made of the one map
    task.begin(run)
    data = task.read(tmp_path / "boxes", plan, Where())
    network = task.untrained(encoder, data, Setup(plan, torch.device("cpu")), True)
    assert task.tile == 32 and task.shape == (32, 32)
    assert task.finest == 4 and len(network.head.finer) == 2


@pytest.mark.parametrize("task", ["segment", "detect"])
def test_crops_are_whole_patches_of_any_size(task, tmp_path) -> None:
    """DINOv2's patches have 14 px, which do not divide the usual sides."""
    pytest.importorskip("faster_coco_eval")
    name, args = "timm:vit_tiny_patch16_224", {"patch_size": 14, "depth": 2}
    encoder = models.encoder(name, stem="standard", size=42, args=args)
    (tmp_path / "v").mkdir()
    export(tmp_path / "v", encoder.eval(), Preprocess.of(42), {"nearfar": "0", "source": "a test"})
    data = (write_masks if task == "segment" else write_boxes)(tmp_path / "data", 4)
    how = {**WORDS, "epochs": 0.3, "holdout": 0, "batch_size": 1, "task": task}
    nearfar.finetune(tmp_path / "v", train=data, out=tmp_path / "t", **{**how, "side": None})
    assert json.loads((tmp_path / "t" / "task.json").read_text())["card"]["side"] % 14 == 0
    nearfar.predict(tmp_path / "t", data / "images", out=tmp_path / "found.csv")
    if task == "segment":
        with pytest.raises(NearfarError, match="--side 50 does not divide .* patches of 14 px; give 56"):
            nearfar.finetune(tmp_path / "v", train=data, out=tmp_path / "u", **{**how, "side": 50})


def test_four_images_are_enough(start, tmp_path) -> None:
    write_masks(tmp_path / "few", 4)
    words = {**WORDS, "batch_size": None}
    nearfar.finetune(start, train=tmp_path / "few", out=tmp_path / "r", task="segment", epochs=2, **words)
    assert open_result(tmp_path / "r").images["train"] == 3


def test_a_segmentation_has_its_rows_and_a_verdict(segmented) -> None:
    found = open_result(segmented)
    assert found.main == "miou" and found.classes == ("0", "128", "255") and found.mode == "full"
    rows = found.figures["test"]
    assert list(rows) == ["fine-tuned", "from scratch", "colour features"]
    assert rows["colour features"]["miou"] > 0.8  # colours tell the drawn classes apart
    assert found.verdict.name in ("worse than colour features", "no gain over colour features", "learnt")
    assert "colour features" in str(found) and set(found.per_class) == {"0", "128", "255"}


def test_a_training_that_was_stopped_ends_in_the_same_bytes(start, cells, tmp_path, monkeypatch) -> None:
    how = {
        "train": cells / "train",
        "task": "segment",
        "epochs": 4,
        "holdout": 0,
        "save_minutes": 0.0,
        **WORDS,
    }
    nearfar.finetune(start, out=tmp_path / "whole", **how)
    saved = []

    class Stopped(Exception):
        pass

    real = session.RunLogger.save

    def save(self, step):
        real(self, step)
        saved.append(step.number)
        if len(saved) == 3:
            raise Stopped

    monkeypatch.setattr(session.RunLogger, "save", save)
    with pytest.raises(Stopped):
        nearfar.finetune(start, out=tmp_path / "again", **how)
    monkeypatch.undo()
    nearfar.finetune(start, out=tmp_path / "again", **how)
    for name in ("encoder.safetensors", "parts.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_masks_are_written_at_the_size_and_with_the_values_of_the_images(segmented, tmp_path) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    for at, (height, width) in enumerate([(HEIGHT, WIDTH), (130, 70), (20, 200)]):
        Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(tmp_path / f"in/deep/{at}.png")
    words = ["predict", segmented, tmp_path / "in", "--out", tmp_path / "found.csv", "--device", "cpu"]
    assert main([*map(str, words), "--sheet", str(tmp_path / "sheet.png")]) == 0
    for at, shape in enumerate([(HEIGHT, WIDTH), (130, 70), (20, 200)]):
        mask = pixel_labels.read_values(tmp_path / f"found/deep/{at}.png")
        assert mask.shape == shape and {*np.unique(mask).tolist()} <= {0, 128, 255}
    rows = list(csv.DictReader((tmp_path / "found.csv").open()))
    shares = {}
    for row in rows:
        shares[row["path"]] = shares.get(row["path"], 0) + float(row["share"])
    assert len(shares) == 3 and all(abs(share - 1) < 1e-4 for share in shares.values())
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 200


def test_files_of_answers_never_replace_those_of_the_user(
    segmented, detected, cells, boxes, tmp_path
) -> None:
    for name, folder in (("masks", cells / "test"), ("labels", boxes / "test")):
        shutil.copytree(folder, tmp_path / name)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    before = [path.read_bytes() for path in files]
    (tmp_path / "file").touch()
    for run, out, how in (
        (segmented, "masks/images.csv", {}),  # the images themselves
        (segmented, "masks/masks.csv", {}),  # masks that people drew
        (segmented, "file.csv", {}),
        (detected, "labels/labels.csv", {"yolo": True, "min_score": 0.0}),
    ):
        images = tmp_path / Path(out).parent.name / "images" if "/" in out else cells / "test/images"
        with pytest.raises(NearfarError, match=r"which (holds .* and was not made|is a file)"):
            nearfar.predict(run, images, out=tmp_path / out, device="cpu", **how)
    assert [path.read_bytes() for path in files] == before
    for _ in range(2):  # a folder of its own is written again
        nearfar.predict(segmented, tmp_path / "masks/images", out=tmp_path / "own.csv", device="cpu")
    assert len([*(tmp_path / "own").rglob("*.png")]) == 4


def test_overwrite_typed_again_resumes_the_run_that_it_began(start, cells, tmp_path, monkeypatch) -> None:
    how = {"train": cells / "train", "task": "segment", "mode": "full", "epochs": 4, "lr": 0.01, **WORDS}
    how |= {"out": tmp_path / "run", "overwrite": True, "save_minutes": 0}
    saved = tmp_path / "run" / "last.safetensors"
    real = session.RunLogger.save

    def save(self, step):
        real(self, step)
        raise KeyboardInterrupt

    monkeypatch.setattr(session.RunLogger, "due", lambda self: True)
    monkeypatch.setattr(session.RunLogger, "save", save)
    steps = []
    for changed in ({}, {}, {"seed": 5}):
        with pytest.raises(KeyboardInterrupt):
            nearfar.finetune(start, **{**how, **changed})
        steps.append(checkpoint.read(saved)[1]["step"])
    assert steps == [1, 2, 1]  # other words: another run
    card = tmp_path / "run" / "config.json"
    card.write_text("{")
    with pytest.raises(NearfarError, match="cannot be read"):
        nearfar.finetune(start, **{**how, "overwrite": False})
    with pytest.raises(KeyboardInterrupt):
        nearfar.finetune(start, **how)
    assert json.loads(card.read_text())["overwrite"]


def test_a_mistake_with_overwrite_leaves_the_old_run(segmented, cells, tmp_path) -> None:
    run = shutil.copytree(segmented, tmp_path / "run")
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    shutil.copytree(cells / "train", tmp_path / "train")
    for mask in (tmp_path / "train" / "masks").iterdir():
        Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(mask)
    how = {"out": run, "task": "segment", "overwrite": True, "epochs": 1, **WORDS}
    for changed, said in (
        ({"train": tmp_path / "train"}, "hold a single value"),
        ({"train": cells / "train", "labels": tmp_path / "none"}, "none"),
        ({"train": cells / "train", "test": tmp_path / "train", "batch_size": 100}, "batch-size 100 is more"),
    ):
        with pytest.raises(NearfarError, match=said):
            nearfar.finetune(segmented, **{**how, **changed})
        assert {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()} == before
    nearfar.finetune(segmented, train=cells / "train", **how)
    assert (run / "encoder.safetensors").read_bytes() != before["encoder.safetensors"]


def test_a_segmentation_of_masks_goes_on(segmented, cells, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(chunked, "CHUNK_IMAGES", 2)
    monkeypatch.setattr(predicting, "CHUNK_IMAGES", 2)
    how = {"device": "cpu", "workers": 1}
    nearfar.predict(segmented, cells / "train/images", out=tmp_path / "whole.csv", **how)
    real, calls = predicting.Parts.put, []

    def put(self, low, part):
        calls.append(low)
        if len(calls) == 3:
            raise OSError("stopped")
        real(self, low, part)

    monkeypatch.setattr(predicting.Parts, "put", put)
    with pytest.raises(OSError, match="stopped"):
        nearfar.predict(segmented, cells / "train/images", out=tmp_path / "again.csv", **how)
    monkeypatch.setattr(predicting.Parts, "put", real)
    found = nearfar.predict(segmented, cells / "train/images", out=tmp_path / "again.csv", **how)
    assert found.images == 8 and found.fresh == 4
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_linear_head_leaves_the_encoder_as_it_is(start, cells, tmp_path) -> None:
    out = tmp_path / "l"
    nearfar.finetune(start, train=cells / "train", out=out, task="segment", mode="linear", epochs=2, **WORDS)
    before, after = (folder / "encoder.safetensors" for folder in (start, out))
    from safetensors.torch import load_file

    one, other = load_file(before), load_file(after)
    assert all((one[name] == other[name]).all() for name in one)
    assert json.loads((out / "task.json").read_text())["card"]["decoder"] == "linear"
    nearfar.predict(out, cells / "test/images", out=tmp_path / "x.csv", device="cpu")


def test_a_long_image_in_windows_is_no_larger_than_images_may_be() -> None:
    strip = np.zeros((1, 20_000, 3), np.uint8)
    _, _, tall, wide = Detection(Config(side=640, tile=640))._resized(strip, False).shape
    assert tall * wide <= MAX_PIXELS and wide > 20_000


def test_boxes_are_written_as_rows_and_as_coco(detected, boxes, tmp_path) -> None:
    found = open_result(detected)
    assert found.main == "ap50" and set(found.figures["test"]["fine-tuned"]) >= {"ap", "ap50", "low", "high"}
    how = {"device": "cpu", "min_score": 0.0}
    nearfar.predict(detected, boxes / "test/images", out=tmp_path / "found.csv", **how)
    rows = list(csv.DictReader((tmp_path / "found.csv").open()))
    assert {row["path"] for row in rows} == {f"{at}.png" for at in range(4)}
    assert all(row["width"] in ("64", "64.0") and row["height"] in ("48", "48.0") for row in rows)
    assert all(0 <= float(row["x0"]) < float(row["x1"]) <= WIDTH for row in rows if row["class"])
    nearfar.predict(detected, boxes / "test/images", out=tmp_path / "found.json", **how)
    again = open_box_labels(boxes / "test/images", tmp_path / "found.json")
    assert sum(len(one.boxes) for one in again.boxes) == sum(bool(row["class"]) for row in rows)
    nearfar.predict(detected, boxes / "test/images", out=tmp_path / "yolo.csv", yolo=True, **how)
    labels = tmp_path / "yolo"
    assert sorted(item.name for item in labels.glob("[!.]*")) == [
        *(f"{at}.txt" for at in range(4)),
        "data.yaml",
    ]
    read = open_box_labels(boxes / "test/images", labels)
    assert read.classes == open_result(detected).classes
    for one, other in zip(read.boxes, again.boxes, strict=True):
        assert np.allclose(one.boxes, other.boxes, atol=1e-3)
        assert [read.classes[at] for at in one.labels] == [again.classes[at] for at in other.labels]
    sure = nearfar.predict(
        detected, boxes / "test/images", out=tmp_path / "sure.csv", device="cpu", min_score=1
    )
    assert sure.images == 4
    assert len((tmp_path / "sure.csv").read_text().splitlines()) == 5  # each image has a row all the same
