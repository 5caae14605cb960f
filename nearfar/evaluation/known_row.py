"""A known encoder as one more row of an evaluation, prepared as its makers prepare an image for it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..core.errors import NearfarError
from ..core.text import counted
from ..features.extract import fingerprint
from ..models import embedded, known
from ..training.run import Run, is_run, load

KNOWN = "known"  # the feature set, and the encoder that is taken where none is named
COMBINED = "combined"  # the feature set of both together, as `nearfar combine` makes it one encoder
NONE = "none"  # names no encoder: the row is left out
MAX_IMAGES = 10_000  # up to here the row is there without being asked for: some minutes of two cores


def open_row(run: Run, named: str | None, images: int, beside: Sequence[Run] = ()) -> tuple[Run | None, str]:
    """Open the encoder of the row.

    Args:
        run: the run that is evaluated; an encoder is not compared with itself.
        named: as `training.run.load` takes it; NONE; or None for the encoder that the run started from, else
            `known`, where it is installed; where there are at most MAX_IMAGES images.
        images: to encode.
        beside: other encoders that are evaluated, each a row already.

    Returns:
        The encoder or None, and why it is left out, where that is worth a line.

    Raises:
        NearfarError: the named one cannot be had.
    """
    start = str(run.provenance.get("weights") or "")
    usual = start if start and is_run(start) else KNOWN
    if named == NONE or (named is None and usual == KNOWN and not embedded.there()):
        return None, ""
    if any(_same_name(named or usual, other.name) for other in beside):
        return None, ""
    if named is None and images > MAX_IMAGES:
        return None, f"to encode {counted(images, 'image')} would take it minutes"
    row = load(named or usual)
    digest = fingerprint(row.encoder)
    there = any(fingerprint(other.encoder) == digest for other in (run, *beside))
    return (None, "") if there else (row, "")


def is_start(run: Run, row: Run) -> bool:
    """Tell whether an encoder is the one that a run's training started from, by its name or its weights.

    Args:
        run: the run.
        row: the encoder.
    """
    start = str(run.provenance.get("weights") or "")
    adopted = "" if "method" in row.provenance else str(row.provenance.get("source") or "")
    if not start or _same_name(start, row.name) or start == adopted:
        return bool(start)
    if known.is_name(start) and "=" not in start and start != KNOWN:
        return False  # its weights may have to be fetched
    try:
        return fingerprint(load(start).encoder) == fingerprint(row.encoder)
    except NearfarError:  # it is gone
        return False


def _same_name(one: str, other: str) -> bool:
    """Tell whether two texts name the same encoder: a folder may be written with a slash at its end."""
    return os.path.normpath(one) == os.path.normpath(other)
