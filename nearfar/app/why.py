"""Why two images of the page are near: the parts of each that make their vectors similar, drawn over it."""

from __future__ import annotations

import io
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from ..analysis.heatmaps import overlay
from ..core.errors import NearfarError
from ..data.modalities import IMAGES, modality_of
from ..features.knn import unit
from ..images.views import centre as centred
from ..interpretation import attribution
from ..interpretation.explain import prepared
from . import originals
from .findings import Findings
from .parts import StoredPictures

SAMPLE = 2000  # images of which the mean vector is taken, at most
POINTS = 5  # of the curves of the test, so that it costs little more than the parts themselves
SIDE = 768  # pixels of a drawn image, at most

_ONE_AT_A_TIME = threading.Lock()


def near(findings: Findings, names: list[str]) -> tuple[dict[str, Any], list[bytes]]:
    """Find the parts of two images that make them similar, and test them.

    Args:
        findings: of the store; knows its run.
        names: ids of the two.

    Returns:
        What is told: `similarity`, the cosine of the two vectors less the store's mean vector; `margin`, how
        much less of it is left when these parts are blurred first, instead of random ones; `better`, in how
        many of the two images that is so. And each image with its parts in colours, a JPEG.

    Raises:
        NearfarError: the run is not available or not of images, or a file is not what was embedded.
    """
    run, store = findings.run(), findings.store
    if run.preprocess.modality != IMAGES:
        raise NearfarError(f"parts can be shown of images only; this store holds {run.preprocess.modality}.")
    shown = [originals.seen(findings.store, name) for name in names]
    dataset = modality_of(run.preprocess).load(
        StoredPictures(store.address, names, None, store),
        run.preprocess,
        limit=originals.MOST_PIXELS,
        max_bad=1.0,
        threads=1,
        memory=1 << 30,
    )
    lost = [name for name in names if name not in dataset.ids]
    if lost:
        raise NearfarError(f"the file of {lost[0]!r} cannot be used by the encoder.")
    x = prepared(run, dataset, [dataset.ids.index(name) for name in names])
    with _ONE_AT_A_TIME:
        encoder = run.encoder.cpu().eval()
        centre = torch.from_numpy(findings.kept.array("mean", lambda: _mean(findings)))
        with torch.no_grad():
            h = unit(encoder(x).float() - centre)
        towards = h.flip(0)
        cells = attribution.attribute(encoder, x, towards, centre)
        test = attribution.check(encoder, x, towards, centre, cells, points=POINTS)
    high = max(float(cells.max()), 1e-12)
    how = run.preprocess
    drawn = [_drawn(pixels, each, high, how) for pixels, each in zip(shown, cells, strict=True)]
    head = {"similarity": float(h[0] @ h[1]), "margin": test.margin, "better": test.better}
    return head, drawn


def _mean(findings: Findings) -> npt.NDArray[np.float32]:
    """Take the mean vector of the store, or of some of its images if it holds many: (d,)."""
    ids = findings.rows.ids
    _, vectors = findings.store.vectors(ids=ids[:: -(-len(ids) // SAMPLE)])
    found: npt.NDArray[np.float32] = np.asarray(vectors, np.float32).mean(0)
    return found


def _drawn(pixels: npt.NDArray[np.uint8], cells: torch.Tensor, high: float, how: Any) -> bytes:
    """Draw the parts over the square that the encoder sees of an image: a JPEG."""
    height, width = pixels.shape[:2]
    top, left, tall, wide = centred(how, [height], [width]).box[0].tolist()
    square = Image.fromarray(pixels).crop((left, top, left + wide, top + tall))
    side = min(SIDE, max(min(tall, wide), SIDE // 2))
    square = square.resize((side, side), Image.Resampling.BICUBIC)
    heat = F.interpolate(cells[None, None], square.height, mode="bilinear", align_corners=False)[0, 0]
    file = io.BytesIO()
    Image.fromarray(overlay(np.asarray(square), heat.numpy(), 0.0, high)).save(
        file, "JPEG", quality=originals.QUALITY
    )
    return file.getvalue()
