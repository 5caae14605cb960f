"""What a pretraining needs before it starts: its settings, the images, and a teacher's vectors of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import methods
from ..core import distributed, progress
from ..core.config import build, flag_of, to_json
from ..core.errors import NearfarError
from ..core.text import counted
from ..data.dataset import Dataset, FileDataset, ImageDataset, Subset, one_colour
from ..data.source import Source
from ..models import libraries
from . import checkpoint, resolve, run_shapes
from .collection_settings import decided, usual_range, usual_side
from .colour_choice import choose_colour
from .method_choice import AUTO, choose_method
from .run_config import MAY_CHANGE, RunConfig
from .schedule import StepPlan
from .settings import Training
from .targets import TeacherVectors, teacher_vectors
from .teacher import teacher_of
from .threads import workers

LOOKED_AT = 64  # images of a collection, to see whether there is anything on them
ONE_COLOUR = "all sampled images have one and the same colour, so nothing can be learnt; look at them"
TEACHER_SHARE = 0.5  # of the time that a teacher may take to see the images


def method_of(method: str, data: Any, like: str | Path | None, given: dict[str, Any], recipe: str) -> str:
    """Give the method that is named, that of the run to repeat, or the usual one."""
    if method == AUTO and like is not None:
        return str(checkpoint.read_json(Path(like) / "config.json", run_shapes.CONFIG)["method"])
    return choose_method(method, data, given, recipe)


def learns_from_labels(method: str, like: str | Path | None, given: dict[str, Any]) -> bool:
    """Tell whether the method, or that of the run to repeat, learns from labels."""
    if like is not None:
        config = checkpoint.read_json(Path(like) / "config.json", run_shapes.CONFIG)
        method, given = config["method"], config["settings"]
    return resolve.needs_labels(method, given)


def decide_settings(
    source: Source,
    method: str,
    recipe: str,
    like: str | Path | None,
    given: dict[str, Any],
    device: torch.device,
    folders: Sequence[Path],
) -> tuple[RunConfig, StepPlan | None]:
    """Decide every setting: from another run's folder, or from the recipe and what was asked.

    `folders` may hold what was decided before, such as a tokenizer.
    """
    if like is None:
        if source.modality == "images" and not given.get("weights") and given.get("encoder"):
            libraries.find(given["encoder"])  # before images are read
        side = usual_side(source, given.get("max_pixels", Training.max_pixels))
        kind = source.modality
        span = usual_range(source, given)
        asked = decided(source, given, folders)
        return resolve.resolve(
            method, recipe, asked, side=side, device=device, kind=kind, value_range=span
        ), None
    extra = [name for name in given if name not in (*MAY_CHANGE, "modality")]
    if extra:
        raise NearfarError(f"--like takes every setting from {like}; leave {flag_of(extra[0])} out.")
    config = checkpoint.read_json(Path(like) / "config.json", run_shapes.CONFIG)
    wanted = RunConfig.from_json(config, f"{Path(like) / 'config.json'}: ")
    for flag, typed, its in (("method", method, wanted.method), ("recipe", recipe, wanted.recipe)):
        if typed not in (AUTO, its):
            said = f"also --{flag} {its}; leave --{flag} out."
            raise NearfarError(f"--like takes every setting from {like}, {said}")
    free = {name: value for name, value in given.items() if name in MAY_CHANGE} | {"device": device.type}
    wanted = replace(wanted, training=build(Training, to_json(wanted.training) | free))
    if wanted.modality != source.modality:
        raise NearfarError(
            f"{like} was trained on {wanted.modality}, and {source.name} holds {source.modality}; "
            "leave --like out."
        )
    wanted.kind.read_files(Path(like), wanted.preprocess)
    return wanted, StepPlan.of(config["plan"])


def check_stopping(wanted: RunConfig) -> None:
    """Refuse to wait for a collapse that nothing looks for."""
    if wanted.training.stop_on_collapse and not wanted.training.health_checks:
        raise NearfarError(
            "--stop-on-collapse goes by health checks, of which --health-checks 0 leaves none; leave one out."
        )


def decide_colours(
    data: Any, source: Source, wanted: RunConfig, earlier: dict[str, Any] | None
) -> dict[str, Any]:
    """Say what becomes of colours, as the earlier run in the folder found it, else by the images."""
    if earlier and earlier.get("colours"):
        found: dict[str, Any] = earlier["colours"]
        return found
    limit, threads = wanted.training.max_pixels, workers(wanted)
    choice = choose_colour(data, source, limit=limit, threads=threads)
    progress.say(str(choice))
    told: dict[str, Any] = distributed.same(choice.to_json())
    return told


def read_images(source: Source, wanted: RunConfig) -> ImageDataset | FileDataset:
    """Read the images; under torchrun one process decodes first, and the others find what it kept."""
    with distributed.first_goes_ahead(f"reads the {wanted.kind.noun}"):
        dataset = wanted.kind.load(
            source,
            wanted.preprocess,
            limit=wanted.training.max_pixels,
            max_bad=wanted.training.max_bad,
            threads=workers(wanted),
            decode_once=wanted.training.cache,
            short_side=wanted.training.short_side,
        )
    if distributed.first() and dataset.rejected:
        many = counted(len(dataset.rejected), f"unusable {wanted.kind.one} is")
        progress.say(f"{many} skipped; rejected.csv lists them.")
    if len(dataset) > 1 and one_colour(
        dataset.gather(np.arange(0, len(dataset), -(-len(dataset) // LOOKED_AT)))
    ):
        raise NearfarError(f"{source.name}: {ONE_COLOUR}.")
    return dataset


def ask_teacher(
    wanted: RunConfig,
    source: Source,
    dataset: Dataset,
    device: torch.device,
    reached: int | None,
    planning: bool,
) -> tuple[Dataset, TeacherVectors | None]:
    """Get a teacher's vectors of the images, if the method learns from them; give the images that have one.

    `reached` is how many an earlier session had; a new run with --minutes asks for half of them at most.
    """
    cls = methods.method(wanted.method)
    if "targets" not in cls.requires(wanted.settings):
        return dataset, None
    teacher, training = teacher_of(cls, wanted.settings), wanted.training
    assert teacher is not None
    minutes = training.minutes if planning else None
    found = teacher_vectors(
        teacher,
        source,
        dataset.ids,
        device=device,
        threads=workers(wanted),
        limit=training.max_pixels,
        precision=training.precision,
        seconds=None if minutes is None else TEACHER_SHARE * 60 * minutes,
        least=2 * training.batch_size,
        enough=reached,
    )
    rows = np.flatnonzero(found.places >= 0)
    rows = np.sort(rows[np.argsort(found.places[rows])[: reached or len(rows)]])
    if len(rows) == len(dataset):
        return dataset, found
    if not reached:
        name = str(wanted.settings.teacher).partition("@")[0]
        progress.say(
            f"the teacher has seen {len(rows):,} of {len(dataset):,} images in half of the time, and these "
            f"are trained on; a smaller side is faster, such as --teacher {name}@96"
        )
    return Subset(dataset, rows), replace(found, places=found.places[rows])
