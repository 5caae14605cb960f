"""Draws views of a few images as a picture, so that one can see what pretraining would learn to ignore."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from PIL import Image

from ..core import rng
from ..core.atomic import atomic_write, check_place
from ..core.device import cores, device_named
from ..core.errors import BadImage, NearfarError
from ..data.modalities import modality_of
from ..data.open import open_data
from . import resolve
from .collection_settings import usual_range, usual_side
from .colour_choice import ColourChoice, choose_colour, is_open, with_colour
from .method_choice import choose_method
from .options import Options
from .settings import Training

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
CELL = 128  # pixels of a view on the sheet, at least
GAP, PAPER = 6, (250, 250, 248)
LOSSES = {  # setting of the views: what it makes a network ignore, from which value on
    "hue": ("hue", 0.05),
    "grayscale": ("colour", 0.1),
    "brightness": ("brightness", 0.3),
    "flip": ("left and right", 0.01),
    "blur": ("sharpness", 0.1),
}


@dataclass(frozen=True)
class Preview:
    """A sheet of views.

    Attributes:
        path: the picture.
        images: names of the images, from the top.
        settings: the settings of the views by name.
        erased: what the views change, so that a network learns to ignore it.
        colours: what becomes of colours and why, where the images decide on it.
    """

    path: Path
    images: tuple[str, ...]
    settings: dict[str, Any]
    erased: tuple[str, ...]
    colours: ColourChoice | None = None

    def to_json(self) -> dict[str, Any]:
        """Write it as plain values."""
        return {
            "path": str(self.path),
            "images": list(self.images),
            "views": self.settings,
            "erased": list(self.erased),
            "colours": None if self.colours is None else self.colours.to_json(),
        }

    def __str__(self) -> str:
        what = ", ".join(self.erased) or "position and size only"
        return (
            f"{self.path}: a row an image, first as the encoder sees it, then as training does\n"
            f"these views change {what}: what differs along a row, the encoder learns to ignore\n"
            f"{self.colours or 'if your classes differ by colour, try: --colour keep'}"
        )


def preview(
    data: Any,
    *,
    out: str | Path = "views.png",
    images: int = 6,
    draws: int = 8,
    method: str = "auto",
    recipe: str = "auto",
    **settings: Unpack[Options],
) -> Preview:
    """Draw views of some images as a picture. Trains nothing.

    Example: nearfar views photos/ --out views.png

    Args:
        data: as in `pretrain`.
        out: the picture, a .png, .jpg or .webp file.
        images: how many images, from 1 to 50.
        draws: views of each, from 1 to 50.
        method: as in `pretrain`.
        recipe: as in `pretrain`.
        **settings: as in `pretrain`.

    Returns:
        Where the picture is, and what the views change.

    Raises:
        NearfarError: there are no images, a setting is wrong, or the file cannot be written.
    """
    target = Path(out)
    if target.suffix.lower() not in SUFFIXES:
        raise NearfarError(f"--out {target} is no picture; name a .png, .jpg or .webp file.")
    check_place(target)
    for name, count in (("images", images), ("draws", draws)):
        if not 1 <= count <= 50:
            raise NearfarError(f"--{name} is {count}; give 1 to 50.")
    given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    method = choose_method(method, data, given, recipe)
    source = open_data(
        data, expected=resolve.expected_kind(given, method), labels=resolve.needs_labels(method, given)
    )
    kind = modality_of(source)
    if not kind.pictures:
        raise NearfarError(f"{source.name} holds {kind.name}, which have no picture; give images.")
    limit = given.get("max_pixels", Training.max_pixels)
    side = usual_side(source, limit)
    config = resolve.resolve(
        method,
        recipe,
        given,
        side=side,
        device=device_named(str(given.get("device", "auto"))),  # which decides the recipe
        kind=source.modality,
        value_range=usual_range(source, given),
    )
    colours = None
    if is_open(config):
        colours = choose_colour(data, source, limit=limit, threads=cores())
        config = with_colour(config, colours.colour)
    values, names = [], []
    for row in rng.permutation(rng.fold(config.training.seed, "preview"), len(source.ids)):
        try:
            pixels, _ = kind.fetch(source, int(row), limit=limit)
            values.append(kind.decode(pixels, config.preprocess, limit=limit).value)
        except BadImage:
            continue
        names.append(source.ids[int(row)])
        if len(names) == images:
            break
    block, numbers = kind.collate(values), np.arange(len(values))
    kind.ready()
    columns = [kind.prepare(block, config.preprocess, threads=cores())]
    classes = len(set(source.labels)) if source.labels is not None else 0
    wanted = resolve.with_classes(config, classes)
    made = [view for _, view in resolve.shown_views(wanted)]
    for number in range(draws):
        view = made[number % len(made)]
        key = rng.fold(config.training.seed, "view", number // len(made), number % len(made))
        drawn = kind.draw(view, key, numbers, block, config.image_size)
        columns.append(kind.apply(block, drawn, view, config.image_size, threads=cores()))
    sheet, form = _sheet(columns), Image.registered_extensions()[target.suffix.lower()]
    with atomic_write(target, folders=True) as file:
        sheet.save(file, form)
    return Preview(target, tuple(names), config.to_json()["views"], _erased(config.views), colours)


def _sheet(columns: list[torch.Tensor]) -> Image.Image:
    """Put views next to each other: a column a view, (n, 3, side, side) each, and a row an image."""
    step = max(CELL, *(x.shape[-1] for x in columns)) + GAP
    sheet = Image.new("RGB", (len(columns) * step + 2 * GAP, len(columns[0]) * step + GAP), PAPER)
    for column, x in enumerate(columns):
        pixels = (x.float().permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
        left = GAP + column * step + (GAP if column else 0)  # a wider gap behind the images themselves
        for row, view in enumerate(pixels):
            picture = Image.fromarray(view).resize((step - GAP, step - GAP), Image.Resampling.NEAREST)
            sheet.paste(picture, (left, GAP + row * step))
    return sheet


def _erased(views: Any) -> tuple[str, ...]:
    """Name what the views change."""
    kept = ("hue", "brightness") if not views.jitter else ()
    return tuple(
        word for name, (word, least) in LOSSES.items() if name not in kept and getattr(views, name) >= least
    )
