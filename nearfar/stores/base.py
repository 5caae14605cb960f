"""What every vector store can do, and the `StoreInfo` that says whose vectors it holds.

A store holds the vectors of one encoder. Each row is an image: an id, its vector, a thumbnail, the fixed
columns below and any columns its owner adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..core.errors import NearfarError
from ..core.memory import available
from ..core.shapes import check_shape, loads
from ..data.modalities import IMAGES, modality

Vectors = npt.NDArray[np.float32]
Value = str | float | bool | None
# What every store has a column for, with its kind; others come with the kind of data.
FIXED = {
    "id": "text",
    "path": "text",
    "label": "text",
    "digest": "text",
    "bytes": "number",
}
THUMBNAIL = 96  # pixels of a thumbnail's longer side, at most
EXACT = 300_000  # vectors up to which all are compared
OF_NUMBER, OF_ROW = 22, 1_800  # bytes of memory while all vectors are compared: benchmarks/scale.md


@dataclass(frozen=True)
class StoreInfo:
    """Says whose vectors a store holds.

    Attributes:
        dim: numbers in a vector.
        encoder: the encoder's fingerprint, or "" where it is unknown.
        run: the run's folder, when the store was made.
        preprocess: how an image becomes the encoder's input, in plain values.
        thumbnail: pixels of a thumbnail's longer side, at most.
        modality: the kind of data, as `data.modality.MODALITIES` names it.
        engine: what computed the vectors, as `embedding.engines.ENGINES` names it.
    """

    dim: int
    encoder: str = ""
    run: str = ""
    preprocess: dict[str, Any] = field(default_factory=dict)
    thumbnail: int = THUMBNAIL
    modality: str = IMAGES
    engine: str = "torch"

    @property
    def noun(self) -> str:
        """The word for what it holds: "images", "clips", "texts"."""
        return modality(self.modality).noun

    @property
    def one(self) -> str:
        """The word for one of these."""
        return modality(self.modality).one

    @property
    def fixed(self) -> dict[str, str]:
        """Name the columns that such a store has from the start, with their kinds; numbers are whole."""
        return {**FIXED, **modality(self.modality).columns}

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Say which values of images of more than 8 bits are black and white."""
        low, high = (self.preprocess.get(end) for end in ("low", "high"))
        return None if low is None or high is None else (low, high)

    def to_json(self) -> dict[str, Any]:
        """Describe it in plain values."""
        return asdict(self)

    @staticmethod
    def read(text: str | bytes, address: str) -> StoreInfo:
        """Read what a store says of itself.

        Args:
            text: JSON, as `to_json` gives it.
            address: what errors call the store.

        Raises:
            NearfarError: it is damaged, or of a later version.
        """
        try:
            found = loads(text)
        except ValueError:
            found = None
        shape = {
            "dim": range(1, 1 << 20),
            "encoder?": str,
            "run?": str,
            "preprocess?": {str: object},
            "thumbnail?": range(1, 1 << 16),
            "modality?": str,
            "engine?": str,
        }
        check_shape(found, shape, f"{address}: ")
        later = next((name for name in found if name not in StoreInfo.__dataclass_fields__), None)
        if later is not None:
            raise NearfarError(
                f"{address} was made by a later nearfar, which also keeps {later!r}; install that one."
            )
        modality(found.get("modality", IMAGES))
        return StoreInfo(**found)

    def check_compatible(self, other: StoreInfo, address: str) -> None:
        """Refuse vectors that another encoder, or the same on other pixels, has made.

        Args:
            other: what is known of the vectors that are to come in.
            address: what errors call the store.

        Raises:
            NearfarError: they do not belong here.
        """
        if other.dim != self.dim:
            raise NearfarError(
                f"{address} holds vectors of {self.dim} numbers, these have {other.dim}; "
                "name another store with --store."
            )
        if (other.encoder, other.preprocess) != (self.encoder, self.preprocess):
            raise NearfarError(
                f"{address} holds the vectors of another encoder ({self.run or 'unknown'}, not "
                f"{other.run or 'unknown'}), and the two cannot be compared; name another store with --store."
            )
        if other.engine != self.engine:
            raise NearfarError(
                f"{address} holds vectors that {self.engine} computed, and {other.engine} gives others; "
                f"add --engine {self.engine}, or name another store with --store."
            )


class VectorStore(Protocol):
    """One encoder's vectors, with thumbnails, paths, labels and columns.

    Orders: without `ids`, rows come sorted by id; with `ids`, in the order of those. A `where` is a
    condition such as "site = 'A' and width >= 64"; rows that fail it are left out. Another process may
    change the store at any time: each call sees the newest whole state.
    """

    address: str
    info: StoreInfo

    @property
    def version(self) -> int:
        """A number that rises with every change."""

    @property
    def columns(self) -> dict[str, str]:
        """Every column's kind by its name: "text", "number" or "flag"; those of `card.fixed` come first."""

    def __len__(self) -> int:
        """Count the rows."""

    def ids(self, where: str | None = None) -> list[str]:
        """Name the rows, sorted."""

    def vectors(
        self, where: str | None = None, ids: Sequence[str] | None = None
    ) -> tuple[list[str], Vectors]:
        """Read vectors.

        Args:
            where: a condition.
            ids: the rows wanted.

        Returns:
            n ids, and (n, d) float32 as the encoder gave them, not scaled.

        Raises:
            NearfarError: the condition makes no sense, or an id is not there.
        """

    def rows(
        self,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        ids: Sequence[str] | None = None,
    ) -> Any:
        """Read columns: a `pyarrow.Table` without vectors and thumbnails.

        Args:
            columns: those wanted, in this order; default all.
            where: a condition.
            ids: the rows wanted.

        Raises:
            NearfarError: a column or an id is not there, or the condition makes no sense.
        """

    def thumbnails(self, ids: Sequence[str]) -> list[bytes]:
        """Read thumbnails, as JPEG files; b"" for a row without one.

        Raises:
            NearfarError: an id is not there.
        """

    def upsert(self, table: Any) -> None:
        """Insert rows, or replace those whose ids are there already; each of them whole, or not at all.

        Args:
            table: a `pyarrow.Table` with id and vector, and any of thumbnail, the fixed columns and others;
                a new column is added. Columns it lacks keep their values in rows that exist.

        Raises:
            NearfarError: an id is missing or twice there, or a vector or column does not fit.
        """

    def update(self, column: str, values: Mapping[str, Value]) -> None:
        """Set one column of some rows; a column that is new is added, of the kind of its values.

        Args:
            column: its name; "label" and all but the other fixed ones.
            values: id to value; None, or NaN, empties it. Ids that are not there are passed over.

        Raises:
            NearfarError: the name or a value does not fit.
        """

    def update_columns(self, values: Mapping[str, Mapping[str, Value]]) -> None:
        """Set several columns of the same rows at once: all of it is there in the end, or nothing.

        Args:
            values: column to id to value, as `update` takes them; each column names the same ids.

        Raises:
            NearfarError: a name or a value does not fit.
        """

    def check_writable(self) -> None:
        """Refuse a store that cannot be written, before the work that is to fill a column.

        Raises:
            NearfarError: it is read-only.
        """

    def notes(self, column: str) -> dict[str, Any]:
        """Read what was noted about a column; empty where nothing was, or there is no such column."""

    def set_notes(self, column: str, notes: Mapping[str, Any]) -> None:
        """Note something about a column, in plain values, in place of earlier notes.

        Raises:
            NearfarError: there is no such column.
        """

    def drop(self, columns: Sequence[str]) -> None:
        """Remove columns and all that they hold.

        Args:
            columns: their names; none of those that every store has.

        Raises:
            NearfarError: there is no such column, or the store needs it.
        """

    def delete(self, ids: Sequence[str] | None = None, where: str | None = None) -> int:
        """Delete the rows that are among `ids` and meet the condition; one of the two has to be given.

        Returns:
            How many there were.
        """

    def compact(self, spare: bool = False) -> None:
        """Put what was written in pieces together, and reclaim the space of deleted rows and old versions.

        Args:
            spare: leave the versions of the last hour, which others may be reading.
        """

    def nearest(
        self, queries: Vectors, k: int, where: str | None = None, exact: bool | None = None
    ) -> tuple[list[list[str]], Vectors]:
        """Find the rows most similar to each query by cosine, most similar first.

        Args:
            queries: (q, d) floats of any length.
            k: how many; fewer come where fewer rows meet the condition.
            where: a condition.
            exact: compare all rows, or use an index; default by number of rows (`EXACT`).

        Returns:
            For each query, its ids; and (q, k) cosines in float32. Where all are compared, equals come sorted
            by id, and of more than are wanted the first.

        Raises:
            NearfarError: the condition makes no sense, or a query's width or k is wrong.
        """


def check_room(store: VectorStore, where: str | None, count: int | None = None) -> None:
    """Refuse to read so many vectors at once that memory would not hold what is done with them.

    Args:
        store: the store.
        where: the condition on the rows that are wanted.
        count: how many these are, if that is known.

    Raises:
        NearfarError: less memory is free than they would take.
    """
    free, each = available(), OF_NUMBER * store.info.dim + OF_ROW
    if len(store) * each <= free:
        return
    if count is None:
        count = len(store) if where is None else len(store.ids(where))
    if count * each > free:
        needed, left = (f"{size / 1e9:,.1f} GB" for size in (count * each, free))
        raise NearfarError(
            f"{store.address}: {count:,} vectors of {store.info.dim} numbers take about {needed} of memory "
            f"while all are compared, and {left} are free; take a part of them by a condition, such as "
            "--where \"id like '%7.jpg'\", or a machine with more."
        )
