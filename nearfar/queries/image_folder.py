"""A folder of images where a store is asked for: it is embedded first, into a store beside it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..core import progress
from ..core.cache_root import cache_root
from ..core.errors import NearfarError
from ..data.open import open_data
from ..stores import open_store
from ..stores.lancedb import TABLE

if TYPE_CHECKING:
    from ..training.run import Run


def store_of(address: str | Path, run: Run | str | Path | None = None) -> str | Path:
    """Give the store of a folder of images, brought up to date; any other address is returned as it is.

    The store is beside the folder, photos.nf for photos/, or in the cache where that cannot be written. An
    encoder that made it earlier makes it again; else it is `known`.

    Args:
        address: of a store, or a folder of images.
        run: the encoder, instead of that.

    Returns:
        The store's address.

    Raises:
        NearfarError: no encoder is named and `known` is not installed, or the images cannot be used.
    """
    folder = Path(address).expanduser()
    if "://" in str(address) or not folder.is_dir() or is_store(folder):
        return address
    try:
        open_data(folder)
    except NearfarError:  # what else it is, or is not, the store's own error tells
        return address
    from ..embedding.fill import fill  # these import torch, which a store itself does not need
    from ..training.run import default_encoder, load

    place = _beside(folder.resolve())
    if run is None and is_store(place):
        encoder = load(open_store(place).info.run)
    else:
        encoder = default_encoder(f"--run RUN, or nearfar embed RUN {address}") if run is None else load(run)
    progress.say(f"{address} is a folder of images: embedding them with {encoder.name} into {place}")
    progress.say(str(fill(encoder, folder, place)))
    return place


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
