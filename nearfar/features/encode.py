"""Encodes images as Python holds them, in order: one image gives one vector, many give one each."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from ..core import progress
from ..core.device import cores, device_named
from ..core.errors import NearfarError
from ..data.modalities import modality_of
from ..data.open import open_data
from .chunked import CHUNK_IMAGES, read_chunks
from .extract import Vectors, features, finite
from .knn import unit


def encode(
    encoder: nn.Module,
    preprocess: Any,
    images: Any,
    *,
    batch_size: int = 32,
    show_progress_bar: bool | None = None,
    normalize_embeddings: bool = False,
    convert_to_tensor: bool = False,
    device: str | None = None,
) -> Vectors | torch.Tensor:
    """Turn images into vectors.

    Args:
        encoder: n inputs, as `preprocess` makes them, to (n, d).
        preprocess: how an example becomes its input; it says of which modality.
        images: one image, as a path, a file's bytes, a Pillow image, an array (H, W, 3) or a tensor
            (3, H, W) of uint8; or many: a list of such, or whatever `sources.open_source` takes.
        batch_size: images encoded at a time.
        show_progress_bar: whether to show how far it is; None leaves that to `progress.show`.
        normalize_embeddings: whether to scale vectors to length 1.
        convert_to_tensor: whether to give a tensor, on the CPU, instead of an array.
        device: "cpu", "cuda" or "mps"; None takes a GPU if there is one.

    Returns:
        (d,) float32 for one image, (n, d) for many.

    Raises:
        NearfarError: an image cannot be used, the encoder gives NaN or infinite values, or the device is not
            there.
    """
    if batch_size < 1:
        raise NearfarError(f"batch_size is {batch_size}; give 1 or more.")
    kind = modality_of(preprocess)
    one = kind.is_one(images)
    source = open_data([images] if one else images, expected=kind.name)
    where = device_named(device or "auto")
    model = encoder if where.type == "cpu" else copy.deepcopy(encoder).to(where)
    parts = []
    with _shown(show_progress_bar), progress.Bar("encoding", len(source), kind.noun) as bar:
        for chunk in read_chunks(source, range(0, len(source), CHUNK_IMAGES), preprocess, cores()):
            for row, reason in chunk.bad:
                given = [images] if one else images
                words = isinstance(given, (list, tuple)) and kind.name == "text"
                name = repr(given[row]) if words else source.ids[row]  # a text has no name but itself
                raise NearfarError(f"{name} cannot be encoded ({reason}); leave it out.")
            parts.append(features(model, chunk, preprocess, device=where, batch_size=batch_size))
            bar.advance(len(chunk))
    vectors = torch.from_numpy(finite(np.concatenate(parts)))
    if normalize_embeddings:
        vectors = unit(vectors)
    found = vectors[0] if one else vectors
    return found if convert_to_tensor else found.numpy()


@contextmanager
def _shown(wanted: bool | None) -> Iterator[None]:
    """Turn progress on or off for a while."""
    before = progress.shown()
    progress.show(before if wanted is None else wanted)
    try:
        yield
    finally:
        progress.show(before)
