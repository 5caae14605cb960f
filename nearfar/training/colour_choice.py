"""Decides from the images whether their views keep their colours, for runs in which `--colour` is auto.

Where colours tell a collection's classes apart, views that change them teach an encoder to lose what is asked
of it; where colours mislead, views that keep them leave it nothing else to learn. No fixed setting suits
both: the figures are in docs/choosing.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from .. import methods
from ..core.config import settings_of
from ..core.errors import BadImage, NearfarError
from ..core.text import counted, percent
from ..data.inspection import GLANCE, sample
from ..data.modalities import IMAGES, modality
from ..data.open import open_data
from ..data.reading import each
from ..data.source import Source
from ..features.chunked import ragged_chunk
from ..features.colour_and_shape import (
    Colours,
    Shapes,
    has_colours,
    nearest_agree,
    neighbours_shared,
)
from ..features.extract import features
from ..images.view_settings import keeping
from ..images.views import Preprocess
from .run_config import RunConfig

FEWEST = 20  # images with labels, and images without, from which on anything is told
TOGETHER = 2.4  # times chance that neighbours are shared, from which on colours go with content
PREPROCESS = Preprocess(size=GLANCE, crop=1.0, interpolation="bilinear", short_side=GLANCE)


@dataclass(frozen=True)
class ColourChoice:
    """What becomes of colours, and why.

    Attributes:
        colour: "change", "keep", or "some": every fourth image keeps its colours, in a method that can do so.
        images: looked at.
        classes: among their labels; 0 without labels.
        by_colour, by_shape: with labels, shares of images whose nearest other one has the same label.
        shared: without labels, or where these two are too close to tell, how often images near in colour are
            near in shape too, in multiples of chance.
    """

    colour: str
    images: int
    classes: int = 0
    by_colour: float | None = None
    by_shape: float | None = None
    shared: float | None = None

    def __str__(self) -> str:
        what = {
            "change": "views change them",
            "keep": "views keep them",
            "some": "views of every fourth image keep them",
        }[self.colour]
        reasons = []
        if self.by_colour is not None and self.by_shape is not None:
            reasons.append(
                f"of {counted(self.images, 'labelled image')} the nearest other one by colour has the same "
                f"label in {percent(self.by_colour)}, by shape in {percent(self.by_shape)}"
            )
        if self.shared is not None:
            than = "at least" if self.shared >= TOGETHER else "under"
            reasons.append(
                f"images near in colour are near in shape {self.shared:.1f} times as often as by chance, "
                f"{than} the {TOGETHER:g} from which colours go with content"
            )
        if not reasons:
            told = self.images >= FEWEST
            reasons.append("the images have none" if told else "there are too few images to tell")
        why = ", and ".join(reasons)
        return f"colours: {what}, since {why}; --colour change or keep decides otherwise"

    def to_json(self) -> dict[str, Any]:
        """Write it as plain values."""
        return asdict(self)


def is_open(wanted: RunConfig) -> bool:
    """Tell whether a run still asks what becomes of colours."""
    return getattr(wanted.views, "colour", None) == "auto"


def choose_colour(
    data: Any, source: Source, *, limit: int, threads: int, glances: Mapping[str, Any] | None = None
) -> ColourChoice:
    """Look at a sample of a collection; its labels count where it has any.

    Args:
        data: as in `pretrain`.
        source: the same, opened.
        limit: pixels of an image at most.
        threads: CPU threads.
        glances: what `inspection.inspect` kept of some images, which are not decoded again then.

    Returns:
        The choice; the same for the same images and labels.
    """
    pixels, labels = _sample(_labelled(data, source) or source, limit, threads, glances or {})
    count = len(pixels)
    if count < FEWEST:
        return ColourChoice("change", count)
    images = ragged_chunk(range(count), pixels, IMAGES)
    colours, shapes = (
        torch.from_numpy(features(net, images, PREPROCESS, threads=threads)) for net in (Colours(), Shapes())
    )
    shapes = Shapes.standardised(shapes)
    if not has_colours(colours):
        return ColourChoice("change", count)
    numbers = torch.from_numpy(np.unique(labels, return_inverse=True)[1])
    kept = torch.bincount(numbers)[numbers] > 1  # the only image of a class has no other one to find
    classes = len(numbers[kept].unique())
    known: dict[str, Any] = {"images": count}
    if classes >= 2 and int(kept.sum()) >= FEWEST:
        first, second = (nearest_agree(x[kept], numbers[kept]) for x in (colours, shapes))
        known = {
            "images": len(first),
            "classes": classes,
            "by_colour": float(first.double().mean()),
            "by_shape": float(second.double().mean()),
        }
        ahead, behind = int((first & ~second).sum()), int((second & ~first).sum())
        if (ahead - behind) ** 2 > ahead + behind:  # by more than the standard error of the difference
            return ColourChoice("keep" if ahead > behind else "change", **known)
    shared = round(neighbours_shared(colours, shapes), 2)
    return ColourChoice("some" if shared >= TOGETHER else "change", **known, shared=shared)


def with_colour(wanted: RunConfig, colour: str) -> RunConfig:
    """Settle what becomes of colours.

    Args:
        wanted: settings in which it is open.
        colour: "change", "keep" or "some".

    Returns:
        The settings with numbers that say it; "some" is "change" in a method without `--keep-colour`.
    """
    views = keeping(wanted.views) if colour == "keep" else replace(wanted.views, colour="change")
    settings = wanted.settings
    if colour == "some" and any(item.name == "keep_colour" for item in settings_of(type(settings))):
        settings = replace(settings, keep_colour=True)
    return replace(wanted, views=views, settings=methods.method(wanted.method).fitted(settings, views))


def _labelled(data: Any, source: Source) -> Source | None:
    """Open the data with labels, if it has any that can be read in one way."""
    try:
        return open_data(data, expected=source.modality, labels=True)
    except NearfarError:
        return None


def _sample(
    source: Source, limit: int, threads: int, glances: Mapping[str, Any]
) -> tuple[list[Any], list[str]]:
    """Decode images in random order, and give the labels that the source has of them, else empty texts."""
    rows = sample(len(source)).tolist()
    found = {at: glances[name] for at, row in enumerate(rows) if (name := source.ids[row]) in glances}
    missing = [at for at in range(len(rows)) if at not in found]
    kind = modality(IMAGES)
    preprocess = kind.with_range(PREPROCESS, source, limit=limit)

    def decode(place: int) -> None:
        at = missing[place]
        try:
            content, _ = kind.fetch(source, rows[at], limit=limit)
            found[at] = kind.decode(content, preprocess, limit=limit).value
        except BadImage:
            pass

    each(len(missing), decode, threads=threads, what="looking at colours:")
    order, labels = sorted(found), source.labels
    return [found[at] for at in order], ["" if labels is None else str(labels[rows[at]]) for at in order]
