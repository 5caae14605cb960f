"""The verb `map`: images in two dimensions, similar ones together."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from ..analysis.projection import cells, draw, layout
from ..core.atomic import atomic_write
from .listing import Listing
from .store_access import Address, handed, opened

EXEMPLARS = 10  # images listed of a cluster


def image_map(
    store: Address,
    *,
    way: str = "tsne",
    where: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
) -> Listing:
    """Lay images out on a sheet, like beside like, and write their places to the columns x and y.

    Args:
        store: a vector store or its address.
        way: "tsne", or "umap" where it is installed.
        where: a condition on columns; other images keep the places they have.
        out: a .csv or .json file for the places, or a .png for a map of thumbnails.
        seed: names every draw.

    Returns:
        The images by id, with x and y from 0 to 1.

    Raises:
        NearfarError: there are too few images, or a condition makes no sense.
    """
    place = opened(store, out)
    ids, x = place.vectors(where)
    places = layout(x, way, seed)
    columns = {axis: places[:, at].tolist() for at, axis in enumerate("xy")}
    for axis, values in columns.items():
        place.update(axis, dict(zip(ids, values, strict=True)))
    lines = (f"{len(ids):,} images have their places in the columns x and y of {place.address}.",)
    listing = Listing("laid out, like beside like", tuple(ids), columns, lines, {"images": len(ids)})
    if out is None or Path(out).suffix.lower() != ".png":
        return handed(listing, place, out)
    held = cells(places)
    files = dict(zip(held.values(), place.thumbnails([ids[row] for row in held.values()]), strict=True))
    sheet = draw(held, lambda row: Image.open(io.BytesIO(files[row])).convert("RGB") if files[row] else None)
    paper = Image.new("RGB", sheet.size, (250, 250, 248))
    paper.paste(sheet, mask=sheet)
    file = io.BytesIO()
    paper.save(file, "PNG")
    with atomic_write(Path(out)) as target:
        target.write(file.getvalue())
    return listing
