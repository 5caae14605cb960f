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

import numpy as np
from PIL import Image

from ..core.errors import BadImage, NearfarError
from ..data.source import file_of
from ..images import decode
from ..sound import read as sound
from ..sound.logmel import log_mels
from ..sound.picture import picture
from ..stores import VectorStore

FULL = 4096  # pixels of the longer side that is sent, unless asked otherwise
MOST_PIXELS = 50_000_000  # of an image that is decoded
SOUND = "sound"
SPECTROGRAM, MELS = 1024, 96  # pixels of its width, and its bands
QUALITY = 90  # of what is sent, as JPEG counts it


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
    path = row["path"]
    if not path or not row["digest"]:
        raise NearfarError(f"the store knows no file of {name!r}, so only its thumbnail is shown.")
    path = file_of(path)
    if not os.path.isabs(path) or not os.path.isfile(path):
        raise NearfarError(f"the file of {name!r} is no longer at {path}, so only its thumbnail is shown.")
    try:
        data = decode.read(Path(path), max_pixels=MOST_PIXELS)
    except BadImage as error:
        raise NearfarError(f"the file of {name!r} cannot be shown: {error}.") from None
    found = hashlib.blake2b(data, digest_size=16).hexdigest()
    if not hmac.compare_digest(found.encode(), str(row["digest"]).encode(errors="replace")):
        raise NearfarError(f"{path} is not the file that was embedded as {name!r}; embed it again to see it.")
    return data
