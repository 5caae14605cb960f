"""Draws what an encoder's features see: parts of similar images, curves, and the images of each feature."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..analysis.heatmaps import overlay
from ..core.atomic import atomic_write, check_place
from ..core.errors import NearfarError
from ..core.text import printable
from .invariance import CHANGES, Curve

if TYPE_CHECKING:
    from .explain import Explanation, Pair

SIDE, GAP, LINE = 96, 6, 20  # pixels: of an image, between two, of a line of text
WIDE = 10  # images across
FEATURES = 12  # shown
NAMED = 0.5  # share of further images that must have a label for it to be a name
PAPER, INK, SOFT = (250, 250, 248), (30, 30, 30), (110, 110, 110)
BLUE, GREY = "#0072b2", "#888888"

Pixels = npt.NDArray[np.uint8]


def check(path: Path) -> None:
    """Refuse a name that is not of a .png file, and say what to install where nothing can be drawn."""
    if path.suffix.lower() != ".png" or path.is_dir():
        raise NearfarError(f"--out {path} is no .png file; name one, such as explain.png.")
    if importlib.util.find_spec("matplotlib") is None:
        raise NearfarError("the sheet needs matplotlib: pip install 'nearfar[plots]'.")
    check_place(path)


def parts(pair: Pair, images: Sequence[Pixels]) -> list[Pixels]:
    """Show two images, and each with the parts that make them similar in colours.

    Args:
        pair: with its cells.
        images: the two, (side, side, 3) each.

    Returns:
        Four images: the first, its parts, the second, its parts; the brighter, the more a part adds.
    """
    made: list[Pixels] = []
    high = max(float(cells.max()) for cells in pair.cells)
    for image, cells in zip(images, pair.cells, strict=True):
        heat = F.interpolate(cells[None, None], image.shape[0], mode="bilinear", align_corners=False)[0, 0]
        made += [image, overlay(image, heat.numpy(), 0.0, high)]
    return made


def panels(axes: Sequence[Any], curves: Sequence[Curve], plain: Sequence[Curve]) -> None:
    """Draw the curves of an encoder, and of the untrained network in grey.

    Args:
        axes: of matplotlib, one a curve.
        curves, plain: the encoder's and the untrained network's.
    """
    for at, own, other in zip(axes, curves, plain, strict=True):
        at.plot(other.strengths, other.kept, "s--", color=GREY, label="untrained", markersize=4)
        at.plot(own.strengths, own.kept, "o-", color=BLUE, label="encoder", markersize=4)
        at.set_ylim(-0.1, 1.05)
        at.set_title(own.change, loc="left")
        at.set_xlabel(CHANGES[own.change].unit.split(",")[0])
        at.spines[["top", "right"]].set_visible(False)
        at.grid(alpha=0.3)
    axes[0].set_ylabel("kept")
    axes[0].legend(frameon=False)


def pixels(x: Tensor) -> list[Pixels]:
    """Write images (n, 3, side, side) in [0, 1] as n arrays (side, side, 3)."""
    return list((x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())


def write(path: Path, found: Explanation, pictures: Callable[[Sequence[int]], Tensor]) -> None:
    """Write the sheet.

    Args:
        path: a .png file.
        found: what to draw.
        pictures: gives images of the sample by their rows.
    """
    shown = found.sparse.features[:FEATURES]
    step, across = SIDE + GAP, WIDE * (SIDE + GAP) + GAP
    plot = _curves(found, across)
    pair_lines = -(-len(found.pairs) // 2)
    high = 5 * LINE + pair_lines * (step + LINE) + plot.height + len(shown) * (step + LINE)
    canvas = Image.new("RGB", (across, high), PAPER)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)

    def text(left: int, top: int, words: str, ink: tuple[int, int, int] = INK) -> None:
        pen.text((left, top + 3), printable(words)[:150], ink, font)

    def row(left: int, top: int, images: Sequence[Pixels]) -> None:
        for number, image in enumerate(images):
            scaled = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            canvas.paste(scaled, (left + number * step, top))

    margin = f"deleting them lowers similarity by {found.deletion.margin:.2f} more than random parts"
    text(GAP, 0, f"Parts that make two images similar: the brighter, the more ({margin})")
    top = LINE
    for number, pair in enumerate(found.pairs):
        left = GAP + number % 2 * (WIDE // 2 * step)
        row(left, top, parts(pair, pixels(pictures(list(pair.rows)))))
        text(left, top + SIDE, f"similarity {pair.similarity:.2f}", SOFT)
        top += (step + LINE) * (number % 2 or number == len(found.pairs) - 1)
    top += LINE
    text(GAP, top, "What is kept of a vector as images change: 1 all of it, 0 as much as of another image's")
    canvas.paste(plot, (0, top + LINE))
    top += 2 * LINE + plot.height
    text(GAP, top, "Features of the dictionary, and the images in which each is strongest")
    top += LINE
    for one in shown:
        row(GAP, top, pixels(pictures(one.top[:WIDE])))
        named = one.share is not None and one.share >= NAMED
        name = f": {one.name}, as {100 * (one.share or 0):.0f} % of further images" if named else ""
        text(GAP, top + SIDE, f"feature {one.number}, in {100 * one.used:.0f} % of the images{name}", SOFT)
        top += step + LINE
    file = io.BytesIO()
    canvas.save(file, "PNG")
    with atomic_write(path, folders=True) as out:
        out.write(file.getvalue())


def _curves(found: Explanation, wide: int) -> Image.Image:
    """Draw the curves as an image of some width."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(wide / 80, 2.8), dpi=80, layout="constrained", facecolor="#fafaf8")
    panels(figure.subplots(1, len(found.curves), sharey=True), found.curves, found.untrained)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
