"""A network with ImageNet weights as one more baseline, which needs no training here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import models
from ..images.views import Preprocess
from ..models import libraries

MEAN, STD = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # of ImageNet's training images, as most weights want


class Normalised(nn.Module):
    """A network that subtracts its own mean and divides by its own deviation first."""

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        """Wrap a network.

        Args:
            net: (n, 3, side, side) to (n, dim).
            mean, std: a number a channel, of pixels in [0, 1].
        """
        super().__init__()
        self.net = net
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Encode (n, 3, side, side) in [0, 1]."""
        h: Tensor = self.net((x - self.mean) / self.std)
        return h


def imagenet(named: str) -> tuple[nn.Module, Preprocess]:
    """Build such a network, on the CPU.

    Args:
        named: a torchvision or timm name, whose weights are downloaded unless they are on this machine
            already; or NAME=FILE with a .safetensors file of such weights.

    Returns:
        The network, and how its library prepares an image for it.

    Raises:
        NearfarError: the name is unknown, or the weights cannot be loaded.
    """
    name, _, file = named.partition("=")
    library, plain = libraries.find(name)
    preprocess, mean, std = Preprocess.of(224, "bilinear"), MEAN, STD
    if library == "timm":
        import timm

        made = timm.get_pretrained_cfg(plain)
        if made is not None:
            interpolation = "bicubic" if made.interpolation == "bicubic" else "bilinear"
            preprocess = Preprocess(made.input_size[-1], made.crop_pct or 0.875, interpolation)
            mean, std = made.mean, made.std
    elif library == "torchvision":
        import torchvision.models

        own = torchvision.models.get_model_weights(plain).DEFAULT.transforms()
        side, whole = own.crop_size[0], own.resize_size[0]
        preprocess = Preprocess(side, side / whole, own.interpolation.value)
        mean, std = own.mean, own.std
    encoder = models.encoder(name, stem="standard", size=preprocess.size, weights=file or "pretrained")
    return Normalised(encoder, mean, std), preprocess
