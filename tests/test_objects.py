"""Objects as examples of their own: boxes on images, cut out, embedded, and kept with their columns."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from drawn_labels import HEIGHT, WIDTH, picture, write_boxes, write_masks
from PIL import Image

from nearfar import embed, finetune, models, predict
from nearfar.cli.main import main
from nearfar.core.errors import BadImage, NearfarError
from nearfar.data.box_list import open_boxes
from nearfar.data.coco import document
from nearfar.data.crops import Crops, cut
from nearfar.data.in_memory import open_in_memory
from nearfar.finetuning.predict import _of_store
from nearfar.images.views import Preprocess
from nearfar.stores import open_store
from nearfar.stores.cut_out import cut_out
from nearfar.training.run import Run, export, load

HEADS = ["path", "class", "score", "x0", "y0", "x1", "y1", "width", "height"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("run")
    net = models.encoder("resnet10_w16", size=16, seed=3)
    with torch.no_grad():
        net(torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    export(path, net, Preprocess.of(16), {"method": "none"})
    return load(path)


def rows_of(count: int) -> list[list[Any]]:
    """What a prediction writes of `picture`s: a row an object, and one image without objects."""
    rows: list[list[Any]] = []
    for at in range(count):
        for number, (name, *corners) in enumerate(picture(at)[2]):
            rows.append([f"images/{at}.png", name, 0.9 - number / 10, *corners, WIDTH, HEIGHT])
    return [*rows, [f"images/{count}.png", "", *[None] * 5, WIDTH, HEIGHT]]


def write(path: Path, rows: list[list[Any]], heads: list[str] = HEADS) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([heads, *rows])
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four pictures, the last without objects in found.csv."""
    write_boxes(tmp_path / "a", 4)
    write(tmp_path / "found.csv", rows_of(3))
    return tmp_path / "a"


def test_a_box_is_cut_out_as_a_square_within_its_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    assert np.array_equal(cut(image, (20, 10, 30, 20)), image[9:21, 19:31])  # a tenth of 10 on each side
    assert np.array_equal(cut(image, (20, 14, 30, 16)), image[9:21, 19:31])  # a long box is seen whole
    assert np.array_equal(cut(image, (0, 0, 10, 10)), image[:12, :12])  # at the border it moves inside
    assert np.array_equal(
        cut(image, (52, 30, 99, 99)), image[28:, 48:]
    )  # and what lies beyond counts for nothing
    assert np.array_equal(cut(image, (0, 5, 60, 10)), image)  # as much as there is
    for box in ((10, 10, 11.9, 30), (70, 0, 90, 20), (30, 10, 20, 20), (-9, -9, 1, 30)):
        with pytest.raises(BadImage, match="less than 2 px on the image, which has 60 x 40"):
            cut(image, box)


@pytest.mark.parametrize("kind", ["voc", "yolo", "yolo with scores", "coco", "csv", "parquet", "predicted"])
def test_each_format_gives_the_same_objects(kind: str, tmp_path: Path) -> None:
    place = write_boxes(tmp_path / "a", 3, kind.split()[0] if kind[:4] in ("yolo", "coco") else "voc")
    boxes = {"voc": place / "labels", "yolo": place / "data.yaml", "coco": place / "annotations.json"}.get(
        kind
    )
    rows = rows_of(2)[:-1] + rows_of(3)[4:6]
    if kind == "csv":
        boxes = write(tmp_path / "found.csv", rows)
    elif kind == "parquet":
        boxes = tmp_path / "found.parquet"
        parquet.write_table(
            pa.table(dict(zip(HEADS, map(list, zip(*rows, strict=True)), strict=True))), boxes
        )
    elif kind == "yolo with scores":
        boxes = place / "data.yaml"
        for file in (place / "labels").iterdir():
            first, second = file.read_text().splitlines()
            file.write_text(f"{first} 0.9\n{second} 0.8\n")
    elif kind == "predicted":
        boxes = tmp_path / "found.json"
        boxes.write_text(json.dumps(document(rows, ["disc", "square"])))
    assert boxes is not None
    found = open_boxes(place, boxes)
    assert list(found.ids) == [f"images/{at}.png#{number}" for at in range(3) for number in range(2)]
    assert found.labels == ("disc", "square") * 3
    want = np.array([corners for at in range(3) for _, *corners in picture(at)[2]], np.float64)
    assert np.allclose(found.corners, want, atol=0.02 if kind.startswith("yolo") else 1e-9)
    scored = kind not in ("voc", "yolo", "coco")
    assert np.allclose(found.columns["score"], [0.9, 0.8] * 3) if scored else "score" not in found.columns
    for row in range(6):
        colour = found.pixels(row).reshape(-1, 3).astype(int)
        more, less = (0, 2) if row % 2 == 0 else (2, 0)  # a disc is red, a square blue
        assert (colour[:, more] - colour[:, less] > 100).mean() > 0.4


def test_objects_are_rows_of_a_store(run: Run, photos: Path, tmp_path: Path) -> None:
    address = tmp_path / "cells.nf"
    done = embed(run, photos, boxes=tmp_path / "found.csv", store=address)
    assert (done.images, done.encoded, done.one) == (6, 6, "object") and str(done).endswith("unchanged)")
    store = open_store(address)
    rows = store.rows().to_pylist()
    assert [row["id"] for row in rows] == [f"images/{at}.png#{n}" for at in range(3) for n in range(2)]
    own = dict(zip(("class", "score", "x0", "y0", "x1", "y1"), rows_of(3)[0][1:], strict=False))
    assert {name: rows[0][name] for name in own} == own and rows[0]["label"] is None
    assert rows[0]["path"] == str(photos / "images/0.png") and rows[0]["width"] == rows[0]["height"] == 18
    thumbnail = Image.open(io.BytesIO(store.thumbnails(["images/0.png#0"])[0]))
    assert thumbnail.size == (18, 18)  # the object, not the image
    # Each vector is that of the object alone.
    crops = open_boxes(photos, tmp_path / "found.csv")
    alone = embed(run, [crops.pixels(row) for row in range(6)])
    assert np.allclose(store.vectors(ids=list(crops.ids))[1], alone.vectors, atol=1e-6)
    plain = embed(run, photos, boxes=tmp_path / "found.csv", out=tmp_path / "cells.parquet")
    assert plain.ids == tuple(crops.ids) and plain.labels == crops.labels
    assert np.allclose(plain.vectors, alone.vectors, atol=1e-6)
    # What reads the rows' files gets the objects again.
    again = _of_store(store)
    assert isinstance(again, Crops) and np.array_equal(again.pixels(3), crops.pixels(3))


def test_a_store_of_objects_follows_the_list(run: Run, photos: Path, tmp_path: Path) -> None:
    boxes, address = tmp_path / "found.csv", tmp_path / "cells.nf"
    embed(run, photos, boxes=boxes, store=address)
    store = open_store(address)
    store.update("class", {"images/0.png#1": "by hand", "images/1.png#0": "mended"})
    rows = rows_of(3)
    rows[0][2] = 0.5  # another score alone
    rows[3][3] += 1  # another box of images/1.png
    rows.insert(0, ["images/0.png", "new", 1.0, 30, 30, 40, 40, WIDTH, HEIGHT])  # moves the others on by one
    rows = [row for row in rows if row[0] != "images/2.png"] + [["images/2.png", "", *[None] * 7]]
    write(boxes, rows)
    done = embed(run, photos, boxes=boxes, store=address)
    assert (done.encoded, done.known, done.unchanged) == (2, 2, 1) and done.kept_labels == 2
    assert done.gone == ("images/2.png#0", "images/2.png#1") and done.images == 7
    held = {row["id"]: row for row in store.rows(["id", "class", "score"]).to_pylist()}
    assert held["images/0.png#0"]["class"] == "new" and held["images/0.png#2"]["class"] == "by hand"
    assert held["images/0.png#1"]["score"] == 0.5 and held["images/1.png#0"]["class"] == "mended"
    done = embed(run, photos, boxes=boxes, store=address, prune=True)
    assert (done.unchanged, done.images, done.pruned) == (5, 5, True)
    # A changed image is embedded anew; one whose file is gone is reported; its boxes are left out.
    Image.fromarray(picture(9)[0]).save(photos / "images/0.png")
    (photos / "images/1.png").unlink()
    done = embed(run, photos, boxes=boxes, store=address)
    assert (done.encoded, done.unchanged) == (3, 0) and done.gone == ("images/1.png#0", "images/1.png#1")


def test_bad_boxes_are_named(
    run: Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(2)
    rows += [["images/0.png", "disc", 1, 500, 10, 520, 30, WIDTH, HEIGHT]]
    rows += [["images/0.png", "disc", 1, 5, 5, 6.5, 30, WIDTH, HEIGHT]]
    rows += [["images/1.png", "disc", 1, 5, 5, 20, 30, 640, 480]]
    done = embed(run, photos, boxes=write(tmp_path / "found.csv", rows), store=tmp_path / "cells.nf")
    assert [one.id for one in done.rejected] == ["images/0.png#2", "images/0.png#3", "images/1.png#2"]
    assert "less than 2 px on the image, which has 64 x 48" in done.rejected[0].reason
    assert "an image of 640 x 480 px, and the image has 64 x 48" in done.rejected[2].reason
    assert done.encoded == 4
    write(tmp_path / "found.csv", [*rows_of(2), ["gone.png", "disc", 1, 5, 5, 20, 30, 64, 48]])
    words = ["embed", str(run.folder), str(photos), "--boxes", str(tmp_path / "found.csv")]
    assert main([*words, "--store", str(tmp_path / "cells.nf")]) == 0
    assert "names 1 image not in" in capsys.readouterr().err
    assert main([*words, "--part", "1/2", "--out", str(tmp_path / "parts")]) == 2
    assert "--boxes is for a file or a store" in capsys.readouterr().err


def test_lists_that_cannot_be_used_are_refused_in_a_sentence(photos: Path, tmp_path: Path) -> None:
    file, good = tmp_path / "found.csv", rows_of(1)

    def refused(match: str, data: Any = photos, boxes: Path = file) -> None:
        with pytest.raises(NearfarError, match=match):
            open_boxes(data, boxes)

    (tmp_path / "nothing").mkdir()
    refused("name them with --boxes", boxes=tmp_path / "nothing")
    for word in ("nan", "inf", "left", ""):
        write(file, [*good, ["images/1.png", "disc", 1, word, 5, 20, 30, 64, 48]])
        refused(rf"line 5: x0 is '{word}'; write a number")
    write(file, [[row[0], *row[4:]] for row in good], [HEADS[0], *HEADS[4:]])
    refused("has no column 'class'; a list of boxes has path, class")
    write(file, [row[:6] for row in good], HEADS[:6])
    refused("has no column 'y1'")
    write(file, [["x.png", *row[1:]] for row in good])
    refused("names no image of .*'x.png'")
    write(file, good[-1:])
    refused("no box with a class")
    write(file, [])
    refused("has no row")
    file.write_bytes(b"PAR1 nonsense")
    refused("cannot be read as Parquet", boxes=file.rename(tmp_path / "found.parquet"))
    refused("there is no --boxes", boxes=tmp_path / "none.csv")
    write(file, good)
    (tmp_path / "twice.txt").write_text("a/images/0.png\na/images/0.png\n")
    refused("has the image 'a/images/0.png' twice", tmp_path / "twice.txt")
    refused("belongs to a folder of images", ["a.png"], photos / "labels")


def test_deep_images_are_scaled_together(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    values = np.zeros((20, 40), np.uint16)
    values[:, :20], values[:, 20:] = 4000, 1000
    Image.fromarray(values).save(tmp_path / "a/x.png")
    rows = [["x.png", "light", 1, 2, 2, 12, 12, 40, 20], ["x.png", "dark", 1, 26, 2, 36, 12, 40, 20]]
    embed(run, tmp_path / "a", boxes=write(tmp_path / "found.csv", rows), store=tmp_path / "cells.nf")
    store = open_store(tmp_path / "cells.nf")
    light, dark = (np.asarray(Image.open(io.BytesIO(one))) for one in store.thumbnails(store.ids()))
    assert abs(int(light.mean()) - 249) < 4 and abs(int(dark.mean()) - 62) < 4  # of 4095


def test_rows_of_whole_images_and_of_objects_share_a_store(run: Run, photos: Path, tmp_path: Path) -> None:
    embed(run, photos / "images", store=tmp_path / "both.nf")
    write(tmp_path / "found.csv", [[Path(row[0]).name, *row[1:]] for row in rows_of(3)])
    done = embed(run, photos / "images", boxes=tmp_path / "found.csv", store=tmp_path / "both.nf")
    assert (done.images, done.gone) == (10, ())
    assert embed(run, photos / "images", store=tmp_path / "both.nf").gone == ()
    store = open_store(tmp_path / "both.nf")
    ids = ["3.png", "0.png#1"]
    paths = [str(photos / "images" / name) for name in ("3.png", "0.png")]
    found = cut_out(store, ids, open_in_memory(paths, None), paths)
    assert isinstance(found, Crops) and [found.pixels(at).shape[:2] for at in range(2)] == [
        (48, 64),
        (12, 12),
    ]


def test_a_prediction_of_masks_tells_the_store_where_they_are(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="no FastAPI here: pip install 'nearfar[explore]'")
    from nearfar.app.overlays import mask, overlays

    place, address = write_masks(tmp_path / "a", 6), tmp_path / "a.nf"
    how: dict[str, Any] = {"device": "cpu", "epochs": 1, "side": 32, "scratch": False, "workers": 1}
    made = finetune(run, task="segment", train=place, out=tmp_path / "s", **how)
    embed(run, place / "images", store=address)
    store = open_store(address)
    predict(made.path, place / "images", store=address)
    assert "mask" not in store.columns  # which no file was asked for
    predict(made.path, place / "images", store=address, out=tmp_path / "found.csv")
    row = store.rows(["id", "mask", "mask_digest"]).to_pylist()[0]
    assert row["id"] == "00.png" and row["mask"] == str(tmp_path / "found" / "00.png")
    assert overlays(store, "00.png") == {"width": WIDTH, "height": HEIGHT, "boxes": [], "mask": True}
    values = np.asarray(Image.open(row["mask"]))
    drawn = np.asarray(Image.open(io.BytesIO(mask(store, "00.png"))))
    assert drawn.shape == (HEIGHT, WIDTH, 4) and np.array_equal(drawn[:, :, 3] > 0, values > 0)
    Image.fromarray(255 - values).save(row["mask"])
    with pytest.raises(NearfarError, match="has changed since it was written; predict again"):
        mask(store, "00.png")
