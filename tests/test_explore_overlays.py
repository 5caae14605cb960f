"""What lies over an image of the page in full: boxes and masks, of files that are still what they were."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="no FastAPI here: pip install 'nearfar[explore]'")
pytest.importorskip("lancedb", reason="no LanceDB here: pip install 'nearfar[store]'")

from page_browser import NEEDS_BROWSER, NOISE, TOKEN, WAIT, browser, served  # noqa: F401
from starlette.testclient import TestClient

from nearfar.app import overlays, server
from nearfar.app.findings import Findings
from nearfar.app.row_numbers import NumberedStore
from nearfar.core.errors import NearfarError
from nearfar.data import box_text
from nearfar.data.box_text import DrawnBox
from nearfar.images.class_colours import COLOURS
from nearfar.stores import StoreInfo, VectorStore, open_store

WIDE, HIGH = 90, 60  # of the photo as it is stored; it is turned upright
BOX = (10.0, 20.0, 30.0, 50.0)  # of the upright photo, 60 x 90
PREDICTED = [DrawnBox("disc", 0.875, 5, 2, 25, 40), DrawnBox("<b>square</b>", None, 30, 50, 55, 88)]


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VectorStore:
    """A turned photo, an object on it, and the photo with what was predicted."""
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    exif = Image.Exif()
    exif[0x112] = 6
    upright = np.full((WIDE, HIGH, 3), 90, np.uint8)
    upright[20:50, 10:30] = (200, 30, 30)
    Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90).save(
        tmp_path / "a.jpg", exif=exif, quality=95
    )
    values = np.zeros((WIDE, HIGH), np.uint8)
    values[2:40, 5:25] = 1
    Image.fromarray(values).save(tmp_path / "mask.png")
    photo, mask = (tmp_path / "a.jpg").read_bytes(), (tmp_path / "mask.png").read_bytes()
    found = open_store(tmp_path / "cells.nf", StoreInfo(4))
    corners = {
        f"{side}{end}": [None, BOX["xy".index(side) + 2 * end], None] for end in (0, 1) for side in "xy"
    }
    small = io.BytesIO()
    Image.fromarray(upright[20:50, 10:30]).save(small, "JPEG")
    table = {
        "id": ["a.jpg", "a.jpg#0", "b.jpg"],
        "vector": pa.array(list(np.eye(3, 4, dtype=np.float32)), pa.list_(pa.float32())),
        "thumbnail": [small.getvalue()] * 3,
        "path": [str(tmp_path / "a.jpg")] * 3,
        "digest": [digest(photo), digest(photo) + "0123456789abcdef", digest(photo)],
        "class": [None, "disc", None],
        **{name: pa.array(value, pa.float64()) for name, value in corners.items()},
        "score": pa.array([None, 0.5, None], pa.float64()),
        "boxes": [None, None, box_text.write(PREDICTED)],
        "mask": pa.array([None, None, str(tmp_path / "mask.png")]),
        "mask_digest": pa.array([None, None, digest(mask)]),
    }
    found.upsert(pa.table(table))
    return found


@pytest.fixture
def client(store: VectorStore) -> Iterator[TestClient]:
    rows = NumberedStore(store)
    app = server.application(rows, Findings(rows), TOKEN, {"localhost"})
    with TestClient(app, base_url="http://localhost:8000") as client:
        assert client.get(f"/?token={TOKEN}").status_code == 200
        yield client


@pytest.fixture
def address(store: VectorStore) -> Iterator[str]:
    with served(SimpleNamespace(store=store), "class") as found:
        yield found


def test_boxes_are_in_pixels_of_the_upright_photo(client: TestClient) -> None:
    key = client.get("/api/store").json()["key"]
    whole, own, predicted = (client.get(f"/api/overlays/{row}?key={key}").json() for row in range(3))
    assert (whole["width"], whole["height"], whole["boxes"], whole["mask"]) == (HIGH, WIDE, [], False)
    assert own["boxes"] == [["disc", 0.5, *BOX]] and own["height"] == WIDE
    assert predicted["boxes"] == [list(box) for box in PREDICTED] and predicted["mask"]
    # The photo of an object is shown whole, and its box lies on it, also where it is sent reduced.
    shown = np.asarray(Image.open(io.BytesIO(client.get(f"/api/photo/1?key={key}&side=64").content)), int)
    down, across = shown.shape[0] / own["height"], shown.shape[1] / own["width"]
    left, top, right, bottom = BOX
    inner = shown[
        int(top * down) + 2 : int(bottom * down) - 2, int(left * across) + 2 : int(right * across) - 2
    ]
    assert shown.shape[:2] == (64, 43) and (inner[:, :, 0] - inner[:, :, 2] > 120).all()
    outside = shown[:, int(right * across) + 3 :]
    assert (abs(outside[:, :, 0] - outside[:, :, 2]) < 40).all()
    assert client.get(f"/api/overlays/9?key={key}").status_code == 409


def test_a_mask_is_drawn_in_colours_clear_where_it_is_0(client: TestClient) -> None:
    key = client.get("/api/store").json()["key"]
    answer = client.get(f"/api/mask/2?key={key}")
    drawn = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert answer.headers["content-type"] == "image/png" and drawn.shape == (WIDE, HIGH, 4)
    assert (drawn[2:40, 5:25] == [*COLOURS[1], 255]).all() and drawn[:, :, 3].astype(bool).sum() == 38 * 20
    assert "knows" in client.get(f"/api/mask/0?key={key}").json()["error"].replace("does not know", "knows")


def test_a_stranger_s_store_opens_no_other_file(store: VectorStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(secret)
    mask = (tmp_path / "mask.png").read_bytes()
    for path, said, reason in (
        (str(secret), digest(mask), "has changed since it was written"),
        (str(secret), "", "has changed since it was written"),
        (str(tmp_path), digest(mask), "is no longer at"),
        ("mask.png", digest(mask), "is no longer at"),
        ("/dev/zero", digest(mask), "is no longer at"),
        (None, digest(mask), "does not know the mask"),
    ):
        store.update_columns({"mask": {"b.jpg": path}, "mask_digest": {"b.jpg": said}})
        with pytest.raises(NearfarError, match=reason):
            overlays.mask(store, "b.jpg")
    text = tmp_path / "text.txt"
    text.write_text("no picture")
    store.update_columns({"mask": {"b.jpg": str(text)}, "mask_digest": {"b.jpg": digest(text.read_bytes())}})
    with pytest.raises(NearfarError, match="the mask of 'b.jpg' cannot be shown"):
        overlays.mask(store, "b.jpg")
    store.update("path", {"a.jpg#0": str(secret)})
    with pytest.raises(NearfarError, match="not the file that was embedded"):
        overlays.overlays(store, "a.jpg#0")


def test_what_is_no_list_of_boxes_is_passed_over(store: VectorStore) -> None:
    good = ["disc", None, 1, 2, 3, 4]
    bad: list[Any] = [["disc", 1, 2, 3, 4], [1, *good[1:]], [*good[:5], "x"], [*good[:5], None], "disc", {}]
    for text in ("", "{", "{}", "7", '["a"]', json.dumps(bad), '[["a",0,1,2,3,NaN]]', "[" * 100_000):
        store.update("boxes", {"b.jpg": text})
        assert overlays.overlays(store, "b.jpg")["boxes"] == []
    store.update("boxes", {"b.jpg": json.dumps([*bad, good] * 2000)})
    assert overlays.overlays(store, "b.jpg")["boxes"][0] == good


@pytest.mark.long
@pytest.mark.slow
@NEEDS_BROWSER
def test_the_page_draws_boxes_and_masks_where_they_belong(address: str, browser: Any) -> None:
    said: list[str] = []
    view = browser.new_page(viewport={"width": 1000, "height": 700})
    view.set_default_timeout(WAIT)
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))

    view.goto(f"{address}/?token={TOKEN}")
    view.wait_for_selector("body[data-ready]")
    view.focus("#grid")
    view.keyboard.press("ArrowRight")
    view.keyboard.press("v")
    place = """() => { const box = document.querySelector("#photo-one rect").getBoundingClientRect();
      const img = document.querySelector("#photo-one img"), all = img.getBoundingClientRect();
      const one = Math.min(all.width / img.naturalWidth, all.height / img.naturalHeight);
      const left = all.left + (all.width - one * img.naturalWidth) / 2;
      const top = all.top + (all.height - one * img.naturalHeight) / 2;
      const sides = [box.left - left, box.top - top, box.right - left, box.bottom - top];
      return sides.map((value) => value / one); }"""
    view.wait_for_selector("#photo-one rect")
    assert np.allclose(view.evaluate(place), BOX, atol=0.6)
    assert view.text_content("#photo-one svg.over") == "disc 0.50"
    view.keyboard.press("+")
    assert np.allclose(view.evaluate(place), BOX, atol=0.6)
    view.keyboard.press("ArrowRight")
    view.wait_for_function("document.querySelectorAll('#photo-one rect').length === 2")
    assert view.text_content("#photo-one svg.over") == "disc 0.88<b>square</b>"
    view.wait_for_function("document.querySelector('#photo-one img.over').naturalWidth === 60")
    assert view.is_visible("#photo-one img.over")
    view.keyboard.press("o")
    assert not view.is_visible("#photo-one img.over") and not view.is_visible("#photo-one rect")
    view.keyboard.press("ArrowLeft")
    view.keyboard.press("ArrowLeft")
    view.wait_for_function("document.querySelector('#photo-one figcaption').textContent.startsWith('a.jpg')")
    assert view.locator("#photo-one rect").count() == 0
    view.close()
    assert [text for text in said if not any(noise in text for noise in NOISE)] == []
