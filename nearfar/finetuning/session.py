"""Trains one network of a fine-tuning to its last step: resumes, saves, logs, and stops when asked to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core import progress
from ..core.errors import NearfarError
from ..data.modalities import modality_of
from ..training import checkpoint, engine, run_shapes
from ..training.logger import RunLogger, end_by, signals
from ..training.schedule import StepPlan
from ..training.settings import Training
from .task import Task
from .task_types import Labelled, Setup, TaskNetwork, TaskRecipe

CHECKS = 4  # times that a training looks at held-out images
CHECKS_FILE = "checks.jsonl"
Check = Callable[[TaskNetwork], dict[str, float]]


@dataclass(frozen=True)
class TaskTraining:
    """Where and how the networks of a fine-tuning are trained."""

    folder: Path
    task: Task
    setup: Setup
    precision: str
    save_minutes: float

    def feed(self, fit: Labelled, batch_size: int, start: int = 0) -> Any:
        """Open the batches from a step on."""
        return self.task.feed(fit, self.setup, batch_size=batch_size, start=start)


def try_out(how: TaskTraining, network: TaskNetwork, fit: Labelled, recipe: TaskRecipe, lr: float) -> None:
    """Train a network for a trial's share of the steps; nothing is saved.

    Raises:
        KeyboardInterrupt: Ctrl-C; SystemExit: another signal.
    """
    steps = max(1, round(recipe.trial * recipe.steps))
    peak = lr * recipe.batch_size / 256
    feed = how.feed(fit, recipe.batch_size)
    try:
        with progress.Bar(f"trying a rate of {lr:g}", steps * recipe.batch_size) as bar, signals() as caught:
            for _ in engine.train(
                network,
                feed,
                how.task.optimizer(network, peak),
                plan=StepPlan(((0, steps),)),
                lr=peak,
                warmup=recipe.warmup,
                device=how.setup.device,
                precision=how.precision,
            ):
                bar.advance(recipe.batch_size)
                if sign := caught.told()[0]:
                    end_by(sign, "stopped; run the same command again to resume.")
    finally:
        feed.close()


def train(
    how: TaskTraining,
    network: TaskNetwork,
    fit: Labelled,
    recipe: TaskRecipe,
    lr: float,
    digest: str,
    check: Check | None,
) -> None:
    """Train a network to the end, from the last save of the same training if there is one.

    Args:
        how: where and how.
        network: untrained.
        fit: what it is trained on.
        recipe: its steps and batches.
        lr: learning rate for 256 images a step.
        digest: of all that decides the training; a save with another one is another training's.
        check: measures the network on held-out images, a few times; None for never.

    Raises:
        NearfarError: the loss is no number, or the disk is full; the last save is intact.
        KeyboardInterrupt: Ctrl-C, after a save; SystemExit: another signal, likewise.
    """
    peak, plan = lr * recipe.batch_size / 256, StepPlan(((0, recipe.steps),))
    optimizer = how.task.optimizer(network, peak)
    started = _restored(how.folder / checkpoint.LAST, network, optimizer, digest)
    if started:
        progress.say(f"resuming at step {started:,} of {plan.steps:,}")
    if started >= plan.steps:
        return
    training = Training(batch_size=recipe.batch_size, save_minutes=how.save_minutes)
    recorder = RunLogger(
        how.folder,
        network,
        optimizer,
        training,
        images=recipe.images or len(fit),
        plan=plan,
        started=started,
        seconds=0.0,
        timed=False,
        digest=digest,
        remedy="a lower --lr",
        noun=modality_of(how.setup.preprocess).noun,
    )
    checks = checkpoint.Log(how.folder / CHECKS_FILE, started)
    feed = how.feed(fit, recipe.batch_size, started)
    looks = {round(plan.steps * (at + 1) / CHECKS) for at in range(CHECKS)}
    try:
        with signals() as caught:
            for step in engine.train(
                network,
                feed,
                optimizer,
                plan=plan,
                lr=peak,
                warmup=recipe.warmup,
                device=how.setup.device,
                precision=how.precision,
                start=started,
            ):
                recorder.note(step)
                if check is not None and step.number in looks:
                    checks.add({"step": step.number, **check(network)})
                    network.train()
                sign, save = caught.told()
                if step.last or sign or save or recorder.due():
                    recorder.save(step)
                if sign and not step.last:
                    at = f"step {step.number:,} of {plan.steps:,}"
                    end_by(sign, f"saved at {at}; run the same command again to resume.")
    finally:
        feed.close()
        recorder.close()
        checks.close()


def _restored(path: Path, network: TaskNetwork, optimizer: torch.optim.Optimizer, digest: str) -> int:
    """Bring a training to where its save has it; another training's save is removed."""
    if not path.exists():
        return 0
    tensors, facts = checkpoint.read(path, run_shapes.SAVE)
    if facts.get("run") != digest:
        path.unlink()
        return 0
    try:
        checkpoint.restore(network, optimizer, tensors, facts["numbers"])
    except (RuntimeError, KeyError, IndexError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise NearfarError(f"{path} does not fit this run ({reason}); start over with --overwrite.") from None
    return int(facts["step"])
