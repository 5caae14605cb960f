"""Computes views in plain torch, one image at a time: the slow reference for the fast kernels.

It is also what runs where numba cannot.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ..views import AugmentationParams, blur_radius

LUMA = (0.2989, 0.587, 0.114)


def apply(block: Any, draws: AugmentationParams, out: torch.Tensor, interpolation: str) -> None:
    """Make views; see `nearfar.images.kernels.apply`.

    Args:
        block: the images, a `RaggedImages`.
        draws: n views' parameters.
        out: (n, 3, size, size) float32, written in place.
        interpolation: "bilinear" or "bicubic".
    """
    for k in range(len(draws)):
        h, w = int(block.height[k]), int(block.width[k])
        start = int(block.offset[k])
        image = block.pixels[start : start + h * w * 3].reshape(h, w, 3)
        top, left, high, wide = (int(value) for value in draws.box[k])
        crop = torch.tensor(image[top : top + high, left : left + wide]).permute(2, 0, 1)
        out[k] = view(crop, draws, k, out.shape[-1], interpolation)


def view(
    crop: torch.Tensor, draws: AugmentationParams, k: int, size: int, interpolation: str
) -> torch.Tensor:
    """Make one view of one crop: resize, flip, jitter, grey, blur, solarise, in this order.

    Args:
        crop: (3, h, w) uint8.
        draws: parameters of many views.
        k: the row of `draws` to follow.
        size: side of the view in pixels.
        interpolation: "bilinear" or "bicubic".

    Returns:
        (3, size, size) float32 in [0, 1].
    """
    # In float64: torch works its weights out in the image's type, and float32 errs by 2e-5 at 500 px.
    x = (crop.double() / 255)[None]
    x = F.interpolate(x, (size, size), mode=interpolation, antialias=True, align_corners=False)[0]
    # Bicubic overshoots at edges; images of 8 bits clip there, so we do too.
    x = x.clamp(0, 1).float()
    if draws.flip[k]:
        x = x.flip(-1)
    if draws.jitter[k]:
        for change in draws.order[k]:
            amount = float(draws.factors[k, change])
            x = (brightness, contrast, saturation, hue)[change](x, amount)
    if draws.grayscale[k]:
        x = grayscale(x).expand(3, -1, -1)
    if draws.sigma[k] > 0:
        x = blur(x, float(draws.sigma[k]), blur_radius(size))
    return torch.where(x >= 0.5, 1 - x, x) if draws.solarize[k] else x


def grayscale(x: torch.Tensor) -> torch.Tensor:
    """Weigh the channels to a luminance: (3, h, w) to (1, h, w)."""
    return sum(weight * x[c : c + 1] for c, weight in enumerate(LUMA))  # type: ignore[return-value]


def brightness(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Scale the values (3, h, w)."""
    return (factor * x).clamp(0, 1)


def contrast(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Blend the values (3, h, w) with the image's mean luminance."""
    return (factor * x + (1 - factor) * grayscale(x).mean()).clamp(0, 1)


def saturation(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Blend the values (3, h, w) with each pixel's luminance."""
    return (factor * x + (1 - factor) * grayscale(x)).clamp(0, 1)


def hue(x: torch.Tensor, turn: float) -> torch.Tensor:
    """Turn the hue in HSV (3, h, w) by a share of the colour wheel.

    With C = max - min, channel c is max - C clip(min(k, 4 - k), 0, 1) where k = (n_c + 6 hue) mod 6
    and n = 5, 3, 1: the six sectors of the wheel without a branch. C is value x saturation.
    """
    r, g, b = x
    top, low = x.amax(0), x.amin(0)
    chroma = top - low
    safe = torch.where(chroma > 0, chroma, 1)
    sector = torch.where(top == g, 2 + (b - r) / safe, 4 + (r - g) / safe)
    sector = torch.where(top == r, (g - b) / safe, sector)
    k = (sector + 6 * turn + torch.tensor([5.0, 3.0, 1.0])[:, None, None]) % 6
    return top - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def blur(x: torch.Tensor, sigma: float, radius: int) -> torch.Tensor:
    """Blur (3, h, w) with a Gaussian of `sigma` px cut at `radius` px, mirrored at the borders."""
    steps = torch.arange(-radius, radius + 1, dtype=torch.float32)
    taps = (-0.5 * (steps / sigma) ** 2).softmax(0)
    x = F.pad(x, (radius, radius, radius, radius), mode="reflect")[:, None]
    return F.conv2d(F.conv2d(x, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))[:, 0].clamp(0, 1)
