"""Shows what was found: a table on the screen, a CSV or JSON file, or a sheet of thumbnails."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..core.atomic import atomic_write, check_place, refuse_address
from ..core.errors import NearfarError
from ..core.text import printable, spreadsheet_cell
from ..images.thumbnails import thumbnail

SUFFIXES = (".csv", ".json", ".png")
LONGEST = 100  # characters of a cell on the screen; files hold all
PRINTED = 20  # rows on the screen; files hold all
SHOWN, ACROSS = 120, 10  # thumbnails on a sheet, and in a line of it
SIDE, GAP, CAPTION = 96, 8, 14  # pixels: of a thumbnail, between two, and of a line of caption
PAPER, INK, SOFT, BLANK = (250, 250, 248), (30, 30, 30), (110, 110, 110), (225, 225, 225)

Thumbnails = Callable[[list[str]], list[bytes]]  # b"" where there is none


@dataclass(frozen=True)
class Listing:
    """Images in an order that means something, with what is known of each.

    Attributes:
        title: what the order means, in a few words.
        ids: n names, the most notable first.
        columns: name to n values: text, numbers, truths or None. The first is the caption on a sheet.
        lines: what else a reader has to know, a sentence each.
        facts: the same in plain values.
        grouped: a column whose equal values, standing together, make a group; a sheet has a line for each.
        captions: what stands under each image's name on a sheet, in lines, as many for each; by default the
            first column's value.
    """

    title: str
    ids: tuple[str, ...]
    columns: Mapping[str, Sequence[Any]]
    lines: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    grouped: str = ""
    captions: Sequence[tuple[str, ...]] = ()

    def __len__(self) -> int:
        """Count the images."""
        return len(self.ids)

    def __str__(self) -> str:
        """Write the first rows as a table, and the lines below it."""
        heads = ["id", *self.columns]
        cells = [[_name(one), *map(_word, row)] for one, *row in self._rows(PRINTED)]
        widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
        table = [
            "  ".join(f"{word:{width}}" for word, width in zip(row, widths, strict=True)).rstrip()
            for row in [heads, *cells]
        ]
        more = [f"... {len(self) - PRINTED:,} more; --out FILE.csv writes all"] if len(self) > PRINTED else []
        table = table if self.ids else [] if self.lines else ["nothing was found"]
        return "\n".join([self.title, *table, *more, *self.lines])

    def to_json(self) -> dict[str, Any]:
        """Give everything in plain values, a dict an image."""
        heads = ["id", *self.columns]
        rows = [dict(zip(heads, row, strict=True)) for row in self._rows(len(self))]
        return {"title": self.title, **self.facts, "rows": rows}

    def _rows(self, count: int) -> list[tuple[Any, ...]]:
        columns = ([_plain(value) for value in column[:count]] for column in self.columns.values())
        return list(zip(self.ids[:count], *columns, strict=True))


def check_name(path: Path) -> None:
    """Refuse a file name that cannot be written to, before any work is done.

    Args:
        path: where a listing is to go.

    Raises:
        NearfarError: the suffix is none of `SUFFIXES`, or a folder stands there.
    """
    refuse_address(path)
    if path.suffix.lower() not in SUFFIXES:
        raise NearfarError(
            f"--out {path} ends in {path.suffix or 'no suffix'}; name a .csv, .json or .png file."
        )
    if path.is_dir():
        raise NearfarError(f"--out {path} is a folder; name a file in it, such as {path / 'found.csv'}.")
    check_place(path)


def write(listing: Listing, path: Path, thumbnails: Thumbnails) -> None:
    """Write a listing in the format that the file's suffix names, whole or not at all.

    Args:
        listing: what was found.
        path: ends in one of `SUFFIXES`.
        thumbnails: gives the image files of some ids; asked for a .png only.

    Raises:
        NearfarError: the name is wrong, or the place cannot be written.
    """
    check_name(path)
    suffix = path.suffix.lower()
    if suffix == ".png":
        file = io.BytesIO()
        sheet(listing, thumbnails).save(file, "PNG")
        content = file.getvalue()
    elif suffix == ".json":
        content = json.dumps(listing.to_json(), ensure_ascii=False, indent=1).encode() + b"\n"
    else:
        content = _csv(listing).encode()
    with atomic_write(path, folders=True) as out:
        out.write(content)


def _csv(listing: Listing) -> str:
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["id", *listing.columns])
    rows.writerows([spreadsheet_cell(value) for value in row] for row in listing._rows(len(listing)))
    return text.getvalue()


def sheet(listing: Listing, thumbnails: Thumbnails) -> Image.Image:
    """Lay thumbnails out on a sheet, each over its name and its caption.

    Args:
        listing: what was found; its first `SHOWN` images are on the sheet.
        thumbnails: gives the image files of some ids.

    Returns:
        The sheet, RGB.
    """
    ids = list(listing.ids[:SHOWN])
    places = _places(listing, len(ids))
    first = next(iter(listing.columns.values()), [""] * len(ids))
    captions = listing.captions or [(_word(_plain(value)),) for value in first[: len(ids)]]
    under = 1 + max(map(len, captions), default=1)
    step, high = SIDE + GAP, SIDE + GAP + under * CAPTION
    across = max((column for _, column in places), default=0) + 1
    down = max((row for row, _ in places), default=-1) + 1
    head = 2 * CAPTION + GAP
    rest = f" ({len(ids)} of {len(listing):,})" if len(ids) < len(listing) else ""
    rest = rest if ids else ": none was found"
    title, font = ImageFont.load_default(size=CAPTION), ImageFont.load_default(size=CAPTION - 3)
    wanted = math.ceil(title.getlength(listing.title + rest)) + 2 * GAP
    width = max(GAP + max(4, across) * step, min(wanted, GAP + ACROSS * step))
    canvas = Image.new("RGB", (width, head + down * high), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((GAP, GAP), _fitted(pen, listing.title + rest, title, canvas.width - 2 * GAP), INK, title)
    shown = captions[: len(ids)]
    for one, caption, data, (row, column) in zip(ids, shown, thumbnails(ids), places, strict=True):
        left, top = GAP + column * step, head + row * high
        picture = _picture(data)
        canvas.paste(picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2))
        lines = [(printable(one), SOFT), *((printable(text), INK) for text in caption)]
        for at, (text, ink) in enumerate(lines):
            place = (left, top + SIDE + at * CAPTION)
            pen.text(place, _fitted(pen, text, font, SIDE, at_end=at == 0), ink, font)
    return canvas


def _places(listing: Listing, count: int) -> list[tuple[int, int]]:
    """Give each image its row and column on the sheet; a group begins a line."""
    groups = listing.columns[listing.grouped] if listing.grouped else None
    places, row, column = [], 0, 0
    for at in range(count):
        if column == ACROSS or (groups is not None and at and groups[at] != groups[at - 1]):
            row, column = row + 1, 0
        places.append((row, column))
        column += 1
    return places


def _picture(data: bytes) -> Image.Image:
    """Open a thumbnail at the size it has on the sheet; small ones are enlarged, their pixels kept."""
    pixels = thumbnail(data)
    if pixels is None:
        return Image.new("RGB", (SIDE, SIDE), BLANK)
    image = Image.fromarray(pixels)
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.resize(size, how)


def _fitted(pen: ImageDraw.ImageDraw, text: str, font: Any, width: int, at_end: bool = False) -> str:
    """Shorten a text to a width in pixels; a path keeps its end, which identifies the file."""
    text, cut = text[-200:] if at_end else text[:200], text
    while text and pen.textlength(text, font) > width:
        cut = cut[1:] if at_end else cut[:-1]
        text = f"…{cut}" if at_end else f"{cut}…"
    return text


def _plain(value: Any) -> Any:
    """Turn a number of NumPy's into Python's own."""
    return value.item() if hasattr(value, "item") else value


def _name(one: str) -> str:
    """Write an id; of a long path the end identifies the file."""
    text = printable(one)
    return text if len(text) <= LONGEST else f"…{text[1 - LONGEST :]}"


def _word(value: Any) -> str:
    """Write one value of a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = printable(str(value))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
