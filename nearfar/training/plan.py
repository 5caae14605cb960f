"""The plan of a run, which `check` shows and `pretrain` follows: images, batch and number of steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..core import distributed
from ..core.errors import NearfarError
from ..core.shapes import COUNT
from ..core.text import counted
from ..data.batch import ALTERNATES
from ..data.dataset import holdout_rows
from .resolve import with_classes
from .run_config import RunConfig
from .settings import Training


@dataclass(frozen=True)
class RunPlan:
    """What a run does with the usable images of a data set."""

    config: RunConfig  # with a batch that the images fill, and the number of classes
    images: int  # trained on
    holdout: int  # never trained on
    steps: int | None  # in all; None where --minutes decide, by a measurement
    notes: tuple[str, ...]  # a sentence for each setting that had to change


def plan_run(config: RunConfig, usable: int, classes: int) -> RunPlan:
    """Plan a run.

    Args:
        config: from `resolve`.
        usable: images that can be used.
        classes: how many classes their labels hold; 0 without labels.

    Returns:
        The plan.

    Raises:
        NearfarError: there are too few images to train on, or fewer classes were asked for than there are.
    """
    training = config.training
    images = len(holdout_rows(usable, training.holdout, training.seed)[0])
    fitted, notes = fit_batch(with_classes(config, classes), images)
    return RunPlan(fitted, images, usable - images, step_count(fitted.training, images), tuple(notes))


def fit_batch(config: RunConfig, images: int) -> tuple[RunConfig, list[str]]:
    """Fit the batch to the images there are and to the number of processes.

    Args:
        config: from `resolve`.
        images: images to train on.

    Returns:
        Settings whose batch can be filled, and a sentence for each change.

    Raises:
        NearfarError: there are too few images to train on.
    """
    world, notes = distributed.world(), []
    training, kind = config.training, config.kind
    least = max(2, world)
    if images < least:
        raise NearfarError(
            f"{counted(images, f'usable {kind.one} is')} too few to train on; give at least {least}."
        )
    batch = min(training.batch_size, images)
    if batch < training.batch_size:
        notes.append(
            f"there are {images:,} {kind.noun}, fewer than a batch of {training.batch_size:,}: the batch is "
            "all of them."
        )
    keeps = getattr(config.settings, "keep_colour", False)
    every = ALTERNATES.step if world > 1 and keeps else 1
    share = batch // world
    share -= share % every if share >= every else 0  # the fourth images of all are then those of each
    if share * world < batch:
        batch, fourth = share * world, ", in each of which every fourth image keeps its colours"
        notes.append(f"the batch is {batch:,}, a multiple of the {world} processes{fourth * (every > 1)}.")
    if keeps and world * (share // ALTERNATES.step) < 2:
        config = replace(config, settings=replace(config.settings, keep_colour=False))
        notes.append(
            f"no image keeps its colours: a batch of {batch:,} has no two fourth ones, which are compared "
            "with each other."
        )
    if training.micro_batch is not None and training.micro_batch >= batch:  # both over all processes
        training = replace(training, micro_batch=None)
    return replace(config, training=replace(training, batch_size=batch)), notes


def step_count(training: Training, images: int) -> int | None:
    """Turn the length of a training into steps.

    Args:
        training: with a batch that `images` fill.
        images: images to train on.

    Returns:
        Steps in all, at least 1; None where minutes decide.

    Raises:
        NearfarError: they are more than a run folder can keep.
    """
    steps = training.steps
    if steps is None and training.epochs is not None:
        steps = max(1, round(training.epochs * (images // training.batch_size)))
    if steps is not None and steps not in COUNT:
        raise NearfarError("no training has so many steps; give fewer with --steps or --epochs.")
    return steps


def epochs(steps: int, training: Training, images: int) -> float:
    """Tell how many passes over the images so many steps are; a pass leaves out what fills no batch."""
    return steps / (images // training.batch_size)
