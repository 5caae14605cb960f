"""Opens collections of texts: files of a folder, lines of a file, columns of a table, or a list in Python."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ..core.errors import BadImage, NearfarError, nearest, reason_of
from ..core.plain_path import from_home, plain_path
from ..core.text import bytes_of
from ..text.read import BETWEEN
from ..text.view_settings import SUFFIXES
from .csv_files import read_lines, read_rows
from .endings import parted
from .files import open_folder
from .source import Source, class_names, clean

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
_USUAL = ("text", "sentence", "content", "body")
_NAME = re.compile(r"[^\s|,;]{1,40}")
_LABEL_COLUMNS = ("label", "class", "target")


@dataclass(frozen=True)
class TextRows(Source):
    """Texts in memory: of each row the bytes of its texts, with `BETWEEN` between them.

    `bad` says by row why a text cannot be used.
    """

    rows: Sequence[bytes]
    bad: Mapping[int, str] = field(default_factory=dict)
    kind: ClassVar[str] = "texts"

    @property
    def modality(self) -> str:
        """Name the kind of data."""
        return "text"

    def read(self, index: int) -> bytes:
        """Fetch one row's texts."""
        if index in self.bad:
            raise BadImage(self.bad[index])
        return self.rows[index]

    def stamp(self, index: int) -> str:
        """Say a digest of the texts."""
        return hashlib.blake2b(self.rows[index], digest_size=8).hexdigest()


def open_texts(data: Any, *, labels: bool = False) -> Source:
    """Open texts, without looking at those of a folder.

    Args:
        data: a folder of .txt and .md files, each a text; a .txt of one text a line; a table with a column of
            texts: a .csv, .tsv, .jsonl or .parquet, or "FILE:COLUMN" to name it; "FILE:QUESTION,PASSAGE" for
            pairs, and three columns for triples; a list of texts, or of tuples of them; or a pair (texts,
            labels).
        labels: whether labels are wanted: the names of folders, or the table's column label, class or target.

    Returns:
        The source; each line or row is named FILE:NUMBER, or by the table's column id.

    Raises:
        NearfarError: there is no text, or no label where labels are wanted.
    """
    if isinstance(data, (str, os.PathLike)):
        path, columns = _split(os.fspath(data))
        if path.is_dir():
            return open_folder(path, "text", SUFFIXES, ".txt or .md", labels)
        return _open_file(path, columns, labels)
    data, marks = parted(data)
    if labels and marks is None:
        raise NearfarError("texts without labels are not enough here; pass the pair (texts, labels).")
    if hasattr(data, "tolist"):  # an array or a column
        data = data.tolist()
    if isinstance(data, (list, tuple)) and not data:
        raise NearfarError("the list of texts is empty; give at least one.")
    if not isinstance(data, (list, tuple)):
        raise NearfarError(
            f"texts cannot be taken from a {type(data).__name__}; give a folder, a file or a list of texts."
        )
    named = None
    if labels and marks is not None:
        named = class_names("the list", marks, len(data), one="text")
    rows = _Rows()
    for cells in data:
        rows.add([cells] if isinstance(cells, str) or not isinstance(cells, (list, tuple)) else cells)
    ids = [str(number) for number in range(len(data))]
    return TextRows("the list", ids, named, rows.rows, rows.bad)


class _Rows:
    """Rows on their way into a source."""

    def __init__(self) -> None:
        self.rows: list[bytes] = []
        self.bad: dict[int, str] = {}

    def add(self, cells: Sequence[Any], bad: str = "") -> None:
        """Add one row, or why it cannot be used."""
        for cell in cells:
            if not isinstance(cell, (str, bytes)):
                bad = bad or ("empty" if cell is None else f"no text but {type(cell).__name__}")
        data = [
            bytes_of(cell) if isinstance(cell, str) else cell
            for cell in cells
            if isinstance(cell, (str, bytes))
        ]
        if any(BETWEEN.encode() in cell for cell in data):
            bad = bad or "no text: it holds NUL bytes"
        if bad:
            self.bad[len(self.rows)] = bad
        self.rows.append(BETWEEN.encode().join(data))

    def usable(self, row: int) -> bool:
        """Tell whether a row has a text, as far as is known before it is read."""
        return row not in self.bad and all(cell.strip() for cell in self.rows[row].split(BETWEEN.encode()))


def _split(text: str) -> tuple[Path, list[str]]:
    """Part the name of a file from those of its columns."""
    path = from_home(text)
    before, colon, after = text.rpartition(":")
    if colon and not path.exists() and from_home(before).is_file():
        return from_home(before), [name.strip() for name in after.split(",")]
    return path, []


def _open_file(path: Path, columns: list[str], labels: bool) -> Source:
    """Open lines, or columns of a table."""
    if not path.exists():
        beside = os.listdir(path.parent) if path.parent.is_dir() else []
        near = nearest(path.name, [name for name in beside[:10_000] if not name.startswith(".")])
        raise NearfarError(f"there is no {str(path)!r} here; {near}")
    suffix = path.suffix.lower()
    try:
        if suffix.lstrip(".") in SUFFIXES:
            if labels or columns:
                raise NearfarError(f"{path} has no columns; give a .csv with the columns text and label.")
            return _open_lines(path)
        if suffix == ".parquet":
            table = _parquet(path, columns, labels)
        elif suffix in (".jsonl", ".ndjson"):
            table = _jsonl(path, columns, labels)
        elif suffix in TABLES:
            table = _csv(path, columns, labels)
        else:
            raise NearfarError(
                f"{path} is no file of texts; give a folder, a .txt of one text a line, or a table "
                f"({', '.join(TABLES)})."
            )
        return _from_table(path, table, columns, labels)
    except NearfarError:
        raise
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's own errors are ValueErrors and OSErrors
        raise NearfarError(f"{path} cannot be read as texts: {reason_of(error)}.") from None


def _open_lines(path: Path) -> Source:
    """Open the lines of a file that are not blank; each has its number in its name."""
    rows, ids = _Rows(), []
    for number, line in read_lines(path):
        if line.strip():
            rows.add([line])
            ids.append(f"{path.name}:{number}")
    if not ids:
        raise NearfarError(f"{path} holds no text; write one a line.")
    return TextRows(str(path), clean(ids), None, rows.rows, rows.bad)


Cells = Iterator[tuple[int, Mapping[str, Any], str]]  # line, cells by column, why it is of no use
Table = tuple[list[str], Cells]  # names of the columns, and the rows


def _csv(path: Path, columns: list[str], labels: bool) -> Table:
    csv.field_size_limit(1 << 30)
    lines = read_rows(path, "surrogateescape", lenient=True)
    _, heading = next(lines, (0, []))
    names = [name.strip() for name in heading]
    if names:
        texts = [_named(name, names) for name in columns] or [_usual(path, names)]
        marks = [name for name in names if labels and name.lower() in _LABEL_COLUMNS]
        twice = next((name for name in (*texts, _named("id", names), *marks) if names.count(name) > 1), None)
        if twice is not None:
            raise NearfarError(f"{path} has two columns named {twice!r}; rename one.")

    def cells() -> Cells:
        for line, row in lines:
            bad = "a column is missing" if len(row) < len(names) else ""
            if any(cell.strip() for cell in row[len(names) :]):
                bad = "more cells than columns: a cell with a comma needs quotes"
            yield line, dict(zip(names, row, strict=False)), bad

    return names, cells()


def _jsonl(path: Path, columns: list[str], labels: bool) -> Table:
    names: dict[str, None] = {}
    for _, held, _ in _json_objects(path):  # up to a line by which all that is looked for was seen
        names |= dict.fromkeys(held)
        lower = {name.lower() for name in names}
        texts = all(_named(name, list(names)) in names for name in columns) if columns else lower & {*_USUAL}
        if texts and (not labels or lower & {*_LABEL_COLUMNS}):
            break
    return list(names), _json_objects(path)


def _json_objects(path: Path) -> Cells:
    for line, text in read_lines(path):
        if not text.strip():
            continue
        try:
            held = json.loads(text)
        except (ValueError, RecursionError):
            yield line, {}, "no JSON"
            continue
        yield (line, held, "") if isinstance(held, dict) else (line, {}, "no JSON object")


def _parquet(path: Path, columns: list[str], labels: bool) -> Table:
    import pyarrow.parquet as parquet

    names = list(parquet.read_schema(plain_path(path)).names)
    wanted = [*([_named(name, names) for name in columns] or [_usual(path, names)]), _named("id", names)]
    kept = [name for name in names if name in wanted or (labels and name.lower() in _LABEL_COLUMNS)]

    def cells() -> Cells:
        line = 0
        for batch in parquet.ParquetFile(plain_path(path)).iter_batches(columns=kept):
            for row in batch.to_pylist():
                line += 1
                yield line, row, ""

    return names, cells()


def _named(name: str, names: Sequence[str]) -> str:
    """Give a column's name as the table writes it: as it stands, or in other letters, large or small."""
    other = [one for one in names if one.strip().lower() == name.lower()]
    return other[0] if name not in names and len(other) == 1 else name


def _usual(path: Path, names: Sequence[str]) -> str:
    """Find the column of texts where none is named."""
    lower = {name.lower(): name for name in names}
    found = next((lower[word] for word in _USUAL if word in lower), None)
    if found is None and len(names) == 1:
        found = names[0]
        if not _NAME.fullmatch(found):  # or the first text of a file without a heading would be lost
            raise NearfarError(
                f"{path} begins with {found[:40]!r}, which names no column; write the names of its columns "
                "above the first row, parted by commas, semicolons or tabs, such as 'text'."
            )
    if found is None:
        shown = ", ".join(repr(name) for name in list(names)[:6]) or "none"
        raise NearfarError(
            f"{path} has no column 'text' (its columns: {shown}); name the one of the texts: {path}:COLUMN"
        )
    return found


def _from_table(path: Path, table: Table, columns: list[str], labels: bool) -> Source:
    """Take the columns wanted of a table."""
    names, lines = table
    ident, label = _named("id", names), None
    if names:
        columns = [_named(name, names) for name in columns] or [_usual(path, names)]
        unknown = next((name for name in columns if name not in names), None)
        if unknown is not None:
            raise NearfarError(f"{path} has no column {unknown!r}; {nearest(unknown, names)}")
        if labels:
            label = next((name for name in names if name.lower() in _LABEL_COLUMNS), None)
            if label is None:
                raise NearfarError(f"{path} has no column of labels; call it 'label'.")
    rows, ids, marks = _Rows(), [], []
    for line, cells, bad in lines:
        lacking = next((name for name in columns if name not in cells), None)
        bad = bad or (f"no {lacking}" if lacking is not None else "")
        rows.add([cells.get(name) for name in columns] if not bad else [], bad)
        own = cells.get(ident)
        ids.append(str(own) if own not in (None, "") else f"{path.name}:{line}")
        marks.append(cells.get(label) if label else None)
    if not ids:
        raise NearfarError(f"{path} holds no row of texts; write one a row.")
    twice = next((name for name, count in Counter(ids).items() if count > 1), None)
    if twice is not None:
        raise NearfarError(f"{path} names two rows {twice!r}; make the column id unique, or leave it out.")
    named = None
    if labels:
        known = next((mark for mark in marks if mark not in (None, "")), None)
        # A row that is set aside needs no label; one of the others' keeps it from being asked for.
        given = [
            known if mark in (None, "") and not rows.usable(at) else mark for at, mark in enumerate(marks)
        ]
        named = class_names(str(path), given, len(ids), one="text", ids=ids)
    return TextRows(str(path), clean(ids), named, rows.rows, rows.bad)
