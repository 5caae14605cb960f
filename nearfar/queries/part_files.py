"""Draws the maps of anomalous parts over whole pictures, and keeps small copies for a sheet."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from ..analysis.anomaly_maps import full_size
from ..analysis.heatmaps import overlay
from ..core.atomic import atomic_write
from ..core.errors import BadImage, NearfarError
from ..data.modalities import modality_of
from ..data.source import Source
from ..images.files import MAX_PIXELS
from ..images.views import Preprocess

SMALL = 192  # longer side in pixels of the copies for a sheet
FRAME = (0, 255, 255)  # cyan: not among the colours of a map
LARGE = 1 << 20  # short side in pixels that no picture has


def make_folder(folder: Path) -> None:
    """Make a folder for files.

    Args:
        folder: where.

    Raises:
        NearfarError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NearfarError(f"{folder} cannot be written ({error.strerror}); name another folder.") from error


def draw(
    source: Source,
    row: int,
    places: torch.Tensor,
    boxes: Sequence[dict[str, Any]],
    ends: tuple[float, float],
    preprocess: Any,
) -> Image.Image | None:
    """Draw the map of a picture over it, at its full size, with the boxes of its strangest parts.

    Args:
        source: the collection.
        row: of it.
        places: (h, w) scores of patches.
        boxes: from `anomaly_maps.boxes`.
        ends: scores that are clear, and brightest.
        preprocess: the encoder's; has the range of values.

    Returns:
        The picture; None where it cannot be read any more.
    """
    kind = modality_of(preprocess)
    whole = Preprocess(size=LARGE, crop=1.0, low=preprocess.low, high=preprocess.high)
    try:
        pixels = kind.decode(kind.fetch(source, row, limit=MAX_PIXELS)[0], whole, limit=MAX_PIXELS).value
    except BadImage:
        return None
    height, width = pixels.shape[:2]
    shown = Image.fromarray(overlay(pixels, full_size(places, (height, width)), *ends))
    pen = ImageDraw.Draw(shown)
    thick = max(1, round(min(height, width) / 200))
    for box in boxes:
        corners = (box["x1"] - thick, box["y1"] - thick, box["x2"] - 1 + thick, box["y2"] - 1 + thick)
        pen.rectangle(corners, outline=FRAME, width=thick)
    return shown


def small(picture: Image.Image | None) -> bytes:
    """Make the small copy for a sheet, as PNG; b"" where there is no picture.

    Args:
        picture: of any size.
    """
    if picture is None:
        return b""
    copy = picture.copy()
    copy.thumbnail((SMALL, SMALL), Image.Resampling.BICUBIC)
    return _png(copy)


def write_map(folder: Path, number: int, name: str, picture: Image.Image | None) -> None:
    """Write a picture as PNG, numbered.

    Args:
        folder: where.
        number: its place in the list.
        name: of the picture.
        picture: drawn; nothing is written where there is none.
    """
    if picture is None:
        return
    with atomic_write(_numbered(folder, number, name)) as file:
        file.write(_png(picture))


def write_mask(folder: Path, number: int, name: str, anomalous: npt.NDArray[np.bool_]) -> None:
    """Write a mask as PNG under the name of its picture's map: 255 where anomalous, else 0.

    Args:
        folder: where.
        number: the picture's place in the list.
        name: of the picture.
        anomalous: (h, w).
    """
    with atomic_write(_numbered(folder, number, name)) as file:
        file.write(_png(Image.fromarray(anomalous.astype(np.uint8) * 255)))


def _numbered(folder: Path, number: int, name: str) -> Path:
    plain = re.sub(r"[^\w.-]+", "_", name)[-80:]
    return folder / f"{number:03d}-{plain}.png"


def ends_of(normal: Sequence[torch.Tensor], listed: Sequence[torch.Tensor]) -> tuple[float, float]:
    """Choose one scale for all maps.

    Args:
        normal: scores of patches of pictures that are most probably normal.
        listed: of pictures that are shown.

    Returns:
        The upper quartile of the normal ones, which is clear; and a high score of the shown ones, brightest.
    """
    low = float(np.quantile(np.concatenate([one.numpy().ravel() for one in normal]), 0.75))
    peaks = [float(one.max()) for one in listed]
    return low, max(float(np.quantile(peaks, 0.75)), low + 1e-12)


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
