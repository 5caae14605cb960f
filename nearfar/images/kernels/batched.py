"""Makes views on a device, a batch at a time, in plain torch: for GPUs, where a few CPU cores are too slow.

The same pixels as the other paths to 1e-5, by matrix products: a resize is one product with a matrix for
the rows and one with a matrix for the columns, and so is a blur. Whatever decides what happens to which
row is worked out from the draws on the host, so nothing here waits for the device.

Shapes: n views of side s; crops padded to h x w. Within, a view lies as (s, 3, s): row, channel, column,
so that both products run over plain matrices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..views import AugmentationParams, blur_radius

LUMA = (0.2989, 0.587, 0.114)
ROOM = 256 * 2**20  # bytes that the work on one slice of rows may take, about; a single view may need more
HUE = 3  # its number in `AugmentationParams.order`


@dataclass(frozen=True)
class Placed:
    """Images whose pixels lie on a device: a `RaggedImages` whose `pixels` are a flat uint8 tensor.

    `offset` (n,) int64, `height` and `width` (n,) int32 stay on the host, where views are drawn.
    """

    pixels: Tensor
    offset: npt.NDArray[np.int64]
    height: npt.NDArray[np.int32]
    width: npt.NDArray[np.int32]


def place(block: Any, device: torch.device) -> Placed:
    """Send the images of a block to a device, and no other bytes of its buffer.

    Args:
        block: n images, a `RaggedImages`.
        device: any; page-locked memory makes the way to a CUDA device free of waiting.

    Returns:
        The images there, one after the other.
    """
    sizes = 3 * np.asarray(block.height, np.int64) * block.width
    offset = np.cumsum(sizes) - sizes
    packed = torch.empty(int(sizes.sum()), dtype=torch.uint8, pin_memory=device.type == "cuda")
    if len(sizes):
        parts = [block.pixels[start : start + size] for start, size in zip(block.offset, sizes, strict=True)]
        np.concatenate(parts, out=packed.numpy())
    return Placed(packed.to(device, non_blocking=True), offset, block.height, block.width)


def apply(placed: Placed, draws: AugmentationParams, out: Tensor, interpolation: str) -> None:
    """Make views; see `nearfar.images.kernels.apply`, which has checked the crops.

    Args:
        placed: the images.
        draws: n views' parameters.
        out: (n, 3, size, size) on the images' device, of any float type, written in place.
        interpolation: "bilinear" or "bicubic".
    """
    # An autocast around the caller would take the products to 8 bits.
    with torch.no_grad(), torch.autocast(out.device.type, enabled=False):
        for rows in slices(draws.box, out.shape[-1]):
            part = Placed(placed.pixels, placed.offset[rows], placed.height[rows], placed.width[rows])
            view = _views(part, draws.take(rows), out.shape[-1], interpolation == "bicubic")
            out[rows].copy_(view.transpose(1, 2))


def slices(box: npt.NDArray[np.int32], size: int, room: int = ROOM) -> Iterator[slice]:
    """Cut the rows into slices whose work fits in some memory; a slice has at least one row.

    Args:
        box: (n, 4) int32, the crops.
        size: side of the views in pixels.
        room: bytes a slice may take, about.

    Yields:
        Slices of consecutive rows, which together are all.
    """
    start, high, wide = 0, 1, 1
    for k in range(len(box)):
        high, wide = max(high, int(box[k, 2])), max(wide, int(box[k, 3]))
        # pixels with their indices; the matrix at work; a half-resized view; a view and what its colours need
        each = 24 * high * wide + 24 * size * max(high, wide) + 12 * size * high + 72 * size * size
        if k > start and (k + 1 - start) * each > room:
            yield slice(start, k)
            start, high, wide = k, int(box[k, 2]), int(box[k, 3])
    if start < len(box):
        yield slice(start, len(box))


def _views(placed: Placed, draws: AugmentationParams, size: int, cubic: bool) -> Tensor:
    """Make the views of one slice, (n, s, 3, s) float32."""
    device, n = placed.pixels.device, len(draws)
    turned = [np.flatnonzero(draws.jitter & (draws.order[:, q] == HUE)) for q in range(4)]
    blurred = np.flatnonzero(draws.sigma > 0)
    # All that the device must know, in two transfers.
    first = placed.offset // 3 + draws.box[:, 0].astype(np.int64) * placed.width + draws.box[:, 1]
    plain = np.stack([first, placed.width, draws.box[:, 2], draws.box[:, 3], draws.flip, draws.solarize])
    whole = _send(np.concatenate([plain.ravel(), *turned, blurred]).astype(np.int64), device)
    blends = _blends(draws)
    turns = [draws.factors[rows, HUE] for rows in turned]
    parts = [blends.ravel(), *turns, draws.sigma[blurred]]
    real = _send(np.concatenate(parts).astype(np.float32), device)
    lengths = [*map(len, turned), len(blurred)]
    plain_there, *rows_there = whole.split([plain.size, *lengths])
    blends_there, *reals_there = real.split([blends.size, *lengths])
    base, width, high, wide, flip, solarize = plain_there.view(6, n, 1, 1)
    steps = blends_there.view(5, 3, n, 1, 1, 1)

    tallest, widest = int(draws.box[:, 2].max()), int(draws.box[:, 3].max())
    crop = _crops(placed.pixels, base, width, high, wide, tallest, widest)
    across = _resampling(wide, size, widest, cubic, flip).transpose(1, 2)
    x = product(crop.view(n, tallest * 3, widest), across)
    del crop, across  # what is done with makes room for what comes
    x = product(_resampling(high, size, tallest, cubic).mul_(1 / 255), x.view(n, tallest, 3 * size))
    x = x.view(n, size, 3, size).clamp_(0, 1)
    for q in range(5):
        if (blends[q, 0] != 1).any():
            _blend(x, *steps[q])
        if q < 4 and lengths[q]:
            rows = rows_there[q]
            x.index_copy_(0, rows, _hue(x.index_select(0, rows), reals_there[q].view(-1, 1, 1)))
    if len(blurred):
        rows, matrix = rows_there[4], _gaussian(reals_there[4].view(-1, 1, 1), size, blur_radius(size))
        part = x.index_select(0, rows).view(-1, size * 3, size)
        part = product(matrix, product(part, matrix.transpose(1, 2)).view(-1, size, 3 * size))
        x.index_copy_(0, rows, part.view(-1, size, 3, size).clamp_(0, 1))
    if draws.solarize.any():
        x = torch.where((x >= 0.5) & (solarize[..., None] > 0), 1 - x, x)
    return x


def _send(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy a host array to the device without waiting for it."""
    there = torch.from_numpy(values)
    return (there.pin_memory() if device.type == "cuda" else there).to(device, non_blocking=True)


def _blends(draws: AugmentationParams) -> npt.NDArray[np.float32]:
    """Write brightness, contrast, saturation and grey as one formula, clip(f x + own L + shared M).

    L is a pixel's luminance and M the image's mean luminance. Gives (5, 3, n): f, own and shared, at each
    of the four places in the order and for the grey at the end; (1, 0, 0) changes nothing.
    """
    n = np.arange(len(draws))
    made = np.zeros((5, 3, len(n)), np.float32)
    made[:, 0] = 1
    for q in range(4):
        change = draws.order[:, q]
        factor = np.where(draws.jitter & (change != HUE), draws.factors[n, change], np.float32(1))
        made[q] = factor, (1 - factor) * (change == 2), (1 - factor) * (change == 1)
    made[4, 0], made[4, 1] = ~draws.grayscale, draws.grayscale
    return made


def _crops(
    pixels: Tensor, base: Tensor, width: Tensor, high: Tensor, wide: Tensor, tallest: int, widest: int
) -> Tensor:
    """Read the crops, (n, h, 3, w) float32 of 0 to 255; beyond a crop its last pixels are repeated."""
    y = torch.arange(tallest, device=pixels.device).view(1, -1, 1)
    x = torch.arange(widest, device=pixels.device).view(1, 1, -1)
    index = base + torch.minimum(y, high - 1) * width + torch.minimum(x, wide - 1)  # (n, h, w), in pixels
    crop = pixels.view(-1, 3).index_select(0, index.view(-1)).view(*index.shape, 3)
    return crop.transpose(2, 3).to(torch.float32, memory_format=torch.contiguous_format)


def _resampling(length: Tensor, size: int, count: int, cubic: bool, flip: Tensor | None = None) -> Tensor:
    """Work out the matrices that resize `length` pixels to `size`, antialiased.

    The distance of a source pixel from the middle of a target pixel, in units of the filter, is a fraction
    of whole numbers. Both are exact, so float32 loses nothing, however long the side.

    Args:
        length: (n, 1, 1) int64, pixels of each crop.
        size: pixels of the view.
        count: columns; those from `length` on are 0.
        cubic: Keys' cubic with a = -0.5, or a triangle.
        flip: (n, 1, 1) int64, whether the rows come in reverse order.

    Returns:
        (n, size, count) float32, rows of sum 1.
    """
    length = length.int()
    i = torch.arange(size, device=length.device, dtype=torch.int32).view(1, -1, 1)
    y = torch.arange(count, device=length.device, dtype=torch.int32).view(1, 1, -1)
    if flip is not None:
        i = torch.where(flip > 0, size - 1 - i, i)
    ahead = size * (2 * y + 1) - length * (2 * i + 1)  # int32 suffices: no crop is 10^6 pixels long
    x = ahead.abs_().float().div_(2 * length.clamp(min=size))
    del ahead
    if cubic:
        x.clamp_(max=2)  # where the outer piece is 0
        near = (1.5 * x).sub_(2.5).mul_(x).mul_(x).add_(1)
        far = (-0.5 * x).add_(2.5).mul_(x).sub_(4).mul_(x).add_(2)
        x = torch.where(x < 1, near, far)
    else:
        x = (1 - x).clamp_(min=0)
    x.mul_(y < length)
    return x.div_(x.sum(2, keepdim=True))


def _blend(x: Tensor, factor: Tensor, own: Tensor, shared: Tensor) -> None:
    """Blend views (n, s, 3, s) in place with luminances, and clip; see `_blends`."""
    r, g, b = x.split(1, 2)
    grayscale = (LUMA[0] * r).add_(g, alpha=LUMA[1]).add_(b, alpha=LUMA[2])
    mean = grayscale.mean((1, 2, 3), keepdim=True)
    x.mul_(factor).add_(grayscale.mul_(own).add_(mean.mul_(shared))).clamp_(0, 1)


def _hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of views (m, s, 3, s) by shares of the wheel (m, 1, 1), in HSV without a branch."""
    r, g, b = x.unbind(2)
    low, top = torch.minimum(r, g).minimum(b), torch.maximum(r, g).maximum(b)
    chroma = top - low
    safe = torch.where(chroma > 0, chroma, 1)
    h = torch.where(top == g, (b - r) / safe + 2, (r - g) / safe + 4)
    h = torch.where(top == r, (g - b) / safe, h).add_(6 * turn).remainder_(6)
    tents = torch.stack([(h - 3).abs_().sub_(1), 2 - (h - 2).abs_(), 2 - (h - 4).abs_()], 2)
    return tents.clamp_(0, 1).mul_(chroma.unsqueeze(2)).add_(low.unsqueeze(2))


def _gaussian(sigma: Tensor, size: int, radius: int) -> Tensor:
    """Work out the matrices (m, size, size) that blur a line, its borders mirrored, for sigma (m, 1, 1)."""
    i = torch.arange(size, device=sigma.device).view(1, -1, 1)
    j = torch.arange(size, device=sigma.device).view(1, 1, -1)

    def tap(distance: Tensor) -> Tensor:
        return (distance / sigma).square_().mul_(-0.5).exp_().mul_(distance.abs() <= radius)

    # A pixel counts where it is, and where the mirrors at the first and at the last pixel show it.
    end = size - 1
    matrix = tap(j - i)
    matrix += tap(-j - i).mul_(j > 0)
    matrix += tap(2 * end - j - i).mul_(j < end)
    return matrix.div_(matrix.sum(2, keepdim=True))


def product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply batches of matrices in full float32, whatever the process allows its other products.

    Whether float32 products may be rounded to TF32 or bfloat16 is a setting of the whole process, which
    is not ours to change while others compute. Where they may, each factor is written as a sum of three
    that such a product takes exactly, and the six products that matter are added.

    Args:
        a: (n, p, q) float32.
        b: (n, q, r) float32.

    Returns:
        (n, p, r) float32.
    """
    if _exact(a.device):
        return torch.bmm(a, b)
    left, right = _thirds(a), _thirds(b)
    total = torch.bmm(left[0], right[2])
    for p, q in ((1, 1), (2, 0), (0, 1), (1, 0), (0, 0)):  # the small ones first
        total.baddbmm_(left[p], right[q])
    return total


def _exact(device: torch.device) -> bool:
    """Tell whether a product of float32 matrices is one."""
    backends: Any = torch.backends
    there = {"cuda": backends.cuda.matmul, "cpu": backends.mkldnn.matmul}.get(device.type)
    return there is None or there.fp32_precision in ("none", "ieee")


def _thirds(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Write float32 numbers, 24 bits each, as sums of three of at most 8 bits."""
    high = x.bfloat16().float()
    rest = x - high
    middle = rest.bfloat16().float()
    return high, middle, rest - middle
