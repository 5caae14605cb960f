"""Chooses pictures to show: a sample, views, nearest neighbours, typical and odd images, near-duplicates."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ..analysis.copy_threshold import calibrate
from ..analysis.duplicates import Collection, duplicate_pairs
from ..core import rng
from ..core.device import cores
from ..core.text import counted
from ..features.knn import top_k
from ..training import resolve
from ..training.run_config import RunConfig
from .blocks import Grid, ImageTile, Note
from .sample import ImageSample

SIDE = 96  # of a picture in the page, in pixels, at most
SHOWN = 48  # of the sample
VIEWED, EPOCHS = 6, 3  # images whose views are shown, and epochs where a method has two views
QUERIES, NEIGHBOURS = 4, 8  # rows of each kind, and neighbours in a row
TYPICAL = 12
PAIRS = 12
TENTH = 10  # the neighbour whose nearness tells how usual an image is

Pixels = npt.NDArray[np.uint8]


def tile(pixels: Pixels, name: str, side: int = SIDE, **more: Any) -> ImageTile:
    """Make a picture of the page.

    Args:
        pixels: (H, W, 3) uint8.
        name: what it is called.
        side: reduced to this longer side, in pixels, if larger.
        **more: other fields of `ImageTile`.

    Returns:
        The picture, as WebP: a third of a JPEG's bytes at this size.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=88, method=4)
    code = base64.b64encode(file.getvalue()).decode("ascii")
    return ImageTile(f"data:image/webp;base64,{code}", name, *image.size, **more)


def _shown(sampled: ImageSample, row: int, **more: Any) -> ImageTile:
    return tile(sampled.dataset[row], sampled.dataset.ids[row], **more)


def sample(sampled: ImageSample) -> Grid:
    """Show some images, drawn by chance."""
    rows = range(min(SHOWN, len(sampled)))
    says = f"{counted(len(rows), 'image')} drawn at random from those that the encoder was trained on."
    return Grid("Some of the images", says, [[_shown(sampled, row) for row in rows]], wide=True)


@dataclass(frozen=True)
class ShownView:
    """A view of some images: its name, the crops (n, 4) as a draw has them, and the pixels."""

    name: str
    box: npt.NDArray[np.int32]
    pixels: torch.Tensor


def views_of(
    sampled: ImageSample, wanted: RunConfig, rows: npt.NDArray[np.int64], epochs: int
) -> list[ShownView]:
    """Make the very views that the network was given of some images in its first epochs.

    Args:
        sampled: the run's own images.
        wanted: the run's settings.
        rows: (n,) rows of `sampled`, of images that were trained on.
        epochs: how many.

    Returns:
        One a view and epoch; pixels (n, 3, side, side) as `batches.DataLoader` makes them.
    """
    recipes = resolve.shown_views(wanted)
    block, numbers = sampled.dataset.gather(rows), sampled.numbers[rows]
    made, kind = [], wanted.kind
    for epoch in range(epochs):
        for number, view in recipes:
            key, size = rng.fold(wanted.training.seed, "view", epoch, number), wanted.image_size
            draws = kind.draw(view, key, numbers, block, size)
            pixels = kind.apply(block, draws, view, size, threads=cores())
            made.append(ShownView(f"view {number + 1}, epoch {epoch + 1}", draws.box, pixels))
    return made


def views_grid(sampled: ImageSample, wanted: RunConfig) -> Grid:
    """Show views of a few images, with the crops of the first two marked on the image."""
    rows = np.flatnonzero(sampled.numbers >= 0)[:VIEWED]
    made = views_of(sampled, wanted, rows, 1)
    if len(made) <= 2:
        made = views_of(sampled, wanted, rows, EPOCHS)
    block = sampled.dataset.gather(rows)
    lines = []
    for at, row in enumerate(rows.tolist()):
        size = (int(block.height[at]), int(block.width[at]))
        boxes = [_share(view.box[at], *size) for view in made[:2]]
        views_shown = [tile(_bytes(view.pixels[at]), view.name) for view in made]
        lines.append([_shown(sampled, row, mark="first", boxes=boxes), *views_shown])
    says = (
        "First the image, with the crops of its first two views; then views as the network got them in "
        "its first epochs. A person should still recognise that a row shows one thing: where not, the "
        "views are too hard; where all views are nearly the same, too easy."
    )
    if getattr(wanted.settings, "keep_colour", False):
        says += " Every fourth image of a batch kept its colours in both views, which is not shown here."
    return Grid("Views of a few images", says, lines, columns=1 + len(made))


def _bytes(view: torch.Tensor) -> Pixels:
    """Turn a (3, side, side) view in [0, 1] into pixels."""
    plain: Pixels = (view.permute(1, 2, 0).clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()
    return plain


def _share(box: npt.NDArray[np.int32], height: int, width: int) -> tuple[float, float, float, float]:
    top, left, high, wide = (float(edge) for edge in box)
    return (100 * left / width, 100 * top / height, 100 * wide / width, 100 * high / height)


def neighbours(sampled: ImageSample) -> list[Grid]:
    """Show images with their nearest others: random images, those with the nearest and with the farthest.

    Args:
        sampled: the run's own images.

    Returns:
        Three grids.
    """
    cosine, who = sampled.near
    k = min(NEIGHBOURS, who.shape[1])
    fifth = cosine[:, min(4, k - 1)]
    order = fifth.argsort(descending=True).tolist()
    chance = range(min(QUERIES, len(sampled)))

    def rows(queries: Any) -> list[list[ImageTile]]:
        return [
            [
                _shown(sampled, row, mark="first"),
                *(_near(sampled, at, near) for at, near in _pairs(who, cosine, row, k)),
            ]
            for row in queries
        ]

    about = "The first image of a row is the query; the most similar images follow, with their cosine."
    return [
        Grid("Drawn at random", about, rows(chance), 1 + k),
        Grid("Nearest", "Queries whose fifth neighbour is nearest.", rows(order[:QUERIES]), 1 + k),
        Grid(
            "Farthest",
            "Queries whose fifth neighbour is farthest: nothing is similar to them.",
            rows(order[-QUERIES:][::-1]),
            1 + k,
        ),
    ]


def _pairs(who: torch.Tensor, cosine: torch.Tensor, row: int, k: int) -> list[tuple[int, float]]:
    return list(zip(who[row, :k].tolist(), cosine[row, :k].tolist(), strict=True))


def _near(sampled: ImageSample, row: int, cosine: float, mark: str = "") -> ImageTile:
    return _shown(sampled, row, mark=mark, note=f"{cosine:.2f}")


def labelled_neighbours(base: ImageSample, asked: ImageSample) -> list[Grid]:
    """Show test images with their nearest labelled ones: at random, the best and the worst.

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

    def rows(queries: Any) -> list[list[ImageTile]]:
        lines = []
        for row in queries:
            first = _shown(asked, row, mark="first", note=str(truth[row]))
            line = [first]
            for at, (near, cosine_of) in enumerate(_pairs(who, cosine, row, k)):
                found = _near(base, near, cosine_of, "right" if right[row, at] else "wrong")
                line.append(replace(found, note=str(names[near])))
            lines.append(line)
        return lines

    share = right.double().mean().item()
    about = (
        f"Of all neighbours of {counted(len(asked), 'test image')}, {100 * share:.1f} % are of the image's "
        "class; their frames are solid and blue, those of another class dashed and orange."
    )
    return [
        Grid("Drawn at random", about, rows(range(min(QUERIES, len(asked)))), 1 + k),
        Grid("Right", "Queries with the most neighbours of the same class.", rows(order[:QUERIES]), 1 + k),
        Grid("Wrong", "Queries with the fewest.", rows(order[-QUERIES:][::-1]), 1 + k),
    ]


def typical(sampled: ImageSample) -> list[Grid]:
    """Show the most and the least usual images, by how near the tenth nearest other is."""
    cosine, _ = sampled.near
    nearness = cosine[:, min(TENTH, cosine.shape[1]) - 1]
    order = nearness.argsort(descending=True).tolist()
    count = min(TYPICAL, len(order) // 2)

    def row(rows: list[int]) -> list[list[ImageTile]]:
        return [[_shown(sampled, at, note=f"{float(nearness[at]):.2f}") for at in rows]]

    return [
        Grid(
            "Most typical",
            "Their tenth neighbour is very near: many are similar to them.",
            row(order[:count]),
        ),
        Grid(
            "Least typical",
            "Their tenth neighbour is far: odd images, errors, or rare subjects.",
            row(order[len(order) - count :][::-1]),
        ),
    ]


def duplicates(sampled: ImageSample) -> list[Grid | Note]:
    """Show pairs of images that are nearly the same: similar pixels everywhere."""
    images = Collection.of(sampled.features.numpy(), sampled.dataset)
    level = calibrate(images)
    found = duplicate_pairs(images, min_similarity=level.min_similarity)
    looked = f"Among {counted(len(sampled), 'image')}"
    if not len(found):
        return [Note(f"{looked}, no two are nearly the same.")]
    notes = [
        "same bytes" if same else f"{near:.3f}"
        for same, near in zip(found.same, found.similarity, strict=True)
    ]
    shown = [
        [_shown(sampled, a), _shown(sampled, b, note=note)]
        for a, b, note in zip(found.a.tolist(), found.b.tolist(), notes, strict=True)
    ][:PAIRS]
    many = counted(len(found), "pair is")
    says = (
        f"{looked}, {many} nearly the same, {int(found.same.sum()):,} of them byte for byte"
        + (f"; {len(shown)} are shown" if len(shown) < len(found) else "")
        + ". Keep such pairs on one side of any split into training and test images. Below the second is "
        f"how similar their pixels are at the place where they differ most. {level}"
    )
    return [Grid("Pairs", says, shown, columns=2)]
