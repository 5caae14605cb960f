"""What the makers of weights feed their network with, and a sentence where they do not say it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import progress

PREPROCESSOR = "preprocessor_config.json"  # transformers' file, and in it the names of mean and deviation
FIGURES = ("image_mean", "image_std")


@dataclass(frozen=True)
class InputConfig:
    """What the makers of pretrained weights feed them with.

    Attributes:
        size: side of the input in pixels.
        crop: share of the short side that the centred square keeps.
        interpolation: "bilinear" or "bicubic".
        mean, std: what is subtracted from each channel of pixels in [0, 1], and what it is divided by then.
        licence: of the weights, as their makers name it; "" where that is not known.
        fit: how an image that is not square becomes one, as timm names it: "center", "squash", or what
            nearfar does not follow, such as "border".
        assumed: whether mean and deviation are said nowhere, and these are what most weights want.
    """

    size: int = 224
    crop: float = 0.875
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    licence: str = ""
    fit: str = "center"
    assumed: bool = False

    @classmethod
    def of_timm(cls, config: Mapping[str, Any]) -> InputConfig:
        """Read a `pretrained_cfg` of timm's, as its registry and its folders have it."""
        usual = cls()
        mean, std = numbers(config.get("mean")), numbers(config.get("std"), low=0.0)
        return cls(
            int(config.get("input_size", (3, usual.size, usual.size))[-1]),
            float(config.get("crop_pct") or usual.crop),
            "bicubic" if config.get("interpolation") == "bicubic" else "bilinear",
            mean or usual.mean,
            std or usual.std,
            str(config.get("license") or ""),
            str(config.get("crop_mode") or usual.fit),
            mean is None or std is None,
        )


def share(size: int, short: int) -> float:
    """Say which share of a short side a centred square keeps, from which the short side can be told again.

    Args:
        size: of the square in pixels.
        short: side that it is cut from, no smaller.

    Returns:
        Their quotient, or the next number below where rounding would make `int(size / share)`, by which timm
        finds the short side, one pixel less.
    """
    found = size / short
    return found if int(size / found) == short else math.nextafter(found, 0.0)


def numbers(values: Any, low: float = -math.inf) -> tuple[float, ...] | None:
    """Read a mean or a deviation from a file: three finite numbers; None where there are no such ones.

    Args:
        values: what the file holds; one number stands for three.
        low: what each number is above.
    """
    values = [values] * 3 if isinstance(values, int | float) else values
    fit = isinstance(values, list | tuple) and len(values) == 3
    if not fit or not all(isinstance(v, int | float) and math.isfinite(v) and v > low for v in values):
        return None
    return tuple(map(float, values))


_said: set[str] = set()


def remark(text: str) -> None:
    """Say on standard error what a user should know of weights; once, though a command may open them often.

    Args:
        text: the line.
    """
    if progress.shown() and text not in _said:
        _said.add(text)
        progress.say(text)


def say_assumed(config: InputConfig, weights: str, whose: str, place: Path) -> None:
    """Say that weights have no mean and deviation of their own, which are taken, and how others are given.

    Args:
        config: what is taken.
        weights: file or folder, as the sentence names it.
        whose: the figures are.
        place: the folder where a file can name others.
    """
    named = {name: list(row) for name, row in zip(FIGURES, (config.mean, config.std), strict=True)}
    mean, std = (" ".join(f"{value:g}" for value in row) for row in (config.mean, config.std))
    remark(
        f"{weights} does not say the mean and deviation of its images, so {whose} are taken: mean {mean}, "
        f"deviation {std}; for others, write them into {place / PREPROCESSOR} as {json.dumps(named)}"
    )
