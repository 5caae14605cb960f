"""Makes one encoder of several, such as a known one and one's own: what one misses, another may see."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from .. import models
from ..core.atomic import check_folder_name, check_place, whole_folder
from ..core.entries import entries
from ..core.errors import NearfarError
from ..core.version import __version__
from ..features.extract import fingerprint
from ..images.views import Preprocess
from ..models import combined
from .run import Run, export, load


def combine(encoder: Run | str | Path, *others: Run | str | Path, out: str | Path) -> Run:
    """Make one encoder of several of images: their vectors, each of length 1, stand one after the other.

    Example: nearfar combine known runs/a --out runs/both

    A cosine of two images is then the mean of the encoders' cosines. Nothing is trained.

    Args:
        encoder: a run or its folder, or a known encoder such as timm:resnet18.
        others: one or more to combine it with.
        out: the folder of the new encoder.

    Returns:
        The run.

    Raises:
        NearfarError: an encoder cannot be had, is not of images, or is given twice; values of more than 8
            bits are read in different ways; or the folder holds something.
    """
    folder = Path(out)
    check_folder_name(folder)
    check_place(folder / "encoder.safetensors")  # before weights are fetched
    if entries(folder):
        raise NearfarError(f"{folder} is not empty; choose another folder with --out.")
    if not others:
        raise NearfarError("an encoder is combined with another one; name two, such as known and a run.")
    runs = [load(item) for item in (encoder, *others)]
    how = _preprocess(runs)
    with whole_folder(folder) as made:
        export(made, _combined(runs, how.size), how, _provenance(runs))
    return load(folder)


def _preprocess(runs: list[Run]) -> Preprocess:
    """Give images as the encoder needs them that sees most of them: the centred square, not cropped."""
    for run in runs:
        if run.preprocess.modality != "images":
            kind = run.preprocess.modality
            raise NearfarError(f"{run.name} is an encoder of {kind}; only those of images are combined.")
    ranges = {(run.preprocess.low, run.preprocess.high) for run in runs}
    if len(ranges) > 1:
        raise NearfarError(
            "these encoders read values of more than 8 bits in different ways (--range), so that no image "
            "suits both; train them with one range."
        )
    low, high = ranges.pop()
    largest = max((run.preprocess for run in runs), key=_short)
    side = _short(largest)
    fits = {run.preprocess.fit for run in runs}
    fit = fits.pop() if len(fits) == 1 else "center"
    return dataclasses.replace(largest, size=side, crop=1.0, short_side=side, fit=fit)


def _short(how: Preprocess) -> int:
    """Tell the short side of which an encoder sees the centre."""
    return max(how.size, round(how.size / how.crop))


def _combined(runs: list[Run], size: int) -> models.Encoder:
    """Make one network of all; a combined one among them gives its parts."""
    parts: list[tuple[models.Encoder, combined.Sight]] = []
    for run in runs:
        net = run.encoder.net
        if isinstance(net, combined.Combined):
            parts += net.members()
        else:
            how = run.preprocess
            parts.append((run.encoder, combined.Sight(_short(how), how.size)))
    encoders, sides = zip(*parts, strict=True)
    digests = [fingerprint(part) for part in encoders]
    if len(set(digests)) < len(digests):
        raise NearfarError("the same encoder is given twice; give each once.")
    args = {"parts": [combined.described(*part) for part in parts]}
    dim = sum(part.dim for part in encoders)
    net = combined.Combined(encoders, sides)
    return models.Encoder(net, dim, combined.NAME, "standard", size, untrained=False, args=args)


def _provenance(runs: list[Run]) -> dict[str, Any]:
    """Say what was combined, and under which licences."""
    of: list[dict[str, Any]] = []
    for run in runs:
        own = {"name": run.name, "licence": run.facts()["licence"], "sha256": fingerprint(run.encoder)}
        of += run.provenance.get("of") or [{**own, "provenance": run.provenance}]
    licences = dict.fromkeys(item["licence"] for item in of)
    return {"nearfar": __version__, "source": combined.NAME, "licence": " and ".join(licences), "of": of}
