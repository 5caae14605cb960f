"""A known encoder as one more row of an evaluation, prepared as its makers prepare an image for it."""

from __future__ import annotations

from ..core.text import counted
from ..features.extract import fingerprint
from ..models import embedded
from ..training.run import Run, is_run, load

KNOWN = "known"  # the feature set, and the encoder that is taken where none is named
COMBINED = "combined"  # the feature set of both together, as `nearfar combine` makes it one encoder
NONE = "none"  # names no encoder: the row is left out
MAX_IMAGES = 10_000  # up to here the row is there without being asked for: some minutes of two cores


def open_row(run: Run, named: str | None, images: int) -> tuple[Run | None, str]:
    """Open the encoder of the row.

    Args:
        run: the run that is evaluated; an encoder is not compared with itself.
        named: as `training.run.load` takes it; NONE; or None for the encoder that the run started from, else
            `known`, where it is installed; where there are at most MAX_IMAGES images.
        images: to encode.

    Returns:
        The encoder or None, and why it is left out, where that is worth a line.

    Raises:
        NearfarError: the named one cannot be had.
    """
    start = str(run.provenance.get("weights") or "")
    usual = start if start and is_run(start) else KNOWN
    if named == NONE or (named is None and usual == KNOWN and not embedded.there()):
        return None, ""
    if named is None and images > MAX_IMAGES:
        return None, f"to encode {counted(images, 'image')} would take it minutes"
    row = load(named or usual)
    return (None, "") if fingerprint(row.encoder) == fingerprint(run.encoder) else (row, "")
