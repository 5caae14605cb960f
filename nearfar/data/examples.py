"""What a kind of data need not write itself: examples in memory, and what is said of a collection of them."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from ..core.errors import BadImage, NearfarError
from .dataset import Dataset, class_numbers, equal_rows
from .inspection import Inspection
from .modalities import modality_of
from .reading import Rejected, check_of, each, too_many
from .source import Source


class Kind(Protocol):
    """What is needed here of a modality: how its examples are read and put together."""

    name: ClassVar[str]

    def fetch(self, source: Source, row: int, *, limit: int) -> tuple[Any, bytes]:
        """See `Modality.fetch`."""

    def decode(self, data: Any, preprocess: Any, *, limit: int) -> Any:
        """See `Modality.decode`."""

    def collate(self, values: Sequence[Any]) -> Any:
        """See `Modality.collate`."""


@dataclass(frozen=True)
class InMemoryDataset(Dataset):
    """Decoded examples of any kind, in a list.

    `digests` (n, 16) uint8 are those of the examples as stored; `rejected` are the rejected examples.
    """

    kind: Kind
    values: tuple[Any, ...]
    digests: npt.NDArray[np.uint8]
    rejected: tuple[Rejected, ...]

    @property
    def modality(self) -> str:
        """Name the kind of data."""
        return self.kind.name

    def __getitem__(self, row: int) -> Any:
        """Give one example, decoded."""
        return self.values[row]

    def gather(self, rows: npt.NDArray[np.int64]) -> Any:
        """Give some examples as a block."""
        return self.kind.collate([self.values[row] for row in rows.tolist()])


def fetch(source: Source, row: int) -> tuple[Any, bytes]:
    """Fetch one example whole: a file's bytes, or the array that a source holds.

    Args:
        source: the examples.
        row: which one.

    Returns:
        Bytes or an array, and a digest of 16 bytes of it.

    Raises:
        BadImage: its file cannot be read.
    """
    data: Any = source.read(row)
    if isinstance(data, Path):
        try:
            data = data.read_bytes()
        except OSError as error:
            raise BadImage(f"unreadable: {(error.strerror or str(error)).lower()}") from None
    if isinstance(data, np.ndarray):
        content = f"{data.dtype} {data.shape}".encode() + data.tobytes()
    else:
        content = data
    return data, hashlib.blake2b(content, digest_size=16).digest()


@dataclass(frozen=True)
class _Read:
    """Every example of a source, or why it cannot be used, by row."""

    values: dict[int, Any]
    digests: dict[int, bytes]
    sizes: dict[int, int]
    reasons: dict[int, str]


def _read(
    kind: Kind, source: Source, preprocess: Any, *, limit: int, threads: int, max_bad: float, what: str
) -> _Read:
    """Fetch and decode every example, in threads."""
    found, lock = _Read({}, {}, {}, {}), threading.Lock()

    def work(row: int) -> None:
        try:
            data, digest = kind.fetch(source, row, limit=limit)
            value = kind.decode(data, preprocess, limit=limit).value
        except BadImage as error:
            with lock:
                found.reasons[row] = str(error)
                too_many(source, _rejected(source, found), len(source), max_bad)
            return
        with lock:
            found.values[row], found.digests[row] = value, digest
            found.sizes[row] = data.nbytes if isinstance(data, np.ndarray) else len(data)

    each(len(source), work, threads=threads, what=what, noun=modality_of(source).noun)
    return found


def _rejected(source: Source, found: _Read) -> tuple[Rejected, ...]:
    return tuple(Rejected(source.ids[row], found.reasons[row]) for row in sorted(found.reasons))


def _rows_of(digests: list[bytes]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)


def load(
    kind: Kind, source: Source, preprocess: Any, *, limit: int, max_bad: float, threads: int
) -> InMemoryDataset:
    """Decode a collection into memory; arguments, result and errors as `Modality.load` has them."""
    found = _read(kind, source, preprocess, limit=limit, threads=threads, max_bad=max_bad, what="reading")
    rows, rejected = sorted(found.values), _rejected(source, found)
    if not rows:
        reason = f" ({rejected[0].id}: {rejected[0].reason})" if rejected else ""
        raise NearfarError(f"{source.name} holds no usable example{reason}; {check_of(source)}")
    ids, digests = [source.ids[row] for row in rows], [found.digests[row] for row in rows]
    mark = hashlib.blake2b("\0".join([kind.name, *ids, "", ""]).encode(), digest_size=16)
    mark.update(b"".join(digests))
    labels, classes = class_numbers(source.labels and [source.labels[row] for row in rows])
    return InMemoryDataset(
        ids=ids,
        labels=labels,
        classes=classes,
        fingerprint=mark.hexdigest(),
        resident=True,
        kind=kind,
        values=tuple(found.values[row] for row in rows),
        digests=_rows_of(digests),
        rejected=rejected,
    )


def describe(kind: Kind, source: Source, *, limit: int, threads: int) -> Inspection:
    """Say what is in a collection; arguments and result as `Modality.describe` has them."""
    found = _read(kind, source, None, limit=limit, threads=threads, max_bad=1.0, what="checking")
    rows = sorted(found.values)
    ids = [source.ids[row] for row in rows]
    groups = equal_rows(_rows_of([found.digests[row] for row in rows]))
    return Inspection(
        name=source.name,
        count=len(source),
        decoded=len(source),
        usable=len(rows),
        rejected=_rejected(source, found),
        short=None,
        long=None,
        formats={},
        modes={},
        bytes=sum(found.sizes.values()),
        duplicates=tuple(tuple(ids[at] for at in group) for group in groups),
        labels=dict(Counter(source.labels).most_common()) if source.labels else None,
        modality=kind.name,
    )
