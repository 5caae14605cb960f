"""A network with ImageNet weights as one more baseline, which needs no training here."""

from __future__ import annotations

from .. import models
from ..images.views import Preprocess
from ..models import libraries


def imagenet(named: str) -> tuple[models.Encoder, Preprocess]:
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
    config = libraries.InputConfig() if library == "nearfar" else libraries.input_config(library, plain)
    f = models.encoder(
        name,
        stem="standard",
        size=config.size,
        weights=file or "pretrained",
        mean=config.mean,
        std=config.std,
    )
    return f, Preprocess(config.size, config.crop, config.interpolation)
