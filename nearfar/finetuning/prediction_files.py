"""Keeps the parts of a prediction while it runs, and joins them into one CSV, JSON or Parquet file."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..core.atomic import atomic_write, check_place, refuse_address
from ..core.entries import entries
from ..core.errors import NearfarError
from ..core.shapes import COUNT, check_shape, loads
from ..core.text import spreadsheet_cell

SUFFIXES = (".csv", ".json", ".parquet")
MARK = ".nearfar-predictions"  # a file in a folder of masks or of YOLO's text that a prediction made
Document = Callable[[Iterator[list[Any]]], Any]


@dataclass(frozen=True)
class Part:
    """What came of one chunk of images: rows of values, the path first; and images that cannot be used."""

    images: int
    rows: list[list[Any]]
    bad: list[list[str]]  # id and reason
    columns: dict[str, dict[str, Any]]  # of the store: name to id to value


def check_name(path: Path) -> None:
    """Refuse a file name that cannot be written to, before any work is done.

    Args:
        path: where predictions are to go.

    Raises:
        NearfarError: the suffix is none of `SUFFIXES`, or a folder stands there, or its folder is not there.
    """
    refuse_address(path)
    if path.suffix.lower() not in SUFFIXES:
        raise NearfarError(
            f"--out {path} ends in {path.suffix or 'no suffix'}; name a .csv, .json or .parquet file."
        )
    if path.is_dir():
        raise NearfarError(f"--out {path} is a folder; name a file in it, such as {path / 'found.csv'}.")
    check_place(path)


class Parts:
    """Finished chunks in a folder next to the output; another job's leftovers are cleared away."""

    def __init__(self, folder: Path, key: str, *, anew: bool = False) -> None:
        """Open the folder for a job.

        Args:
            folder: it is there, and this process alone uses it.
            key: names the job by all that its rows depend on.
            anew: whether what was written beside the parts is gone, so that nothing can be resumed.
        """
        self.folder, note = folder, folder / "key.json"
        try:
            same = not anew and loads(note.read_text()) == {"key": key}
        except (OSError, ValueError):
            same = False
        if not same:
            self.clear()
            with atomic_write(note) as file:
                file.write(json.dumps({"key": key}).encode())

    def clear(self) -> None:
        """Remove the parts and the note of their job, and nothing else."""
        for pattern in ("[0-9]" * 10 + ".json", "[0-9]" * 10 + ".json.*.part", "key.json", "key.json.*.part"):
            for old in self.folder.glob(pattern):
                old.unlink(missing_ok=True)

    def _path(self, low: int) -> Path:
        return self.folder / f"{low:010d}.json"

    def has(self, low: int) -> bool:
        """Tell whether a part is there and whole; `atomic_write` leaves no half."""
        return self._path(low).exists()

    def get(self, low: int) -> Part:
        """Read a part.

        Raises:
            NearfarError: it was damaged.
        """
        try:
            found = loads(self._path(low).read_bytes())
            columns = {str: {str: object}}
            check_shape(found, {"images": COUNT, "rows": [[object]], "bad": [[str]], "columns": columns}, "")
            return Part(found["images"], found["rows"], found["bad"], found["columns"])
        except (OSError, ValueError, NearfarError) as error:
            self._path(low).unlink(missing_ok=True)
            raise NearfarError(
                f"{self._path(low)} is damaged ({error}); run the same command again, which makes it anew."
            ) from None

    def put(self, low: int, part: Part) -> None:
        """Keep a part."""
        with atomic_write(self._path(low)) as file:
            file.write(json.dumps(asdict(part)).encode())


def write(path: Path, columns: Mapping[str, str], parts: Iterator[Part], document: Document | None) -> None:
    """Join parts into one file, a part in memory at a time; whole or not at all.

    Args:
        path: ends in one of `SUFFIXES`.
        columns: name to kind, the path first.
        parts: in order.
        document: makes of all rows what a .json holds; None for a list of rows by the columns' names.
    """
    suffix = path.suffix.lower()
    with atomic_write(path) as file:
        if suffix == ".csv":
            _csv(file, columns, parts)
        elif suffix == ".json" and document is not None:
            made = document(row for part in parts for row in part.rows)
            file.write(json.dumps(made, ensure_ascii=False).encode())
        elif suffix == ".json":
            _json(file, columns, parts)
        else:
            _parquet(file, columns, parts)


def _csv(file: IO[bytes], columns: Mapping[str, str], parts: Iterator[Part]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(columns)
    for part in parts:
        rows.writerows([spreadsheet_cell(value) for value in row] for row in part.rows)
    text.detach()


def _json(file: IO[bytes], columns: Mapping[str, str], parts: Iterator[Part]) -> None:
    before = "[\n"
    for part in parts:
        for row in part.rows:
            plain = json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False)
            file.write(f"{before}{plain}".encode())
            before = ",\n"
    file.write(b"[]\n" if before == "[\n" else b"\n]\n")


def _parquet(file: IO[bytes], columns: Mapping[str, str], parts: Iterator[Part]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    types = {"text": pa.string(), "number": pa.float64(), "flag": pa.bool_()}
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    with parquet.ParquetWriter(file, schema) as writer:
        for part in parts:
            cells = list(zip(*part.rows, strict=True)) or [() for _ in columns]
            arrays = [pa.array(values, field.type) for values, field in zip(cells, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def file_names(ids: Sequence[str]) -> list[str]:
    """Name the files of each image's answer, without their endings: as the image, below its folders.

    Images that would have one name, such as a.jpg and a.png, keep their endings; of ids that lead out of
    the folder, such as ../a.jpg and a.jpg, the later ones get a number.

    Args:
        ids: of all images.

    Returns:
        A path each, without `..`; no two are the same, whatever the case of letters.
    """
    inner = [
        "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")) or "_"
        for name in ids
    ]
    plain = [str(PurePosixPath(name).with_suffix("")) for name in inner]
    count = Counter(name.casefold() for name in plain)
    names = [
        short if count[short.casefold()] == 1 else name for short, name in zip(plain, inner, strict=True)
    ]
    taken: set[str] = set()
    for at, name in enumerate(names):
        number = 1
        while names[at].casefold() in taken:
            number += 1
            names[at] = f"{name}_{number}"
        taken.add(names[at].casefold())
    return names


def check_folder(folder: Path) -> None:
    """Refuse to write files of answers among others, such as images or masks that people drew.

    Args:
        folder: where they would go.

    Raises:
        NearfarError: it is a file, or holds what no prediction wrote.
    """
    if not os.path.lexists(folder):
        return
    what = "is a file" if not folder.is_dir() else ""
    if not what and not (folder / MARK).exists():
        held = entries(folder)
        what = f"holds {held[0]!r} and was not made by nearfar predict" if held else ""
    if what:
        raise NearfarError(
            f"the files of single images would go into {folder}, which {what}; name another file with --out."
        )


def take_folder(folder: Path) -> bool:
    """Make a folder for files of answers, and mark it as one.

    Args:
        folder: one that `check_folder` lets pass.

    Returns:
        Whether it was there, with files of earlier chunks.
    """
    there = (folder / MARK).exists()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
    return there


def put_files(folder: Path, name: str, files: Mapping[str, bytes]) -> None:
    """Write files of one image's answer.

    Args:
        folder: where to; made if missing.
        name: as `file_names` gives it.
        files: ending to content.
    """
    for ending, content in files.items():
        path = folder / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(content)


def put_named(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files that stand beside those of all answers.

    Args:
        folder: where to; made if missing, and there is a file.
        files: name to content.
    """
    for name, content in files.items():
        put_files(folder, name, {"": content})


def remove(folder: Path) -> None:
    """Remove the folder of parts, unless something else is in it."""
    with suppress(OSError):
        (folder / ".lock").unlink(missing_ok=True)
        folder.rmdir()
