"""One fine-tuning: what is held out, chosen, trained, measured and written, once its folder is held."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core import progress
from ..core.commit import commit
from ..core.config import to_json
from ..core.errors import NearfarError
from ..core.intervals import few_groups
from ..core.own_mark import mark_of
from ..core.text import counted
from ..core.version import __version__
from ..data.groups import read_groups
from ..data.modalities import modality_of
from ..data.modality import Modality
from ..data.reading import write_rejected
from ..features import probes
from ..training import checkpoint
from ..training.run import Run, export
from . import outcome, vectors
from .copies import copies_apart
from .earlier_run import clear
from .gradient_training import SCRATCH_FILE, STAGES, GradientTraining, answers
from .measuring import measure
from .outcome import FROZEN, SCRATCH, TUNED, Finetuned
from .session import CHECKS_FILE
from .settings import Tuning
from .share import half_of, take_share
from .task import Task
from .task_types import Figures, Labelled, Setup, TaskNetwork, TooFewError, Where
from .tuned import write_card

MIN_HALVES = 40  # held-out images from which choices and thresholds have images of their own


@dataclass
class Job:
    """One fine-tuning, from reading to writing."""

    folder: Path
    task: Task
    started: Run
    tuning: Tuning
    where: Where
    asked: dict[str, Any]
    overwrite: bool  # whether an earlier run in the folder is to be replaced
    device: torch.device

    @property
    def kind(self) -> Modality:
        """The kind of data."""
        return modality_of(self.started.preprocess)

    def run(self, train: Any, test: Any, groups: Any, earlier: dict[str, Any] | None) -> Finetuned:
        """Read, choose, train, measure, write."""
        encoder = self.task.begin(self.started)
        data = self.task.read(train, self.started.preprocess, self.where)
        # Opened now, so that a mistake is found before hours of training; it is measured once, at the end.
        tests = None if test is None else self.task.read_test(test, self.started.preprocess, self.where)
        self.notes = [*data.notes, *(tests.notes if tests else ())]
        if groups is not None:
            if data.groups is not None:
                raise NearfarError(
                    f"--groups is for other tasks: of --task {self.task.name}, an identity is a group."
                )
            data, tests = self._grouped(data, tests, groups)
        data, said = copies_apart(data, tests, self.kind, self.setup.preprocess)
        self.notes += said
        if self.tuning.share:
            how = (self.tuning.share, self.tuning.seed, self.kind.noun)
            data, tests, said = take_share(data, tests, self.task.strata(data), *how)
            self.notes += said
        self.mode = self.tuning.mode
        if self.mode == "auto":
            self.mode = self.task.mode(data, self.started.preprocess.size, self.device)
        self._check(data)
        self.fit, self.choice, self.rest = self._split(data)
        size = self.started.preprocess.size
        images = self.task.recipe("full", len(self.fit), size, None).images or len(self.fit)
        if (self.tuning.batch_size or 1) > images:
            raise NearfarError(
                f"--batch-size {self.tuning.batch_size} is more than the {images:,} training "
                f"{self.kind.noun}."
            )
        digest = {"asked": self.asked, "data": data.digest, "test": tests.digest if tests else None}
        self.digest = hashlib.sha256(json.dumps(digest, sort_keys=True).encode()).hexdigest()
        if earlier and earlier.get("digest") != self.digest:
            if not self.overwrite:
                raise NearfarError(
                    f"the labelled {self.kind.noun} have changed since the run in {self.folder} began; name "
                    "another folder with --out, or start over with --overwrite."
                )
            earlier = None
        if self.overwrite and earlier is None:  # only now: a mistake in the labels costs no run
            clear(self.folder)
        self._record(data, tests, self.overwrite or bool(earlier and earlier.get("overwrite")))
        self.encoder = copy.deepcopy(encoder).to(self.device)
        self.encoder = self.encoder.to(memory_format=torch.channels_last)
        self._announce(data)
        solved = None
        if self.mode == "full" or not self.task.trains_frozen:
            choice = None if self.mode == "few-labels" else self.choice
            solved = self.task.solve(self.encoder, self.fit, choice, self.setup)
        crossed, networks = None, {}
        if self.mode == "full" or solved is None:
            training = GradientTraining(
                self.folder,
                self.task,
                self.tuning,
                self.setup,
                self.encoder,
                self.fit,
                self.choice,
                self.mode,
                self.digest,
            )
            network, chosen = training.run()
            networks = {TUNED: network}
            networks |= {FROZEN: solved.network} if solved else {}
            networks |= {SCRATCH: training.scratch()} if self.tuning.scratch else {}
        else:
            networks, chosen, crossed = {TUNED: solved.network}, solved.chosen, solved.crossed
        return self._finish(data, tests, networks, chosen, crossed)

    @property
    def setup(self) -> Setup:
        """What the task computes with."""
        return Setup(self.started.preprocess, self.device, self.where.workers, self.tuning.seed)

    def _check(self, data: Labelled) -> None:
        if len(data) < 4:
            raise TooFewError(
                f"{data.name} has {counted(len(data), f'usable {self.kind.one}')}; fine-tuning needs at "
                "least four."
            )
        if not data.tells(np.arange(len(data))):
            raise TooFewError(
                f"{counted(len(data), 'image')} of {data.name} show one identity alone; training needs two."
            )
        if self.mode != "full" and getattr(self.task.config, "teacher", None) is not None:
            raise NearfarError("--teacher is for --mode full, which alone trains the encoder; leave one out.")
        if self.mode != "full" and self.tuning.scratch:
            raise NearfarError("--scratch is for --mode full, which alone trains the encoder; leave one out.")
        how = self.tuning
        for flag, value in (("--lr", how.lr), ("--epochs", how.epochs), ("--share", how.share)):
            if value == 0:
                raise NearfarError(f"{flag} is 0, with which nothing is learnt; give a number above 0.")

    def _grouped(
        self, data: Labelled, tests: Labelled | None, groups: Any
    ) -> tuple[Labelled, Labelled | None]:
        """Number groups of images, and say where one is on both sides."""
        sides = [(part.source, part.dataset.ids) for part in (data, tests) if part is not None]
        numbers = read_groups(groups).numbers(sides)
        data = replace(data, groups=numbers[0])
        if tests is not None:
            tests = replace(tests, groups=numbers[1])
            if few := few_groups(numbers[1], self.kind.noun):
                self.notes.append(f"{few}.")
            both = int(np.isin(numbers[1], numbers[0]).sum())
            if both:
                self.notes.append(
                    f"{counted(both, f'test {self.kind.one} is')} of groups with training "
                    f"{self.kind.noun}, so test figures are too high."
                )
        return data, tests

    def _split(self, data: Labelled) -> tuple[Labelled, Labelled | None, Labelled | None]:
        """Hold images out: half to choose on, half to set thresholds and measure on."""
        if self.mode == "few-labels" or self.tuning.holdout == 0:
            return data, None, None
        strata = self.task.strata(data)
        names = tuple(map(str, range(int(strata.max()) + 1)))
        held = probes.validation_split(strata, names, self.tuning.seed, data.groups, self.tuning.holdout)
        rows, left = np.flatnonzero(held), np.flatnonzero(~held)
        if not (data.tells(rows) and data.tells(left)):
            return data, None, None
        fit, choice = data.take(left), data.take(rows)
        if len(rows) >= MIN_HALVES:
            first = half_of(rows, data.groups, self.tuning.seed)
            if data.tells(rows[first]) and data.tells(rows[~first]):
                return fit, data.take(rows[first]), data.take(rows[~first])
        return fit, choice, choice

    def _record(self, data: Labelled, tests: Labelled | None, overwrite: bool) -> None:
        """Write config.json, which notes whether --overwrite began the run, and rejected.csv."""
        held = 0 if self.choice is None else len(data) - len(self.fit)
        facts = {"name": data.name, "images": len(self.fit), "holdout": held, "fingerprint": data.digest}
        training = {
            **to_json(self.tuning),
            "mode": self.mode,
            "device": self.device.type,
            "modality": self.started.preprocess.modality,
            "optimizer": "none",  # what trains by steps names its own in the end
            "lr": self.tuning.lr or 0.0,
            "batch_size": self.tuning.batch_size or 1,
        }
        config: dict[str, Any] = {
            "nearfar": __version__,
            "commit": commit(),
            "torch": torch.__version__,
            "asked": self.asked,
            "overwrite": overwrite,
            "mark": mark_of([self.asked.get("test"), self.asked.get("labels")]),
            "data": facts,
            "test": None if tests is None else {"name": tests.name, "images": len(tests)},
            "method": "finetune",
            "recipe": self.mode,
            "training": training,
            "views": {},
            "settings": to_json(self.task.config),
            "plan": [],
            "digest": self.digest,
        }
        bad = (*data.rejected, *(tests.rejected if tests else ()))
        if bad:
            many = counted(len(bad), f"unusable {self.kind.one} is")
            progress.say(f"{many} skipped; rejected.csv lists them.")
        write_rejected(self.folder / "rejected.csv", bad)
        checkpoint.write_json(self.folder / "config.json", config)

    def _record_chosen(self, network: TaskNetwork, chosen: Mapping[str, Any]) -> None:
        """Write into config.json what was chosen or measured, in place of what was left open."""
        config = checkpoint.read_json(self.folder / "config.json")
        training = config["training"]
        if "lr" in chosen:
            optimizer = self.task.optimizer(network, chosen["lr"])
            training["optimizer"] = type(optimizer).__name__.lower()
        training |= {name: chosen[name] for name in ("lr", "batch_size", "epochs") if name in chosen}
        training["precision"] = chosen.get("precision", "float32")
        checkpoint.write_json(self.folder / "config.json", config)

    def _announce(self, data: Labelled) -> None:
        held = 0 if self.choice is None else len(data) - len(self.fit)
        what = {"full": "encoder and head", "linear": "a head on the frozen encoder"}.get(self.mode)
        what = what or "a head on the frozen encoder, by cross-validation"
        lines = [
            f"{self.task.name}, {self.mode}: {what}, from {self.started.name}",
            f"into       {self.folder}",
            f"{self.kind.noun:<10} {len(self.fit):,} to train on, {held:,} held out, "
            f"{counted(len(data.classes), 'class')}",
        ]
        progress.say("\n  ".join(lines))

    # What came of it

    def _answers(self, network: TaskNetwork, data: Labelled) -> Any:
        return answers(self.task, network, data, self.setup)

    def _baselines(self, data: Labelled) -> Mapping[str, Figures]:
        return self.task.baselines(self.encoder, self.fit, data, self.setup)

    def _finish(
        self,
        data: Labelled,
        tests: Labelled | None,
        networks: Mapping[str, TaskNetwork],
        chosen: dict[str, Any],
        crossed: Any,
    ) -> Finetuned:
        """Calibrate on held-out images, read the test once, judge, and write the run."""
        held = None if self.choice is None or self.rest is None else (self.choice, self.rest)
        found = measure(self.task, networks, self._answers, self.fit, held, tests, self._baselines, crossed)
        rows = found.figures[found.part]
        checks = checkpoint.read_log(self.folder / CHECKS_FILE, {"step": int, str: float})
        result = Finetuned(
            self.folder,
            self.task.name,
            self.mode,
            self.task.classes,
            {part: {row: item.values for row, item in each.items()} for part, each in found.figures.items()},
            {"train": len(self.fit), **found.images},
            rows[TUNED].main,
            chosen,
            rows[TUNED].per_class,
            outcome.judge(self.mode, found.part, rows, checks if self.mode == "full" else [], self.kind.noun),
            (*self.notes, *found.notes),
            self.kind.one,
        )
        self._write(networks[TUNED], result, data, chosen)
        return result

    def _write(
        self, network: TaskNetwork, result: Finetuned, data: Labelled, chosen: Mapping[str, Any]
    ) -> None:
        """Write the card and the encoder; encoder.json comes last and marks the end."""
        provenance = {
            "nearfar": __version__,
            "method": "finetune",
            "recipe": self.mode,
            "task": self.task.name,
            "data": {"name": data.name, "images": len(self.fit), "fingerprint": data.digest},
            "steps": int(chosen.get("steps", 0)),
            "batch_size": int(chosen.get("batch_size", 0)),
            "seed": self.tuning.seed,
            "weights": self.started.name,
            "licence": self.started.facts()["licence"],
        }
        self._record_chosen(network, chosen)
        write_card(self.folder, self.task, result)
        encoder = copy.deepcopy(network.f).cpu().eval()
        export(self.folder, encoder, self.started.preprocess, provenance, {"head": network.head})
        for name in (checkpoint.LAST, SCRATCH_FILE, STAGES):
            (self.folder / name).unlink(missing_ok=True)
        vectors.forget(self.folder)
        progress.say(f"done: the run is in {self.folder}.")
