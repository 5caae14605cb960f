"""Shows an image in full, or plays a clip, from its own file, if that is still the file that was embedded.

A store may come from a stranger, and so may the paths in it. A file is shown only if its content has the
digest that the store recorded when it was embedded: who made the row held that file already. What is
sent is made anew from decoded pixels or samples, never the file itself.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..core.errors import BadImage, NearfarError
from ..data.crops import cut
from ..data.source import file_of
from ..images import decode
from ..images.files import MAX_PIXELS
from ..sound import read as sound
from ..sound.logmel import log_mels
from ..sound.picture import picture
from ..stores import VectorStore
from ..stores.cut_out import corners_of

FULL = 4096  # pixels of the longer side that is sent, unless asked otherwise
MOST_PIXELS = MAX_PIXELS  # of an image that is decoded: what could be embedded can be shown
SOUND = "sound"
SPECTROGRAM, MELS = 1024, 96  # pixels of its width, and its bands
QUALITY = 90  # of what is sent, as JPEG counts it
DIGITS = 32  # of the digest of a file


def photo(store: VectorStore, name: str, side: int = FULL) -> bytes:
    """Read an image from its file: a JPEG, drawn anew, upright; of sound, its spectrogram.

    Args:
        store: knows where the file is.
        name: the image's id.
        side: pixels of the longer side, at most.

    Raises:
        NearfarError: the file is not there, has changed, or cannot be used.
    """
    if store.info.modality == SOUND:
        try:
            samples, rate = sound.decode(content(store, name), MOST_PIXELS)
        except BadImage as error:
            raise NearfarError(f"the file of {name!r} cannot be shown: {error}.") from None
        return picture(log_mels(samples, rate, MELS), min(side, SPECTROGRAM))
    image = Image.fromarray(pixels_of(store, name))
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def pixels_of(store: VectorStore, name: str) -> decode.Pixels:
    """Decode an image's file, with the range of values that its vector was made with.

    Args:
        store: knows where the file is.
        name: the image's id.

    Returns:
        (H, W, 3) uint8, upright.

    Raises:
        NearfarError: the file is not there, has changed, or cannot be used.
    """
    data = content(store, name)
    try:
        found = decode.decode(data, max_pixels=MOST_PIXELS, value_range=store.info.value_range)
    except BadImage as error:
        raise NearfarError(f"the file of {name!r} cannot be shown: {error}.") from None
    return np.ascontiguousarray(found)


def seen(store: VectorStore, name: str) -> decode.Pixels:
    """Decode what an encoder sees of a row: its image, or its object, cut out.

    Args, raises: as `pixels_of`.

    Returns:
        (H, W, 3) uint8, upright.
    """
    pixels, corners = pixels_of(store, name), corners_of(store, [name])
    try:
        return pixels if corners is None else cut(pixels, corners[0])
    except BadImage as error:
        raise NearfarError(f"the object {name!r} cannot be shown: {error}.") from None


def clip(store: VectorStore, name: str) -> bytes:
    """Read a clip from its file: a WAV file of one channel, written anew.

    Args:
        store: of sound; knows where the file is.
        name: the clip's id.

    Raises:
        NearfarError: the store is of another kind, or the file is not there, has changed, or cannot be used.
    """
    if store.info.modality != SOUND:
        raise NearfarError(f"{name!r} is no sound, so it cannot be played.")
    try:
        return sound.wav(*sound.decode(content(store, name), MOST_PIXELS))
    except BadImage as error:
        raise NearfarError(f"the file of {name!r} cannot be played: {error}.") from None


def content(store: VectorStore, name: str) -> bytes:
    """Read the file of a row, if it is the one that was embedded.

    Args:
        store: knows where the file is.
        name: the row's id.

    Raises:
        NearfarError: it is not there, or it is another one.
    """
    row = store.rows(["path", "digest"], ids=[name]).to_pylist()[0]
    if not row["path"] or not row["digest"]:
        raise NearfarError(f"the store knows no file of {name!r}, so only its thumbnail is shown.")
    data = _read(row["path"], f"the file of {name!r}", ", so only its thumbnail is shown")
    if not _is_same(data, str(row["digest"])[:DIGITS]):  # behind, of an object, follows its place
        path = file_of(row["path"])
        raise NearfarError(f"{path} is not the file that was embedded as {name!r}; embed it again to see it.")
    return data


def checked_file(path: Any, digest: Any, what: str) -> bytes:
    """Read a file that a row names, if it is the one that was written.

    Args:
        path: of the file.
        digest: of its content, as the row has it.
        what: what errors call it, such as "the mask of 'a.jpg'".

    Raises:
        NearfarError: it is not there, or it is another one.
    """
    if not isinstance(path, str) or not isinstance(digest, str):
        raise NearfarError(f"the store does not know {what}.")
    data = _read(path, what)
    if not _is_same(data, digest):
        raise NearfarError(f"{what} has changed since it was written; predict again to see it.")
    return data


def shape_of(store: VectorStore, name: str) -> tuple[int, int]:
    """Give the height and width of an image's file in pixels, upright.

    Args:
        store: knows where the file is.
        name: the image's id, or an object's on it.

    Raises:
        NearfarError: the file is not there, has changed, or cannot be used.
    """
    try:
        return decode.upright_shape(content(store, name), max_pixels=MOST_PIXELS)
    except BadImage as error:
        raise NearfarError(f"the file of {name!r} cannot be shown: {error}.") from None


def _read(path: str, what: str, so: str = "") -> bytes:
    """Read a file that a row names, of a size that can be shown; what is in it is not known yet."""
    path = file_of(path)
    if not os.path.isabs(path) or not os.path.isfile(path):
        raise NearfarError(f"{what} is no longer at {path}{so}.")
    try:
        return decode.read(Path(path), max_pixels=MOST_PIXELS)
    except BadImage as error:
        raise NearfarError(f"{what} cannot be shown: {error}.") from None


def _is_same(data: bytes, digest: str) -> bool:
    """Tell whether content has a digest."""
    found = hashlib.blake2b(data, digest_size=16).hexdigest()
    return hmac.compare_digest(found.encode(), digest.encode(errors="replace"))
