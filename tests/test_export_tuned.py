"""Fine-tuned runs leave with their heads: other tools open them and give the same answers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_labels import write_boxes, write_masks
from PIL import Image

import nearfar
from nearfar import models
from nearfar.exports import tuned
from nearfar.exports.pipeline_check import least_cosine
from nearfar.features.encode import encode
from nearfar.finetuning.tuned import open_tuned
from nearfar.images.views import Preprocess
from nearfar.training.run import export, load

WORDS = {"device": "cpu", "workers": 1, "precision": "float32"}


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "start"
    folder.mkdir()
    encoder = models.encoder("resnet10_w16", size=16, seed=3)
    export(folder, encoder.eval(), Preprocess.of(16), {"nearfar": "0", "source": "a test"})
    return folder


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> Path:
    root, draw = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for kind in range(3):
        for at in range(14):
            path = root / f"k{kind}" / f"{at}.png"
            path.parent.mkdir(exist_ok=True)
            pixels = draw.normal([60 + 60 * kind, 90, 90], 25, (20, 28, 3)).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


def test_probabilities_leave_with_a_graph_for_any_picture(start, colours, tmp_path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    run = nearfar.finetune(start, train=colours, out=tmp_path / "c", mode="linear", **WORDS).path
    made = nearfar.export(run, to="onnx", out=tmp_path / "onnx")
    assert made.files == ("README.md", "model.json", "model.onnx", "pipeline.onnx")
    assert made.difference < 1e-5 and "model.onnx" in made.open_with
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "pipeline.onnx"))
    nearfar.predict(run, colours, out=tmp_path / "p.json", all_classes=True)
    for row in json.loads((tmp_path / "p.json").read_text())[::7]:
        picture = np.asarray(Image.open(colours / row["path"]))
        (shares,) = session.run(None, {"picture": picture[None]})
        assert np.allclose(shares[0], [row[f"p_k{at}"] for at in range(3)], atol=2e-3), row["path"]
    told = json.loads((tmp_path / "onnx" / "model.json").read_text())
    assert told["classes"] == ["k0", "k1", "k2"] and told["outputs"] == ["probabilities"]
    card = (tmp_path / "onnx" / "README.md").read_text()
    assert "image-classification" in card and "Fine-tuned from" in card and "Verdict: " in card


PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}


def answers(folder: Path, to: str, x: torch.Tensor) -> list[np.ndarray]:
    """Open a folder with the other tool alone, and have it answer."""
    if to == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
        return session.run(None, {"images": x.numpy()})
    if to == "openvino":
        import openvino

        hint = {"INFERENCE_PRECISION_HINT": "f32"}  # else in bfloat16, where the CPU can
        found = openvino.Core().compile_model(folder / "model.xml", "CPU", hint)(x.numpy())
        return [found[at] for at in range(len(found))]
    found = torch.export.load(folder / "model.pt2").module()(x)
    return [some.detach().numpy() for some in (found if isinstance(found, tuple) else (found,))]


def test_openvino_gives_probabilities_of_any_picture(start, colours, tmp_path) -> None:
    openvino = pytest.importorskip("openvino")
    run = nearfar.finetune(start, train=colours, out=tmp_path / "c", mode="linear", **WORDS).path
    made = nearfar.export(run, to="openvino", out=tmp_path / "o")
    files = ("README.md", "model.bin", "model.json", "model.xml", "pipeline.bin", "pipeline.xml")
    assert made.files == files and made.difference < 1e-5 and made.pipeline_cosine > 0.9999
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    whole = openvino.Core().compile_model(tmp_path / "o" / "pipeline.xml", "CPU", hint)
    nearfar.predict(run, colours, out=tmp_path / "p.json", all_classes=True)
    for row in json.loads((tmp_path / "p.json").read_text())[::7]:
        shares = whole(np.asarray(Image.open(colours / row["path"]))[None])[0][0]
        assert np.allclose(shares, [row[f"p_k{at}"] for at in range(3)], atol=2e-3), row["path"]
    (found,) = answers(tmp_path / "o", "openvino", x := torch.rand(4, 3, 16, 16))
    module = tuned.opened(load(run))[1].module
    with torch.inference_mode():
        assert np.allclose(found, module(x).numpy(), atol=1e-5)


@pytest.fixture(scope="module")
def individuals(start, colours, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("r") / "r"
    return nearfar.finetune(start, train=colours, out=out, task="reidentify", mode="linear", **WORDS).path


@pytest.mark.parametrize("to", ["torch", "onnx", "openvino"])
def test_vectors_of_individuals_leave(to, individuals, tmp_path) -> None:
    pytest.importorskip(PACKAGES.get(to, "torch"))
    made = nearfar.export(individuals, to=to, out=tmp_path / "t")
    (found,) = answers(tmp_path / "t", to, x := torch.rand(5, 3, 16, 16))
    assert found.shape[0] == 5 and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    network = open_tuned(individuals).network.eval()
    with torch.inference_mode():
        assert np.allclose(found, network.head(network.f(x)).numpy(), atol=1e-5)
    # Of three individuals none can be held out, and a whitening by few images magnifies the last digits.
    assert made.pipeline_cosine is None if to == "torch" else made.pipeline_cosine > 0.999


@pytest.fixture(scope="module")
def segmented(start, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("s")
    write_masks(root / "cells", 6)
    how = {"side": 32, "epochs": 1, "holdout": 0, "batch_size": 3}
    return nearfar.finetune(start, train=root / "cells", out=root / "s", task="segment", **how, **WORDS).path


def test_logits_of_pixels_leave_for_images_of_any_shape(segmented, tmp_path) -> None:
    nearfar.export(segmented, to="torch", out=tmp_path / "t")
    told = json.loads((tmp_path / "t" / "model.json").read_text())
    many = told["multiple"]
    x = torch.rand(3, 3, 2 * many, 5 * many)
    network = open_tuned(segmented).network
    with torch.inference_mode():
        wanted = network.logits(x)
    found = torch.export.load(tmp_path / "t" / "model.pt2").module()(x)
    assert found.shape == (3, 3, 2 * many, 5 * many) and torch.allclose(found, wanted, atol=1e-4)
    assert (
        told["values"] == [0, 128, 255]
        and f"multiples of {many} px" in (tmp_path / "t" / "README.md").read_text()
    )


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_other_tools_segment_images_of_any_shape(to, segmented, tmp_path) -> None:
    pytest.importorskip(PACKAGES[to])
    made = nearfar.export(segmented, to=to, out=tmp_path / "o")  # which compares two shapes and batches
    weights = () if to == "onnx" else ("model.bin",)
    model = {"onnx": "model.onnx", "openvino": "model.xml"}[to]
    assert made.files == ("README.md", *weights, "model.json", model) and made.difference < 1e-5
    many = json.loads((tmp_path / "o" / "model.json").read_text())["multiple"]
    x = torch.rand(3, 3, 2 * many, 5 * many)
    with torch.inference_mode():
        wanted = open_tuned(segmented).network.logits(x)
    assert np.allclose(answers(tmp_path / "o", to, x)[0], wanted, atol=1e-4)


@pytest.fixture(scope="module")
def detector(start, tmp_path_factory) -> tuple[Path, Path]:
    pytest.importorskip("faster_coco_eval")
    root = tmp_path_factory.mktemp("d")
    write_boxes(root / "boxes", 6)
    how = {"side": 48, "epochs": 8, "holdout": 0, "batch_size": 3, "task": "detect", "finest": 8}
    run = nearfar.finetune(start, train=root / "boxes", out=root / "d", **how, **WORDS).path
    return run, next((root / "boxes").rglob("*.png"), None) or next((root / "boxes").rglob("*.jpg"))


@pytest.mark.parametrize("to", ["torch", "onnx", "openvino"])
def test_boxes_are_decoded_outside(to, detector, tmp_path) -> None:
    pytest.importorskip(PACKAGES.get(to, "torch"))
    run, picture = detector
    made = nearfar.export(run, to=to, out=tmp_path / "t")
    weights = ("model.bin",) if to == "openvino" else ()
    model = {"torch": "model.pt2", "onnx": "model.onnx", "openvino": "model.xml"}[to]
    assert made.files == ("README.md", "decode_boxes.py", *weights, "model.json", model)
    assert made.difference < 1e-5 and made.pipeline_cosine is None
    spec = importlib.util.spec_from_file_location("decode_boxes", tmp_path / "t" / "decode_boxes.py")
    decoder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(decoder)
    told = json.loads((tmp_path / "t" / "model.json").read_text())
    network = open_tuned(run).network
    many = told["multiple"]
    high, wide = 3 * many, 4 * many  # an odd number of the coarsest map's places
    x = np.asarray(Image.open(picture).convert("RGB").resize((wide, high)), np.float32) / 255
    x = torch.from_numpy(x).permute(2, 0, 1)[None].contiguous()
    with torch.inference_mode():
        wanted = network.head.detect(x, network.maps(x))[0]
    outputs = [some[0] for some in answers(tmp_path / "t", to, x)]
    assert told["overlap"] == network.head.model.nms_thresh and told["min_score"] > 0
    boxes, scores, labels = decoder.decode(*outputs, high, wide, told["levels"], 0.02, told["overlap"])
    kept = wanted["scores"] > 0.02
    assert kept.sum() > 3 and len(scores) == kept.sum()
    assert np.allclose(scores, wanted["scores"][kept], atol=1e-4)
    assert np.allclose(boxes, wanted["boxes"][kept], atol=1e-2)
    assert (labels == wanted["labels"][kept].numpy()).all()


@pytest.fixture(scope="module")
def of_timm(colours, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("timm")
    (root / "start").mkdir()
    encoder = models.encoder("timm:test_resnet", stem="standard", size=32, seed=3)
    export(root / "start", encoder.eval(), Preprocess.of(32), {"nearfar": "0", "source": "a test"})
    return nearfar.finetune(root / "start", train=colours, out=root / "c", mode="linear", **WORDS).path


def test_a_classifier_leaves_as_timms_last_layer(of_timm: Path, colours: Path, tmp_path: Path) -> None:
    import timm

    made = nearfar.export(of_timm, to="timm", out=tmp_path / "made")
    assert made.files == ("README.md", "config.json", "model.safetensors") and made.difference < 1e-5
    net = timm.create_model(f"local-dir:{made.path}", pretrained=True).eval()
    nearfar.predict(of_timm, colours, out=tmp_path / "p.json", all_classes=True)
    rows, run = json.loads((tmp_path / "p.json").read_text())[::7], load(of_timm)
    seen = encode(torch.nn.Flatten(), run.preprocess, [colours / row["path"] for row in rows], device="cpu")
    with torch.inference_mode():
        shares = net(torch.from_numpy(seen).reshape(-1, 3, 32, 32)).softmax(1)  # mean 0, deviation 1
    wanted = torch.tensor([[row[f"p_k{at}"] for at in range(3)] for row in rows])
    assert torch.allclose(shares, wanted, atol=1e-3) and float(shares.max()) > 0.5
    assert json.loads((made.path / "config.json").read_text())["label_names"] == ["k0", "k1", "k2"]
    assert "`label_names` in config.json" in (made.path / "README.md").read_text()


def test_transformers_opens_a_classifier_with_its_classes(of_timm: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    made = nearfar.export(of_timm, to="transformers", out=tmp_path / "made")
    assert made.difference < 1e-5 and "AutoModelForImageClassification" in made.open_with
    model = transformers.AutoModelForImageClassification.from_pretrained(made.path).eval()
    assert model.config.id2label == {0: "k0", 1: "k1", 2: "k2"}
    assert "AutoModelForImageClassification" in (made.path / "README.md").read_text()


def test_a_head_that_is_no_last_layer_leaves_the_encoder_alone(start, colours, tmp_path) -> None:
    pytest.importorskip("transformers")
    run = nearfar.finetune(start, train=colours, out=tmp_path / "c", mode="linear", **WORDS).path
    made = nearfar.export(run, to="transformers", out=tmp_path / "made")
    assert made.compared == "vectors" and "AutoModel.from_pretrained" in made.open_with


def test_answers_that_are_no_numbers_are_not_taken_for_equal_ones(start, colours, tmp_path) -> None:
    run = load(nearfar.finetune(start, train=colours, out=tmp_path / "c", mode="linear", **WORDS).path)
    found, made = tuned.opened(run)
    tuned.write(run, found, made, tmp_path, "torch")
    assert tuned.compared(made, tmp_path, "torch") < 1e-5
    made.module.head.linear.bias.fill_(float("nan"))
    tuned.write(run, found, made, tmp_path, "torch")
    made.module.head.linear.bias.fill_(0.0)
    assert np.isnan(tuned.compared(made, tmp_path, "torch"))
    assert np.isnan(least_cosine(torch.ones(2, 3), torch.tensor([[1.0, 1, 1], [1, 1, float("nan")]])))
