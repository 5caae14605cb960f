"""Images as a kind of data: each question is passed on to the code that answers it.

Imports are inside the functions, so that `--help`, which asks for the settings of views, stays quick.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..images.view_settings import CROP_AND_FLIP, Views, is_small
from .folders import SUFFIXES
from .modalities import IMAGES
from .modality import Example, Modality

if TYPE_CHECKING:
    import torch

    from ..images.value_range import Range
    from ..images.views import AugmentationParams, Preprocess, View
    from ..models import Encoder
    from .crops import Cut
    from .dataset import RaggedImages
    from .inspection import Inspection
    from .source import Pixels, Source

QUALITY = 85  # of thumbnails, as JPEG counts it


class ImageModality(Modality):
    """RGB images of any size; views are crops with other colours."""

    name = IMAGES
    noun = "images"
    easier = "raise --crop-min and lower --jitter and the strengths of colour"
    harder = "lower --crop-min and raise --jitter and the strengths of colour"
    differ_by = "colour"
    unit = "px"
    views = Views
    suffixes = SUFFIXES
    columns: ClassVar = {"width": "number", "height": "number"}
    baselines = ("pixels", "pca", "colours", "patches", "scratch")
    on_device = True
    pictures = True

    @property
    def preprocess(self) -> type[Preprocess]:
        """A centred square, resized."""
        from ..images.views import Preprocess

        return Preprocess

    def open(self, data: Any, *, labels: bool = False, download: bool = True) -> Source:
        """Open a folder, a list, an array, shards or a data set; see `sources.open_source`."""
        from .sources import open_source

        return open_source(data, labels=labels, download=download)

    def is_one(self, data: Any) -> bool:
        """Tell one image from a collection of them."""
        from .in_memory import is_one_image

        return is_one_image(data)

    def fetch(self, source: Source, row: int, *, limit: int) -> tuple[Pixels | bytes | Cut, bytes]:
        """Fetch an image's file or pixels, or an object of it; `limit` counts pixels."""
        from .reading import fetch

        return fetch(source, row, max_pixels=limit)

    def decode(self, data: Pixels | bytes | Cut, preprocess: Preprocess | None, *, limit: int) -> Example:
        """Decode an image to (H, W, 3) uint8, and say its own width and height, upright."""
        from ..images import decode
        from ..images.value_range import to_rgb_array
        from .crops import Cut

        side = None if preprocess is None else preprocess.decode_side
        span = None if preprocess is None else preprocess.value_range
        reducing = decode.USUAL if preprocess is None else preprocess.reducing
        data = data.pixels(span) if isinstance(data, Cut) else data
        if not isinstance(data, bytes):
            height, width = data.shape[:2]
            pixels = decode.shrink(to_rgb_array(data, span), side, reducing)
            return Example(pixels, {"width": width, "height": height})
        how: dict[str, Any] = {"short_side": side, "value_range": span, "reducing": reducing}
        found = decode.picture(data, max_pixels=limit, **how)
        width, height = found.width, found.height
        high, wide = found.pixels.shape[:2]
        if high == wide and height != width:  # squashed, or nearly a square
            height, width = decode.upright_shape(data, max_pixels=limit)
        elif (high > wide) != (height > width):  # turned by its EXIF note
            width, height = height, width
        return Example(found.pixels, {"width": width, "height": height})

    def collate(self, values: Sequence[Pixels]) -> RaggedImages:
        """Lay images in one buffer, one after another."""
        import numpy as np

        from .dataset import RaggedImages

        sides = np.array([image.shape[:2] for image in values], np.int32).reshape(-1, 2)
        sizes = 3 * sides.astype(np.int64).prod(axis=1)
        return RaggedImages(
            pixels=np.concatenate([image.reshape(-1) for image in values] or [np.empty(0, np.uint8)]),
            offset=np.cumsum(sizes) - sizes,
            height=sides[:, 0].copy(),
            width=sides[:, 1].copy(),
        )

    def load(
        self,
        source: Source,
        preprocess: Preprocess,
        *,
        limit: int,
        max_bad: float,
        threads: int,
        decode_once: bool = True,
        memory: int | None = None,
        short_side: int | None = None,
    ) -> Any:
        """Decode images once, into memory or into a cache on disk; see `cache.load`."""
        from . import cache

        return cache.load(
            source,
            short_side=max(short_side or 0, preprocess.decode_side),
            max_pixels=limit,
            max_bad=max_bad,
            threads=max(threads, source.waiting),
            decode_once=decode_once,
            memory=memory,
            value_range=preprocess.value_range,
            reducing=preprocess.reducing,
        )

    def value_range(
        self, source: Source, *, limit: int, percentiles: Sequence[float] | None = None
    ) -> Range | None:
        """Find the range of images of more than 8 bits; see `value_range.find_range`."""
        from .value_range import find_range

        return find_range(source, max_pixels=limit, percentiles=percentiles)

    def with_range(self, preprocess: Preprocess, source: Source, *, limit: int) -> Preprocess:
        """Take the collection's range, where the settings name none."""
        span = preprocess.value_range or self.value_range(source, limit=limit)
        return preprocess if span is None else dataclasses.replace(preprocess, low=span[0], high=span[1])

    def size_of(self, value: Pixels) -> int:
        """Measure an image's short side, in pixels."""
        return min(value.shape[:2])

    def input_size(self, usual: int) -> int:
        """Choose the side of a view: small images' own, else 224 px."""
        return max(usual, 8) if is_small(usual) else 224

    def preprocess_for(self, size: int, views: Views) -> Preprocess:
        """Choose how much of the centre is kept; it is resized as views are, and has their range."""
        return self.preprocess.of(size, views.interpolation, views.range)

    def labelled_views(self, preprocess: Preprocess) -> Views:
        """Crop and flip; colours stay."""
        return CROP_AND_FLIP

    def draw(
        self, view: Views | View, key: int, ids: Any, block: RaggedImages, size: int
    ) -> AugmentationParams:
        """Draw crops, flips, colours and blurs; see `views.draw`."""
        from ..images import views

        recipe, side = _parts(view, size)
        return views.draw(recipe, key, ids, block.height, block.width, side)

    def apply(
        self,
        block: Any,
        params: AugmentationParams,
        view: Views | View,
        size: int,
        *,
        dtype: torch.dtype | None = None,
        threads: int = 1,
    ) -> torch.Tensor:
        """Compute views, (n, 3, side, side) in [0, 1]; see `kernels.apply`."""
        import torch

        from ..images import kernels

        recipe, side = _parts(view, size)
        kind = dtype or torch.float32
        return kernels.apply(block, params, side, recipe.interpolation, dtype=kind, threads=threads)

    def place(self, block: RaggedImages, device: torch.device) -> Any:
        """Send pixels to a device."""
        from ..images import kernels

        return kernels.place(block, device)

    def prepare(self, block: RaggedImages, preprocess: Preprocess, *, threads: int = 1) -> torch.Tensor:
        """Cut out the centre and resize it: (n, 3, size, size) in [0, 1]."""
        from ..images import kernels
        from ..images.views import centre

        params = centre(preprocess, block.height, block.width)
        return kernels.apply(block, params, preprocess.size, preprocess.interpolation, threads=threads)

    def ready(self) -> None:
        """Compile the kernel of the views."""
        from ..images import kernels

        kernels.ready()

    def encoder(
        self,
        name: str,
        *,
        stem: str = "auto",
        size: int | None = None,
        weights: str | None = None,
        seed: int = 0,
        **own: Any,
    ) -> Encoder:
        """Build one of our networks, torchvision's or timm's."""
        from .. import models

        return models.encoder(name, stem=stem, size=size, weights=weights, seed=seed, **own)

    def describe(
        self,
        source: Source,
        *,
        limit: int,
        threads: int,
        seconds: float | None = None,
        glances: dict[str, Any] | None = None,
    ) -> Inspection:
        """Decode every image once, or headers and as many as time allows; see `inspection.inspect`."""
        from .inspection import inspect

        return inspect(source, max_pixels=limit, threads=threads, seconds=seconds, glances=glances)

    def thumbnail(
        self,
        data: Pixels | bytes | Cut,
        value: Pixels,
        side: int,
        preprocess: Preprocess | None = None,
        *,
        limit: int,
    ) -> bytes:
        """Make a JPEG: from the decoded pixels, unless they are too few for it."""
        import io

        from PIL import Image

        from ..images import decode
        from .crops import Cut

        pixels, span = value, None if preprocess is None else preprocess.value_range
        squashed = preprocess is not None and preprocess.reducing.squash
        if squashed or max(value.shape[:2]) < side:
            data = data.pixels(span) if isinstance(data, Cut) else data
            if isinstance(data, bytes):
                how: dict[str, Any] = {"max_pixels": limit, "exact": False, "value_range": span}
                pixels = decode.decode(data, short_side=side, **how)
            elif data.dtype == value.dtype:
                pixels = data
        image = Image.fromarray(pixels)
        image.thumbnail((side, side), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=QUALITY)
        return file.getvalue()


def _parts(view: Views | View, size: int) -> tuple[Views, int]:
    """Give a view's settings and its side in pixels."""
    return (view, size) if isinstance(view, Views) else (view.recipe, view.side(size))


MODALITY = ImageModality()
