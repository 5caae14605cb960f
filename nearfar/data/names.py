"""Many texts, such as the paths of a collection, in one buffer instead of as many Python objects."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, overload

import numpy as np
import numpy.typing as npt

_SOME = 8192  # texts that are Python's at a time


class _Texts(Sequence[str]):
    """Texts that are read row by row, and compared with any sequence of texts."""

    @abstractmethod
    def read(self, row: int) -> str:
        """Read the text of a row, counted from 0."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Read one text, or a list of some."""
        rows = range(len(self))[index]
        return self.read(rows) if isinstance(rows, int) else self.several(rows)

    def several(self, rows: range) -> list[str]:
        """Read the texts of some rows, in their order."""
        return [self.read(row) for row in rows]

    def __eq__(self, other: object) -> bool:
        """Compare with any sequence of texts."""
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Show the first few."""
        more = ", ..." if len(self) > 3 else ""
        return f"{type(self).__name__}({len(self):,}: {', '.join(map(repr, self[:3]))}{more})"


class Names(_Texts):
    """Texts that are read like a list's and cost 8 bytes each besides their own.

    `joined` is the texts in UTF-8 without anything between them, `ends` (n,) int64 where each of them ends.
    Bytes that are no UTF-8 become surrogates, as in names that Python's `os` gives.
    """

    def __init__(self, joined: bytes | bytearray, ends: npt.NDArray[np.int64]) -> None:
        """Take over a buffer.

        Args:
            joined: the texts.
            ends: (n,) where each ends, in bytes.
        """
        self.joined, self.ends = joined, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Names:
        """Pack texts.

        Args:
            texts: gone through once, some thousands at a time.
        """
        joined, ends, start = bytearray(), [np.zeros(0, dtype=np.int64)], 0
        left = iter(texts)
        while some := [text.encode("utf-8", "surrogateescape") for text in islice(left, _SOME)]:
            joined += b"".join(some)
            ends.append(start + np.cumsum([len(text) for text in some], dtype=np.int64))
            start = len(joined)
        return cls(joined, np.concatenate(ends))

    def __len__(self) -> int:
        """Count the texts."""
        return len(self.ends)

    def read(self, row: int) -> str:
        """Read the text of a row."""
        start = int(self.ends[row - 1]) if row else 0
        return self.joined[start : int(self.ends[row])].decode("utf-8", "surrogateescape")

    def several(self, rows: range) -> list[str]:
        """Read the texts of some rows, in their order; neighbours are read together."""
        if rows.step != 1 or not rows:
            return super().several(rows)
        ends = self.ends[rows.start : rows.stop].tolist()
        starts = [int(self.ends[rows.start - 1]) if rows.start else 0, *ends[:-1]]
        return [
            self.joined[start:end].decode("utf-8", "surrogateescape")
            for start, end in zip(starts, ends, strict=True)
        ]

    def __iter__(self) -> Iterator[str]:
        """Read all, some at a time."""
        for at in range(0, len(self), _SOME):
            yield from self.several(range(at, min(at + _SOME, len(self))))

    def first_with(self, character: str) -> str | None:
        """Read the first text that holds an ASCII character."""
        place = self.joined.find(character.encode("ascii"))
        return None if place < 0 else self.read(int(np.searchsorted(self.ends, place, side="right")))

    def first_not_ascii(self) -> str | None:
        """Read the first text that is not all ASCII."""
        return None if self.joined.isascii() else next(text for text in self if not text.isascii())

    def is_text(self) -> bool:
        """Tell whether all of it is UTF-8."""
        try:
            for at in range(0, len(self), _SOME):
                start = int(self.ends[at - 1]) if at else 0
                self.joined[start : int(self.ends[min(at + _SOME, len(self)) - 1])].decode()
        except UnicodeDecodeError:
            return False
        return True


class Chosen(_Texts):
    """Some of many names, by the numbers of their rows: nothing is copied."""

    def __init__(self, names: Names, rows: npt.NDArray[np.int64]) -> None:
        """Choose.

        Args:
            names: all.
            rows: (n,) their numbers, in any order.
        """
        self.names, self.rows = names, rows

    def __len__(self) -> int:
        """Count the chosen."""
        return len(self.rows)

    def read(self, row: int) -> str:
        """Read the text of a row."""
        return self.names.read(int(self.rows[row]))


def taken(names: Sequence[str], rows: npt.NDArray[Any]) -> Sequence[str]:
    """Choose some of many names.

    Args:
        names: all.
        rows: (n,) numbers of rows, in any order.

    Returns:
        A view of packed names, else a list.
    """
    if isinstance(names, Names):
        return Chosen(names, rows)
    return [names[row] for row in rows.tolist()]
