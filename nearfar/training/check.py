"""Checks a collection: what is in it, what is broken, and what pretraining would do with it."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

import numpy as np
import torch

from ..core import distributed, progress
from ..core.device import cores, device_named
from ..core.errors import BadImage
from ..core.imports import ahead
from ..core.text import counted
from ..data import loader
from ..data.dataset import one_colour
from ..data.inspection import Inspection
from ..data.modalities import IMAGES, modality, modality_of
from ..data.open import open_data
from ..data.source import Source
from ..models import embedded
from ..models.libraries import timm_names
from . import grouping, optim, resolve
from .collection_settings import decided, usual_range, usual_side
from .colour_choice import ColourChoice, choose_colour, is_open, with_colour
from .inputs import ONE_COLOUR, check_stopping
from .known_check import KnownCheck, check_known
from .method_choice import choose_method
from .options import Options
from .pace import seconds_a_step
from .plan import epochs, plan_run
from .precision import gains_from_bfloat16, views_dtype
from .run_config import RunConfig
from .schedule import EarlySteps, TimeBudget, measuring
from .settings import Training
from .targets import stand_in
from .teacher import teacher_of
from .threads import training_threads, with_threads

DECODING = 1.2  # seconds that images are decoded for, to find broken ones
TIMING = 1.0  # seconds that training steps are timed for
SAMPLE = 64  # images decoded to measure the time of a step


@dataclass(frozen=True)
class Proposal:
    """What `nearfar pretrain` would do with the same settings."""

    method: str
    recipe: str
    encoder: str
    stem: str
    weights: int  # numbers to learn in the encoder
    image_size: int  # side of a view, pixels
    images: int  # trained on
    holdout: int  # never trained on
    batch_size: int
    negatives: int  # for each row; 0 for a method without
    steps: int
    epochs: float
    minutes: float  # about, on this machine
    images_per_second: float
    precision: str
    device: str
    decoded_bytes: int  # of the images once decoded
    modality: str = IMAGES
    early_size: int | None = None  # side of the views of the first steps, where it is another

    def __str__(self) -> str:
        apart = f", {self.holdout:,} held out" if self.holdout else ""
        against = f", {self.negatives:,} negatives for each" if self.negatives else ""
        first = f", at first of {self.early_size}" if self.early_size else ""
        noun, unit = (kind := modality(self.modality)).noun, kind.unit
        return "\n".join(
            [
                f"plan: {self.method} (recipe {self.recipe}) on {self.device}, {self.precision}",
                f"  encoder   {self.encoder}, {self.stem} stem, {self.weights:,} weights",
                f"  {noun:<9} {self.images:,} to train on{apart}, views of {self.image_size} {unit}{first}",
                f"  batch     {self.batch_size:,} {noun}{against}",
                f"  length    {counted(self.steps, 'step')}, {self.epochs:,.1f} epochs, "
                f"about {progress.duration(60 * self.minutes)} at {self.images_per_second:,.0f} {noun}/s",
                f"  decoded   {self.decoded_bytes / 2**20:,.0f} MiB",
            ]
        )


@dataclass(frozen=True)
class Check:
    """What is in a collection, the plan or why there is none (`obstacle`), and two findings about the images.

    `known`: what the known encoder gives on them; `colours`: whether views keep colours, where it was open.
    """

    inspection: Inspection
    plan: Proposal | None
    obstacle: str = ""
    known: KnownCheck | None = None
    colours: ColourChoice | None = None

    def to_json(self) -> dict[str, Any]:
        """Write it as plain values."""
        plan = None if self.plan is None else dataclasses.asdict(self.plan)
        known = None if self.known is None else dataclasses.asdict(self.known)
        told = {"plan": plan, "obstacle": self.obstacle or None, "known": known}
        return {
            **self.inspection.to_json(),
            **told,
            "colours": None if self.colours is None else self.colours.to_json(),
        }

    def __str__(self) -> str:
        lines = [str(self.inspection), str(self.plan or f"no plan: {self.obstacle}")]
        return "\n".join([*lines, *(str(more) for more in (self.colours, self.known) if more is not None)])


def _why_unusable(found: Inspection) -> str:
    """Say of a collection of which next to nothing is usable why, and what to do; "" if nothing is broken."""
    if not found.rejected:
        return "; add more"
    why, count = Counter(item.reason for item in found.rejected).most_common(1)[0]
    return (
        f": {len(found.rejected):,} of {found.count:,} are unusable, {count:,} of them since each is "
        f"{why!r}; mend or replace them"
    )


def check(
    data: Any,
    *,
    full: bool = False,
    method: str = "auto",
    recipe: str = "auto",
    **settings: Unpack[Options],
) -> Check:
    """Show what is in a collection, what is broken, and what pretraining would do. Trains nothing.

    Example: nearfar check photos/

    Every file's header is read. Images are decoded, in random order, for DECODING seconds: of a small
    collection all, of a large one a part, and the result says how many. Where the images have labels and the
    encoder `known` is installed, it is measured on a sample of at most 96 images, in a few seconds.

    Args:
        data: as in `pretrain`.
        full: decode every image, however long it takes, to find all that are broken.
        method: as in `pretrain`.
        recipe: as in `pretrain`.
        **settings: as in `pretrain`.

    Returns:
        Counts, sizes, formats, broken files, exact duplicates, and the plan with a measured time.

    Raises:
        NearfarError: there are no images, or a setting is wrong.
    """
    given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    method = choose_method(method, data, given, recipe)
    device = device_named(str(given.get("device", "auto")))
    source = open_data(
        data, expected=resolve.expected_kind(given, method), labels=resolve.needs_labels(method, given)
    )
    max_pixels = given.get("max_pixels", Training.max_pixels)
    threads = given.get("workers") or cores()
    ahead(modality_of(source).ready)  # the kernel of the views is loaded while files are read
    glances: dict[str, Any] = {}
    found = modality_of(source).describe(
        source, limit=max_pixels, threads=threads, seconds=None if full else DECODING, glances=glances
    )
    if found.usable < 2:
        usable = counted(found.usable, f"usable {modality_of(source).one} is")
        return Check(found, None, f"{usable} too few to train on{_why_unusable(found)}")
    if len(found.rejected) > given.get("max_bad", Training.max_bad) * found.count:
        share = len(found.rejected) / found.count
        return Check(
            found,
            None,
            f"{share:.0%} of the {modality_of(source).noun} are unusable; fix them, or raise --max-bad to "
            f"{math.ceil(100 * share) / 100:.2f}",  # rounded down it would be refused again
        )
    side = usual_side(source, max_pixels)
    span = usual_range(source, given)
    asked = decided(source, given)
    wanted = resolve.resolve(
        method, recipe, asked, side=side, device=device, kind=source.modality, value_range=span
    )
    check_stopping(wanted)
    if found.range is not None:
        found = dataclasses.replace(found, range=span)
    if wanted.training.groups is not None:
        bad = {item.id for item in found.rejected}
        grouping.check_groups(wanted, len(resolve.views_of(wanted)))
        grouping.read_groups_of(wanted, source, [name for name in source.ids if name not in bad])
    sample = _Sample(source, wanted)
    if one_colour(sample.block):
        return Check(found, None, ONE_COLOUR)
    if source.modality == IMAGES and embedded.there():
        ahead(timm_names)  # of which the known encoder is made; it takes seconds to import
    colours = None
    if is_open(wanted):
        colours = choose_colour(data, source, limit=max_pixels, threads=threads, glances=glances)
        wanted = with_colour(wanted, colours.colour)
    known = None
    if source.modality == IMAGES:
        known = check_known(data, limit=max_pixels, device=device, threads=threads)
    return Check(
        found, _propose(source, wanted, found, sample, device, threads), known=known, colours=colours
    )


def _propose(
    source: Source, wanted: RunConfig, found: Inspection, sample: _Sample, device: torch.device, threads: int
) -> Proposal:
    """Measure a few steps on a sample of the images, and work out the rest."""
    # Without --cache bad images are found only when they are read, so that all count.
    bad = {item.id for item in found.rejected} if wanted.training.cache else set()
    labelled = zip(source.ids, source.labels, strict=True) if source.labels is not None else ()
    classes = len({label for name, label in labelled if name not in bad})
    usable = found.usable if wanted.training.cache else found.count
    plan = plan_run(wanted, usable, classes)
    training, side = plan.config.training, plan.config.image_size
    sample.count = plan.images
    module = resolve.build_method(plan.config, plan.images).to(device).to(memory_format=torch.channels_last)

    teacher = teacher_of(type(module), plan.config.settings)
    if teacher is not None and "targets" in module.requires(module.config):
        targets = stand_in(teacher, plan.images)
    else:
        targets = None

    def opened(precision: str, size: int, batch_size: int) -> loader.DataLoader:
        return loader.DataLoader(
            sample,
            module.views(plan.config.views),
            size=size,
            batch_size=batch_size,
            seed=training.seed,
            threads=threads,
            dtype=views_dtype(device, precision),
            device=device if training.views_on == "device" else None,
            labels=np.arange(plan.images) % classes if classes else None,
            targets=targets,
        )

    wanted.kind.ready()
    precision = training.precision
    if precision == "auto":
        gains = gains_from_bfloat16(
            module, opened("float32", side, training.batch_size), device, noun=wanted.kind.noun
        )
        precision = "bfloat16" if gains else "float32"
    progress.say(f"timing training steps for about {TIMING:g} s")
    sides = [side, *filter(None, [plan.config.early_size])]
    paces = [
        seconds_a_step(
            module,
            partial(opened, precision, size),
            training.batch_size,
            optim.optimizer(training, module),
            seconds=TIMING / len(sides),
            device=device,
            precision=precision,
            chunk=training.micro_batch and max(1, training.micro_batch // distributed.world()),
            threads=training_threads(module, with_threads(training, device), device),
        )
        for size in sides
    ]
    early = None
    if sides[1:]:
        early = EarlySteps.timed(sides[1], side, training.early_steps, paces[1] / paces[0])
    pace = paces[0] * (early.mean(0.0) if early else 1.0)
    steps = plan.steps
    if steps is None:
        assert training.minutes is not None
        budget = 60.0 * training.minutes
        steps = TimeBudget(budget, spent=measuring(budget)).first_plan(pace).steps
    return Proposal(
        method=plan.config.method,
        recipe=plan.config.recipe,
        encoder=module.f.name,
        stem=module.f.stem,
        weights=sum(weight.numel() for weight in module.f.parameters()),
        image_size=side,
        images=plan.images,
        holdout=plan.holdout,
        batch_size=training.batch_size,
        negatives=module.negatives(training.batch_size),
        steps=steps,
        epochs=round(epochs(steps, training, plan.images), 2),
        minutes=round(steps * pace / 60, 2),
        images_per_second=round(training.batch_size / pace, 1),
        precision=precision,
        device=str(device),
        decoded_bytes=int(sample.bytes_an_image * found.usable),
        modality=source.modality,
        early_size=plan.config.early_size,
    )


class _Sample:
    """A few decoded examples that stand for all of them, so that the time of a step can be measured."""

    def __init__(self, source: Source, wanted: RunConfig) -> None:
        self.count, self.modality = len(source), wanted.modality
        kind, limit = wanted.kind, wanted.training.max_pixels
        values = []
        for index in np.unique(np.linspace(0, len(source) - 1, SAMPLE).astype(int)):
            try:
                data, _ = kind.fetch(source, int(index), limit=limit)
                values.append(kind.decode(data, wanted.preprocess, limit=limit).value)
            except BadImage:
                continue
        self.block = kind.collate(values)
        self.bytes_an_image = float(np.mean([_bytes(value) for value in values]))

    def __len__(self) -> int:
        return self.count

    def gather(self, rows: Any) -> Any:
        """Give as many examples as asked for, over and over the same."""
        return self.block.take(np.asarray(rows) % len(self.block))


def _bytes(value: Any) -> int:
    """Count the bytes of a decoded example: an array, or several."""
    return sum(map(_bytes, value)) if isinstance(value, tuple) else int(value.nbytes)
