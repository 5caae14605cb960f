"""Reads images out of a Lance data set, on a disk or in an object store: any row by itself, in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..core.errors import BadImage, NearfarError
from ..core.plain_path import plain_path
from ..core.redact import redact_text
from .image_columns import bytes_of, class_words, image_column, is_blob, label_column
from .object_store import is_address
from .source import Source, class_names, clean

_IDS = ("id", "path", "file", "filename", "name", "key")


@dataclass(frozen=True)
class LanceImages(Source):
    """Images in a column of one version of a Lance data set; `mark` changes with the version."""

    table: Any
    column: str
    blob: bool
    mark: str
    kind: ClassVar[str] = "lance"

    def read(self, index: int) -> bytes:
        """Fetch one image's bytes."""
        try:
            row = self.table.take_offsets([index]).select([self.column]).to_arrow()
            if self.blob:
                return bytes_of(self.table.fetch_blobs(self.column, row)[0].as_py())
        except (OSError, RuntimeError, ValueError) as error:
            raise BadImage(f"unreadable: {_reason(error)}") from None
        return bytes_of(row.column(0)[0].as_py())

    def stamp(self, index: int) -> str:
        """Say the version of the data set, and the row."""
        return f"{self.mark}:{index}"


@dataclass(frozen=True)
class RemoteLanceImages(LanceImages):
    """Images in a Lance data set at an address."""

    kind: ClassVar[str] = "remote lance"
    waiting: ClassVar[int] = 32


def _reason(error: Exception) -> str:
    """Say in a line why Lance failed, without secrets."""
    return redact_text((str(error) or type(error).__name__).splitlines()[0])[:200].rstrip(".").lower()


def open_lance(address: str, *, labels: bool, remote: bool = False) -> LanceImages:
    """Open a Lance data set with a column of encoded images.

    Args:
        address: of its folder, which ends in .lance.
        labels: whether to read the column of labels.
        remote: whether it is in an object store.

    Returns:
        The source, in the order of the rows; ids are a column such as id or path, else the rows' numbers.

    Raises:
        NearfarError: it cannot be opened, has no images, or no labels.
    """
    try:
        import lancedb
    except ModuleNotFoundError:
        raise NearfarError("a Lance data set needs an extra: pip install 'nearfar[store]'") from None
    above, _, name = address.rstrip("/").rpartition("/")
    try:
        if not is_address(address):
            above = plain_path(above or ("/" if address.startswith("/") else "."))
        table = lancedb.connect(above).open_table(name[: -len(".lance")])
        version = table.version
        table.checkout(version)
        schema, count = table.schema, len(table)
        made = next(one["timestamp"] for one in table.list_versions() if one["version"] == version)
    except (OSError, RuntimeError, ValueError, StopIteration) as error:
        raise NearfarError(f"{address} cannot be opened as a Lance data set ({_reason(error)}).") from None
    if not count:
        raise NearfarError(f"{address} has no rows; give a data set that holds images.")
    column = image_column(schema, address)
    ids = _ids(table, schema, count)
    marks: Sequence[str] | None = None
    if labels:
        at = label_column(schema, address)
        marks = class_names(address, class_words(schema, at, _values(table, at)), count)
    mark = hashlib.blake2b(f"{version}:{made}".encode(), digest_size=8).hexdigest()
    kind = RemoteLanceImages if remote else LanceImages
    named = None if marks is None else tuple(marks)
    return kind(address, clean(ids), named, table, column, is_blob(schema.field(column)), mark)


def _ids(table: Any, schema: Any, count: int) -> list[str]:
    """Name the rows by a column of different words, else by their numbers."""
    import pyarrow as pa

    for word in _IDS:
        if word in schema.names and pa.types.is_string(schema.field(word).type):
            found = _values(table, word)
            if all(found) and len({*found}) == count:
                return found
    return [str(row) for row in range(count)]


def _values(table: Any, column: str) -> list[Any]:
    """Read a column, in the order of the rows."""
    return list(table.search().select([column]).to_arrow()[column].to_pylist())
