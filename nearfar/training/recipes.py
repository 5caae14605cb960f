"""Named recipes: settings that are known to work together, each a plain function with its source.

Flags on the command line override the recipe, one setting at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ..images.view_settings import SMALL_SIDE, Views, is_small
from .settings import Training


@dataclass(frozen=True)
class Recipe:
    """Settings of the training and of the views; what a method overrides is in its own file."""

    training: Training
    views: Views


def cpu(side: int) -> Recipe:
    """Minutes on two cores: a small residual net, Muon, a low temperature, mild crops.

    Args:
        side: short side of the images, in pixels.

    Returns:
        The recipe. Images over 64 px are trained at 64, which keeps a CPU step affordable.

    Source: our own search on held-out CIFAR-10 training images (docs/decisions.md).
    """
    return Recipe(
        Training(
            minutes=10.0,
            batch_size=256,
            encoder="resnet8",
            image_size=None if is_small(side) else SMALL_SIDE,
            optimizer="muon",
            lr=0.02,
            weight_decay=0.01,
            warmup=0.1,
        ),
        Views(crop_min=0.2, interpolation="bilinear", colour="auto"),
    )


def cifar_short(side: int) -> Recipe:
    """A hundred epochs of ResNet-18 on small images: minutes on one GPU.

    Args:
        side: short side of the images; unused.

    Returns:
        The recipe: SGD 0.06 bs/256, batch 512, tau 0.5.

    Source: settings of public SimCLR runs on CIFAR-10; the rate for 100 epochs is ours.
    """
    training = Training(
        epochs=100.0,
        batch_size=512,
        encoder="resnet18",
        optimizer="sgd",
        lr=0.06,
        lr_scaling="linear",
        weight_decay=5e-4,
        warmup=0.0,
    )
    views = Views(crop_min=0.2, interpolation="bilinear", grayscale=0.1)
    return Recipe(training, views)


def cifar_long(side: int) -> Recipe:
    """A thousand epochs of ResNet-18 on small images: the rate halves, all else stays.

    Args:
        side: short side of the images; unused.

    Returns:
        The recipe.
    """
    short = cifar_short(side)
    training = Training(
        epochs=1000.0,
        batch_size=512,
        encoder="resnet18",
        optimizer="sgd",
        lr=0.03,
        lr_scaling="linear",
        weight_decay=5e-4,
        warmup=0.0,
    )
    return Recipe(training, short.views)


def imagenet(side: int) -> Recipe:
    """SimCLR as published: ResNet-50 at 224 px, LARS, full colour strength and blur.

    Args:
        side: short side of the images; unused.

    Returns:
        The recipe, for one machine: batch 512 over 100 epochs, the square-root rule, which the paper
        finds better for small batches and few epochs (table B.1).

    Source: Chen et al. 2020, section 2.3 and appendix B.1.
    """
    training = Training(
        epochs=100.0,
        batch_size=512,
        encoder="resnet50",
        optimizer="lars",
        lr=0.075,
        lr_scaling="sqrt",
        weight_decay=1e-6,
        warmup=0.1,
        image_size=224,
        short_side=448,
    )
    views = Views(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5)
    return Recipe(training, views)


def vit(side: int) -> Recipe:
    """A vision transformer: AdamW, much weight decay, a long warm-up.

    Args:
        side: short side of the images, in pixels.

    Returns:
        The recipe, for one machine: batch 512 where the authors have 4096. Large images are trained at 224.

    Source: Chen, Xie and He 2021, MoCo v3, its code: 300 epochs, 40 of them warm-up.
    """
    training = Training(
        epochs=300.0,
        batch_size=512,
        encoder="vit_small_patch16_224",
        optimizer="adamw",
        lr=1.5e-4,
        lr_scaling="linear",
        weight_decay=0.1,
        warmup=40 / 300,
        image_size=None if is_small(side) else 224,
        short_side=448,
    )
    return Recipe(training, imagenet(side).views)


_TRANSFORMER = re.compile(
    r"(?:^|[:/_])(?:vit|deit3?|beit(?:v2)?|eva(?:02)?|swinv?2?|cait|xcit|samvit|flexivit)(?:_|$)"
)


def is_transformer(encoder: str) -> bool:
    """Tell by its name whether an encoder is a vision transformer.

    Args:
        encoder: a name of timm or torchvision.
    """
    return _TRANSFORMER.search(encoder) is not None


RECIPES: dict[str, Callable[[int], Recipe]] = {
    "cpu": cpu,
    "cifar-short": cifar_short,
    "cifar-long": cifar_long,
    "imagenet": imagenet,
    "vit": vit,
}


def choose(device: str, side: int, encoder: str = "auto") -> str:
    """Name the recipe for a device, a size of image and a kind of encoder.

    Args:
        device: "cpu", "cuda" or "mps".
        side: short side of the images, in pixels.
        encoder: its name, or "auto" for the recipe's.

    Returns:
        A name in `RECIPES`.
    """
    if device == "cpu":
        return "cpu"
    if is_transformer(encoder):
        return "vit"
    return "cifar-short" if is_small(side) else "imagenet"
