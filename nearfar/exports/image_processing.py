"""Prepares pictures for the network of this folder, for transformers: both resizings that README.md names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_transforms import to_pil_image


class NearfarImageProcessor(BaseImageProcessor):
    """Reduces a large picture, cuts out its centre, resizes that, and normalises it."""

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        side: int = 32,
        short_side: int = 37,
        crop: float = 1.0,
        interpolation: str = "bilinear",
        reduction: str = "bicubic",
        fit: str = "center",
        image_mean: Sequence[float] = (0.0, 0.0, 0.0),
        image_std: Sequence[float] = (1.0, 1.0, 1.0),
        **rest: Any,
    ) -> None:
        """Keep how pictures are prepared.

        Args:
            side: of the network's input in pixels.
            short_side: in pixels, to which larger pictures are reduced first.
            crop: share of the short side that the centred square keeps.
            interpolation: of the square, "bilinear" or "bicubic".
            reduction: of larger pictures, "bilinear" or "bicubic".
            fit: "center" for a square, "squash" for the centre of both sides, which becomes one.
            image_mean, image_std: what a channel in [0, 1] is less and over.
            rest: what transformers keeps of every processor.
        """
        super().__init__(**rest)
        self.side, self.short_side, self.crop, self.interpolation = side, short_side, crop, interpolation
        self.reduction, self.fit = reduction, fit
        self.image_mean, self.image_std = list(image_mean), list(image_std)

    def preprocess(self, images: Any, return_tensors: str | None = None, **_: Any) -> BatchFeature:
        """Prepare one picture or a list of them, as transformers takes them.

        Returns:
            `pixel_values`, (n, 3, side, side).
        """
        several = images if isinstance(images, (list, tuple)) else [images]
        made = torch.stack([self.prepared(image) for image in several]).numpy()
        return BatchFeature({"pixel_values": made}, tensor_type=return_tensors)

    def prepared(self, image: Any) -> torch.Tensor:
        """Prepare one picture, which is laid over white where it is transparent: (3, side, side)."""
        picture = ImageOps.exif_transpose(to_pil_image(image))
        if picture.mode.startswith(("I", "F")):
            raise ValueError(f"a picture of mode {picture.mode} has more than 8 bits; bring it to 8 first.")
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            white = Image.new("RGB", picture.size, (255, 255, 255))
            white.paste(picture, mask=picture.getchannel("A"))
            picture = white
        picture = picture.convert("RGB")
        short = min(picture.size)
        if self.fit == "squash":
            wide, high = (min(one, self.short_side) for one in picture.size)
        else:
            side = min(short, self.short_side)
            wide, high = (max(1, round(one * side / short)) for one in picture.size)
        if (wide, high) != picture.size:
            picture = picture.resize((wide, high), Image.Resampling[self.reduction.upper()])
        sides = picture.size if self.fit == "squash" else (min(picture.size),) * 2
        wide, high = (max(1, round(one * self.crop)) for one in sides)
        left, top = (picture.width - wide) // 2, (picture.height - high) // 2
        pixels = np.array(picture)[top : top + high, left : left + wide]
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        x = F.interpolate(x, (self.side, self.side), mode=self.interpolation, antialias=True)
        mean, std = (torch.tensor(one).view(3, 1, 1) for one in (self.image_mean, self.image_std))
        return (x[0].clamp(0, 1) - mean) / std
