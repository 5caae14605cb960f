"""Chooses pictures to show: what was learnt from, its views, who is near whom, the usual and the odd."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ..analysis.duplicates import NEAR, Collection, pairs
from ..analysis.pixel_similarity import zoomed
from ..core import rng
from ..core.device import cores
from ..features.knn import top_k
from ..images import kernels, views
from ..images.views import View
from ..training import resolve
from ..training.resolve import RunConfig
from .blocks import Grid, Note, Picture
from .sample import Look

SIDE = 96  # of a picture in the page, in pixels, at most
SHOWN = 48  # of the sample
VIEWED, EPOCHS = 6, 3  # images whose views are shown, and epochs where a method has two views
QUERIES, NEIGHBOURS = 4, 8  # rows of each kind, and neighbours in a row
TYPICAL = 12
PAIRS = 12
TENTH = 10  # the neighbour whose nearness tells how usual an image is

Pixels = npt.NDArray[np.uint8]


def picture(pixels: Pixels, name: str, side: int = SIDE, **more: Any) -> Picture:
    """Make a picture of the page.

    Args:
        pixels: (H, W, 3) uint8.
        name: what it is called.
        side: reduced to this longer side, in pixels, if larger.
        **more: other fields of `Picture`.

    Returns:
        The picture, as WebP: a third of a JPEG's bytes at this size.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=88, method=4)
    code = base64.b64encode(file.getvalue()).decode("ascii")
    return Picture(f"data:image/webp;base64,{code}", name, *image.size, **more)


def _shown(look: Look, row: int, **more: Any) -> Picture:
    return picture(look.dataset[row], look.dataset.ids[row], **more)


def sample(look: Look) -> Grid:
    """Show some images, drawn by chance."""
    rows = range(min(SHOWN, len(look)))
    says = f"{len(rows)} images drawn by chance: what the encoder had to learn from, good and bad."
    return Grid("Some of the images", says, [[_shown(look, row) for row in rows]], wide=True)


@dataclass(frozen=True)
class Seen:
    """A view of some images: its name, the crops (n, 4) as a draw has them, and the pixels."""

    name: str
    box: npt.NDArray[np.int32]
    pixels: torch.Tensor


def views_of(look: Look, wanted: RunConfig, rows: npt.NDArray[np.int64], epochs: int) -> list[Seen]:
    """Make the very views that the network was given of some images in its first epochs.

    Args:
        look: the run's own images.
        wanted: the run's settings.
        rows: (n,) rows of `look`, of images that were trained on.
        epochs: how many.

    Returns:
        One a view and epoch; pixels (n, 3, side, side) as `batches.DataLoader` makes them.
    """
    bare = replace(wanted, training=replace(wanted.training, weights=None))
    recipes = resolve.build_method(bare).views(wanted.views)
    block, numbers = look.dataset.gather(rows), look.numbers[rows]
    made = []
    for epoch in range(epochs):
        for number, recipe in enumerate(recipes):
            view = recipe if isinstance(recipe, View) else View(recipe)
            key, side = rng.fold(wanted.training.seed, "view", epoch, number), view.side(wanted.image_size)
            draws = views.draw(view.recipe, key, numbers, block.height, block.width, side)
            pixels = kernels.apply(block, draws, side, view.recipe.interpolation, threads=cores())
            made.append(Seen(f"view {number + 1}, epoch {epoch + 1}", draws.box, pixels))
    return made


def viewed(look: Look, wanted: RunConfig) -> Grid:
    """Show views of a few images, with the crops of the first two marked on the image."""
    rows = np.flatnonzero(look.numbers >= 0)[:VIEWED]
    made = views_of(look, wanted, rows, 1)
    if len(made) <= 2:
        made = views_of(look, wanted, rows, EPOCHS)
    block = look.dataset.gather(rows)
    lines = []
    for at, row in enumerate(rows.tolist()):
        size = (int(block.height[at]), int(block.width[at]))
        boxes = [_share(view.box[at], *size) for view in made[:2]]
        views_shown = [picture(_bytes(view.pixels[at]), view.name) for view in made]
        lines.append([_shown(look, row, mark="first", boxes=boxes), *views_shown])
    says = (
        "First the image, with the crops of its first two views; then views, pixel for pixel as the network "
        "was given them in its first epochs. A person should still see that a row is one thing: where not, "
        "the views are too hard; where all look alike, too easy."
    )
    return Grid("Views of a few images", says, lines, columns=1 + len(made))


def _bytes(view: torch.Tensor) -> Pixels:
    """Turn a (3, side, side) view in [0, 1] into pixels."""
    plain: Pixels = (view.permute(1, 2, 0).clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()
    return plain


def _share(box: npt.NDArray[np.int32], height: int, width: int) -> tuple[float, float, float, float]:
    top, left, high, wide = (float(edge) for edge in box)
    return (100 * left / width, 100 * top / height, 100 * wide / width, 100 * high / height)


def neighbours(look: Look) -> list[Grid]:
    """Show images with their nearest others: some drawn by chance, the surest and the least sure.

    Args:
        look: the run's own images.

    Returns:
        Three grids.
    """
    cosine, who = look.near
    k = min(NEIGHBOURS, who.shape[1])
    fifth = cosine[:, min(4, k - 1)]
    order = fifth.argsort(descending=True).tolist()
    chance = range(min(QUERIES, len(look)))

    def rows(queries: Any) -> list[list[Picture]]:
        return [
            [
                _shown(look, row, mark="first"),
                *(_near(look, at, near) for at, near in _pairs(who, cosine, row, k)),
            ]
            for row in queries
        ]

    about = "The first of a row is asked for; beside it are the images most alike by cosine, which is below."
    return [
        Grid("Drawn by chance", about, rows(chance), 1 + k),
        Grid("The surest", "Whose fifth neighbour is nearest of all.", rows(order[:QUERIES]), 1 + k),
        Grid(
            "The least sure",
            "Whose fifth neighbour is farthest of all: here the encoder knows least.",
            rows(order[-QUERIES:][::-1]),
            1 + k,
        ),
    ]


def _pairs(who: torch.Tensor, cosine: torch.Tensor, row: int, k: int) -> list[tuple[int, float]]:
    return list(zip(who[row, :k].tolist(), cosine[row, :k].tolist(), strict=True))


def _near(look: Look, row: int, cosine: float, mark: str = "") -> Picture:
    return _shown(look, row, mark=mark, note=f"{cosine:.2f}")


def judged(base: Look, asked: Look) -> list[Grid]:
    """Show test images with their nearest labelled ones: by chance, the rightest and the wrongest.

    Args:
        base: labelled images, to find neighbours among.
        asked: labelled images, to find neighbours of.

    Returns:
        Three grids, each neighbour marked right or wrong.
    """
    k = min(NEIGHBOURS, len(base))
    cosine, who = top_k(asked.features, base.features, k)
    names = np.array(base.dataset.classes)[base.dataset.labels]
    truth = np.array(asked.dataset.classes)[asked.dataset.labels]
    right = torch.from_numpy(names[who.numpy()] == truth[:, None])
    # Of equally many right neighbours, the nearer ones count more: sure and right, sure and wrong.
    score = right.double().sum(1) + (2 * right.double() - 1).mul(cosine).sum(1) / (4 * k)
    order = score.argsort(descending=True).tolist()

    def rows(queries: Any) -> list[list[Picture]]:
        lines = []
        for row in queries:
            first = _shown(asked, row, mark="first", note=str(truth[row]))
            line = [first]
            for at, (near, alike) in enumerate(_pairs(who, cosine, row, k)):
                found = _near(base, near, alike, "right" if right[row, at] else "wrong")
                line.append(replace(found, note=str(names[near])))
            lines.append(line)
        return lines

    share = right.double().mean().item()
    about = (
        f"Of all neighbours of {len(asked):,} test images, {100 * share:.1f} % are of the image's class; "
        "their frames are whole and blue, those of another class dashed and orange."
    )
    return [
        Grid("Drawn by chance", about, rows(range(min(QUERIES, len(asked)))), 1 + k),
        Grid(
            "Right", "Where the neighbours are most surely of the same class.", rows(order[:QUERIES]), 1 + k
        ),
        Grid("Wrong", "Where they are most surely not.", rows(order[-QUERIES:][::-1]), 1 + k),
    ]


def typical(look: Look) -> list[Grid]:
    """Show the most and the least usual images, by how near the tenth nearest other is."""
    cosine, _ = look.near
    nearness = cosine[:, min(TENTH, cosine.shape[1]) - 1]
    order = nearness.argsort(descending=True).tolist()
    count = min(TYPICAL, len(order) // 2)

    def row(rows: list[int]) -> list[list[Picture]]:
        return [[_shown(look, at, note=f"{float(nearness[at]):.2f}") for at in rows]]

    return [
        Grid(
            "Most typical", "Whose tenth nearest other is very near: many are like them.", row(order[:count])
        ),
        Grid(
            "Least typical",
            "Whose tenth nearest other is far: odd ones, errors, or what the collection has too little of.",
            row(order[len(order) - count :][::-1]),
        ),
    ]


def duplicates(look: Look) -> list[Grid | Note]:
    """Show pairs of images that are nearly the same: near by features, and alike by pixels."""
    digests = [bytes(digest).hex() for digest in look.dataset.digests]
    found = pairs(Collection(look.features.numpy(), zoomed(look.dataset), digests))
    looked = f"Among {len(look):,} images"
    if not len(found):
        return [Note(f"{looked}, no two are nearly the same.")]
    notes = [
        "same bytes" if same else f"{near:.3f}" for same, near in zip(found.same, found.nearness, strict=True)
    ]
    shown = [
        [_shown(look, a), _shown(look, b, note=note)]
        for a, b, note in zip(found.a.tolist(), found.b.tolist(), notes, strict=True)
    ][:PAIRS]
    many = "1 pair is" if len(found) == 1 else f"{len(found):,} pairs are"
    says = (
        f"{looked}, {many} nearly the same, {int(found.same.sum()):,} of them byte for byte"
        + (f"; {len(shown)} are shown" if len(shown) < len(found) else "")
        + ". Keep such pairs on one side of any split into training and test images. Below the second is "
        f"how near it is to the first by pixels and features, at least {NEAR}."
    )
    return [Grid("Pairs", says, shown, columns=2)]
