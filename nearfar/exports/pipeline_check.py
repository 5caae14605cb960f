"""Holds what another tool makes of pictures of any shape against nearfar: the preparation and the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from ..core.errors import NearfarError
from ..features.encode import encode
from ..images.views import Preprocess

Picture = npt.NDArray[np.uint8]
COARSE, GRAIN = 7, 12  # places of colour along a side, and the deviation of the noise on them


@dataclass(frozen=True)
class PictureAgreement:
    """How close the answers of another tool are, which prepared the pictures itself.

    Attributes:
        least: the least cosine to nearfar's own answer for a picture.
        shapes: heights and widths of the pictures.
    """

    least: float
    shapes: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        """Say it in words."""
        sides = ", ".join(f"{wide} x {high}" for high, wide in self.shapes)
        return f"a cosine of at least {self.least:.6f} ({len(self.shapes)} drawn pictures of {sides} px)"


def pictures(plan: Preprocess) -> list[Picture]:
    """Draw coloured shapes with a grain, none of them square: one is enlarged, two are reduced.

    Args:
        plan: how pictures are prepared.

    Returns:
        (H, W, 3) uint8 each.
    """
    draw, most = np.random.default_rng(0), plan.decode_side
    shapes = [(most // 2 + 2, most + 3), (2 * most + 1, 3 * most), (3 * most + 2, most + 5)]
    found = []
    for high, wide in shapes:
        coarse = Image.fromarray(draw.integers(0, 256, (COARSE, COARSE, 3), np.uint8))
        smooth = np.asarray(coarse.resize((wide, high), Image.Resampling.BICUBIC), np.float32)
        grain = draw.normal(0, GRAIN, (high, wide, 1))
        found.append((smooth + grain).clip(0, 255).astype(np.uint8))
    return found


def prepared(plan: Preprocess, drawn: Sequence[Picture]) -> torch.Tensor:
    """Prepare pictures as nearfar does: (n, 3, size, size) in [0, 1]."""
    flat = encode(nn.Flatten(), plan, list(drawn), device="cpu", convert_to_tensor=True)
    assert isinstance(flat, torch.Tensor)
    return flat.reshape(-1, 3, plan.size, plan.size)


def compared(
    network: nn.Module, plan: Preprocess, whole: Callable[[Sequence[Picture]], Any], file: str, bound: float
) -> PictureAgreement:
    """Have both answer for the same pictures.

    Args:
        network: prepared images to (n, d), in eval mode.
        plan: how pictures are prepared.
        whole: pictures to (n, d), by the other tool.
        file: what errors call it.
        bound: the least cosine that passes.

    Returns:
        How close they are.

    Raises:
        NearfarError: they are not close.
    """
    drawn = pictures(plan)
    ours = encode(network, plan, drawn, device="cpu", convert_to_tensor=True)
    assert isinstance(ours, torch.Tensor)
    theirs = torch.as_tensor(whole(drawn))
    least = least_cosine(ours, theirs)
    if not least >= bound:
        raise NearfarError(
            f"{file} gives other vectors than nearfar of pictures (cosine of {least:.4f}, under {bound:g}); "
            "this is a fault of nearfar or of the other tool: please report it, and export with another --to."
        )
    return PictureAgreement(least, tuple((one.shape[0], one.shape[1]) for one in drawn))


def least_cosine(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Compare rows, (n, d) each: the cosine of those that are furthest apart."""
    return float(nn.functional.cosine_similarity(ours.double(), theirs.double()).min().clamp(max=1))
