"""Reads images that are kept as bytes in a column of Parquet files, as data sets on the Hugging Face hub are.

Opening reads the end of each file alone, which says where its groups of rows are. An image is read with its
group; a few groups stay in memory for those next to it.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..core.errors import BadImage, NearfarError, reason_of
from ..core.progress import Bar
from ..core.threads import map_in_order
from .image_columns import bytes_of, class_words, image_column, label_column
from .recent import Recent
from .shards import expand
from .source import Source, class_names, clean, file_stamp

GROUPS = 4  # groups of rows that stay in memory
Open = Callable[[], AbstractContextManager[IO[bytes]]]


@dataclass(frozen=True)
class ParquetFile:
    """One file: its name, what changes with its content, what opens it, and its footer once read."""

    name: str
    mark: str
    open: Open
    footer: Any = None


@dataclass(frozen=True)
class ParquetImages(Source):
    """Images in Parquet files.

    `starts` (g + 1,) is the first row of each group of all files; `place` (g, 2) its file and number there.
    """

    files: Sequence[ParquetFile]
    column: str
    starts: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]
    kind: ClassVar[str] = "parquet"

    def __post_init__(self) -> None:
        """Prepare to hold groups."""
        object.__setattr__(self, "_groups", Recent(self._load, GROUPS))

    def _load(self, group: int) -> Any:
        import pyarrow.parquet as parquet

        file, number = self.files[self.place[group, 0]], int(self.place[group, 1])
        try:
            with file.open() as opened:
                read = parquet.ParquetFile(opened, metadata=file.footer)
                return read.read_row_group(number, columns=[self.column]).column(0)
        except (OSError, ValueError) as error:
            raise BadImage(f"unreadable: {reason_of(error).splitlines()[0].lower()}") from None

    def read(self, index: int) -> bytes:
        """Fetch one image's bytes."""
        group = int(np.searchsorted(self.starts, index, side="right")) - 1
        groups: Recent[int, Any] = self._groups  # type: ignore[attr-defined]
        return bytes_of(groups.get(group)[index - int(self.starts[group])].as_py())

    def stamp(self, index: int) -> str:
        """Say what changes with the file, and the image's row."""
        group = int(np.searchsorted(self.starts, index, side="right")) - 1
        return f"{self.files[self.place[group, 0]].mark}:{index - int(self.starts[group])}:{group}"


@dataclass(frozen=True)
class RemoteParquetImages(ParquetImages):
    """Images in Parquet files at addresses."""

    kind: ClassVar[str] = "remote parquet"
    waiting: ClassVar[int] = 32


def open_parquet(pattern: str, *, labels: bool) -> ParquetImages:
    """Open Parquet files with a column of images.

    Args:
        pattern: a .parquet file, a pattern such as `x/*.parquet`, or a range such as `x-{000..003}.parquet`.
        labels: whether labels are wanted.

    Returns:
        The source; an id is file/row.

    Raises:
        NearfarError: no file is there, one cannot be read, or there are no images or labels.
    """
    names: list[str] = []
    for name in expand(pattern):
        names += [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
    if not names:
        raise NearfarError(f"no file matches {pattern!r}; give .parquet files, such as 'x/*.parquet'.")
    base = os.path.commonpath([os.path.dirname(name) or "." for name in names])
    files = [
        ParquetFile(Path(os.path.relpath(name, base)).as_posix(), file_stamp(name), _opener(name))
        for name in names
    ]
    return joined(pattern, files, labels, ParquetImages)


def _opener(name: str) -> Open:
    return lambda: open(name, "rb")


def joined(
    pattern: str, files: Sequence[ParquetFile], labels: bool, kind: type[ParquetImages]
) -> ParquetImages:
    """Read the ends of some files, and put their rows in one list.

    Args:
        pattern: what errors call them.
        files: in order.
        labels: whether labels are wanted.
        kind: of the source.

    Raises:
        NearfarError: a file cannot be read, or there are no images or labels.
    """
    found: list[tuple[ParquetFile, Any, list[Any]]] = []
    looked = map_in_order(lambda file: _look(file, labels), files, threads=kind.waiting, ahead=64)
    with Bar("reading footers", len(files), "files") as bar, closing(looked):
        for one in looked:
            found.append(one)
            bar.advance(1)
    column = image_column(found[0][1], f"{pattern}")
    ids, marks, sizes, place = [], [], [], []
    for number, (file, schema, words) in enumerate(found):
        if image_column(schema, file.name) != column:
            raise NearfarError(f"{file.name} has no column {column!r} as the first of {pattern!r} has.")
        ids += [f"{file.name}/{row}" for row in range(file.footer.num_rows)]
        marks += words
        for group in range(file.footer.num_row_groups):
            place.append((number, group))
            sizes.append(file.footer.row_group(group).num_rows)
    if not ids:
        raise NearfarError(f"there is no row in {pattern!r}; give Parquet files that hold images.")
    kind_of = found[0][1].field(column).type
    leaf = f"{column}.bytes" if hasattr(kind_of, "get_field_index") and kind_of.num_fields else column
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    named = class_names(pattern, marks, len(ids), ids=ids) if labels else None
    held = [file for file, _, _ in found]
    return kind(pattern, clean(ids), named, held, leaf, starts, np.array(place, np.int64))


def _look(file: ParquetFile, labels: bool) -> tuple[ParquetFile, Any, list[Any]]:
    """Read a file's end and, if they are wanted, its labels."""
    import pyarrow.parquet as parquet

    try:
        with file.open() as opened:
            read = parquet.ParquetFile(opened)
            schema, words = read.schema_arrow, []
            if labels:
                column = label_column(schema, file.name)
                words = class_words(schema, column, read.read(columns=[column]).column(0).to_pylist())
            return ParquetFile(file.name, file.mark, file.open, read.metadata), schema, words
    except (OSError, ValueError, BadImage) as error:
        reason = reason_of(error).splitlines()[0].removeprefix("unreadable: ")
        raise NearfarError(f"{file.name} cannot be read as Parquet ({reason}); fetch it again.") from None
