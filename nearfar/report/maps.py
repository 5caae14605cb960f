"""Lays a collection out on a sheet, like beside like, with a thumbnail where each image comes to lie."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ..neighbours import unit
from .blocks import Grid, Picture
from .sample import Look

MAPPED = 1000  # images on the map, at most
CELLS, THUMB, GAP = 40, 28, 1  # places along a side, and the pixels of each
DIRECTIONS = 50  # principal directions that t-SNE starts from


def places(features: torch.Tensor, seed: int = 0) -> npt.NDArray[np.float64]:
    """Give each image a place on a sheet by t-SNE, which keeps neighbours together.

    Args:
        features: (n, d), n at least 3.
        seed: of t-SNE; its start is the first two principal directions, so little hangs on it.

    Returns:
        (n, 2) from 0 to 1; the same on any number of threads.

    Source:
        van der Maaten and Hinton 2008, "Visualizing data using t-SNE".
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rows = unit(features.double()).numpy()
    with threadpool_limits(1):
        if min(rows.shape) > DIRECTIONS:
            rows = PCA(DIRECTIONS, svd_solver="full").fit_transform(rows)
        perplexity = min(30.0, (len(rows) - 1) / 3)
        found = TSNE(perplexity=perplexity, init="pca", max_iter=750, random_state=seed).fit_transform(rows)
    low, high = found.min(axis=0), found.max(axis=0)
    plain: npt.NDArray[np.float64] = (found - low) / np.maximum(high - low, 1e-12)
    return plain


def cells(where: npt.NDArray[np.float64]) -> dict[tuple[int, int], int]:
    """Give every cell of the sheet the image nearest to its middle, of those that fall into it.

    Args:
        where: (n, 2) from 0 to 1.

    Returns:
        Row and column to the image's number.
    """
    scaled = where * (CELLS - 1)
    nearest = np.rint(scaled).astype(int)
    away = np.square(scaled - nearest).sum(axis=1)
    held: dict[tuple[int, int], int] = {}
    for at in np.argsort(away, kind="stable").tolist():
        held.setdefault((int(nearest[at, 1]), int(nearest[at, 0])), at)
    return held


def sheet(look: Look) -> Grid:
    """Draw the map of a collection.

    Args:
        look: its images; the first `MAPPED` of them are laid out.

    Returns:
        One large picture, transparent where no image lies.
    """
    count = min(MAPPED, len(look))
    held = cells(places(look.features[:count]))
    step = THUMB + GAP
    canvas = Image.new("RGBA", (CELLS * step, CELLS * step), (0, 0, 0, 0))
    for (row, column), at in held.items():
        thumb = Image.fromarray(_square(look.store[at])).resize((THUMB, THUMB), Image.Resampling.BOX)
        canvas.paste(thumb, (column * step, row * step))
    file = io.BytesIO()
    canvas.save(file, "WEBP", quality=82, method=4)
    code = base64.b64encode(file.getvalue()).decode("ascii")
    name = f"a map of {len(held)} thumbnails, those of like features side by side"
    picture = Picture(f"data:image/webp;base64,{code}", name, *canvas.size)
    says = (
        f"{count:,} images laid out by t-SNE of their features, which keeps neighbours together; of those "
        f"that fall on one spot, one is shown ({len(held):,} in all). Look for islands of one subject, and "
        "for images that share no more than a colour or a background. Distances between islands mean little."
    )
    return Grid("Like beside like", says, [[picture]], columns=1, wide=True)


def _square(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Cut out the middle square."""
    high, wide = pixels.shape[:2]
    side = min(high, wide)
    top, left = (high - side) // 2, (wide - side) // 2
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])
