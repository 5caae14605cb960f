"""Computes views from sampled parameters: uint8 images in, a float batch out.

Three paths make the same pixels to 1e-5: `fused` (numba, one image at a time through every step),
`reference` (plain torch, slow) and `batched` (plain torch, a batch at a time, on any device). `apply` takes
the first wherever it can, and the last for images that `place` has sent to a device.
"""

from __future__ import annotations

import functools
import threading
from types import ModuleType
from typing import Any

import numpy as np
import torch

from ...core import progress
from ...core.errors import NearfarError
from ...core.text import counted
from ..views import AugmentationParams
from . import batched
from .batched import Placed, place

__all__ = ["Placed", "apply", "place", "ready"]

_starting = threading.Lock()


def apply(
    block: Any,
    draws: AugmentationParams,
    size: int,
    interpolation: str,
    *,
    out: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    threads: int = 1,
    path: str = "auto",
) -> torch.Tensor:
    """Make one view of each image of a block.

    The crop is resized with antialiasing and clipped to [0, 1]; then come flip, jitter (each step
    clipped), grey, blur and solarisation.

    Args:
        block: n `RaggedImages`: flat uint8 `pixels`, and `offset`, `height`, `width` (n,); or what
            `place` made of it, for views on its device.
        draws: n views' parameters, from `views.draw` or `views.centre`.
        size: side of the views in pixels.
        interpolation: "bilinear" or "bicubic".
        out: where to write, (n, 3, size, size); default: a new tensor.
        dtype: of the new tensor: float32, bfloat16 or float16; the arithmetic is float32.
        threads: CPU threads that share the rows of the fused path; their number never changes a value.
        path: "fused", "reference", "batched", or "auto": batched for placed images, else fused where
            numba is to be had.

    Returns:
        (n, 3, size, size) in [0, 1], channels last in memory unless `out` is not.

    Raises:
        NearfarError: a crop leaves its image, `out` has another shape, placed images were asked to
            take another path than "batched", or "fused" was asked for and numba is missing.
    """
    n = len(draws)
    _check(block, draws, size, interpolation)
    if path == "batched" and not isinstance(block, Placed):
        block = place(block, torch.device("cpu"))
    placed = block if isinstance(block, Placed) else None
    if placed and path not in ("auto", "batched"):
        raise NearfarError(f"path {path!r} cannot process images on a device; choose auto or batched.")
    if out is not None and tuple(out.shape) != (n, 3, size, size):
        raise NearfarError(f"out has shape {tuple(out.shape)}; give one of shape {(n, 3, size, size)}.")
    if out is None:
        device = placed.pixels.device if placed else None
        out = torch.empty((n, 3, size, size), dtype=dtype, device=device, memory_format=torch.channels_last)
    if placed:
        batched.apply(placed, draws, out, interpolation)
        return out
    plain = out.permute(0, 2, 3, 1)
    direct = out.dtype == torch.float32 and out.device.type == "cpu" and plain.is_contiguous()
    target = out if direct else torch.empty((n, 3, size, size), memory_format=torch.channels_last)
    kernel = _load(path)
    if kernel is None:
        from . import reference

        reference.apply(block, draws, target, interpolation)
    else:
        kernel.apply(block, draws, target.permute(0, 2, 3, 1).numpy(), interpolation, threads)
    return out if direct else out.copy_(target)


def _check(block: Any, draws: AugmentationParams, size: int, interpolation: str) -> None:
    """Refuse what would read outside an image: the fused kernel checks no bounds of its own."""
    if interpolation not in ("bilinear", "bicubic"):
        raise NearfarError(f"interpolation {interpolation!r} is not known; choose bilinear or bicubic.")
    if size < 1:
        raise NearfarError(f"a view's side is {size}; it must be at least 1 pixel.")
    box, high, wide = draws.box, np.asarray(block.height), np.asarray(block.width)
    if not len(draws) == len(high) == len(wide) == len(block.offset):
        views, images = counted(len(draws), "view was"), counted(len(high), "image")
        raise NearfarError(f"{views} drawn for {images}; draw one for each image.")
    if not len(draws):
        return
    outside = (box[:, 0] < 0) | (box[:, 1] < 0) | (box[:, 2] < 1) | (box[:, 3] < 1)
    outside |= (box[:, 0] + box[:, 2] > high) | (box[:, 1] + box[:, 3] > wide)
    total = block.pixels.numel() if isinstance(block, Placed) else block.pixels.size
    outside |= (block.offset < 0) | (block.offset + 3 * high.astype(np.int64) * wide > total)
    if outside.any():
        k = int(outside.argmax())
        raise NearfarError(
            f"crop {k} (top, left, height, width = {box[k].tolist()}) leaves its image of {high[k]} x "
            f"{wide[k]} pixels; draw it with that image's own height and width."
        )


def _load(path: str) -> ModuleType | None:
    """Give the fused kernel's module, or None for the reference."""
    if path == "reference":
        return None
    if path not in ("auto", "fused"):
        raise NearfarError(f"path {path!r} is not known; choose auto, fused, reference or batched.")
    with _starting:
        kernel = _fused()
    if kernel is None and path == "fused":
        raise NearfarError("the fused kernel needs numba, which is missing here: pip install numba.")
    return kernel


def ready() -> None:
    """Load or compile the fused kernel now, so that no clock counts it later."""
    with _starting:
        _fused()


@functools.cache
def _fused() -> ModuleType | None:
    """Import and compile the fused kernel once a process; say so if it takes more than a moment."""
    note = "loading the view kernel; at its first use here it is compiled, and later starts are quick."
    slow = threading.Timer(4.0, progress.say, (note,))
    slow.daemon = True
    slow.start()
    try:
        from ...core import compiled
        from . import fused
    except ImportError:
        progress.say(
            "numba is missing, so views are computed about a hundred times more slowly: pip install numba."
        )
        slow.cancel()
        return None
    try:
        compiled.warmed(fused)
        return fused
    finally:
        slow.cancel()
