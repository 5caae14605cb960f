"""Label files as other programs write them: whose labels they are, and what is said of those left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nearfar.core.errors import NearfarError
from nearfar.data.box_labels import open_box_labels, renumbered
from nearfar.data.pixel_labels import open_pixel_labels

ONE = {"id": 1, "file_name": "a.png", "width": 32, "height": 32}
KINDS = [{"id": 7, "name": "cat"}, {"id": -3, "name": "dog"}]


def image(path: Path, width: int = 32, height: int = 32) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "grey").save(path)
    return path


def mask(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (32, 32), value).save(path)
    return path


def about(image_id: Any, category: Any, bbox: Any = (4, 8, 8, 4)) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category, "bbox": list(bbox), "segmentation": []}


def coco(folder: Path, images: Any, annotations: Any, kinds: Any = KINDS) -> Path:
    content = {"images": images, "categories": kinds, "annotations": annotations}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    image(tmp_path / "a.png"), image(tmp_path / "b.png")
    return tmp_path


def found(folder: Path, labels: Path | None = None) -> dict[str, list[tuple[str, list[int]]]]:
    """Of each image its objects: class, and corners in pixels."""
    labelled = open_box_labels(folder, labels)
    return {
        name: [
            (
                labelled.classes[label],
                np.round(box * np.tile((one.width, one.height), 2)).astype(int).tolist(),
            )
            for label, box in zip(one.labels, one.boxes, strict=True)
        ]
        for name, one in zip(labelled.source.ids, labelled.boxes, strict=True)
    }


def test_coco_ids_may_be_texts_numbers_and_have_gaps(pair: Path) -> None:
    two = {"id": 2.0, "file_name": "b.png"}
    coco(pair, [{**ONE, "id": "1"}, two], [about(1, "7"), about("2", -3.0)])
    assert found(pair) == {"a.png": [("cat", [4, 8, 12, 12])], "b.png": [("dog", [4, 8, 12, 12])]}


@pytest.mark.parametrize(
    ("images", "annotations", "kinds", "said"),
    [
        ([ONE, {**ONE, "file_name": "b.png"}], [about(1, 7)], KINDS, "a.png and b.png the same id, 1"),
        ([ONE, {**ONE, "id": 2}], [about(1, 7), about(2, -3)], KINDS, "lists a.png twice, .* 1 and 2"),
        ([ONE], [about(5, 7)], KINDS, "no annotation is of an image that it lists"),
        ([ONE], [about(1, 1)], [{"id": 1, "name": " "}], "empty name"),
        ([ONE], [about(1, 1)], [{"id": 1, "name": "x"}, {"id": 1, "name": "y"}], "two categories .* same id"),
    ],
)
def test_coco_files_that_contradict_themselves_are_refused(pair, images, annotations, kinds, said) -> None:
    with pytest.raises(NearfarError, match=said):
        open_box_labels(coco(pair, images, annotations, kinds))


def test_annotations_of_no_image_are_counted(pair: Path) -> None:
    labelled = open_box_labels(coco(pair, [ONE], [about(1, 7), about(9, -3), about(8, -3)]))
    assert labelled.notes[0] == "2 annotations are left out: of no image that annotations.json lists."
    shape = {"segmentation": [[1, 1, 9, 1, 9, 9]]}
    coco(pair, [ONE], [{**about(1, 7), **shape}, {**about(9, 7), **shape}])
    assert "1 annotation is left out: of no image" in open_pixel_labels(pair).notes[0]


def test_categories_of_one_name_are_one_class(pair: Path) -> None:
    kinds = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "cat"}]
    two = {"id": 2, "file_name": "b.png"}
    labelled = open_box_labels(coco(pair, [ONE, two], [about(1, 1), about(2, 3)], kinds))
    assert labelled.classes == ("cat", "dog") and [one.labels.tolist() for one in labelled.boxes] == [
        [0],
        [0],
    ]
    again = renumbered(labelled, ("dog", "cat"))
    assert [one.labels.tolist() for one in again.boxes] == [[1], [1]]


def test_of_two_listed_images_of_one_name_none_is_taken_by_that_name(tmp_path: Path) -> None:
    image(tmp_path / "x.png"), image(tmp_path / "y.png")
    images = [{"id": at, "file_name": name} for at, name in enumerate(("p/x.png", "q/x.png", "p/y.png"))]
    coco(tmp_path, images, [about(0, 7), about(1, -3), about(2, 7)])
    assert found(tmp_path) == {"y.png": [("cat", [4, 8, 12, 12])]}


def test_boxes_follow_an_image_that_was_resized(tmp_path: Path) -> None:
    image(tmp_path / "a.png", 32, 16), image(tmp_path / "b.png", 16, 32)
    images = [{**ONE, "width": 64, "height": 32}, {**ONE, "id": 2, "file_name": "b.png", "height": 16}]
    labelled = open_box_labels(coco(tmp_path, images, [about(1, 7), about(2, 7)]))
    assert np.allclose(labelled.boxes[0].boxes, (4 / 64, 8 / 32, 12 / 64, 12 / 32))
    assert labelled.source.ids == ["a.png"] and labelled.notes == (
        "1 image is left out, labelled in another shape: b.png has 16 x 32 px, and 32 x 16 in "
        "annotations.json, upright.",
    )
    with pytest.raises(NearfarError, match="images of other shapes: b.png has 16 x 32 px"):
        open_box_labels(coco(tmp_path, images[1:], [about(2, 7)]))


def voc(path: Path, inner: str, head: str = "<annotation>") -> None:
    path.write_text(f"{head}{inner}</annotation>")


def test_voc_as_other_programs_write_it(tmp_path: Path) -> None:
    place = image(tmp_path / "a.png").with_suffix(".XML")
    box = "<bndbox><xmin>8</xmin><ymin>16.0</ymin><xmax>24</xmax><ymax>32</ymax></bndbox>"
    part = f"<part><name>head</name>{box.replace('24', '10')}</part>"
    thing = f"<object><name> cat </name>{part}{box}</object>"
    voc(place, thing)
    assert found(tmp_path) == {"a.png": [("cat", [8, 16, 24, 32])]}
    voc(place, f"<size><width>64</width><height>64</height></size>{thing}")
    assert found(tmp_path) == {"a.png": [("cat", [4, 8, 12, 16])]}
    voc(place, f"<size><width>0</width><height>0</height></size>{thing}")
    assert found(tmp_path) == {"a.png": [("cat", [8, 16, 24, 32])]}
    voc(place, thing, '<annotation xmlns="http://x.org/voc">')
    assert found(tmp_path) == {"a.png": [("cat", [8, 16, 24, 32])]}
    for word, hard in (("1", True), (" True ", True), ("0", False), ("", False), ("Unspecified", False)):
        voc(place, thing.replace("</object>", f"<difficult>{word}</difficult></object>"))
        labels = open_box_labels(tmp_path)
        assert labels.boxes[0].difficult.tolist() == [hard] and not labels.boxes[0].crowd.any()
        assert labels.notes == (() if not hard else labels.notes) and hard == (
            "1 object is marked" in str(labels.notes)
        )
    voc(place, f"<object>{box}</object>")
    with pytest.raises(NearfarError, match="an object has no name"):
        open_box_labels(tmp_path)
    place.write_text("<kml><Document/></kml>")
    with pytest.raises(NearfarError, match="begins with 'kml'"):
        open_box_labels(tmp_path)


@pytest.mark.parametrize(
    ("names", "text", "kind"),
    [
        ("names:\n  0: cat\n  2: dog\n", "2", "dog"),
        ("names: {0: cat, 2: dog}\n", "2", "dog"),
        ("names: [cat, dog]\nkpt_shape: [17, 3]\n", "1", "dog"),
        ("names: ['cat, or lynx', \"dog: any\"]\nnc: 2\n", "1", "dog: any"),
        ("names: [cat, cat, dog]\n", "2", "dog"),
        ("names: [\n  cat,\n  dog,\n]\n", "1", "dog"),
    ],
)
def test_names_of_yolo_classes_keep_their_numbers(pair: Path, names: str, text: str, kind: str) -> None:
    (pair / "data.yaml").write_text(names)
    (pair / "a.txt").write_text(f"{text} .5 .5 .25 .25\n")
    assert found(pair)["a.png"] == [(kind, [12, 12, 20, 20])]


def test_a_file_of_names_may_end_in_capitals(pair: Path) -> None:
    (pair / "DATA.YAML").write_text("names: [cat, dog]\n")
    (pair / "a.txt").write_text("1 .5 .5 .25 .25\n")
    assert open_box_labels(pair, pair / "DATA.YAML").classes == ("cat", "dog")


def test_a_blank_line_among_yolo_classes_is_a_class(pair: Path) -> None:
    (pair / "classes.txt").write_text("cat\n\ndog\n\n")
    (pair / "a.txt").write_text("2 .5 .5 .25 .25\n")
    assert open_box_labels(pair).classes == ("cat", "1", "dog") and found(pair)["a.png"][0][0] == "dog"


def test_yolo_skeletons_and_pixels(pair: Path) -> None:
    (pair / "data.yaml").write_text("kpt_shape: [2, 3]\nnames: [cat]\n")
    (pair / "a.txt").write_text("0 .5 .5 .25 .25 .1 .1 2 .9 .9 2\n")
    assert found(pair)["a.png"] == [("cat", [12, 12, 20, 20])]
    (pair / "a.txt").write_text("0 16 16 8 8\n")
    with pytest.raises(NearfarError, match=r"a.txt, line 1: 16 16 8 8 are no shares"):
        open_box_labels(pair)


def test_labels_of_another_folder_are_not_taken_for_an_image(tmp_path: Path) -> None:
    image(tmp_path / "day/1.png"), image(tmp_path / "night/1.png")
    (tmp_path / "night/1.txt").write_text("0 .5 .5 .25 .25\n")
    assert found(tmp_path) == {"day/1.png": [], "night/1.png": [("0", [12, 12, 20, 20])]}
    elsewhere = tmp_path.with_name("labels")
    (elsewhere / "x").mkdir(parents=True)
    (elsewhere / "x/1.txt").write_text("0 .5 .5 .25 .25\n")
    with pytest.raises(NearfarError, match=r"x/1.txt could be the labels of day/1.png or of night/1.png"):
        open_box_labels(tmp_path, elsewhere)
    (elsewhere / "y").mkdir()
    (elsewhere / "y/1.txt").write_text("0 .5 .5 .5 .5\n")
    with pytest.raises(NearfarError, match=r"1.png could have the labels of .*x/1.txt or of .*y/1.txt"):
        open_box_labels(tmp_path / "day", elsewhere)
    (elsewhere / "y/1.txt").unlink()
    assert found(tmp_path / "day", elsewhere) == {"1.png": [("0", [12, 12, 20, 20])]}


def test_masks_of_one_name_in_several_folders_stay_with_their_images(tmp_path: Path) -> None:
    for at, name in enumerate(("day", "night")):
        image(tmp_path / "images" / name / "1.png")
        mask(tmp_path / "kept" / name / "1.png", at)
    labelled = open_pixel_labels(tmp_path / "images", tmp_path / "kept")
    assert [one.read().max() for one in labelled.masks] == [0, 1]
    (tmp_path / "kept/day/1.png").unlink()
    labelled = open_pixel_labels(tmp_path / "images", tmp_path / "kept")
    assert labelled.source.ids == ["night/1.png"] and "1 image is left out" in labelled.notes[0]


def test_masks_below_the_images_are_no_images(tmp_path: Path) -> None:
    image(tmp_path / "photos/1.png"), mask(tmp_path / "drawn/1.png", 3)
    labelled = open_pixel_labels(tmp_path, tmp_path / "drawn")
    assert labelled.source.ids == ["photos/1.png"] and labelled.notes == ()


def test_an_image_with_several_masks_is_left_out_and_named(tmp_path: Path) -> None:
    image(tmp_path / "a.png"), mask(tmp_path / "a_mask.png", 1), mask(tmp_path / "a_mask_1.png", 2)
    with pytest.raises(NearfarError, match="each image has several masks, such as a.png"):
        open_pixel_labels(tmp_path)
    image(tmp_path / "b.png"), mask(tmp_path / "b_mask.png", 1)
    labelled = open_pixel_labels(tmp_path)
    assert labelled.source.ids == ["b.png"] and labelled.notes == (
        f"1 image is left out of {tmp_path}: with more than one mask, such as a.png.",
    )
    for name, ending in (("c", "png"), ("c", "tif")):
        mask(tmp_path / "kept" / f"{name}.{ending}", 1)
    mask(tmp_path / "kept/d.png", 1)
    image(tmp_path / "images/c.png"), image(tmp_path / "images/d.png")
    labelled = open_pixel_labels(tmp_path / "images", tmp_path / "kept")
    assert labelled.source.ids == ["d.png"] and "more than one mask, such as c.png" in labelled.notes[0]


@pytest.mark.parametrize(
    "code", [{"size": [16, 16], "counts": [256]}, {"size": [32, 32], "counts": [100, 3, 100]}]
)
def test_run_lengths_of_another_size_are_refused_and_not_repeated(pair: Path, code: Any) -> None:
    coco(pair, [ONE], [{**about(1, 7), "segmentation": code}])
    with pytest.raises(NearfarError, match=r"a.png in .* no run-length code of its size"):
        open_pixel_labels(pair).masks[0].read()


@pytest.mark.parametrize("values", [[0, 70_000], [-1, 3], [0, 0.5], [1, np.nan]])
def test_values_that_no_mask_of_a_prediction_could_hold_are_refused(pair: Path, values: list[float]) -> None:
    kind = np.float32 if any(value % 1 for value in values) else np.int32
    Image.fromarray(np.repeat(np.array([values], kind), 32, 0).repeat(16, 1)).save(pair / "a_mask.tif")
    with pytest.raises(NearfarError, match="a_mask.tif has the value .*whole numbers from 0 to 65535"):
        open_pixel_labels(pair)


def test_two_values_of_one_name_are_refused(pair: Path) -> None:
    mask(pair / "a_mask.png", 1), mask(pair / "b_mask.png", 5)
    (pair / "classes.txt").write_text("1 cell\n5 cell\n")
    with pytest.raises(NearfarError, match="the values 1 and 5 one name, 'cell'"):
        open_pixel_labels(pair)
    (pair / "classes.txt").write_text("cell\ncell\n")
    with pytest.raises(NearfarError, match="the values 1 and 5 one name, 'cell'"):
        open_pixel_labels(pair)


def test_a_category_called_background_is_what_no_outline_covers(pair: Path) -> None:
    kinds = [{"id": 0, "name": "background"}, {"id": 1, "name": "cell"}]
    outer, inner = [[2, 2, 30, 2, 30, 30, 2, 30]], [[10, 10, 20, 10, 20, 20, 10, 20]]
    drawn = [{**about(1, 1), "segmentation": outer}, {**about(1, 0), "segmentation": inner}]
    labelled = open_pixel_labels(coco(pair, [ONE], drawn, kinds))
    assert labelled.classes == ("background", "cell")
    assert labelled.masks[0].read()[[0, 5, 15], [0, 5, 15]].tolist() == [0, 1, 0]


def test_a_file_that_is_no_label_file_is_not_passed_over(pair: Path) -> None:
    voc(pair / "a.xml", "<object><name>x</name></object>")
    (pair / "found.csv").write_text("path,class,x0,y0,x1,y1\n")
    with pytest.raises(NearfarError, match="found.csv is no file of boxes"):
        open_box_labels(pair, pair / "found.csv")


def test_a_flag_of_a_crowd_may_be_a_text(pair: Path) -> None:
    flags = [0, 1, "0", "1", True, False, None]
    drawn = [{**about(1, 7), "iscrowd": flag} for flag in flags]
    (one,) = open_box_labels(coco(pair, [ONE], drawn)).boxes
    assert one.crowd.tolist() == [False, True, False, True, True, False, False]


def test_an_outline_without_a_box_has_one(pair: Path) -> None:
    low = {"size": [32, 32], "counts": [32 * 4 + 5, 6, 26, 3, 1024 - 32 * 4 - 40]}  # rows 5 to 10 and 5 to 7
    across = {"size": [32, 32], "counts": [30, 3, 991]}  # the end of a column and the start of the next
    for outline, box in (
        ([[3, 2, 30, 2.5, 9, 20], [1, 1]], [3, 2, 30, 20]),
        (low, [4, 5, 6, 11]),
        (across, [0, 0, 2, 32]),
    ):
        coco(pair, [ONE], [{"image_id": 1, "category_id": 7, "segmentation": outline}])
        ((_, corners),) = found(pair)["a.png"]
        rows, columns = np.nonzero(open_pixel_labels(pair).masks[0].read())
        assert corners == box and box[:2] == [columns.min(), rows.min()]
    for nothing in ([], [[1, 1]], {"size": [32, 32], "counts": [1024]}):
        assert not found(coco(pair, [ONE], [{"image_id": 1, "category_id": 7, "segmentation": nothing}]))[
            "a.png"
        ]
    for wrong in ({"size": [32], "counts": [1024]}, [["x", 1]], 7, {"size": [32, 32], "counts": [3]}):
        with pytest.raises(NearfarError, match="an annotation of a.png has no bbox, and an outline that is"):
            found(coco(pair, [ONE], [{"image_id": 1, "category_id": 7, "segmentation": wrong}]))
