"""Detectors of one stage and of two: they learn, are decoded outside, and see large images in windows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from drawn_labels import HEIGHT, WIDTH, answers_of, restored, train_a_little
from drawn_labels import write_boxes as folder
from drawn_labels import write_voc as voc

from nearfar import models
from nearfar.analysis.detection_scores import Found
from nearfar.core.config import settings_of
from nearfar.core.errors import NearfarError
from nearfar.exports import decode_boxes
from nearfar.finetuning import windows
from nearfar.finetuning.detect import Config, Detection
from nearfar.finetuning.task_types import Setup, Where
from nearfar.images.views import Preprocess
from nearfar.models.detectors import DETECTORS, detector_class
from nearfar.models.detectors.pyramid import OneStage


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_detector_learns_and_predicts_images_of_any_size(detector, tmp_path):
    pytest.importorskip("faster_coco_eval")
    place = folder(tmp_path / "a", 4)
    voc(place / "labels/3.xml", [])
    task = Detection(Config(side=64, finest=8, detector=detector))
    data = task.read(place, Preprocess(), Where())
    network, losses = train_a_little(task, data, 0.002, 64)
    assert all(np.isfinite(losses)) and sum(losses[-3:]) < 0.9 * sum(losses[:3])
    answers = answers_of(task, network, data)
    assert len(answers) == 4 and all(
        one.found.boxes.min(initial=0) >= 0 and one.found.boxes.max(initial=0) <= 1 for one in answers
    )
    assert 0 <= task.measure(answers, data).score <= 1
    assert task.measure(answers[3:], data.take(np.array([3]))).score == 0  # an image without objects
    (place / "labels/0.xml").unlink()
    (place / "labels/1.xml").unlink()
    voc(place / "labels/2.xml", [])
    with pytest.raises(NearfarError, match="not one box on the test images"):
        task.read_test(place, Preprocess(), Where())
    same = answers_of(*restored(task, network), data)
    assert all(np.array_equal(a.found.boxes, b.found.boxes) for a, b in zip(answers, same, strict=True))


def small(name: str) -> tuple:
    """A detector that is sure of many boxes, an image and its maps of strides 8 and 16."""
    torch.manual_seed(0)
    head = detector_class(name)([6, 8], [8, 16], 3, 32).eval()
    for part, weight in head.named_parameters():
        if "cls_logits" in part or "bbox_" in part:
            torch.nn.init.normal_(weight, std=0.05)
    maps = [torch.randn(1, 6, 6, 8), torch.randn(1, 8, 3, 4)]
    return head, torch.rand(1, 3, 48, 64), maps


@pytest.mark.parametrize("name", [name for name in DETECTORS if issubclass(detector_class(name), OneStage)])
def test_what_heads_say_is_decoded_outside_to_the_same_boxes(name):
    head, x, maps = small(name)
    with torch.inference_mode():
        wanted, said = head.detect(x, maps)[0], [part[0].numpy() for part in head.places(maps)]
    levels = [
        {"stride": stride, "made": at >= 2, "boxes": head.boxes_a_place}
        for at, stride in enumerate(head.sizes)
    ]
    least = float(wanted["scores"][40:42].mean())  # between two, so that rounding decides nothing
    how = {"min_score": least, "overlap": head.model.nms_thresh}
    boxes, scores, labels = decode_boxes.decode(*said, 48, 64, levels, **how)
    kept = wanted["scores"] > least
    assert 10 < len(scores) == kept.sum()
    assert np.allclose(scores, wanted["scores"][kept], atol=1e-5)
    assert np.allclose(boxes, wanted["boxes"][kept], atol=1e-3)
    assert (labels == wanted["labels"][kept].numpy()).all()


@pytest.mark.parametrize(("strides", "finer"), [([14], 1), ([1, 2], 0)])
@pytest.mark.parametrize("name", ["fcos", "retinanet"])
def test_boxes_of_odd_strides_are_decoded_outside_to_the_same(name, strides, finer):
    """torchvision rounds the corners of anchors, so that those of odd strides are wider."""
    torch.manual_seed(0)
    head = detector_class(name)([6] * len(strides), strides, 3, 32, finer=finer).eval()
    for part, weight in head.named_parameters():
        if "cls_logits" in part or "bbox_" in part:
            torch.nn.init.normal_(weight, std=0.05)
    maps = [torch.randn(1, 6, 28 // stride, 42 // stride) for stride in strides]
    with torch.inference_mode():
        wanted = head.detect(torch.rand(1, 3, 28, 42), maps)[0]
        said = [part[0].numpy() for part in head.places(maps)]
    first = len(head.strides)
    levels = [
        {"stride": stride, "made": at >= first, "boxes": head.boxes_a_place}
        for at, stride in enumerate(head.sizes)
    ]
    least = float(wanted["scores"][30:32].mean())
    how = {"min_score": least, "overlap": head.model.nms_thresh}
    boxes, scores, _ = decode_boxes.decode(*said, 28, 42, levels, **how)
    kept = wanted["scores"] > least
    assert 10 < len(scores) == kept.sum()
    assert np.allclose(boxes, wanted["boxes"][kept], atol=1e-3)
    assert all((one[:, 2:] > one[:, :2]).all() for one in head.model.anchor_generator.cell_anchors)


def test_a_map_is_doubled_to_whole_strides_alone(tmp_path):
    task = Detection(Config(side=64, finest=3))
    data = task.read(folder(tmp_path / "a", 2), Preprocess(), Where())
    encoder = models.encoder("timm:vit_small_patch14_dinov2", stem="standard", size=28)
    built = task.network(encoder, data, Setup(None, torch.device("cpu")), frozen=True)
    assert built.head.sizes == [7, 14, 28]  # and not 3.5 as 3
    assert restored(task, built)[1].head.sizes == [7, 14, 28]


def test_two_stages_draw_the_same_proposals_again_and_have_no_graph():
    head, x, maps = small("faster-rcnn")
    targets = [{"boxes": torch.tensor([[4.0, 4, 40, 40], [30, 8, 60, 40]]), "labels": torch.tensor([0, 2])}]
    head.train()
    torch.manual_seed(1)
    one = head.loss(x, maps, targets)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    two = head.loss(x, maps, targets)
    assert torch.equal(state, torch.get_rng_state())  # what others draw is left alone
    assert {*one} == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    assert all(torch.equal(one[name], two[name]) for name in one)
    found = head.eval().detect(x, maps)[0]
    assert len(found["boxes"]) > 3 and set(found["labels"].tolist()) <= {0, 1, 2}
    (setting,) = (item for item in settings_of(Config) if item.name == "detector")
    assert setting.choices == tuple(DETECTORS)  # written out there, where nothing may be imported
    task = Detection(Config(detector="faster-rcnn"))
    with pytest.raises(NearfarError, match="train one with --detector fcos or retinanet"):
        task.exported(SimpleNamespace(head=head), Preprocess())


@pytest.mark.parametrize(("length", "tile"), [(100, 128), (128, 128), (129, 128), (500, 128), (1000, 96)])
def test_windows_cover_an_image_and_share_enough(length, tile):
    found = windows.along(length, tile)
    assert found[0].start == 0 and found[-1].start == max(0, length - tile)
    for one, other in zip(found, found[1:], strict=False):
        assert one.start + tile - other.start >= tile // windows.OVERLAP and one.high == other.low
        assert other.start + tile // 8 <= one.high <= one.start + tile - tile // 8
    assert all(sum(one.low <= x < one.high for one in found) == 1 for x in np.linspace(0, length, 97))


def test_an_object_that_two_windows_see_is_told_once_and_whole():
    # An object from 90 to 120 of 200 pixels, in windows of 128 that start at 0 and 72.
    boxes = []
    for across in windows.along(200, 128):
        seen = np.array([[90.0, 10, 120, 40]]) - [across.start, 0, across.start, 0]
        seen = seen.clip(0, 128)  # cut by the window's border
        (down,) = windows.along(100, 128)
        moved, inside = windows.owned(seen, down, across)
        boxes.append(Found(moved[inside], np.zeros(inside.sum(), np.int64), np.full(inside.sum(), 0.9)))
    assert windows.merged(boxes).boxes.tolist() == [[90.0, 10, 120, 40]]
    near = Found(np.array([[91.0, 10, 121, 40], [91, 10, 121, 40]]), np.array([0, 1]), np.array([0.8, 0.7]))
    assert windows.merged([*boxes, near]).labels.tolist() == [0, 1]  # the other class stays


@pytest.mark.parametrize("network", ["resnet10_w16", "vit_w64_d2"])
def test_windows_find_what_the_whole_image_shows(network, tmp_path, monkeypatch):
    place = folder(tmp_path / "a", 3)
    vit = "vit" in network  # which has one map, of stride 4
    task = Detection(Config(side=80, finest=2 if vit else 8, tile=32))
    data = task.read(place, Preprocess(), Where())
    encoder = models.encoder(network, size=32)
    built = task.network(encoder, data, Setup(None, torch.device("cpu")), frozen=False)
    assert task.tile == 32 and task.shape == (32, 32) and len(built.head.finer) == vit
    crops_seen = task.feed(data, Setup(None, torch.device("cpu")), batch_size=3, start=0).make(0)
    assert crops_seen.views[0].shape == (3, 3, 32, 32)
    assert np.isfinite(float(built(crops_seen).total.detach()))
    sizes = []
    monkeypatch.setattr(built.head, "detect", lambda x, maps: (sizes.append(x.shape), square_in(x))[1])
    (one,) = answers_of(task, built, data.take(np.array([0])))
    # The picture's short side is 80 px; every window told of its middle, which is its own alone.
    tall, wide = 80, round(80 * WIDTH / HEIGHT)
    places = [*windows.over(tall, wide, 32)]
    assert {size[2:] for size in sizes} == {(32, 32)} and len(sizes) == len(places) == len(one.found.boxes)
    assert np.isclose(one.found.boxes[0], np.array([12 / wide, 12 / tall, 20 / wide, 20 / tall])).all()


def test_a_long_image_is_seen_in_windows_at_the_scale_of_the_training():
    pixels = np.zeros((10, 300, 3), np.uint8)
    for tile, shape in ((None, (137, 4096)), (64, (320, 9600))):
        task = Detection(Config(side=320, tile=tile))
        assert task._resized(pixels, False).shape[2:] == shape


def square_in(x):
    """Say that there is an object in the middle of a window."""
    box = torch.tensor([[12.0, 12, 20, 20]])
    return [{"boxes": box, "scores": torch.tensor([0.9]), "labels": torch.tensor([0])}]
