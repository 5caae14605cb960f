"""What the colours around a pixel tell: 16 numbers a pixel, the baseline of every segmentation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SIGMAS = (1.5, 4.0, 10.0)  # of the blurs, in pixels
COUNT = 3 * (2 + len(SIGMAS)) + 1


def colour_features(x: Tensor) -> Tensor:
    """Compute the features of every pixel.

    Args:
        x: (n, 3, height, width) in [0, 1].

    Returns:
        (n, 16, height, width) float32: the colour; its blurs by three Gaussians; the distance from the middle
        of the image in units of its sides; and the colour less the image's mean.
    """
    x = x.float()
    n, _, height, width = x.shape
    down, across = ((torch.arange(k, device=x.device) + 0.5) / k - 0.5 for k in (height, width))
    # Not torch.hypot, which ONNX lacks.
    radius = (down[:, None].square() + across[None].square()).sqrt().expand(n, 1, -1, -1)
    blurs = [_blur(x, sigma) for sigma in SIGMAS]
    return torch.cat([x, *blurs, radius, x - x.mean((2, 3), keepdim=True)], 1)


def _blur(x: Tensor, sigma: float) -> Tensor:
    """Blur by a Gaussian of so many pixels; beyond the border the image's own last pixels go on."""
    for dim in (2, 3):
        reach = round(4 * sigma)
        at = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
        kernel = torch.softmax(-(at**2) / (2 * sigma**2), 0)
        shape = (1, 1, -1, 1) if dim == 2 else (1, 1, 1, -1)
        pad = (0, 0, reach, reach) if dim == 2 else (reach, reach, 0, 0)
        padded = F.pad(x, pad, mode="replicate")
        x = F.conv2d(padded, kernel.view(shape).expand(3, -1, -1, -1), groups=3)
    return x
