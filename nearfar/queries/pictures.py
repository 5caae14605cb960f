"""Reads the pictures of a store's images: the thumbnails that it keeps, or the files that it was made of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ..analysis.difference import LARGEST
from ..analysis.structure import Rows
from ..core.device import cores
from ..core.errors import BadImage
from ..core.threads import map_in_order
from ..data.source import file_of
from ..images import decode
from ..images.decode import Pixels
from ..images.files import MAX_PIXELS
from ..images.thumbnails import thumbnail
from ..stores import VectorStore


class Pictures:
    """Pictures of some of a store's images.

    Attributes:
        ids: n ids.
        digests: of their contents, "" where unknown.
        at_hand: for each row that was asked for its original, whether that was there and unchanged.
    """

    def __init__(self, store: VectorStore, ids: Sequence[str]) -> None:
        """Note where the files are.

        Args:
            store: the store.
            ids: of images.
        """
        self.store, self.ids = store, list(ids)
        known = store.rows(["digest", "path"], ids=self.ids)
        self.digests = [one or "" for one in known.column("digest").to_pylist()]
        self._paths = known.column("path").to_pylist()
        self.at_hand: dict[int, bool] = {}

    def small(self, rows: Rows) -> list[Pixels | None]:
        """Decode thumbnails; None where there is none."""
        return [thumbnail(file) for file in self.store.thumbnails([self.ids[row] for row in rows.tolist()])]

    def originals(self, rows: Rows) -> list[Pixels | None]:
        """Decode the images' own files, to a short side of `LARGEST`; or thumbnails, where there are none."""
        found = list(map_in_order(self._original, rows.tolist(), threads=cores(), ahead=64))
        missing = [at for at, pixels in enumerate(found) if pixels is None]
        self.at_hand |= {row: found[at] is not None for at, row in enumerate(rows.tolist())}
        for at, pixels in zip(missing, self.small(rows[missing]), strict=True):
            found[at] = pixels
        return found

    def _original(self, row: int) -> Pixels | None:
        """Decode a file, if it still has the content that the store knows: a path may be a stranger's."""
        path = self._paths[row]
        if not path or not self.digests[row]:
            return None
        try:
            data = decode.read(Path(file_of(path)), max_pixels=MAX_PIXELS)
            if hashlib.blake2b(data, digest_size=16).hexdigest() != self.digests[row]:
                return None
            return decode.decode(
                data, max_pixels=MAX_PIXELS, short_side=LARGEST, value_range=self.store.info.value_range
            )
        except BadImage:
            return None
