"""Woven textures, some with a hole, as files: what tests of anomalous parts share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

HIGH, WIDE = 48, 64


def texture(number: int) -> np.ndarray:
    """A woven texture with noise: each picture another, all alike."""
    draws = np.random.default_rng(number)
    y, x = np.mgrid[:HIGH, :WIDE]
    plain = 120 + 40 * np.sin(2 * np.pi * (x + draws.integers(8)) / 8) * np.sin(2 * np.pi * y / 8)
    return (plain[:, :, None] + draws.normal(0, 6, (HIGH, WIDE, 3))).clip(0, 255).astype(np.uint8)


def holed(number: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """The same with a dark hole, and its box x1 y1 x2 y2."""
    pixels, draws = texture(number), np.random.default_rng(number + 1)
    left, top = int(draws.integers(4, WIDE - 18)), int(draws.integers(4, HIGH - 18))
    pixels[top : top + 14, left : left + 14] = draws.integers(0, 60, (14, 14, 1))
    return pixels, (left, top, left + 14, top + 14)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_folders(root: Path) -> None:
    """Folders good/, new/ and boxes/, and screws/, which has the layout of an industrial data set."""
    for number in range(40):
        save(root / "good" / f"{number:03d}.png", texture(number))
    for number in range(12):
        save(root / "screws" / "train" / "good" / f"{number:03d}.png", texture(number))
    for number in range(8):
        pixels, (x1, y1, x2, y2) = (
            holed(200 + number) if number < 4 else (texture(300 + number), (0, 0, 0, 0))
        )
        mask = np.zeros((HIGH, WIDE), np.uint8)
        mask[y1:y2, x1:x2] = 255
        kind = "scratch" if number < 4 else "good"
        save(root / "new" / f"{number:03d}.png", pixels)
        save(root / "screws" / "test" / kind / f"{number:03d}.png", pixels)
        if number < 4:
            save(root / "screws" / "ground_truth" / kind / f"{number:03d}_mask.png", mask)
            (root / "boxes").mkdir(exist_ok=True)
            (root / "boxes" / f"{number:03d}.txt").write_text(f"{x1} {y1} {x2} {y2} hole\n")
