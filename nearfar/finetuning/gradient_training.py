"""Trains a task's network by gradient steps: the learning rate, the arithmetic, from scratch to compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..core import progress, rng
from ..data.modalities import modality_of
from ..features import probes
from ..training import checkpoint
from ..training.precision import gains_from_bfloat16
from . import session
from .session import TaskTraining
from .settings import Tuning
from .share import some_of
from .task import Task
from .task_types import Figures, Labelled, Setup, TaskNetwork

MIN_CHOICE = 50  # held-out images without which no learning rate is chosen
CHECKED = 512  # images that a check of a training looks at, of those trained on and of those held out
STAGES, SCRATCH_FILE = "stages.json", "scratch.safetensors"


@dataclass
class GradientTraining:
    """What is trained on what; what was chosen and measured before is taken over from the folder.

    Attributes:
        folder: of the run.
        encoder: that the network starts from.
        fit, choice: images to train on, and to choose on; None where none are held out.
        mode: what is trained, as `--mode`.
        digest: of all that decides the result.
    """

    folder: Path
    task: Task
    tuning: Tuning
    setup: Setup
    encoder: Any
    fit: Labelled
    choice: Labelled | None
    mode: str
    digest: str

    @property
    def noun(self) -> str:
        """What the training's examples are called."""
        return modality_of(self.setup.preprocess).noun

    def run(self) -> tuple[TaskNetwork, dict[str, Any]]:
        """Choose the learning rate and train; gives the network, and what was chosen."""
        stages = self._stages()
        mode = "full" if self.mode == "full" else "linear"
        size = self.setup.preprocess.size
        recipe = self.task.recipe(mode, len(self.fit), size, self.tuning.epochs)
        recipe = self._sized(recipe)
        if mode == "full":
            recipe = replace(recipe, lrs=self.task.lrs(self.encoder, recipe))
        if "precision" not in stages:
            stages["precision"] = self._precision(recipe)
            self._keep(stages)
        how = self._setting(stages["precision"])
        if self.tuning.scratch and not (self.folder / SCRATCH_FILE).exists():
            self._train_scratch(how)
        lr = self.tuning.lr or recipe.lrs[0]
        if self.tuning.lr is None and self.choice is not None and len(self.choice) >= MIN_CHOICE:
            trials = stages.setdefault("trials", {})
            for each in recipe.lrs:
                if str(each) not in trials:
                    network = self._network(mode != "full")
                    session.try_out(how, network, self.fit, recipe, each)
                    trials[str(each)] = self._figures(network, self.choice).score
                    self._keep(stages)
            lr = max(recipe.lrs, key=lambda each: trials[str(each)])  # of equals the usual one
            told = ", ".join(f"{float(rate):g} {100 * score:.1f} %" for rate, score in trials.items())
            progress.say(f"learning rate {lr:g}, by trials on held-out {self.noun}: {told}")
        network = self._network(mode != "full")
        check = None if self.choice is None else self._check_of()
        session.train(how, network, self.fit, recipe, lr, f"{self.digest} {lr} {recipe}", check)
        epochs = recipe.steps * recipe.batch_size / (recipe.images or len(self.fit))
        chosen = {
            "lr": lr,
            "steps": recipe.steps,
            "batch_size": recipe.batch_size,
            "epochs": round(epochs, 2),
        }
        return network.eval(), {
            **chosen,
            "precision": stages["precision"],
            "trials": stages.get("trials", {}),
        }

    def _sized(self, recipe: Any) -> Any:
        """Take the batch that was asked for; the number of images seen stays."""
        asked = self.tuning.batch_size
        if asked is None:
            return recipe
        steps = max(1, round(recipe.steps * recipe.batch_size / asked))
        return replace(recipe, batch_size=asked, steps=steps)

    def _network(self, frozen: bool, encoder: Any = None) -> TaskNetwork:
        source = self.encoder if encoder is None else encoder
        return self.task.network(source, self.fit, self.setup, frozen=frozen)

    def _setting(self, precision: str) -> TaskTraining:
        return TaskTraining(
            self.folder,
            self.task,
            replace(self.setup, seed=rng.fold(self.tuning.seed, "tuning")),
            precision,
            self.tuning.save_minutes,
        )

    def _precision(self, recipe: Any) -> str:
        if self.tuning.precision != "auto":
            return self.tuning.precision
        network = self._network(self.mode != "full")
        feed: Any = self._setting("float32").feed(self.fit, recipe.batch_size)
        gains = gains_from_bfloat16(network, feed, self.setup.device, noun=self.noun)
        return "bfloat16" if gains else "float32"

    def _check_of(self) -> session.Check:
        """Make what looks at a network in training, on some images trained on and some held out."""
        assert self.choice is not None
        held, seen = (some_of(part, CHECKED, self.tuning.seed) for part in (self.choice, self.fit))

        def look(network: TaskNetwork) -> dict[str, float]:
            scores = {
                "held": self._figures(network, held).score,
                "trained": self._figures(network, seen).score,
            }
            return {**scores, "images": len(held)}

        return look

    def _train_scratch(self, how: TaskTraining) -> None:
        """Train the same network from random weights, and keep it until all is measured."""
        progress.say("training from scratch, to compare")
        network = self._network(False, self._random_encoder())
        recipe = self._sized(
            self.task.recipe("scratch", len(self.fit), self.setup.preprocess.size, self.tuning.epochs)
        )
        lr = self.tuning.lr or self.task.lrs(self.encoder, recipe)[0]
        session.train(how, network, self.fit, recipe, lr, f"{self.digest} scratch {lr} {recipe}", None)
        checkpoint.save(self.folder / SCRATCH_FILE, network.state_dict(), {})
        (self.folder / checkpoint.LAST).unlink(missing_ok=True)
        (self.folder / "log.jsonl").unlink(missing_ok=True)

    def _random_encoder(self) -> Any:
        made = probes.untrained(
            self.encoder, self.fit.dataset, self.setup.preprocess, self.tuning.seed, str(self.setup.device)
        )
        return made.to(memory_format=torch.channels_last)

    def scratch(self) -> TaskNetwork:
        """Give the network that was trained from random weights."""
        network = self._network(False, self._random_encoder())
        network.load_state_dict(checkpoint.read(self.folder / SCRATCH_FILE)[0])
        return network.eval()

    def _stages(self) -> dict[str, Any]:
        """Read what earlier sessions of this run chose and measured."""
        path = self.folder / STAGES
        found = checkpoint.read_json(path) if path.exists() else {}
        return found if found.get("digest") == self.digest else {"digest": self.digest}

    def _keep(self, stages: Mapping[str, Any]) -> None:
        checkpoint.write_json(self.folder / STAGES, stages)

    def _figures(self, network: TaskNetwork, data: Labelled) -> Figures:
        return self.task.measure(answers(self.task, network, data, self.setup), data)


def answers(task: Task, network: TaskNetwork, data: Labelled, setup: Setup) -> Any:
    """Give what a network says of labelled images."""
    return task.answers(network, data.dataset, setup, batch_size=256)
