"""The ids of a store, sorted, without a Python object for each: of 10,000,000 these would take gigabytes."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

PIECE = 65_536  # names turned into Python's texts at a time
FEW = 1000  # of which each is looked for by itself


class SortedNames(Sequence[str]):
    """Distinct texts in the order of their bytes, which is Python's order too."""

    def __init__(self, names: Any) -> None:
        """Take them as they are.

        Args:
            names: an Arrow array of distinct, sorted texts.
        """
        self._names = names

    def __len__(self) -> int:
        """Count them."""
        return len(self._names)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        """Give one, or some of them as a list."""
        if isinstance(at, slice):
            return list(self._names.take(np.arange(len(self))[at]).to_pylist())
        return str(self._names[at].as_py())

    def __iter__(self) -> Iterator[str]:
        """Give one after the other."""
        for low in range(0, len(self), PIECE):
            yield from self._names.slice(low, PIECE).to_pylist()

    def find(self, name: str) -> int:
        """Give the place of a name, or -1."""
        at = bisect_left(self, name)
        return at if at < len(self) and self[at] == name else -1

    def __contains__(self, name: object) -> bool:
        """Tell whether a name is among them."""
        return isinstance(name, str) and self.find(name) >= 0

    def places(self, names: Sequence[str]) -> npt.NDArray[np.int32]:
        """Give the place of each name: (n,), -1 where it is not there."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if len(names) <= FEW:
            return np.array([self.find(name) for name in names], np.int32)
        at = pc.fill_null(pc.index_in(pa.array(names, pa.string()), self._names), -1)
        return at.to_numpy(zero_copy_only=False).astype(np.int32)

    def digest(self) -> str:
        """Name what they are: 16 hex digits."""
        made = hashlib.blake2b(digest_size=8)
        for low in range(0, len(self), PIECE):
            piece = "\0".join(self._names.slice(low, PIECE).to_pylist())
            made.update((("\0" if low else "") + piece).encode(errors="replace"))
        return made.hexdigest()
