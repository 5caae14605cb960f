"""Lays a collection out on a sheet, like beside like, with a thumbnail where each image comes to lie."""

from __future__ import annotations

import base64
import io

from PIL import Image

from ..analysis.projection import cells, draw, project
from .blocks import Grid, Picture
from .sample import Look

MAPPED = 1000  # images on the map, at most


def sheet(look: Look) -> Grid:
    """Draw the map of a collection.

    Args:
        look: its images; the first `MAPPED` of them are laid out.

    Returns:
        One large picture, transparent where no image lies.
    """
    count = min(MAPPED, len(look))
    held = cells(project(look.features[:count].numpy()))
    canvas = draw(held, lambda at: Image.fromarray(look.dataset[at]))
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
