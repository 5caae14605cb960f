"""Draws a map of a collection: thumbnails at the 2-D projection of their features."""

from __future__ import annotations

import base64
import io

from PIL import Image

from ..analysis.projection import cells, draw, project
from .blocks import Grid, ImageTile
from .sample import ImageSample

MAPPED = 1000  # images on the map, at most


def sheet(sampled: ImageSample) -> Grid:
    """Draw the map of a collection.

    Args:
        sampled: its images; the first `MAPPED` of them are placed on the map.

    Returns:
        One large picture, transparent where no image lies.
    """
    count = min(MAPPED, len(sampled))
    held = cells(project(sampled.features[:count].numpy()))
    canvas = draw(held, lambda at: Image.fromarray(sampled.dataset[at]))
    file = io.BytesIO()
    canvas.save(file, "WEBP", quality=82, method=4)
    code = base64.b64encode(file.getvalue()).decode("ascii")
    name = f"a map of {len(held)} thumbnails, those of similar features side by side"
    tile = ImageTile(f"data:image/webp;base64,{code}", name, *canvas.size)
    says = (
        f"{count:,} images projected to 2-D by t-SNE, which keeps neighbours together; of those that fall "
        f"on one spot, one is shown ({len(held):,} in all). Look for islands of one subject, and "
        "for images that share no more than a colour or a background. Distances between islands mean little."
    )
    return Grid("Map by similarity", says, [[tile]], columns=1, wide=True)
