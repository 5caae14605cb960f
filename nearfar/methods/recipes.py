"""The settings in which methods differ from the recipes: recipe names, and values that several papers share."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

Settings = Mapping[str, Any]
NONE: Settings = MappingProxyType({})

BYOL_COLOURS = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
"""Grill et al. 2020, BYOL, table 6, which Barlow Twins, VICReg and MoCo v3 take over."""

MOCO_V2 = {
    "optimizer": "sgd",
    "lr_scaling": "linear",
    "weight_decay": 1e-4,
    "warmup": 0.0,
    "crop_min": 0.2,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
}
"""Chen et al. 2020, MoCo v2, and He et al. 2020, MoCo, section 3.3, which SimSiam takes over."""

WEAK = {"crop_min": 0.6, "colour": "change", "jitter": 0.0, "grayscale": 0.0, "blur": 0.0}
"""Crops of most of an image, and flips; no colours."""

TILES = {"crop_min": 0.6, "colour": "change", "jitter": 0.0, "grayscale": 0.66, "blur": 0.0}
"""VISSL's Jigsaw: weak crops, and two images of three grey, so that a lens's colour fringes tell no place.

Colours may not be kept for that reason, whatever the images are."""

MASKED = {**WEAK, "optimizer": "adamw", "lr": 1.5e-4, "lr_scaling": "linear", "weight_decay": 0.05}
"""He et al. 2022, MAE, appendix A.1: crops and flips, and AdamW at 1.5e-4 for 256 images."""


def recipes(
    *,
    cpu: Settings = NONE,
    cifar: Settings = NONE,
    cifar_short: Settings = NONE,
    cifar_warmup_epochs: int | None = None,
    imagenet: Settings = NONE,
    vit: Settings = NONE,
) -> dict[str, dict[str, Any]]:
    """Collect in what a method differs from each recipe.

    Args:
        cpu, imagenet, vit: settings in which it differs from the recipe of that name: training's, views' or its own.
        cifar: the same for both recipes for CIFAR.
        cifar_short: besides, for the shorter one.
        cifar_warmup_epochs: epochs in which the learning rate rises, of the 100 and the 1,000 of the two.

    Returns:
        By name of a recipe, the settings; no entry where there is no difference.
    """
    short, long = {**cifar, **cifar_short}, {**cifar}
    if cifar_warmup_epochs is not None:
        short["warmup"], long["warmup"] = cifar_warmup_epochs / 100, cifar_warmup_epochs / 1000
    found = {"cpu": cpu, "cifar-short": short, "cifar-long": long, "imagenet": imagenet, "vit": vit}
    return {name: dict(settings) for name, settings in found.items() if settings}
