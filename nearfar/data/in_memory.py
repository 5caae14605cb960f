"""Images that Python already holds: paths, files' bytes, Pillow images, arrays and tensors, in a list."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ..core.errors import BadImage, NearfarError
from ..images.colour_modes import to_rgb
from ..images.value_range import Values, is_deep, is_negative, raw
from .folders import is_image_name
from .source import Source, clean, file_stamp, from_array

_ORIENTATION = 0x0112  # a tag of EXIF


def is_tensor(value: object) -> bool:
    """Recognise a tensor without importing torch: its owner has imported torch."""
    module = sys.modules.get("torch")
    return module is not None and isinstance(value, module.Tensor)


def from_tensor(tensor: Any) -> npt.NDArray[Any]:
    """Give a tensor's values as an array; of bfloat16, which NumPy lacks, in float32."""
    values = tensor.detach().cpu()
    plain: npt.NDArray[Any] = (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()
    return plain


def is_one_image(value: object) -> bool:
    """Tell one image from a collection of them.

    Args:
        value: a path, bytes, Pillow image, array or tensor is one image; a folder's path, a list and an
            array with a dimension more are many.
    """
    if isinstance(value, (str, os.PathLike)):
        path = Path(value)
        return is_image_name(path.name) and not path.is_dir()
    if isinstance(value, (bytes, Image.Image)):
        return True
    shape = tuple(getattr(value, "shape", ()))
    if len(shape) == 3:
        return shape[0 if is_tensor(value) else 2] in (1, 3, 4)
    return len(shape) == 2


def pixels_of(name: str, image: Any) -> Values:
    """Give one image's pixels.

    Args:
        name: what errors call it.
        image: a Pillow image, an array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W).

    Returns:
        (H, W, 3) uint8, or as it is where its range has yet to be found.

    Raises:
        BadImage: its pixels cannot be read.
        NearfarError: it is something else.
    """
    if isinstance(image, Image.Image):
        if is_deep(image) and is_negative(image):  # turned round within a range that is found later
            raise BadImage(
                "counts from white down, which is read of a file alone; give its path or its bytes"
            )
        if not all(image.size):
            raise BadImage(f"has no pixels: {image.width} x {image.height}")
        try:
            image.load()
            # A turned copy has no tags, which say how values of many bits are read.
            turned = image.getexif().get(_ORIENTATION, 1) != 1
            upright = ImageOps.exif_transpose(image) if turned or not is_deep(image) else image
            if is_deep(upright):
                return raw(upright)[:, :, None].repeat(3, axis=2)
            return np.asarray(to_rgb(upright))
        except Exception as error:  # a file opened by name and broken inside raises anything
            raise BadImage(f"broken: {str(error)[:100]}") from None
    if not isinstance(image, np.ndarray) and not is_tensor(image):
        kind = type(image).__name__
        raise NearfarError(f"{name} is a {kind}; give a path, a Pillow image or an array (H, W, 3) of uint8.")
    plain = from_tensor(image) if is_tensor(image) else image
    return from_array(name, plain[None], None, first=is_tensor(image)).read(0)


@dataclass(frozen=True)
class InMemorySource(Source):
    """Images in a list, each of any form and size; a path's id is the path, any other's its place."""

    items: Sequence[Any]
    kind: ClassVar[str] = "images"

    def read(self, index: int) -> bytes | Path | Values:
        """Fetch one image."""
        item = self.items[index]
        if isinstance(item, (str, os.PathLike)):
            return Path(item)
        return item if isinstance(item, bytes) else pixels_of(f"image {self.ids[index]}", item)

    def stamp(self, index: int) -> str:
        """Say the file's size and time, or a digest of what is held."""
        data = self.read(index)
        if isinstance(data, Path):
            return file_stamp(data)
        content = data if isinstance(data, bytes) else data.tobytes()
        return hashlib.blake2b(content, digest_size=8).hexdigest()


def open_in_memory(items: Sequence[Any], labels: tuple[str, ...] | None) -> InMemorySource:
    """Wrap a list of images.

    Args:
        items: paths, bytes, Pillow images, arrays or tensors, mixed as you like.
        labels: one class name an image, or None.

    Returns:
        The source.

    Raises:
        NearfarError: the list is empty.
    """
    if not len(items):
        raise NearfarError("the list of images is empty; give at least one.")
    names = [
        os.fspath(item) if isinstance(item, (str, os.PathLike)) else str(at) for at, item in enumerate(items)
    ]
    return InMemorySource("the list", clean(names), labels, items)
