"""Makes the images that are measured with: as smooth as photographs, and written as JPEG files."""

from __future__ import annotations

import io
import os
import types
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

QUALITY = 90


def photographs(count: int, high: int, wide: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Make (count, high, wide, 3) uint8 images with a photograph's smoothness: noise at several scales."""
    random = np.random.default_rng(seed)
    made = np.empty((count, high, wide, 3), np.uint8)
    for low in range(0, count, 64):
        n = min(64, count - low)
        layers = [
            torch.nn.functional.interpolate(
                torch.tensor(random.normal(size=(n, 3, max(2, high // s), max(2, wide // s)))).float()
                * s**0.5,
                (high, wide),
                mode="bilinear",
            )
            for s in (2, 8, 32)
        ]
        image = (sum(layers) * 16 + 128).clamp(0, 255)  # type: ignore[union-attr]
        made[low : low + n] = image.permute(0, 2, 3, 1).to(torch.uint8).numpy()
    return made


def jpeg(image: npt.NDArray[np.uint8]) -> bytes:
    """Write an image (h, w, 3) as the bytes of a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def write(folder: Path, images: npt.NDArray[np.uint8], copies: int = 1) -> Path:
    """Write images as JPEG files into folder/images/, each `copies` times under another name.

    The one folder inside stands for a class, for peers that know no folder without.
    """
    inside = folder / "images"
    inside.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        data = jpeg(image)
        for copy in range(copies):
            (inside / f"{copy:03d}-{number:05d}.jpg").write_bytes(data)
    return folder


def many(folder: Path, count: int, distinct: int = 64) -> Path:
    """Make a list of `count` files that are all there, in folders of ten thousand, and give the list.

    They are hard links to a few small JPEG files: a file each, without a gigabyte of them.
    """
    sources = []
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(photographs(distinct, 32, 32)):
        sources.append(folder / f"source-{number}")
        sources[-1].write_bytes(jpeg(image))
    names = []
    for number in range(count):
        inside = folder / "files" / f"{number // 10_000:03d}"
        if number % 10_000 == 0:
            inside.mkdir(parents=True)
        os.link(sources[number % distinct], inside / f"{number:07d}.jpg")
        names.append(f"files/{number // 10_000:03d}/{number:07d}.jpg")
    listed = folder / "list.txt"
    listed.write_text("\n".join(names) + "\n")
    return listed


def block(images: npt.NDArray[np.uint8]) -> Any:
    """Lay images of one size out as the kernels read them."""
    n, high, wide, _ = images.shape
    return types.SimpleNamespace(
        pixels=images.reshape(-1),
        offset=np.arange(n, dtype=np.int64) * high * wide * 3,
        height=np.full(n, high, np.int32),
        width=np.full(n, wide, np.int32),
    )
