"""What tests of images with captions share: drawn boxes that captions name, and a tiny run's settings."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

TINY = {
    "steps": 12,
    "batch_size": 16,
    "precision": "float32",
    "workers": 1,
    "device": "cpu",
    "health_checks": 2,
    "recipe": "cpu",
    "encoder": "resnet10_w16",
    "text_encoder": "bag_w512",
    "width": 32,
}
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220), "yellow": (230, 210, 40)}


def drawn(count: int, seed: int = 0, side: int = 24) -> tuple[list[np.ndarray], list[str]]:
    """Boxes of four colours on the left or the right, and what they are."""
    draw = np.random.default_rng(seed)
    images, captions = [], []
    for at in range(count):
        colour, where = list(COLOURS)[at % 4], ("left", "right")[(at // 4) % 2]
        pixels = draw.integers(90, 130, (side, side, 3)).astype(np.uint8)
        low = int(draw.integers(0, 3)) + (0 if where == "left" else side // 2)
        top = int(draw.integers(0, side // 2))
        pixels[top : top + side // 2, low : low + side // 3] = COLOURS[colour]
        images.append(pixels)
        captions.append(f"a {colour} box on the {where}")
    return images, captions


def folder(place: Path, count: int, seed: int = 0) -> Path:
    """Write drawn boxes and a captions.csv with two captions of each."""
    place.mkdir(parents=True, exist_ok=True)
    images, captions = drawn(count, seed)
    with open(place / "captions.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "caption"])
        for at, (pixels, caption) in enumerate(zip(images, captions, strict=True)):
            Image.fromarray(pixels).save(place / f"{at:03d}.png")
            table.writerow([f"{at:03d}.png", caption])
            table.writerow([f"{at:03d}.png", f"picture of {caption}"])
    return place
