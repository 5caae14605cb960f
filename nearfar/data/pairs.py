"""Opens images with captions: a folder, a table, tar shards, or pairs in Python.

A caption that cannot be used is set aside by name; an image without any is rejected with the reason, as one
whose file is broken is.
"""

from __future__ import annotations

import csv
import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..core.errors import BadImage, NearfarError, reason_of
from ..core.plain_path import from_home, plain_path
from ..core.shapes import loads
from ..core.text import bytes_of
from ..images.files import open_file
from ..images.value_range import Values
from ..text.read import MOST, text_of
from . import shards
from .csv_files import PATH_COLUMNS, native_paths, read_lines, read_rows
from .in_memory import open_in_memory
from .lists import column_of
from .named_files import located
from .pair_modality import TABLE, TABLES
from .reading import Rejected
from .source import FileSource, Source, clean
from .subset import SourceSubset

NAMES = (TABLE, "metadata")  # of a table that lies in a folder of images
_CAPTIONS = ("caption", "captions", "text", "title")
Lines = Iterator[tuple[int, Any, Any, str]]  # number, path, a caption or several, why it is of no use


@dataclass(frozen=True)
class PairSource(Source):
    """Images, each with one or several captions.

    Attributes:
        images: the images, row for row.
        captions: of each row; empty for a row in `bad`.
        bad: why a row has no caption that can be used.
        set_aside: captions that cannot be used, by name.
    """

    images: Source
    captions: Sequence[tuple[str, ...]]
    bad: Mapping[int, str] = field(default_factory=dict)
    set_aside: tuple[Rejected, ...] = ()
    kind: ClassVar[str] = "pairs"

    @property
    def modality(self) -> str:
        """Name the kind of data."""
        return "pairs"

    def read(self, index: int) -> bytes | Path | Values:
        """Fetch one image; one without a caption is refused."""
        if index in self.bad:
            raise BadImage(self.bad[index])
        return self.images.read(index)

    def stamp(self, index: int) -> str:
        """Say the image's stamp and a digest of its captions."""
        words = "\0".join(self.captions[index]).encode()
        return f"{self.images.stamp(index)}:{hashlib.blake2b(words, digest_size=8).hexdigest()}"


def captions_of(source: Source, row: int) -> tuple[str, ...]:
    """Give the captions of one image of a source, or of a part of one.

    Args:
        source: a `PairSource`, or a part of it.
        row: which image.
    """
    while isinstance(source, SourceSubset):
        row, source = int(source.rows[row]), source.of
    assert isinstance(source, PairSource)
    return source.captions[row]


def open_pairs(data: Any) -> PairSource:
    """Open images with captions; the images are not touched yet.

    Args:
        data: a folder that holds a table of captions, or images with a .txt of the same name beside each, a
            caption a line; the table itself, .csv, .tsv, .jsonl or .parquet, with the columns path and
            caption, a row or more for each image; tar shards with a .txt beside each image; or a list of
            pairs (image, caption or captions).

    Returns:
        The source; ids are those of the images.

    Raises:
        NearfarError: there are no images with captions.
    """
    if isinstance(data, (str, os.PathLike)):
        text = os.fspath(data)
        path = from_home(text)
        if path.is_dir():
            names = (path / f"{name}{suffix}" for name in NAMES for suffix in TABLES)
            table = next((one for one in names if one.is_file()), None)
            return _folder(path) if table is None else _table(table)
        if path.suffix.lower() in TABLES and path.exists():
            return _table(path)
        if any(mark in text for mark in "*?[{") or path.suffix.lower() == ".tar":
            return _shards(str(path))
        raise NearfarError(
            f"there are no images with captions in {text!r}; give a folder with captions.csv, a table "
            f"({', '.join(TABLES)}) with the columns path and caption, or tar shards."
        )
    if not isinstance(data, (list, tuple)) or not data or not all(_is_pair(item) for item in data):
        raise NearfarError(
            "images with captions are taken from a folder, a table, shards or a list of pairs "
            "(image, caption); give one of these."
        )
    rows: dict[Any, int] = {}  # a path that comes again has further captions, as in a table
    kept: list[Any] = []
    found = _Captions()
    for at, (image, texts) in enumerate(data):
        place: str = os.fspath(image) if isinstance(image, (str, os.PathLike)) else ""
        row = rows.setdefault(_plain(place) if place else at, len(rows))
        if row == len(kept):
            kept.append(image)
        found.add(row, f"caption of {clean([place or str(row)])[0]}", texts)
    return found.source("the list", open_in_memory(kept, None))


def _is_pair(item: Any) -> bool:
    return isinstance(item, (tuple, list)) and len(item) == 2


class _Captions:
    """Captions on their way into a source."""

    def __init__(self) -> None:
        self.good: dict[int, list[str]] = {}
        self.reasons: dict[int, str] = {}
        self.aside: list[tuple[int | None, Rejected]] = []

    def add(self, row: int, name: str, texts: Any, bad: str = "") -> None:
        """Add captions of a row: a text, bytes, or several; or why there is none."""
        for text in texts if isinstance(texts, (list, tuple)) else [texts]:
            reason = bad
            if not reason and not isinstance(text, (str, bytes)):
                reason = "empty caption" if text is None else f"no caption but {type(text).__name__}"
            if not reason:
                plain = bytes_of(text) if isinstance(text, str) else text
                try:
                    self.good.setdefault(row, []).append(text_of(plain))
                    continue
                except BadImage as error:
                    reason = f"caption: {error}"
            self.reasons.setdefault(row, reason)
            self.aside.append((row, Rejected(name, reason)))

    def source(self, name: str, images: Source, lacking: str = "no caption") -> PairSource:
        """Put images and captions together."""
        rows = range(len(images))
        bad = {row: self.reasons.get(row, lacking) for row in rows if not self.good.get(row)}
        if len(bad) == len(images):
            raise NearfarError(
                f"no image of {name} has a caption that can be used ({bad[0]}); write one for each image."
            )
        captions = [tuple(dict.fromkeys(self.good.get(row, ()))) for row in rows]
        if len(rows) - len(bad) > 1 and len(set(captions) - {()}) == 1:
            raise NearfarError(
                f"all images of {name} have the same captions, so none tells an image from another; write "
                "one for each image."
            )
        aside = tuple(one for row, one in self.aside if row not in bad)
        return PairSource(name, images.ids, None, images, captions, bad, aside, masks=images.masks)


def _folder(folder: Path) -> PairSource:
    """Open images with a .txt beside each."""
    from .sources import open_source

    images = open_source(folder)
    assert isinstance(images, FileSource)
    found = _Captions()
    for row, name in enumerate(images.paths):
        beside = (folder / name).with_suffix(".txt")
        if not os.path.lexists(beside):
            continue
        try:
            with open_file(beside, MOST) as file:
                text = file.read(MOST + 1)
        except BadImage as error:
            found.reasons[row] = f"caption: {error}"
            continue
        found.add(row, str(beside.relative_to(folder)), _lines(text))
    return found.source(str(folder), images, "no caption: there is no .txt of its name beside it")


def _lines(text: bytes) -> list[bytes]:
    """Split a .txt into captions, one a line; what is no such text stays whole, and says why."""
    try:
        plain = text_of(text)
    except BadImage:
        return [text]
    return [line.encode() for line in plain.splitlines() if line.strip()]


def _table(path: Path) -> PairSource:
    """Open a table, whose rows of one path are captions of one image."""
    rows: dict[str, int] = {}
    paths: list[str] = []
    found = _Captions()
    try:
        for line, name, texts, bad in _rows(path):
            where = f"{path.name}:{line}"
            if bad or not isinstance(name, str) or not name.strip():
                found.aside.append((None, Rejected(where, bad or "no path")))
                continue
            row = rows.setdefault(_plain(name.strip()), len(rows))
            if row == len(paths):
                paths.append(name.strip())
            found.add(row, where, texts)
    except NearfarError:
        raise
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's own errors are ValueErrors and OSErrors
        raise NearfarError(f"{path} cannot be read as a table of captions: {reason_of(error)}.") from None
    if not paths:
        reason = f" ({found.aside[0][1].id}: {found.aside[0][1].reason})" if found.aside else ""
        raise NearfarError(f"{path} lists no image{reason}; write a path and a caption in each row.")
    names = located(path, native_paths(paths, path.parent, path))
    return found.source(str(path), FileSource(str(path), clean(names), None, path.parent, names))


def _plain(name: str) -> str:
    """Write a path as others of the same file are: without `./` and double slashes."""
    return name if ".." in name.split("/") else os.path.normpath(name)  # behind a link, `..` may be elsewhere


def _rows(path: Path) -> Lines:
    """Read a table."""
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        yield from _jsonl(path)
        return
    if suffix == ".parquet":
        import pyarrow.parquet as parquet

        names = list(parquet.read_schema(plain_path(path)).names)
        wanted = [names[at] for at in _columns(path, names)]
        line = 0
        for batch in parquet.ParquetFile(plain_path(path)).iter_batches(columns=list(dict.fromkeys(wanted))):
            for row in batch.to_pylist():
                line += 1
                yield line, row[wanted[0]], row[wanted[1]], ""
        return
    csv.field_size_limit(1 << 30)
    lines = read_rows(path, "surrogateescape", lenient=True)
    _, heading = next(lines, (0, []))
    at, mark = _columns(path, heading)
    for line, cells in lines:
        if len(cells) <= max(at, mark):
            yield line, None, None, "a column is missing"
        elif any(cell.strip() for cell in cells[len(heading) :]):
            yield line, None, None, "more cells than columns: a cell with a comma needs quotes"
        else:
            yield line, cells[at], cells[mark], ""


def _columns(path: Path, names: list[str]) -> tuple[int, int]:
    return column_of(path, names, PATH_COLUMNS, "paths"), column_of(path, names, _CAPTIONS, "captions")


def _jsonl(path: Path) -> Lines:
    """Read JSON lines, whose columns are those of the first that is an object."""
    wanted: tuple[str, str] | None = None
    for line, text in read_lines(path):
        if not text.strip():
            continue
        try:
            held = loads(text)
        except (ValueError, RecursionError):
            held = None
        if not isinstance(held, dict):
            yield line, None, None, "no JSON object"
            continue
        if wanted is None:
            names = list(held)
            at, mark = _columns(path, names)
            wanted = names[at], names[mark]
        yield line, held.get(wanted[0]), held.get(wanted[1]), ""


def _shards(pattern: str) -> PairSource:
    """Open tar shards with a .txt beside each image."""
    images = shards.open_shards(pattern, labels=False)
    found = _Captions()
    base = os.path.commonpath([file.parent for file in images.files])
    for number, file in enumerate(images.files):
        shown = Path(os.path.relpath(file, base)).as_posix()
        rows = np.flatnonzero(images.shard == number).tolist()
        names = [images.ids[row].removeprefix(f"{shown}/") for row in rows]
        for row, lines in zip(rows, shards.marks_of(names, dict(_notes(file))), strict=True):
            if lines is not None:
                found.add(row, f"caption of {images.ids[row]}", lines)
    return found.source(pattern, images, "no caption: there is no .txt of its name beside it")


def _notes(file: Path) -> Iterable[tuple[str, list[bytes]]]:
    """Read the captions of a shard, by the names of their members without the ending."""
    with tarfile.open(file, mode="r:") as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".txt"):
                content = tar.extractfile(member)
                if content is not None:
                    yield shards.key_of(member.name), _lines(content.read(MOST + 1))
