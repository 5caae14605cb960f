"""A listing is the same on the screen, in CSV, in JSON and on a sheet of thumbnails."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import nearfar
from nearfar.core.errors import NearfarError
from nearfar.core.text import counted, from_spreadsheet_cell, printable, spreadsheet_cell
from nearfar.images.thumbnails import thumbnail
from nearfar.queries.listing import (
    ACROSS,
    BLANK,
    GAP,
    PAPER,
    PRINTED,
    SHOWN,
    SIDE,
    Listing,
    sheet,
    write,
)
from nearfar.stores import StoreInfo, open_store
from nearfar.stores.arrow_rows import fixed

COUNTED = [
    (1, "image", "1 image"),
    (0, "image", "0 images"),
    (2000, "image is", "2,000 images are"),
    (1, "class", "1 class"),
    (3, "class", "3 classes"),
    (2, "near copy", "2 near copies"),
    (4, "box was", "4 boxes were"),
]
INKS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


@pytest.mark.parametrize(("number", "what", "said"), COUNTED)
def test_counts_are_written_with_their_nouns(number: int, what: str, said: str) -> None:
    assert counted(number, what) == said


def thumbnails(ids: list[str]) -> list[bytes]:
    """A plain picture for each id, in a colour that its last digit names."""
    files = []
    for one in ids:
        file = io.BytesIO()
        Image.new("RGB", (48, 24), INKS[int(one[-1]) % 3]).save(file, "PNG")
        files.append(file.getvalue())
    return files


def listing(count: int = 4, **more: object) -> Listing:
    ids = tuple(f'a,"b"/{number}' for number in range(count))
    scores = np.arange(count, dtype=np.float32)[::-1] / 7
    columns = {"score": scores, "label": [None, *["ü"] * (count - 1)], "odd": scores > 0.2}
    return Listing("most anomalous first", ids, columns, ("One line.",), {"threshold": 0.5}, **more)


def test_csv_and_json_give_back_every_value(tmp_path: Path) -> None:
    made = listing(50)
    write(made, tmp_path / "x.csv", thumbnails)
    rows = list(csv.DictReader((tmp_path / "x.csv").open(encoding="utf-8", newline="")))
    assert [row["id"] for row in rows] == list(made.ids)
    assert [float(row["score"]) for row in rows] == made.columns["score"].tolist()
    assert [row["label"] for row in rows] == ["", *["ü"] * 49]
    write(made, tmp_path / "x.json", thumbnails)
    plain = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert plain == made.to_json() and plain["threshold"] == 0.5
    assert plain["rows"][0] == {"id": 'a,"b"/0', "score": 7.0, "label": None, "odd": True}


def test_the_table_shows_the_first_rows_and_says_how_many_more() -> None:
    lines = str(listing(50)).splitlines()
    assert lines[0] == "most anomalous first" and lines[1].split() == ["id", "score", "label", "odd"]
    assert lines[2].split() == ['a,"b"/0', "7", "-", "yes"]
    assert len(lines) == PRINTED + 4 and lines[-2].startswith("... 30 more") and lines[-1] == "One line."
    assert str(Listing("nothing", (), {"score": []}, ("No image.",))) == "nothing\nNo image."
    assert str(Listing("most similar first", (), {"score": []})) == "most similar first\nnothing was found"
    deep = str(Listing("t", (f"{'d' * 300}/end.png", "b.png"), {"score": [0.5, 1.0]}))
    assert max(map(len, deep.splitlines())) < 120 and "d/end.png  0.5" in deep


def test_control_characters_do_not_reach_the_terminal() -> None:
    shown = str(Listing("t", ("\x1b[31mred\n",), {"label": ["a\tb\x07"]}))
    assert "?[31mred?" in shown and "a?b?" in shown
    assert printable("plain é 漢") == "plain é 漢"


def test_a_sheet_has_every_thumbnail_in_its_place() -> None:
    canvas = np.asarray(sheet(listing(12), thumbnails))
    middles = [
        canvas[36 + row * (SIDE + GAP + 28) + SIDE // 2, GAP + column * (SIDE + GAP) + SIDE // 2]
        for row, column in [(0, k) for k in range(ACROSS)] + [(1, 0), (1, 1)]
    ]
    assert [tuple(pixel) for pixel in middles] == [INKS[k % 3] for k in [*range(10), 0, 1]]
    # A wide picture keeps its shape: paper above it.
    assert tuple(canvas[36 + 4, GAP + SIDE // 2]) == PAPER


def test_groups_begin_lines_and_a_sheet_has_an_end() -> None:
    rows = [0, 0, 1, 2, 2, 2]
    groups = Listing("g", tuple("012345"), {"group": rows}, grouped="group")
    assert sheet(groups, thumbnails).height == 36 + 3 * (SIDE + GAP + 28)
    assert sheet(listing(SHOWN + 300), thumbnails).height == 36 + SHOWN // ACROSS * (SIDE + GAP + 28)
    assert sheet(Listing("none", (), {}), thumbnails).width > SIDE


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NearfarError, match=r"ends in \.txt; name a \.csv, \.json or \.png file"):
        write(listing(), tmp_path / "x.txt", thumbnails)
    assert not list(tmp_path.iterdir())


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"


def encoded(kind: str, side: int = 48, **how: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (200, 0, 0)).save(file, kind, **how)
    return file.getvalue()


HOSTILE = {
    "eps": EPS,
    "tiff": encoded("TIFF"),
    "gif": encoded("GIF"),
    "bmp": encoded("BMP"),
    "large": encoded("PNG", 3000),
    "cut": encoded("JPEG")[:-300],
    "words": b"jpeg",
    "empty": b"",
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_thumbnails_of_three_formats_are_opened(kind: str) -> None:
    found = thumbnail(encoded(kind))
    assert found is not None and found.shape == (48, 48, 3) and abs(int(found[24, 24, 0]) - 200) < 8


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_thumbnail_is_blank(name: str) -> None:
    assert thumbnail(HOSTILE[name]) is None
    canvas = np.asarray(sheet(listing(2), lambda ids: [HOSTILE[name] for _ in ids]))
    assert (canvas[36 : 36 + SIDE, GAP : GAP + SIDE] == BLANK).all()


def test_every_way_to_show_a_strangers_thumbnails_opens_no_other_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    for program in ("gs", "gswin64c"):
        (tmp_path / program).write_text(f"#!/bin/sh\necho gs >> '{started}'\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    files = [*HOSTILE.values(), EPS, EPS, EPS, EPS]
    draw = np.random.default_rng(0)
    ids = [f"{at}.jpg" for at in range(12)]
    store = open_store(tmp_path / "s.nf", StoreInfo(4))
    vectors = fixed(draw.normal(size=(12, 4)).astype(np.float32))
    store.upsert(pa.table({"id": ids, "vector": vectors, "thumbnail": pa.array(files, pa.binary())}))
    nearfar.anomalies(store, out=tmp_path / "anomalies.png")
    nearfar.duplicates(store, out=tmp_path / "duplicates.png")
    nearfar.image_map(store, out=tmp_path / "map.png")
    nearfar.export(store, to="tensorboard", out=tmp_path / "board")
    assert not started.exists()


def test_no_room_that_shows_a_store_opens_pictures_by_itself() -> None:
    for room in ("queries", "app", "stores", "reports"):
        for path in (Path(nearfar.__file__).parent / room).glob("*.py"):
            assert "Image.open(" not in path.read_text(), path


def test_spreadsheets_find_no_formula_and_readers_the_name(tmp_path: Path) -> None:
    names = ("=1+1", "+a", "-1.5", "-x", "@sum", "'=kept", "'plain", "a=b", "\tx", "")
    for name in names:
        cell = spreadsheet_cell(name)
        assert not cell.startswith(("=", "+", "@", "\t")) and from_spreadsheet_cell(cell) == name
    assert (
        spreadsheet_cell("-1.5") == "-1.5" and spreadsheet_cell(-2) == -2 and spreadsheet_cell(None) is None
    )
    write(Listing("t", names, {"label": ["=cmd()"] * len(names)}), tmp_path / "t.csv", lambda ids: [])
    written = (tmp_path / "t.csv").read_text()
    assert "\n=" not in written and ",=" not in written and "'=cmd()" in written


def test_thumbnails_for_other_viewers_are_ones_that_the_guarded_decoder_reads() -> None:
    from nearfar.images.thumbnails import checked

    whole = jpeg()
    assert checked(whole) == whole
    for other in (b"%!PS-Adobe-3.0 EPSF-3.0", b"<svg onload='x'/>", whole[:40], b"GIF89a", b""):
        assert checked(other) == b""


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "JPEG")
    return file.getvalue()
