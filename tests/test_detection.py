"""Tests of detection: labels of every format, crops that move boxes, the figures, and the network."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from drawn_labels import HEIGHT, WIDTH, answers_of, picture, restored, train_a_little
from drawn_labels import write_boxes as folder
from drawn_labels import write_voc as voc
from PIL import Image

from nearfar import models
from nearfar.analysis import detection_scores
from nearfar.analysis.detection_scores import Found
from nearfar.core.config import settings_of
from nearfar.core.errors import NearfarError
from nearfar.data import box_text
from nearfar.data.box_labels import open_box_labels, renumbered
from nearfar.data.yolo_labels import read_yaml_names
from nearfar.exports import decode_boxes
from nearfar.features.probes import validation_split
from nearfar.finetuning import crops, windows
from nearfar.finetuning.detect import Config, Detection, Objects, Predicting
from nearfar.finetuning.objects_shown import yolo_names
from nearfar.finetuning.task_types import Setup, Where
from nearfar.images.views import Preprocess
from nearfar.models.detectors import DETECTORS, detector_class
from nearfar.models.detectors.pyramid import OneStage


@pytest.mark.parametrize("kind", ["voc", "yolo", "coco"])
def test_each_format_gives_the_same_boxes(kind, tmp_path):
    found = open_box_labels(folder(tmp_path / kind, 4, kind))
    assert found.classes == ("disc", "square") and found.notes == () and len(found.source) == 4
    for at, one in enumerate(found.boxes):
        assert (one.height, one.width) == (HEIGHT, WIDTH)
        wanted = sorted(picture(at)[2])
        got = sorted(
            (found.classes[label], *np.round(box * (WIDTH, HEIGHT, WIDTH, HEIGHT)).astype(int).tolist())
            for label, box in zip(one.labels, one.boxes, strict=True)
        )
        assert got == wanted


def test_images_without_objects_bad_boxes_and_boxes_beyond_the_border(tmp_path):
    place = folder(tmp_path / "a", 4)
    (place / "labels/0.xml").unlink()
    voc(place / "labels/1.xml", [])
    voc(
        place / "labels/2.xml",
        [("square", 5, 5, 5, 20), ("square", 10, 10, 20, 20), ("square", 70, 2, 90, 9)],
    )
    voc(place / "labels/3.xml", [("disc", -4, -2, 10, 10), ("disc", "nan", 1, 5, 5)])
    found = open_box_labels(place)
    assert [len(one.boxes) for one in found.boxes] == [0, 0, 1, 1]
    assert np.allclose(found.boxes[3].boxes[0] * (WIDTH, HEIGHT, WIDTH, HEIGHT), (0, 0, 10, 10), atol=1e-4)
    without, bad, clipped = found.notes
    assert (
        "1 of 4 images" in without
        and "images/2.png, object 1 (square)" in bad
        and "1 box was clipped" in clipped
    )


def test_images_without_objects_are_held_out_as_the_others_are(tmp_path):
    place = folder(tmp_path / "a", 12)
    for at in range(5):
        (place / f"labels/{at}.xml").unlink()
    task = Detection(Config(side=32))
    data = task.read(place, Preprocess(), Where())
    strata, without = task.strata(data), np.array([not len(one.boxes) for one in data.targets])
    assert without.sum() == 5 and ((strata == strata.max()) == without).all() and strata.min() == 0
    names = tuple(map(str, range(int(strata.max()) + 1)))
    held = validation_split(strata, names, 0)
    assert held[without].sum() == 1 and held[~without].any()


def test_yaml_names_in_their_three_forms():
    assert read_yaml_names("nc: 2\nnames: ['a b', c]\n") == ("a b", "c")
    assert read_yaml_names("names:\n- a b  # first\n- c\nnc: 2\n") == ("a b", "c")
    assert read_yaml_names("names:\n  1: c\n  0: a b\ntrain: x\n") == ("a b", "c")
    assert read_yaml_names("names: {0: a b, 1: c}") == ("a b", "c")
    assert read_yaml_names("nc: 2\n") == ()
    assert read_yaml_names('names:\n- "\\u00fc #1"\n- "c"  # last\n') == ("ü #1", "c")


@pytest.mark.parametrize(
    "names", [("ü", "b"), ('a "b"', "it's", "c\\d"), ("C #5", "x, y"), ("[x]", "1", "null")]
)
def test_names_of_any_kind_are_read_as_predict_writes_them(names):
    assert read_yaml_names(yolo_names(names).decode()) == names


def test_errors_say_what_to_do(tmp_path):
    place = folder(tmp_path / "a", 1, "yolo")
    (place / "labels/0.txt").write_text("7 .5 .5 .1 .1")
    with pytest.raises(NearfarError, match=r"0.txt, line 1: .* one of 2"):
        open_box_labels(place)
    (place / "labels/0.xml").write_text("<annotation><object></annotation>")
    with pytest.raises(NearfarError, match="VOC"):
        open_box_labels(place)
    (tmp_path / "b").mkdir()
    Image.fromarray(picture(0)[0]).save(tmp_path / "b/x.png")
    with pytest.raises(NearfarError, match="holds no boxes"):
        open_box_labels(tmp_path / "b")
    one, other = folder(tmp_path / "c", 2), folder(tmp_path / "d", 2)
    voc(other / "labels/1.xml", [("green", 1, 1, 9, 9)])
    with pytest.raises(NearfarError, match="class 'green'"):
        renumbered(open_box_labels(other), open_box_labels(one).classes)


@pytest.mark.parametrize("turns", [False, True])
def test_a_crop_moves_boxes_with_the_pixels(turns):
    pixels = np.full((60, 80, 3), 120, np.uint8)
    pixels[20:34, 30:52] = (250, 20, 20)
    box = np.array([[30, 20, 52, 34]], np.float32)
    generator, seen = np.random.default_rng(0), 0
    for _ in range(30):
        u = generator.random(crops.NUMBERS).astype(np.float32)
        crop = crops.draw(u, (60, 80), (96, 128), turns=turns)
        x, (moved, good) = crop.image(pixels), crop.boxes(box)
        red = ((x[0] - x[2]) > 0.4).numpy()
        if not good[0] or not red.any():
            continue
        down, across = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
        edges = across[0], down[0], across[-1] + 1, down[-1] + 1
        assert np.abs(moved[0] - edges).max() < 1.6
        seen += 1
    assert seen > 20


def boxes_on(generator, count, classes, crowd=0.0, difficult=None):
    low = generator.uniform(0, 60, (count, 2))
    corners = np.concatenate([low, low + generator.uniform(6, 40, (count, 2))], 1)
    labels = generator.integers(0, classes, count)
    scores, crowds = generator.random(count).round(2), generator.random(count) < crowd
    hard = None if difficult is None else generator.random(count) < difficult
    return Found(corners, labels, scores, crowds, hard)


@pytest.mark.parametrize(("crowd", "difficult"), [(0.0, None), (0.3, None), (0.0, 0.4), (0.2, 0.3)])
def test_average_precision_equals_the_reference(crowd, difficult):
    pytest.importorskip("faster_coco_eval")
    generator = np.random.default_rng(3)
    truth = [boxes_on(generator, n, 3, crowd, difficult) for n in (4, 0, 6, 1, 9)]
    found = []
    for one in truth:
        more = boxes_on(generator, 5, 3)
        moved = one.boxes + generator.normal(0, 2, one.boxes.shape)
        found.append(
            Found(
                np.concatenate([moved, more.boxes]),
                np.concatenate([one.labels, more.labels]),
                generator.random(len(moved) + 5),
            )
        )
    got = detection_scores.scores(truth, found, ("a", "b", "c", "never"))
    assert set(got.per_class) == {"a", "b", "c"} and 0.1 < got.ap < got.ap50 <= 1
    for label, name in enumerate("abc"):  # the interval's own computation, each image once
        own = detection_scores._ap50(truth, found, label, np.ones((1, len(truth))))[0]
        assert own == pytest.approx(got.per_class[name]["ap50"], abs=1e-9)
    assert got.low < got.ap50 < got.high + 1e-9
    perfect = [Found(one.boxes, one.labels, np.ones(len(one.boxes))) for one in truth]
    assert detection_scores.scores(truth, perfect, ("a", "b", "c")).ap > 0.99 - crowd - (difficult or 0)
    nothing = [Found(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0)) for _ in truth]
    assert detection_scores.scores(truth, nothing, ("a", "b", "c")).ap == 0


def test_difficult_boxes_are_neither_right_nor_wrong():
    pytest.importorskip("faster_coco_eval")
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], float)
    truth = Found(boxes, np.zeros(3, int), None, None, np.array([False, True, False]))
    for rows, ap in (([0, 2], 1.0), ([1, 0, 2], 1.0), ([1, 0], 51 / 101)):  # of two that count
        found = Found(boxes[rows], np.zeros(len(rows), int), np.linspace(0.9, 0.5, len(rows)))
        assert detection_scores.scores([truth], [found], ("a",)).ap50 == pytest.approx(ap)
        assert detection_scores.best_score([truth], [found], 1)[1] == pytest.approx(
            2 * ap / (1 + ap), abs=0.01
        )
    only = Found(boxes[:1], np.zeros(1, int), None, None, np.array([True]))
    with pytest.raises(NearfarError, match="no true box"):
        detection_scores.scores([only], [found], ("a",))


@pytest.mark.parametrize("crowd", [0.0, 0.3])
def test_the_best_score_is_that_of_trying_all(crowd):
    generator = np.random.default_rng(5)
    truth = [boxes_on(generator, n, 2, crowd) for n in (4, 0, 6, 1)]
    found = []
    for one in truth:
        more = boxes_on(generator, 6, 2)
        moved = one.boxes + generator.normal(0, 2, one.boxes.shape)
        boxes, labels = np.concatenate([moved, more.boxes]), np.concatenate([one.labels, more.labels])
        # Scores with ties, those of right boxes higher.
        scores = np.concatenate([generator.random(len(moved)) / 2 + 0.4, generator.random(6) * 0.7]).round(1)
        found.append(Found(boxes, labels, scores))

    def f1(least):
        right, wrong, total = 0, 0, sum(int((~one.crowd).sum()) for one in truth)
        for own, other in zip(truth, found, strict=True):
            kept = other.scores >= least
            some = Found(other.boxes[kept], other.labels[kept], other.scores[kept])
            for label in (0, 1):
                _, good, nothing = detection_scores.match(own, some, label, 0.5)
                right, wrong = right + good.sum(), wrong + (~good & ~nothing).sum()
        return 2 * right / (right + wrong + total)

    score, best = detection_scores.best_score(truth, found, 2)
    assert best == pytest.approx(max(f1(least) for least in np.arange(0, 1.01, 0.05)))
    assert f1(score) == pytest.approx(best) and 0 < score < 1
    nothing = [Found(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0)) for _ in truth]
    assert detection_scores.best_score(truth, nothing, 2) is None


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


def test_objects_become_rows_counts_and_frames(tmp_path):
    task = Detection(Config(side=64))
    task.read(folder(tmp_path / "a", 2), Preprocess(), Where())
    task.prepare(Predicting(min_score=0.5))
    box = np.array([[0.1, 0.2, 0.5, 0.6], [0.3, 0.3, 0.4, 0.9]])
    answer = Objects(Found(box, np.array([1, 0]), np.array([0.9, 0.2])), 50, 100)
    assert task.rows(answer) == [("square", 0.9, 10.0, 10.0, 50.0, 30.0, 100, 50)]
    nothing = Objects(Found(box[:0], np.zeros(0, np.int64), np.zeros(0)), 50, 100)
    rows = [["a/x.png", *row] for row in task.rows(answer)] + [["y.png", *row] for row in task.rows(nothing)]
    (tmp_path / "found.json").write_text(json.dumps(task.document(iter(rows))))
    for name in ("a/x.png", "y.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((50, 100, 3), np.uint8)).save(tmp_path / name)
    again = open_box_labels(tmp_path, tmp_path / "found.json")
    assert [len(one.boxes) for one in again.boxes if one.width == 100] == [1, 0]
    assert np.allclose(again.boxes[0].boxes[0], box[0])
    boxes = '[["square",0.9,10.0,10.0,50.0,30.0]]'
    assert task.store_columns(answer) == {"objects_disc": 0, "objects_square": 1, "boxes": boxes}
    assert box_text.read(boxes) == [("square", 0.9, 10, 10, 50, 30)]
    assert task.store_columns(nothing)["boxes"] == "[]" and {*task.store_kinds()} == {
        *task.store_columns(answer)
    }
    task.classes = ("red disc", "square")
    assert task.store_columns(answer) == {"objects_red_disc": 0, "objects_square": 1, "boxes": boxes}
    shown, text = task.draw(picture(0)[0], answer)
    assert shown.shape == (HEIGHT, WIDTH, 3) and text == "1 square" and (shown != picture(0)[0]).any()
