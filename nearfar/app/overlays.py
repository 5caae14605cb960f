"""What lies over an image of the page in full: its own box, boxes and a mask that were predicted."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from ..core.errors import BadImage, NearfarError
from ..data import box_text
from ..data.box_text import BOXES, DrawnBox
from ..data.crops import CLASS, CORNERS
from ..data.mask_values import read_values
from ..data.masks import MASK, MASK_DIGEST
from ..images import decode
from ..images.class_colours import coloured
from ..stores import VectorStore
from . import originals

SIDE = 2048  # pixels of the longer side of a mask that is sent, at most


def overlays(store: VectorStore, name: str) -> dict[str, Any]:
    """Say what lies over an image.

    Args:
        store: the store.
        name: the row's id.

    Returns:
        `width` and `height` of the whole image, upright; `boxes`, each as name, score and four corners in its
        pixels; `mask`, whether there is one.

    Raises:
        NearfarError: the image's file is not there, has changed, or cannot be used.
    """
    wanted = [one for one in (*CORNERS, CLASS, "score", BOXES, MASK) if one in store.columns]
    row = store.rows(wanted, ids=[name]).to_pylist()[0] if wanted else {}
    corners: list[Any] = [row.get(one) for one in CORNERS]
    boxes = box_text.read(row.get(BOXES))
    if all(map(box_text.is_number, corners)):
        said, score = row.get(CLASS), row.get("score")
        own = score if box_text.is_number(score) else None
        left, top, right, bottom = map(float, corners)
        boxes = [DrawnBox(said if isinstance(said, str) else "", own, left, top, right, bottom)]
    height, width = originals.shape_of(store, name)
    mask = isinstance(row.get(MASK), str)
    return {"width": width, "height": height, "boxes": [list(box) for box in boxes], "mask": mask}


def mask(store: VectorStore, name: str) -> bytes:
    """Draw an image's mask in colours, clear where its value is 0: a PNG.

    Args:
        store: knows where the mask's file is, and what was in it when it was written.
        name: the row's id.

    Raises:
        NearfarError: the file is not there, has changed, or cannot be used.
    """
    if not {MASK, MASK_DIGEST} <= {*store.columns}:
        raise NearfarError(f"the store knows no mask of {name!r}.")
    row = store.rows([MASK, MASK_DIGEST], ids=[name]).to_pylist()[0]
    data = originals.checked_file(row[MASK], row[MASK_DIGEST], f"the mask of {name!r}")
    try:
        decode.decode(data, max_pixels=originals.MOST_PIXELS)  # whose checks come before its pixels
    except BadImage as error:
        raise NearfarError(f"the mask of {name!r} cannot be shown: {error}.") from None
    values = read_values(io.BytesIO(data))
    step = -(-max(values.shape) // SIDE)
    values = values[::step, ::step]
    drawn = np.dstack([coloured(values), np.where(values > 0, 255, 0).astype(np.uint8)])
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, "PNG")
    return file.getvalue()
