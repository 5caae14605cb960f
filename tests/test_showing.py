"""A listing is the same on the screen, in CSV, in JSON and on a sheet of thumbnails."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nearfar.core.errors import NearfarError
from nearfar.queries.listing import ACROSS, GAP, PAPER, PRINTED, SHOWN, SIDE, Listing, sheet, tidy, write

INKS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


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


def test_control_characters_do_not_reach_the_terminal() -> None:
    shown = str(Listing("t", ("\x1b[31mred\n",), {"label": ["a\tb\x07"]}))
    assert "?[31mred?" in shown and "a?b?" in shown
    assert tidy("plain é 漢") == "plain é 漢"


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
