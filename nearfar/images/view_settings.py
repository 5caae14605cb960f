"""Settings of a view: how an image is cropped, flipped and coloured. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..core.config import setting
from ..core.errors import NearfarError

COLOURS = ("hue", "grayscale", "saturation")  # settings of a view that lose what an image's colours are
SMALL_SIDE = 64  # px: up to here images are used whole, at their own size, with a stem made for small images


def is_small(side: int) -> bool:
    """Tell whether an image counts as small, as those of CIFAR-10 do.

    Args:
        side: its short side, in pixels.

    Returns:
        Whether that is at most `SMALL_SIDE`.
    """
    return side <= SMALL_SIDE


@dataclass(frozen=True)
class Views:
    """How an image becomes a view. The defaults are SimCLR's for small images (s = 0.5, no blur)."""

    crop_min: float = setting(
        0.08,
        "least area of a random crop, as a share of the image",
        low=0.01,
        high=1.0,
        source="SimCLR, appendix A",
    )
    crop_max: float = setting(
        1.0,
        "greatest area of a random crop, as a share of the image",
        low=0.01,
        high=1.0,
        source="SimCLR, appendix A",
    )
    interpolation: str = setting(
        "bicubic",
        "how a crop is resized, always antialiased",
        choices=("bilinear", "bicubic"),
        source="SimCLR's code",
    )
    range: tuple[float, ...] | None = setting(
        None,
        "values that become black and white in images of more than 8 bits; found from the files if not given",
    )
    percentiles: tuple[float, ...] | None = setting(
        None,
        "find --range as these two percentiles of the values of a sample of the images",
        low=0.0,
        high=100.0,
    )
    colour: str = setting(
        "change",
        "change colours as below, keep them, or decide by the images (auto: by their labels where they have any)",
        choices=("auto", "change", "keep"),
    )
    flip: float = setting(0.5, "chance of a left-right flip", low=0.0, high=1.0, source="SimCLR, appendix A")
    jitter: float = setting(0.8, "chance of colour jitter", low=0.0, high=1.0, source="SimCLR, appendix A")
    brightness: float = setting(
        0.4,
        "brightness jitter: factor from 1 - x to 1 + x",
        low=0.0,
        high=1.0,
        source="SimCLR, appendix A, s = 0.5",
    )
    contrast: float = setting(
        0.4,
        "contrast jitter: factor from 1 - x to 1 + x",
        low=0.0,
        high=1.0,
        source="SimCLR, appendix A, s = 0.5",
    )
    saturation: float = setting(
        0.4,
        "saturation jitter: factor from 1 - x to 1 + x",
        low=0.0,
        high=1.0,
        source="SimCLR, appendix A, s = 0.5",
    )
    hue: float = setting(
        0.1,
        "hue jitter: turn of the colour wheel from -x to +x",
        low=0.0,
        high=0.5,
        source="SimCLR, appendix A, s = 0.5",
    )
    grayscale: float = setting(0.2, "chance of turning grey", low=0.0, high=1.0, source="SimCLR, appendix A")
    blur: float = setting(
        0.0,
        "chance of Gaussian blur, sigma 0.1 to 2, kernel a tenth of the side",
        low=0.0,
        high=1.0,
        source="SimCLR, appendix A: 0.5 for ImageNet, none for CIFAR",
    )
    solarize: float = setting(
        0.0, "chance of inverting the pixels above one half", low=0.0, high=1.0, source="BYOL, appendix B"
    )


def keeping(views: Views) -> Views:
    """Change settings so that a view keeps its colours, but for a little saturation.

    Args:
        views: any settings.

    Returns:
        The same without changes of hue and grey, and with saturation changed by a tenth at most.
    """
    return replace(views, colour="keep", hue=0.0, grayscale=0.0, saturation=min(views.saturation, 0.1))


def check_crops(views: Views) -> None:
    """Refuse crops of which the least is larger than the greatest.

    Args:
        views: any settings.

    Raises:
        NearfarError: they are such.
    """
    if views.crop_min > views.crop_max:
        raise NearfarError(
            f"--crop-min {views.crop_min} is above --crop-max {views.crop_max}; give --crop-min "
            f"{views.crop_max} or less."
        )


CROP_AND_FLIP = Views(jitter=0.0, grayscale=0.0, blur=0.0, solarize=0.0)
"""How labelled images are changed while an encoder is fine-tuned."""
