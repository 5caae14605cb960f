"""Explains an encoder on some images: parts behind similarities, invariances, a dictionary of features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core import progress, rng
from ..core.device import cores, device_named
from ..core.errors import NearfarError, nearest
from ..core.text import as_list, counted
from ..data.modalities import IMAGES, modality_of
from ..data.open import open_data
from ..data.source import Source
from ..data.subset import subset_of
from ..features.extract import features, finite
from ..features.knn import top_k, unit
from ..features.probes import untrained
from ..images.files import MAX_PIXELS
from ..images.view_settings import is_small
from ..training.run import Run, load
from . import attribution, dictionary, invariance

SAMPLE = 2000  # images used, at most
LEAST = 16  # images, at least: with fewer there is no typical image
CHANGED = 128  # images whose changes are measured, at most
PAIRS, SHOWN = 24, 6  # pairs on which attribution is tested, and of these those that are shown
LARGE = 4  # times that these are fewer for images of over 64 px, and where it has to be brief
HELD_OUT = 5  # one image in so many is not used to learn the dictionary
AT_ONCE = 64  # images in a batch


@dataclass(frozen=True)
class Pair:
    """Two similar images, and what each part of them adds to the similarity.

    Attributes:
        rows: of the images in the sample.
        names: of the images.
        similarity: cosine of their vectors, less the mean vector of the sample.
        cells: what each cell of the first and of the second adds, (c, c) each.
    """

    rows: tuple[int, int]
    names: tuple[str, str]
    similarity: float
    cells: tuple[Tensor, Tensor] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Write it as plain values."""
        first, second = (one.tolist() for one in self.cells)
        return {
            "images": list(self.names),
            "similarity": self.similarity,
            "cells": [first, second],
        }


@dataclass(frozen=True)
class Sparse:
    """A dictionary of features that was learnt on the vectors.

    Attributes:
        size, active: features in it, and how many of them make up a vector at most.
        explained: share of the variance of images that it was not learnt on.
        principal: the same for as many principal components.
        features: the features, those that hold most first.
        agreement: with labels, the mean share of further images that have the label a feature is named by.
        numbers: the same for the vector's own numbers.
        chance: share of the most common label.
    """

    size: int
    active: int
    explained: float
    principal: float
    features: tuple[dictionary.Feature, ...] = field(repr=False)
    agreement: float | None = None
    numbers: float | None = None
    chance: float | None = None


@dataclass(frozen=True)
class Explanation:
    """What an encoder's features see.

    Attributes:
        path: the sheet; None if none was asked for.
        ids: names of the images of the sample.
        pairs: similar images with their parts.
        deletion: the test of these parts.
        curves, untrained: what the encoder keeps as images change, and what the untrained network keeps.
        sparse: the dictionary of features.
    """

    path: Path | None
    ids: tuple[str, ...] = field(repr=False)
    pairs: tuple[Pair, ...]
    deletion: attribution.Deletion
    curves: tuple[invariance.Curve, ...]
    untrained: tuple[invariance.Curve, ...]
    sparse: Sparse

    def to_json(self) -> dict[str, Any]:
        """Write it as plain values."""
        known = self.sparse
        return {
            "path": None if self.path is None else str(self.path),
            "images": len(self.ids),
            "pairs": [pair.to_json() for pair in self.pairs],
            "deletion": self.deletion.to_json(),
            "invariance": [curve.to_json() for curve in self.curves],
            "untrained": [curve.to_json() for curve in self.untrained],
            "dictionary": {
                "features": known.size,
                "active": known.active,
                "explained": known.explained,
                "principal": known.principal,
                "agreement": known.agreement,
                "numbers": known.numbers,
                "chance": known.chance,
                "list": [
                    {
                        "number": one.number,
                        "used": one.used,
                        "name": one.name,
                        "share": one.share,
                        "top": [self.ids[row] for row in one.top],
                    }
                    for one in known.features
                ],
            },
        }

    def __str__(self) -> str:
        found, known = self.deletion, self.sparse
        lines = [] if self.path is None else [f"{self.path}: similar images, curves and features"]
        lines += [
            "what is kept of a vector as images change (1: nothing changes, 0: as another image), and by the "
            "untrained network:"
        ]
        for curve, plain in zip(self.curves, self.untrained, strict=True):
            each = zip(curve.strengths[1:], curve.kept[1:], plain.kept[1:], strict=True)
            cells = "  ".join(f"{strength:.3g}: {own:.2f} ({other:.2f})" for strength, own, other in each)
            lines.append(f"  {curve.change:<8}{cells}")
        lines.append(
            f"parts: deleted in the order of attribution, {np.mean(found.own):.2f} of similarity is left on "
            f"average, in random orders {np.mean(found.random):.2f}: a margin of {found.margin:.2f}, better "
            f"in {found.better} of {found.images} images"
        )
        if found.margin <= 0:
            lines.append("  no better than chance: do not read the parts")
        lines.append(
            f"dictionary: {known.active} of {known.size} features explain {100 * known.explained:.0f} % of "
            f"the variance of held-out vectors ({known.active} principal components "
            f"{100 * known.principal:.0f} %)"
        )
        if known.agreement is not None and known.numbers is not None and known.chance is not None:
            lines.append(
                f"  names: {100 * known.agreement:.0f} % of further images have the label that a feature is "
                f"named by (the vector's own numbers {100 * known.numbers:.0f} %, the most common label "
                f"{100 * known.chance:.0f} %)"
            )
        return "\n".join(lines)


def explain(
    run: Run | str | Path,
    data: Any,
    *,
    out: str | Path | None = None,
    pair: Sequence[str] = (),
    labels: bool = False,
) -> Explanation:
    """Show what an encoder's features see, and measure how far that can be trusted.

    Example: nearfar explain runs/a photos/ --out explain.png

    The parts that make two images similar are tested by deleting them. What the encoder ignores is measured
    by changing colour, place, size, turn and sharpness, beside the untrained network. A sparse dictionary of
    features is learnt on the vectors. At most 2,000 images are used, the same ones each time.

    Args:
        run: a run's folder, or a known encoder such as timm:resnet18.
        data: images, 16 at least.
        out: a .png file to draw: parts of similar images, curves, and the images of each feature.
        pair: names of two images to compare; if not given, images and their nearest ones.
        labels: name features by the images' labels: names of folders, or a list's column.

    Returns:
        The figures.

    Raises:
        NearfarError: the run or the images cannot be used, or the sheet cannot be written.
    """
    target = None if out is None else Path(out)
    if target is not None:
        from . import sheet

        sheet.check(target)
    pair, opened = as_list(pair), load(run)
    if opened.preprocess.modality != IMAGES:
        raise NearfarError(f"{opened.name} is of {opened.preprocess.modality}; explain needs one of images.")
    source = open_data(data, expected=IMAGES, labels=labels)
    rows = _sampled(source, pair)
    few = subset_of(source, rows)
    kind = modality_of(opened.preprocess)
    progress.say(f"reading {counted(len(few), 'image')}")
    dataset = kind.load(
        few, opened.preprocess, limit=MAX_PIXELS, max_bad=1.0, threads=cores(), memory=8 << 30
    )
    lost = [name for name in pair if name not in dataset.ids]
    if lost:
        raise NearfarError(f"{lost[0]} cannot be read; name another image with --pair.")
    found = explained(opened, dataset, asked=2 if pair else 0)
    if target is None:
        return found

    def pictures(rows: Sequence[int]) -> Tensor:
        return prepared(opened, dataset, rows)

    sheet.write(target, found, pictures)
    return Explanation(
        target, found.ids, found.pairs, found.deletion, found.curves, found.untrained, found.sparse
    )


def _sampled(source: Source, pair: Sequence[str]) -> Any:
    """Choose the rows of the sample; those of the pair come first."""
    if pair and len(pair) != 2:
        raise NearfarError(f"--pair has {len(pair)} names; give two.")
    if pair and pair[0] == pair[1]:
        raise NearfarError(f"--pair names {pair[0]} twice; name two images.")
    if len(source) < LEAST:
        raise NearfarError(
            f"{source.name} holds {counted(len(source), 'image')}; explain needs {LEAST} or more."
        )
    place = {name: row for row, name in enumerate(source.ids)}
    for name in pair:
        if name not in place:
            raise NearfarError(f"{source.name} has no image {name!r}; {nearest(name, source.ids)}")
    first = [place[name] for name in pair]
    order = rng.permutation(rng.fold(0, "explain"), len(source))
    return np.array([*first, *(row for row in order.tolist() if row not in first)][:SAMPLE], np.int64)


def prepared(run: Run, dataset: Any, rows: Sequence[int]) -> Tensor:
    """Make an encoder's input of some images.

    Args:
        run: of the encoder.
        dataset: the images, decoded.
        rows: of them.

    Returns:
        (n, 3, side, side) in [0, 1].
    """
    block = dataset.gather(np.asarray(rows, np.int64))
    found: Tensor = modality_of(run.preprocess).prepare(block, run.preprocess, threads=cores())
    return found.float()


def explained(
    run: Run, dataset: Any, *, asked: int = 0, vectors: Tensor | None = None, brief: bool = False
) -> Explanation:
    """Explain an encoder on images that are decoded.

    Args:
        run: of images.
        dataset: the images, with labels if features are to be named; `LEAST` at least.
        asked: 2 if the first two images are the pair to compare, else 0.
        vectors: (n, d) of the images, if they are known.
        brief: whether to take fewer pairs, changed images and steps, in a quarter of the time.

    Returns:
        The figures.

    Raises:
        NearfarError: there are too few images, or all have the same vector.
    """
    if len(dataset) < LEAST:
        raise NearfarError(f"{counted(len(dataset), 'image')} can be used; explain needs {LEAST} or more.")
    where, encoder = device_named("auto"), run.encoder
    if vectors is None:
        progress.say("encoding the images")
        vectors = torch.from_numpy(finite(features(encoder, dataset, run.preprocess, device=where)))
    if not dictionary.differ(vectors):
        raise NearfarError(
            f"the vectors of all {len(vectors):,} images are the same, so nothing makes some similar; "
            "give images that differ, or train the encoder longer."
        )
    fewer = 1 if is_small(run.preprocess.size) and not brief else LARGE
    progress.say("finding the parts of similar images")
    pairs, deletion = _parts(run, dataset, vectors, asked, PAIRS // fewer, where)
    progress.say("changing images, for the encoder and the untrained network")
    drawn = rng.permutation(rng.fold(0, "changed"), len(dataset))[: CHANGED // fewer]
    x = prepared(run, dataset, drawn.tolist())
    plain = untrained(encoder, dataset, run.preprocess, 0, str(where))
    own, other = (invariance.curves(_encode(net, where), x) for net in (encoder, plain))
    progress.say("learning a dictionary of features")
    names = None if dataset.labels is None else [dataset.classes[number] for number in dataset.labels]
    how = {"steps": dictionary.STEPS // LARGE} if brief else {}
    return Explanation(None, tuple(dataset.ids), pairs, deletion, own, other, sparse(vectors, names, **how))


def _encode(net: nn.Module, device: torch.device) -> invariance.Encode:
    """Make a function that encodes images a batch at a time."""
    held = net.to(device).eval()

    def encode(x: Tensor) -> Tensor:
        return torch.cat([held(part.to(device)).float().cpu() for part in x.split(AT_ONCE)])

    return encode


def _parts(
    run: Run, dataset: Any, vectors: Tensor, asked: int, count: int, device: torch.device
) -> tuple[tuple[Pair, ...], attribution.Deletion]:
    """Find the parts of some pairs, and test them."""
    centre = vectors.mean(0)
    centred = unit(vectors - centre)
    drawn = rng.permutation(rng.fold(0, "pairs"), len(vectors))[:count].tolist()
    cosine, near = top_k(centred[drawn], centred, 2)
    # The most similar image of each is the image itself, or an exact copy, which is like it in every part.
    at = (near == torch.tensor(drawn)[:, None]).long().argmin(1, keepdim=True)
    others = near.gather(1, at)[:, 0].tolist()
    pairs = list(zip(drawn, others, strict=True))
    if asked:
        pairs = [(0, 1), *pairs]
    rows = [row for one in pairs for row in one]
    towards = centred[[row for a, b in pairs for row in (b, a)]]
    encoder = run.encoder.to(device).eval()
    states = [weight.requires_grad for weight in encoder.parameters()]
    encoder.requires_grad_(False)
    try:
        found = []
        for low in range(0, len(rows), AT_ONCE):
            part = slice(low, low + AT_ONCE)
            x, aim = prepared(run, dataset, rows[part]).to(device), towards[part].to(device)
            scores = attribution.attribute(encoder, x, aim, centre.to(device))
            found.append((scores, attribution.check(encoder, x, aim, centre.to(device), scores, low)))
    finally:
        for weight, state in zip(encoder.parameters(), states, strict=True):
            weight.requires_grad_(state)
        encoder.cpu()
    cells = torch.cat([scores for scores, _ in found]).cpu()
    made = tuple(
        Pair(
            (a, b),
            (dataset.ids[a], dataset.ids[b]),
            float(centred[a] @ centred[b]),
            (cells[2 * number], cells[2 * number + 1]),
        )
        for number, (a, b) in enumerate(pairs)
    )
    return made[:SHOWN], attribution.joined([one for _, one in found])


def sparse(vectors: Tensor, labels: Sequence[str] | None = None, **how: int) -> Sparse:
    """Learn a dictionary of features and name its features.

    Args:
        vectors: (n, d).
        labels: of the n images.
        **how: as `dictionary.fit` takes it.

    Returns:
        The dictionary's figures and its features.
    """
    order = torch.from_numpy(rng.permutation(rng.fold(0, "held out"), len(vectors)))
    kept, held = vectors[order[len(order) // HELD_OUT :]], vectors[order[: len(order) // HELD_OUT]]
    made = dictionary.fit(kept, **how)
    found = dictionary.describe(made.encode(vectors), labels)
    mine = numbers = chance = None
    if labels is not None:
        mine = dictionary.agreement(found)
        numbers = dictionary.agreement(dictionary.describe(dictionary.numbers(vectors), labels))
        chance = max(labels.count(name) for name in set(labels)) / len(labels)
    return Sparse(
        size=len(made.directions),
        active=made.active,
        explained=made.explained(held),
        principal=dictionary.principal(kept, held, made.active),
        features=tuple(found),
        agreement=mine,
        numbers=numbers,
        chance=chance,
    )
