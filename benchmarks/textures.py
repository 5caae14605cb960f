"""Draws textures, and defects on them and on photographs, in the layout of industrial data sets.

    python -m benchmarks.textures OUT [PHOTOGRAPHS ...]

OUT then has a folder a texture with `train/good`, `test/<kind>` and `ground_truth/<kind>`. A photograph of a
texture is cut into crops: those to learn from are of its left part, those to test of its right part, which
share no pixel. Brightness and contrast differ a little from crop to crop.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

Picture = npt.NDArray[np.float64]  # (h, w, 3), 0 to 255
Draws = np.random.Generator
SIDE = 256  # of pictures, in pixels
LEARN, GOOD, EACH = 40, 20, 4  # pictures to learn from, good ones to test, and to test with each defect
FAINT = 0.4  # strength of every other defect
LEFT = 0.55  # of a photograph's width: what is learnt from


def noise(draws: Draws, high: int, wide: int, *scales: float) -> npt.NDArray[np.float64]:
    """Give smooth noise of deviation 1, a sum over scales in pixels."""
    total = np.zeros((high, wide))
    for scale in scales:
        total += _unit(gaussian_filter(draws.normal(size=(high, wide)), scale, mode="wrap"))
    return _unit(total)


def _unit(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = (x - x.mean()) / (x.std() + 1e-9)
    return found


def _places(draws: Draws, high: int, wide: int, bend: float) -> tuple[Picture, Picture]:
    """Give the places of a pattern, moved, turned a little and bent."""
    y, x = np.mgrid[:high, :wide].astype(float)
    angle = draws.normal(0, 0.02)
    x, y = x + angle * y + draws.uniform(0, 200), y - angle * x + draws.uniform(0, 200)
    return y + bend * noise(draws, high, wide, 12), x + bend * noise(draws, high, wide, 12)


def _coloured(grey: npt.NDArray[np.float64], colour: tuple[float, float, float]) -> Picture:
    return grey[:, :, None] * np.array(colour)


def weave(draws: Draws, high: int, wide: int) -> Picture:
    y, x = _places(draws, high, wide, 0.4)
    over = np.sin(np.pi * x / 6) * np.sin(np.pi * y / 6)
    return _coloured(128 + 45 * over + 8 * noise(draws, high, wide, 0.5), (1, 1, 1))


def twill(draws: Draws, high: int, wide: int) -> Picture:
    y, x = _places(draws, high, wide, 0.8)
    lines = np.sin(2 * np.pi * (x + y) / 9) + 0.5 * np.sin(2 * np.pi * y / 4.5)
    return _coloured(120 + 30 * lines + 10 * noise(draws, high, wide, 0.7), (0.6, 0.8, 1.1))


def leather(draws: Draws, high: int, wide: int) -> Picture:
    cells = np.abs(noise(draws, high, wide, 3)) + 0.5 * np.abs(noise(draws, high, wide, 6))
    return _coloured(70 + 45 * np.tanh(1.5 * cells) + 4 * noise(draws, high, wide, 0.6), (1.25, 0.8, 0.55))


def carpet(draws: Draws, high: int, wide: int) -> Picture:
    pile = noise(draws, high, wide, 1.2, 2.5)
    return _coloured(110 + 28 * pile + 6 * noise(draws, high, wide, 20), (1, 0.9, 0.85))


def mesh(draws: Draws, high: int, wide: int) -> Picture:
    y, x = _places(draws, high, wide, 0.3)
    wire = np.maximum(np.cos(np.pi * (x + y) / 16) ** 8, np.cos(np.pi * (x - y) / 16) ** 8)
    return _coloured(40 + 150 * wire + 5 * noise(draws, high, wide, 0.6), (1, 1, 1))


def tiles(draws: Draws, high: int, wide: int) -> Picture:
    y, x = _places(draws, high, wide, 0)
    joint = (np.minimum(x % 64, y % 64) < 4).astype(float)
    specks = (noise(draws, high, wide, 1.0) > 1.8) * 70.0
    return _coloured(190 - specks - 70 * gaussian_filter(joint, 0.8), (0.95, 1, 1))


def wood(draws: Draws, high: int, wide: int) -> Picture:
    y, x = _places(draws, high, wide, 0)
    bent = x / 7 + 2.5 * gaussian_filter(noise(draws, high, wide, 8), (25, 6)) * 4 + 0.01 * y
    fibre = _unit(gaussian_filter(draws.normal(size=(high, wide)), (9, 0.6)))
    return _coloured(140 + 22 * np.sin(bent) + 9 * fibre, (1.15, 0.85, 0.6))


def marble(draws: Draws, high: int, wide: int) -> Picture:
    veins = 1 - np.abs(noise(draws, high, wide, 14, 6, 3)) / 1.5
    return _coloured(205 - 60 * np.clip(veins, 0, 1) ** 4 + 5 * noise(draws, high, wide, 1), (1, 1, 0.97))


def ground(draws: Draws, high: int, wide: int) -> Picture:
    """Ground metal of any size in uneven light, grey."""
    high, wide = int(high * draws.uniform(0.8, 1.5)), int(wide * draws.uniform(0.7, 1.1))
    lines = _unit(gaussian_filter(draws.normal(size=(high, wide)), (0.7, 14)))
    light = 1 + 0.15 * noise(draws, high, wide, 60) + draws.normal(0, 0.1)
    edge = np.minimum(1, (np.arange(wide) + 4) / draws.uniform(8, 30))
    return _coloured((95 + 10 * lines + 6 * noise(draws, high, wide, 0.8)) * light * edge, (1, 1, 1))


def concrete(draws: Draws, high: int, wide: int) -> Picture:
    pores = 40 * (noise(draws, high, wide, 1.6) > 2.3)
    rough = 7 * noise(draws, high, wide, 30) + 8 * noise(draws, high, wide, 1, 4)
    return _coloured(150 + rough - pores, (1, 1, 0.98))


def knit(draws: Draws, high: int, wide: int) -> Picture:
    y, x = _places(draws, high, wide, 0.6)
    loops = np.sin(2 * np.pi * (y + 4 * np.abs(((x / 14) % 1) - 0.5) * 4) / 10) + np.cos(2 * np.pi * x / 14)
    return _coloured(120 + 28 * loops + 9 * noise(draws, high, wide, 0.8), (0.9, 0.6, 0.65))


def rice(draws: Draws, high: int, wide: int) -> Picture:
    grains = np.maximum(noise(draws, high, wide, 2, 2.2), -0.5)
    return _coloured(100 + 45 * grains, (1, 0.98, 0.9))


DRAWN: dict[str, Callable[[Draws, int, int], Picture]] = {
    one.__name__: one
    for one in (weave, twill, leather, carpet, mesh, tiles, wood, marble, ground, concrete, knit, rice)
}


def crops(path: Path) -> dict[bool, Callable[[Draws, int, int], Picture]]:
    """Give what cuts crops of a photograph, to learn from (True) and to test."""
    whole = np.asarray(Image.open(path).convert("RGB"), np.float64)
    at = round(LEFT * whole.shape[1])

    def cut(part: Picture) -> Callable[[Draws, int, int], Picture]:
        def one(draws: Draws, high: int, wide: int) -> Picture:
            side = min(part.shape[0] - 8, part.shape[1] - 8, high)
            top, left = (int(draws.integers(0, length - side)) for length in part.shape[:2])
            crop = part[top : top + side, left : left + side]
            return crop[:, :: int(draws.choice([-1, 1]))]

        return one

    return {True: cut(whole[:, :at]), False: cut(whole[:, at:])}


def taken(draws: Draws, x: Picture) -> npt.NDArray[np.uint8]:
    """Take a picture: brightness and contrast differ, and the camera is noisy."""
    x = (x - 128) * draws.uniform(0.93, 1.07) + 128 + draws.uniform(-6, 6)
    return (x + draws.normal(0, 1.5, x.shape)).clip(0, 255).round().astype(np.uint8)


# Each defect changes a picture and gives the pixels that it has changed.
def _line(draws: Draws, high: int, wide: int, length: float, thick: float) -> npt.NDArray[np.float64]:
    """Give how much of each pixel a curved line covers, 0 to 1."""
    steps = np.linspace(0, 1, 400)
    angle, bend = draws.uniform(0, 2 * np.pi), draws.normal(0, 0.8)
    turn = angle + bend * steps
    path = np.cumsum(np.stack([np.sin(turn), np.cos(turn)]), axis=1) * length / 400
    start = draws.uniform(0.25, 0.75, 2) * (high, wide)
    path = path - path.mean(1, keepdims=True) + start[:, None]
    y, x = np.mgrid[:high, :wide]
    away = np.full((high, wide), np.inf)
    for down, across in path.T[::3]:
        np.minimum(away, (y - down) ** 2 + (x - across) ** 2, out=away)
    cover: npt.NDArray[np.float64] = np.clip(thick / 2 + 0.5 - np.sqrt(away), 0, 1)
    return cover


def _blob(draws: Draws, high: int, wide: int, radius: float, soft: float) -> npt.NDArray[np.float64]:
    y, x = np.mgrid[:high, :wide]
    down, across = draws.uniform(0.2, 0.8, 2) * (high, wide)
    away = np.hypot(y - down, x - across) * (1 + 0.15 * noise(draws, high, wide, radius / 2))
    cover: npt.NDArray[np.float64] = 1 / (1 + np.exp((away - radius) / soft))
    return cover


def _mixed(x: Picture, cover: npt.NDArray[np.float64], colour: Picture) -> Picture:
    found: Picture = x + cover[:, :, None] * (colour - x)
    return found


def scratch(draws: Draws, x: Picture) -> tuple[Picture, Picture]:
    cover = _line(draws, *x.shape[:2], draws.uniform(50, 120), draws.uniform(1.5, 3))
    away = (25 + 1.5 * x.std()) * draws.choice([-1, 1])
    return x + cover[:, :, None] * away, cover


def cut(draws: Draws, x: Picture) -> tuple[Picture, Picture]:
    cover = _line(draws, *x.shape[:2], draws.uniform(30, 70), draws.uniform(3, 5))
    return _mixed(x, cover, x.min((0, 1)) * 0.5), cover


def hole(draws: Draws, x: Picture) -> tuple[Picture, Picture]:
    cover = _blob(draws, *x.shape[:2], draws.uniform(5, 14), 0.6)
    return _mixed(x, cover, x.mean((0, 1)) * draws.choice([0.15, 0.3])), cover


def stain(draws: Draws, x: Picture) -> tuple[Picture, Picture]:
    cover = _blob(draws, *x.shape[:2], draws.uniform(14, 30), 3)
    return x * (1 - 0.35 * cover[:, :, None]), cover


def thread(draws: Draws, x: Picture) -> tuple[Picture, Picture]:
    cover = _line(draws, *x.shape[:2], draws.uniform(60, 140), draws.uniform(3, 4))
    shade = gaussian_filter(np.roll(cover, 2, (0, 1)), 1.5)
    light = np.array([235.0, 230, 220]) if x.mean() < 140 else np.array([60.0, 50, 70])
    return _mixed(x * (1 - 0.25 * shade[:, :, None]), cover, light), cover


def spot(draws: Draws, x: Picture) -> tuple[Picture, Picture]:
    """A spot of another colour; of another brightness on a grey picture."""
    cover = _blob(draws, *x.shape[:2], draws.uniform(8, 18), 1.5)
    grey = bool(np.ptp(x.mean((0, 1))) < 3)
    factor = np.full(3, draws.choice([0.6, 1.4])) if grey else draws.permutation([0.6, 1.0, 1.35])
    return _mixed(x, cover, x * factor), cover


def blur(draws: Draws, x: Picture) -> tuple[Picture, Picture]:
    cover = _blob(draws, *x.shape[:2], draws.uniform(18, 34), 2)
    return _mixed(x, cover, gaussian_filter(x, (3, 3, 0))), cover


def fold(draws: Draws, x: Picture) -> tuple[Picture, Picture]:
    """A part that is enlarged and turned."""
    cover = _blob(draws, *x.shape[:2], draws.uniform(18, 34), 2)
    part = np.ascontiguousarray(zoom(x, (1.6, 1.6, 1), order=1)[: x.shape[0], : x.shape[1]])
    y, across = np.mgrid[: x.shape[0], : x.shape[1]]
    turned = np.stack(
        [map_coordinates(part[:, :, c], [across, y], order=1, mode="mirror") for c in range(3)], 2
    )
    return _mixed(x, cover, turned), cover


def defective(draws: Draws, x: Picture, make: Callable[..., Any], strength: float) -> tuple[Picture, Picture]:
    """Draw a defect; with a strength below 1 it is mixed with what was there."""
    changed, cover = make(draws, x)
    return x + strength * (changed - x), cover


DEFECTS = {one.__name__: one for one in (scratch, cut, hole, stain, thread, spot, blur, fold)}


def write(
    folder: Path, learn: Callable[..., Picture], test: Callable[..., Picture], side: int, seed: int
) -> None:
    """Write the pictures of a texture.

    Args:
        folder: where.
        learn, test: draw a picture, to learn from or to test.
        side: of a picture, in pixels.
        seed: of the draws.
    """

    def save(kind: str, number: int, pixels: npt.NDArray[np.uint8]) -> None:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / kind / f"{number:03d}.png")

    draws = np.random.default_rng([zlib.crc32(folder.name.encode()), seed])
    for number in range(LEARN):
        save("train/good", number, taken(draws, learn(draws, side, side)))
    for number in range(GOOD):
        save("test/good", number, taken(draws, test(draws, side, side)))
    for kind, make in DEFECTS.items():
        for number in range(EACH):
            x, cover = defective(draws, test(draws, side, side), make, FAINT if number % 2 else 1)
            save(f"test/{kind}", number, taken(draws, x))
            save(f"ground_truth/{kind}", number, (cover > 0.5).astype(np.uint8) * 255)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("photographs", type=Path, nargs="*")
    parser.add_argument("--drawn", nargs="*", default=list(DRAWN), help="names of textures to draw")
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    for name in words.drawn:
        draw = DRAWN[name]
        write(words.out / name, draw, draw, words.side, words.seed)
    for path in words.photographs:
        cut_of = crops(path)
        write(words.out / f"photo-{path.stem}", cut_of[True], cut_of[False], words.side, words.seed)


if __name__ == "__main__":
    main()
