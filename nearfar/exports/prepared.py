"""How a picture of any size is prepared, as one operator, since to trace its steps with symbols is slow."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

MODES = {"bilinear": "linear", "bicubic": "cubic"}  # of PyTorch, in ONNX


def prepared(
    picture: torch.Tensor,
    most: int,
    reduction: str,
    crop: list[int],
    fit: str,
    high: int,
    wide: int,
    mode: str,
) -> torch.Tensor:
    """Reduce a picture, round it, cut its middle out and resize that, as `Preprocess` does.

    Args:
        picture: (1, H, W, 3) uint8, RGB, upright, sides of at least 2.
        most: pixels of its short side after reducing.
        reduction: of the reducing, a name in `MODES`.
        crop: share of the short side that a square in its middle has, as a fraction's two parts; empty to
            keep all.
        fit: "center" for that square, "squash" for as much of each side; each is then reduced by itself.
        high, wide: sides of the answer.
        mode: of the last resizing, a name in `MODES`.

    Returns:
        (1, 3, high, wide) in [0, 1], float32.
    """
    found: torch.Tensor = _operator()(picture, most, reduction, crop, fit, high, wide, mode)
    return found


@functools.cache
def _operator() -> Any:
    """Register the operator, which takes half a second: an import is too early for it."""
    made = torch.library.custom_op("nearfar::prepared", _prepared, mutates_args=())

    @made.register_fake
    def _(
        picture: Any, most: Any, reduction: Any, crop: Any, fit: Any, high: int, wide: int, mode: Any
    ) -> torch.Tensor:
        found: torch.Tensor = picture.new_empty((1, 3, high, wide), dtype=torch.float32)
        return found

    return made


def _prepared(
    picture: torch.Tensor,
    most: int,
    reduction: str,
    crop: list[int],
    fit: str,
    high: int,
    wide: int,
    mode: str,
) -> torch.Tensor:
    x = picture.permute(0, 3, 1, 2).float()
    short = min(x.shape[2:])
    target = min(short, most)
    if fit == "squash":
        sides = [min(side, most) for side in x.shape[2:]]
    else:
        sides = [nearest_quotient(side * target, short) for side in x.shape[2:]]
    x = functional.interpolate(x, size=sides, mode=reduction, antialias=True, align_corners=False)
    x = x.clamp(0, 255).round()
    if crop:
        whole = sides if fit == "squash" else [target, target]
        h, w = (nearest_quotient(side * crop[0], crop[1]) for side in whole)
        top, left = (sides[0] - h) // 2, (sides[1] - w) // 2
        x = x[:, :, top : top + h, left : left + w]
    x = functional.interpolate(x, size=(high, wide), mode=mode, antialias=True, align_corners=False)
    return (x / 255).clamp(0, 1)


def nearest_quotient(top: int, bottom: int) -> int:
    """Divide whole numbers and round to the nearest one, halves to the even one as Python does.

    Args:
        top, bottom: at least 0 and above 0.
    """
    whole = (2 * top + bottom) // (2 * bottom)
    tie = 1 - min(1, (2 * top + bottom) % (2 * bottom))
    return whole - tie * (whole % 2)


def in_onnx() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Give what ONNX's exporter writes for the operator: the same steps in ONNX's own."""
    from onnxscript import opset18 as op

    def whole(*numbers: int) -> Any:
        return op.Constant(value_ints=list(numbers))

    def quotient(top: Any, bottom: Any) -> Any:
        top, bottom = op.Add(op.Mul(top, whole(2)), bottom), op.Mul(bottom, whole(2))
        found = op.Div(top, bottom)
        tie = op.Sub(whole(1), op.Min(whole(1), op.Mod(top, bottom)))
        return op.Sub(found, op.Mul(tie, op.Mod(found, whole(2))))

    def resize(x: Any, sides: Any, mode: str) -> Any:
        how: dict[str, Any] = {"coordinate_transformation_mode": "half_pixel", "exclude_outside": 1}
        sides = op.Concat(whole(1, 3), sides, axis=0)
        return op.Resize(x, None, None, sides, mode=mode, antialias=1, cubic_coeff_a=-0.5, **how)

    def written(
        picture: Any,
        most: int,
        reduction: str,
        crop: list[int],
        fit: str,
        high: int,
        wide: int,
        mode: str,
    ) -> Any:
        sides = op.Shape(picture, start=1, end=3)
        short = op.ReduceMin(sides, keepdims=1)
        target = op.Min(short, whole(most))
        squash = fit == "squash"
        sides = op.Min(sides, whole(most)) if squash else quotient(op.Mul(sides, target), short)
        x = op.Cast(op.Transpose(picture, perm=[0, 3, 1, 2]), to=1)
        x = op.Round(op.Clip(resize(x, sides, MODES[reduction]), 0.0, 255.0))
        if crop:
            kept = quotient(op.Mul(sides if squash else target, whole(crop[0])), whole(crop[1]))
            start = op.Div(op.Sub(sides, kept), whole(2))
            x = op.Slice(x, start, op.Add(start, kept), whole(2, 3))
        x = resize(x, whole(high, wide), MODES[mode])
        return op.Clip(op.Div(x, 255.0), 0.0, 1.0)

    _operator()
    return {torch.ops.nearfar.prepared.default: written}
