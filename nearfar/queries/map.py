"""`nearfar map`: images in two dimensions, similar ones together."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from ..analysis.projection import cells, check_projection, draw, project
from ..core.atomic import atomic_write
from ..core.errors import NearfarError
from ..core.text import counted
from ..images.thumbnails import thumbnail
from .listing import Listing
from .store_access import MAP_COLUMNS, StoreLike, none_there, open_for_query, replace_columns, write_result


def image_map(
    store: StoreLike,
    *,
    method: str = "tsne",
    where: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
) -> Listing:
    """Project images to 2-D, similar ones together, and store the coordinates in the columns map_x and map_y.

    Example: nearfar map photos.nf --out map.png

    Args:
        store: a vector store or its address.
        method: tsne, or umap where it is installed.
        where: a condition on columns; coordinates of other images, of an earlier map, are emptied.
        out: a .csv or .json file with the coordinates, or a .png map of thumbnails.
        seed: random seed.

    Returns:
        The images by id, with coordinates from 0 to 1.

    Raises:
        NearfarError: there are too few images, or a condition makes no sense.
    """
    check_projection(method)  # before a folder is embedded
    opened = open_for_query(store, out)
    ids, x = opened.vectors(where)
    if not ids:
        raise none_there(opened, where)
    places = project(x, method, seed)
    columns = {name: places[:, at].tolist() for at, name in enumerate(MAP_COLUMNS)}
    try:
        emptied = replace_columns(
            opened, {name: dict(zip(ids, values, strict=True)) for name, values in columns.items()}
        )  # both at once: half a map would be none
        line = (
            f"The columns {' and '.join(MAP_COLUMNS)} of {opened.address} hold the coordinates of "
            f"{counted(len(ids), opened.info.one)}."
        )
        lines = (line, *emptied)
    except NearfarError as error:  # a store that cannot be written can be drawn all the same
        lines = (f"The coordinates are not kept: {error}",)
    title = f"2-D map, similar {opened.info.noun} together"
    listing = Listing(title, tuple(ids), columns, lines, {"images": len(ids)})
    if out is None or Path(out).suffix.lower() != ".png":
        return write_result(listing, opened, out)
    held = cells(places)
    files = dict(zip(held.values(), opened.thumbnails([ids[row] for row in held.values()]), strict=True))
    pictures = {row: thumbnail(data) for row, data in files.items()}
    sheet = draw(held, lambda row: None if (one := pictures[row]) is None else Image.fromarray(one))
    paper = Image.new("RGB", sheet.size, (250, 250, 248))
    paper.paste(sheet, mask=sheet)
    file = io.BytesIO()
    paper.save(file, "PNG")
    with atomic_write(Path(out), folders=True) as target:
        target.write(file.getvalue())
    return listing
