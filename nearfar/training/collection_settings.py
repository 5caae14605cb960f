"""Settings that a collection decides: its usual size, its range of values, and those of its modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import BadImage, NearfarError
from ..data.modalities import modality_of
from ..data.reading import none_usable
from ..data.source import Source
from .run import is_run, load
from .run_config import plain
from .settings import Training

SAMPLE = 64  # images read to find the usual size of a collection


def usual_side(source: Source, max_pixels: int) -> int:
    """Look at a sample of a collection and tell its examples' usual size, such as images' short side.

    Args:
        source: the collection.
        max_pixels: as in `images.decode`.

    Returns:
        The median size, of images the short side in pixels, of the usable ones among up to 64 spread evenly.

    Raises:
        NearfarError: the collection is empty, or none of the sample can be used.
    """
    sides, reason, kind = [], "", modality_of(source)
    rows = np.unique(np.linspace(0, len(source.ids) - 1, SAMPLE).astype(int))
    for index in rows:
        try:
            data, _ = kind.fetch(source, int(index), limit=max_pixels)
            sides.append(kind.size_of(kind.decode(data, None, limit=max_pixels).value))
        except BadImage as error:
            reason = str(error)
    if not sides:
        raise none_usable(source, reason, tried=len(rows))
    return int(np.median(sides))


def usual_range(source: Source, given: Mapping[str, Any]) -> tuple[float, float] | None:
    """Find the values that become black and white: as asked for, or as the collection has them.

    Args:
        source: the collection.
        given: explicit settings by name; `range`, `percentiles` and `max_pixels` count.

    Returns:
        The two values; None where every image of the sample has 8 bits, or nothing is scaled.

    Raises:
        NearfarError: --range or --percentiles is not two rising numbers, or both are given.
    """
    for name in ("range", "percentiles"):
        pair = given.get(name)
        if pair is not None and (
            not isinstance(pair, (list, tuple)) or len(pair) != 2 or not pair[0] < pair[1]
        ):
            raise NearfarError(f"--{name} is {plain(pair)}; give a lower and a higher number.")
    if given.get("range") is not None:
        if given.get("percentiles") is not None:
            raise NearfarError("--range and --percentiles exclude each other; give one of them.")
        low, high = given["range"]
        return float(low), float(high)
    limit = given.get("max_pixels", Training.max_pixels)
    return modality_of(source).value_range(source, limit=limit, percentiles=given.get("percentiles"))


def decided(source: Source, given: Mapping[str, Any], folders: Sequence[Path] = ()) -> dict[str, Any]:
    """Complete explicit settings by those that the collection decides; see `Modality.decided`.

    Args:
        source: the collection.
        given: explicit settings by name.
        folders: run folders whose files may hold what was decided before.

    Returns:
        Settings by name.
    """
    weights, kind = given.get("weights"), modality_of(source)
    run = load(weights) if weights is not None and is_run(weights) else None
    own: dict[str, Any] = {}
    if kind.encodes:  # of images with captions it is the text encoder that decides
        own = {} if run is None else {"image_size": run.preprocess.size}
        from .captions import caption_start

        run = caption_start(weights, given.get("text_encoder"))
    start = None if run is None else run.preprocess
    start = start if start is not None and (kind.encodes or start.modality == kind.name) else None
    return {**own, **given, **kind.decided(source, given, folders=folders, start=start)}
