"""Runs a trained encoder over images in evaluation mode: no randomness, no training."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Generator
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..core.device import compute_threads, cores
from ..core.errors import NearfarError
from ..core.memory import keep_freed_memory
from ..core.threads import map_in_order, one_torch_thread
from ..data.loader import Examples
from ..data.modalities import modality_of

OF_A_THREAD = 32  # images at a time, of a CPU's

Vectors = npt.NDArray[np.float32]


def fingerprint(encoder: nn.Module) -> str:
    """Digest every parameter and buffer of a network, by name, type, shape and bytes.

    Args:
        encoder: any module.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        plain = value.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def finite(vectors: Vectors) -> Vectors:
    """Give vectors back, unless an encoder made something else than numbers.

    Args:
        vectors: (n, d).

    Raises:
        NearfarError: a value is NaN or infinite.
    """
    bad = int((~np.isfinite(vectors)).any(axis=1).sum())
    if bad:
        raise NearfarError(
            f"the encoder gives NaN or infinite values for {bad:,} of {len(vectors):,} images; "
            "train it again."
        )
    return vectors


def _encode(encoder: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Run the encoder, which may be of half precision; where the device lacks the memory, in halves."""
    weight = next(encoder.parameters(), x)
    if x.is_floating_point() and weight.is_floating_point():
        x = x.to(weight.dtype)
    try:
        h: torch.Tensor = encoder(x)
        return h.float().cpu()
    except torch.OutOfMemoryError:
        if len(x) == 1:
            raise NearfarError(
                "one image is too large for the memory of the device; use --device cpu."
            ) from None
    torch.cuda.empty_cache()
    return torch.cat([_encode(encoder, half) for half in x.chunk(2)])


def features(
    encoder: nn.Module,
    dataset: Examples,
    preprocess: Any,
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 256,
    threads: int | None = None,
) -> Vectors:
    """Encode every image of a store, without randomness and without changing the encoder.

    Args:
        encoder: n inputs, as `preprocess` makes them, to (n, d). It is run in eval mode and left in the mode
            it was in; a copy is used where it is not yet on the device.
        store: the images.
        preprocess: how an example becomes the encoder's input; it says of which modality.
        device: where to compute.
        batch_size: images at a time, in all threads; the vectors do not depend on it, but for rounding. A
            thread of a CPU takes 32 at most: what a network makes of more does not stay in its caches.
        threads: CPU threads that prepare images; default: all cores. If torch has several threads on a CPU,
            each of them prepares and encodes a part of a batch by itself.

    Returns:
        (len(store), d) float32.
    """
    where = torch.device(device)
    held = next((value.device.type for value in encoder.state_dict().values()), where.type)
    model = encoder if held == where.type else copy.deepcopy(encoder).to(where)
    modes = [(part, part.training) for part in model.modules()]
    threads, kind = threads or cores(), modality_of(preprocess)
    encoding = _threads(model, where)
    # As many images at a time in all as one thread would have.
    size = math.ceil(batch_size / encoding)
    if where.type == "cpu":
        size = min(size, OF_A_THREAD * (1 if encoding > 1 else compute_threads()))
        keep_freed_memory()

    def prepare(low: int) -> torch.Tensor:
        block = dataset.gather(np.arange(low, min(low + size, len(dataset))))
        return kind.prepare(block, preprocess, threads=threads if encoding == 1 else 1)

    def finish(low: int) -> Vectors:
        with torch.inference_mode():  # which holds for this thread
            return _encode(model, prepare(low)).numpy()

    def pieces() -> Generator[Vectors]:
        lows = range(0, len(dataset), size)
        if encoding > 1:  # each thread takes whole batches, and waits for no other
            with one_torch_thread():
                yield from map_in_order(finish, lows, threads=encoding, ahead=encoding)
            return
        # One thread prepares the next batch while the device works on this one.
        with torch.inference_mode(), closing(map_in_order(prepare, lows, threads=1, ahead=1)) as ready:
            for x in ready:
                yield _encode(model, x.to(where)).numpy()

    found: Vectors | None = None
    model.eval()
    try:
        low = 0
        with closing(pieces()) as made:
            for h in made:
                if found is None:
                    found = np.empty((len(dataset), h.shape[1]), np.float32)
                found[low : low + len(h)] = h
                low += len(h)
    finally:
        for part, training in modes:
            part.training = training
    return found if found is not None else np.empty((0, 0), np.float32)


def _threads(model: nn.Module, where: torch.device) -> int:
    """Count the threads that encode a batch each; one where torch has to divide the work itself."""
    compiled = any("_code" in part.__dict__ for part in model.modules())
    return compute_threads() if where.type == "cpu" and not compiled else 1
