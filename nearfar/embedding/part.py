"""Says which images belong to part k of n: a hash of the id decides, whatever else is in the collection."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..core.errors import NearfarError

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CollectionPart:
    """One part of several: `number` counts from 1 to `count`."""

    number: int
    count: int

    @staticmethod
    def read(text: str) -> CollectionPart:
        """Read a part as the user writes it, such as 3/64.

        Raises:
            NearfarError: it is no such pair of numbers.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise NearfarError(f"--part is {text!r}; write number/parts, such as 1/64 to 64/64.")
        return CollectionPart(int(found[1]), int(found[2]))

    @property
    def folder(self) -> str:
        """Name the folder of the part."""
        return f"part-{self.number:0{len(str(self.count))}d}-of-{self.count}"

    def number_of(self, name: str) -> int:
        """Give the number of the part that an image belongs to.

        Args:
            name: its id.
        """
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") % self.count + 1

    def holds(self, name: str) -> bool:
        """Tell whether an image belongs to this part.

        Args:
            name: its id.
        """
        return self.number_of(name) == self.number

    def rows(self, ids: Sequence[str]) -> Rows:
        """Find the rows of a collection that belong to this part, ascending.

        Args:
            ids: of all images.
        """
        return np.array([row for row, name in enumerate(ids) if self.holds(name)], np.int64)
