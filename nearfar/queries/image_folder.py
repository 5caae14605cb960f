"""A folder of images where a store is asked for: it is embedded first, into a store beside it."""

from __future__ import annotations

import hashlib
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core import progress
from ..core.cache_root import cache_root
from ..core.errors import NearfarError
from ..core.plain_path import from_home
from ..data.open import open_data
from ..stores import open_store
from ..stores.lancedb import TABLE

if TYPE_CHECKING:
    from ..training.run import Run


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images that is not a store, the place of its store, and how many images it has."""

    address: str
    folder: Path
    place: Path
    count: int
    run: Run | str | Path | None = None

    def fill(self, first_chunk: int | None = None) -> str | Path:
        """Bring the store up to date.

        Args:
            first_chunk: see `embedding.fill.fill`.

        Raises:
            NearfarError: no encoder is named and `known` is not installed, or the images cannot be used.
        """
        from ..embedding.fill import fill  # these import torch, which a store itself does not need
        from ..training.run import default_encoder, load

        if self.run is None and is_store(self.place):
            encoder = load(open_store(self.place).info.run)
        elif self.run is None:
            encoder = default_encoder(f"--run RUN, or nearfar embed RUN {shlex.quote(self.address)}")
        else:
            encoder = load(self.run)
        progress.say(
            f"{self.address} is a folder of images: embedding them with {encoder.name} into {self.place}"
        )
        progress.say(str(fill(encoder, self.folder, self.place, first_chunk=first_chunk)))
        return self.place


def image_folder(address: str | Path, run: Run | str | Path | None = None) -> ImageFolder | None:
    """Tell whether an address is a folder of images, which a store is to be made of; None for all else.

    The store is beside the folder, photos.nf for photos/, or in the cache where that cannot be written. An
    encoder that made it earlier makes it again; else it is `known`.

    Args:
        address: of a store, or a folder of images.
        run: the encoder, instead of that.
    """
    folder = from_home(address)
    if "://" in str(address) or not folder.is_dir() or is_store(folder):
        return None
    try:
        count = len(open_data(folder))
    except NearfarError:  # what else it is, or is not, the store's own error tells
        return None
    return ImageFolder(str(address), folder, _beside(folder.resolve()), count, run)


def store_of(address: str | Path, run: Run | str | Path | None = None) -> str | Path:
    """Give the store of a folder of images, brought up to date; any other address is returned as it is.

    Args:
        address: of a store, or a folder of images; see `image_folder`.
        run: the encoder of such a folder, if it is to be another.

    Returns:
        The store's address.

    Raises:
        NearfarError: no encoder is named and `known` is not installed, or the images cannot be used.
    """
    found = image_folder(address, run)
    return address if found is None else found.fill()


def is_store(folder: Path) -> bool:
    """Tell whether a folder is a vector store.

    Args:
        folder: any path.
    """
    return (folder / f"{TABLE}.lance").is_dir()


def _beside(folder: Path) -> Path:
    """Choose where the store of a folder is."""
    place = folder.with_name(f"{folder.name}.nf")
    if is_store(place) or (not place.exists() and os.access(folder.parent, os.W_OK)):
        return place
    digest = hashlib.blake2b(str(folder).encode(errors="surrogateescape"), digest_size=8).hexdigest()
    return cache_root() / "stores" / f"{folder.name}-{digest}.nf"
