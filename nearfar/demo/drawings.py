"""Draws small images in ten classes that differ by form alone: the training data of the demo.

Colour, place, size, rotation, background and light are drawn at random for every picture, so that raw
pixels say next to nothing about the class. Forms are signed distances, in numpy, many pictures at once.
Shapes: P pictures of S x S pixels; x, y are (P, S, S) coordinates in the form's own frame, about -1 to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ..core import rng

Array = npt.NDArray[np.floating[Any]]
SIDE = 40  # pixels
_COLUMNS = 40  # random numbers a picture


def _triangle(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x) * 0.866 + y * 0.5, -y) - 0.52


def _star(x: Array, y: Array) -> Array:
    angle = np.mod(np.arctan2(y, x), 0.4 * np.pi) - 0.2 * np.pi
    radius = np.hypot(x, y)
    along, across = radius * np.cos(angle), radius * np.abs(np.sin(angle))
    # The edge runs from the notch at radius 0.45 to the tip at radius 1.1, 36 degrees further.
    tip = (1.1 * np.cos(0.2 * np.pi) - 0.45, 1.1 * np.sin(0.2 * np.pi))
    return ((along - 0.45) * tip[1] - across * tip[0]) / np.hypot(*tip)


def _cross(x: Array, y: Array) -> Array:
    upright = np.maximum(np.abs(x) - 0.3, np.abs(y) - 0.95)
    return np.minimum(upright, np.maximum(np.abs(x) - 0.95, np.abs(y) - 0.3))


def _ring(x: Array, y: Array) -> Array:
    return np.abs(np.hypot(x, y) - 0.68) - 0.2


def _crescent(x: Array, y: Array) -> Array:
    return np.maximum(np.hypot(x, y) - 0.95, 0.78 - np.hypot(x - 0.42, y))


def _heart(x: Array, y: Array) -> Array:
    a, b = (x + y) * 0.707 + 0.2, (y - x) * 0.707 + 0.2
    square = np.maximum(np.abs(a), np.abs(b)) - 0.55
    return np.minimum(square, np.minimum(np.hypot(a - 0.55, b), np.hypot(a, b - 0.55)) - 0.55)


def _spiral(x: Array, y: Array) -> Array:
    radius = np.hypot(x, y)
    arm = np.mod(1.9 * radius - np.arctan2(y, x) / (2 * np.pi), 1.0)
    return np.maximum((np.abs(arm - 0.5) - 0.22) / 1.9, radius - 1.05)


def _patch(x: Array, y: Array) -> Array:
    """Bound a texture: a large, uneven disc."""
    return np.hypot(x, y) - 1.25 - 0.12 * np.sin(3 * np.arctan2(y, x))


def _stripes(x: Array, y: Array) -> Array:
    return np.maximum(np.sin(9 * x) / 9, _patch(x, y))


def _checks(x: Array, y: Array) -> Array:
    return np.maximum(np.sin(6 * x) * np.sin(6 * y) / 6, _patch(x, y))


def _dots(x: Array, y: Array) -> Array:
    return np.maximum(
        np.hypot(np.mod(2 * x, 1) - 0.5, np.mod(2 * y, 1) - 0.5) / 2 - 0.14,
        _patch(x, y),
    )


FORMS: dict[str, Callable[[Array, Array], Array]] = {
    "checks": _checks,
    "crescent": _crescent,
    "cross": _cross,
    "dots": _dots,
    "heart": _heart,
    "ring": _ring,
    "spiral": _spiral,
    "star": _star,
    "stripes": _stripes,
    "triangle": _triangle,
}


def _colour(hue: Array, saturation: Array, value: Array) -> Array:
    """Turn (P,) hue, saturation and value into (P, 1, 1, 3) red, green and blue."""
    turn = np.mod(hue[:, None] * 6 + np.array([5, 3, 1], np.float32), 6)
    fall = np.clip(np.minimum(turn, 4 - turn), 0, 1)
    return (value[:, None] * (1 - saturation[:, None] * fall))[:, None, None, :]


def draw(form: str, count: int, seed: int, name: str = "") -> npt.NDArray[np.uint8]:
    """Draw pictures of one form.

    Args:
        form: a name of `FORMS`.
        count: how many pictures, P.
        seed, name: name the random draws; the same pictures come for the same two, and the first ones
            stay the same when more are asked for.

    Returns:
        (P, 40, 40, 3) uint8.
    """
    u = rng.uniform(rng.fold(seed, "drawing", name, form), np.arange(count), _COLUMNS)
    column = iter(range(_COLUMNS))

    def between(low: float, high: float) -> Array:
        return low + (high - low) * u[:, next(column)]

    def spread(values: Array) -> Array:
        return values[:, None, None]

    line = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE * 2 - 1
    across, down = (
        np.broadcast_to(line, (count, SIDE, SIDE)),
        np.broadcast_to(line[:, None], (count, SIDE, SIDE)),
    )

    # Where the form lies, how large it is, how it is turned and how much it is squeezed.
    size, turn, squeeze = between(0.46, 0.82), between(0, 2 * np.pi), between(0.85, 1.15)
    room = 0.85 - 0.62 * size
    x, y = across - spread(between(-1, 1) * room), down - spread(between(-1, 1) * room)
    cosine, sine = spread(np.cos(turn) / size), spread(np.sin(turn) / size)
    own_x, own_y = (x * cosine + y * sine) * spread(squeeze), (y * cosine - x * sine) / spread(squeeze)
    pixels = spread(size) * (SIDE / 2)
    inside = np.clip(0.5 - FORMS[form](own_x, own_y) * pixels, 0, 1)

    # Form and background differ in lightness, either way round; their hues are free.
    bright, dark = between(0.72, 1.0), between(0.12, 0.42)
    swap = between(0, 1) < 0.5
    front = _colour(between(0, 1), between(0.1, 0.9), np.where(swap, bright, dark))
    ground = _colour(between(0, 1), between(0.05, 0.8), np.where(swap, dark, bright))
    second = _colour(between(0, 1), between(0.05, 0.8), np.where(swap, dark * 1.3, bright * 0.85))

    # The background runs from one colour to another, in a slope with soft waves on it.
    slope = between(0, 2 * np.pi)
    height = across * spread(np.cos(slope)) + down * spread(np.sin(slope))
    for frequency in (2.0, 3.5, 6.0):
        heading, phase = between(0, 2 * np.pi), between(0, 2 * np.pi)
        wave = across * spread(np.cos(heading)) + down * spread(np.sin(heading))
        height = height + spread(between(0, 1.6 / frequency)) * np.sin(frequency * wave + spread(phase))
    mixed = np.clip(0.5 + 0.4 * height, 0, 1)[..., None]
    picture = ground * (1 - mixed) + second * mixed
    picture = picture * (1 - inside[..., None]) + front * inside[..., None]

    # One lamp lights the whole scene from one side, and the film has a little grain.
    lamp = between(0, 2 * np.pi)
    light = spread(between(0.7, 1.1)) * (
        1 + 0.28 * (across * spread(np.cos(lamp)) + down * spread(np.sin(lamp)))
    )
    key = rng.fold(seed, "grain", name, form)
    grain = rng.uniform(key, np.arange(count), SIDE * SIDE * 3).reshape(count, SIDE, SIDE, 3) - 0.5
    picture = picture * light[..., None] + grain * between(0.01, 0.07)[:, None, None, None]
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def odd(count: int, seed: int) -> npt.NDArray[np.uint8]:
    """Draw pictures that fit nowhere: noise, a grid of colours, one flat colour, a burnt-out frame.

    Args:
        count: how many.
        seed: names the random draws.

    Returns:
        (count, 40, 40, 3) uint8.
    """
    u = rng.uniform(rng.fold(seed, "odd"), np.arange(count), SIDE * SIDE * 3).reshape(count, SIDE, SIDE, 3)
    for i, noise in enumerate(u):
        if i % 4 == 1:
            u[i] = np.kron(noise[:5, :5], np.ones((8, 8, 1)))
        elif i % 4 == 2:
            u[i] = noise[0, 0]
        elif i % 4 == 3:
            u[i] = np.clip(0.9 + noise * 0.2, 0, 1)
    return (u * 255 + 0.5).astype(np.uint8)


def contact_sheet(seed: int = 0, columns: int = 12, scale: int = 1) -> Image.Image:
    """Lay out a few pictures of every form, a row a form, with its name next to it.

    Args:
        seed: of the pictures.
        columns: pictures a row.
        scale: pixels of the sheet for one of a picture.

    Returns:
        The sheet.
    """
    cell, margin, gap = SIDE * scale, 74 * scale, 4 * scale
    step = cell + gap
    sheet = Image.new("RGB", (margin + columns * step, gap + len(FORMS) * step), (250, 250, 248))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13 * scale)
    for row, form in enumerate(FORMS):
        top = gap + row * step
        pen.text((margin - 9 * scale, top + cell // 2), form, fill=(60, 60, 60), font=font, anchor="rm")
        for column, pixels in enumerate(draw(form, columns, seed, "sheet")):
            picture = Image.fromarray(pixels).resize((cell, cell), Image.Resampling.NEAREST)
            sheet.paste(picture, (margin + column * step, top))
    return sheet
