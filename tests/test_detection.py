"""Tests of detection: labels of every format, crops that move boxes, the figures, and what is written."""

from __future__ import annotations

import json

import numpy as np
import pytest
from drawn_labels import HEIGHT, WIDTH, picture
from drawn_labels import write_boxes as folder
from drawn_labels import write_voc as voc
from PIL import Image

from nearfar.analysis import detection_scores
from nearfar.analysis.detection_scores import Found
from nearfar.core.errors import NearfarError
from nearfar.data import box_text
from nearfar.data.box_labels import open_box_labels, renumbered
from nearfar.data.yolo_labels import read_yaml_names
from nearfar.features.probes import validation_split
from nearfar.finetuning import crops
from nearfar.finetuning.detect import Config, Detection, Objects, Predicting
from nearfar.finetuning.objects_shown import yolo_names
from nearfar.finetuning.task_types import Where
from nearfar.images.views import Preprocess


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
