"""What features see: parts of similar images, the images of single features, and what the encoder ignores."""

from __future__ import annotations

from collections.abc import Sequence

from ..interpretation import dictionary, sheet
from ..interpretation.explain import Explanation, explained, prepared
from ..interpretation.invariance import CHANGES
from ..training.run import Run
from . import figures
from .blocks import Blocks, Fold, Grid, Note, Plot, Plots
from .galleries import tile
from .sample import ImageSample

FEWEST = dictionary.SIZE  # images
PAIRS, FEATURES, IMAGES = 4, 6, 8  # shown: pairs, features, and images of each feature


def blocks(run: Run, sampled: ImageSample) -> Blocks:
    """Show what an encoder's features see.

    Args:
        run: of images.
        sampled: images with their features; with labels, these name the features.

    Returns:
        Parts of similar images, single features, and curves.
    """
    if len(sampled) < FEWEST:
        return [Note(f"{len(sampled)} images are too few to tell what features see; {FEWEST} are needed.")]
    if not dictionary.differ(sampled.features):
        return [Note("What features see is not shown: the vectors of all images are the same.")]
    found = explained(run, sampled.dataset, vectors=sampled.features, brief=True)
    return [_parts(run, found, sampled), _features(found, sampled), _curves(found)]


def _parts(run: Run, found: Explanation, sampled: ImageSample) -> Grid | Note:
    """Show pairs of images and what makes them similar, if that was found."""
    test = found.deletion
    if test.margin <= 0:
        return Note(
            "Which parts make two images similar is not shown: blurring the parts that were found lowers the "
            f"similarity no more than blurring random ones (by {-test.margin:.2f} less)."
        )
    rows = []
    for pair in found.pairs[:PAIRS]:
        images = sheet.pixels(prepared(run, sampled.dataset, pair.rows))
        names = [pair.names[0], f"parts of {pair.names[0]}", pair.names[1], f"parts of {pair.names[1]}"]
        notes = ["", "", f"{pair.similarity:.2f}", ""]
        shown = zip(sheet.parts(pair, images), names, notes, strict=True)
        rows.append([tile(pixels, name, note=note) for pixels, name, note in shown])
    says = (
        "An image and its most similar one, each followed by its parts: the brighter a part, the more it "
        "adds to their similarity, which stands below. Blurring these parts first leaves "
        f"{test.margin:.2f} less of it than blurring random parts, on average over {test.images} images; it "
        f"leaves less in {test.better} of them."
    )
    return Grid("Which parts make two images similar", says, rows, columns=4)


def _features(found: Explanation, sampled: ImageSample) -> Grid:
    """Show the strongest features by the images in which each is strongest."""
    known = found.sparse
    rows = []
    for one in known.features[:FEATURES]:
        named = one.share is not None and one.share >= sheet.NAMED
        note = f"{one.name}, {100 * (one.share or 0):.0f} %" if named else f"in {100 * one.used:.0f} %"
        tiles = [(row, note if place == 0 else "") for place, row in enumerate(one.top[:IMAGES])]
        rows.append(
            [tile(sampled.dataset[row], sampled.dataset.ids[row], note=words) for row, words in tiles]
        )
    says = (
        f"A dictionary of {known.size} features writes each vector as a sum of at most {known.active}; that "
        f"explains {100 * known.explained:.0f} % of the variance of other images' vectors, {known.active} "
        f"principal components {100 * known.principal:.0f} %. Each row holds the images in which one feature "
        "is strongest. Below is the share of the images that have it"
    )
    if known.agreement is None:
        return Grid("Single features", f"{says}.", rows, columns=IMAGES)
    says += (
        ", or a label that names it and the share of further images with that label. Over all features that "
        f"is {100 * known.agreement:.0f} %, {100 * (known.numbers or 0):.0f} % for the vector's own numbers."
    )
    return Grid("Single features", says, rows, columns=IMAGES)


def _curves(found: Explanation) -> Fold:
    """Draw what is kept of a vector as images change."""
    items = []
    for own, plain in zip(found.curves, found.untrained, strict=True):
        lines: Sequence[figures.Line] = [
            figures.Line(own.strengths, own.kept, label="encoder"),
            figures.Line(plain.strengths, plain.kept, run=1, label="untrained"),
        ]
        ends = f"{own.kept[-1]:.2f} is kept at the end, {plain.kept[-1]:.2f} by the untrained network"
        title = f"What changes of {own.change} leave"
        unit = CHANGES[own.change].unit.split(",")[0]
        svg = figures.curves(f"kept-{own.change}", f"{title}: {ends}.", lines, x=unit, labels=True)
        items.append(
            Plot(svg, title, f"{ends[0].upper()}{ends[1:]}: 1 is all of the vector, 0 as another image's.")
        )
    return Fold("What the encoder ignores", [Plots(items)])
