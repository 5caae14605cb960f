"""Checks a run's health during training, without labels, on holdout images, in a small share of its time."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import distributed, progress
from ..data.dataset import Subset
from ..health.measure import BATCH, group_found, health, partner_found, settled
from ..health.verdict import COLLAPSED, Verdict, judge
from ..models import Encoder
from . import checkpoint, run_shapes
from .draws import named_draws
from .engine import Step, autocast
from .grouping import expects_of
from .parallel import is_shared
from .plan import epochs
from .setup import TrainingSetup

SHARE = 0.02  # of the time of training that looking may take
EARLY = 0.03  # share that a check at a quarter, besides the first and the last, may raise it to
SAMPLE = range(96, 1025)  # images checked
COST = 200  # images trained on for each image checked, so that three checks take their share
GROUPS, PAIRS = 8, 2  # one image of so many is LiDAR's; and has its partner looked for under the run's views


class HealthMonitor:
    """Measures health now and then, judges it, and logs it to `health.jsonl`, in the first process only."""

    def __init__(self, job: TrainingSetup, held: Subset | None, judged: bool = False) -> None:
        """Open `health.jsonl` at the step at which training resumes.

        Args:
            job: the session.
            held: the holdout images; None to check on training images.
            judged: whether someone waits for an early look, to end the run by.
        """
        self.judged = judged or job.wanted.training.stop_on_collapse
        self.job, self.held, self.images = job, held, held if held is not None else job.dataset
        self.expects = expects_of(job.wanted.method, job.module.config, job.groups is not None)
        self.health_checks = job.wanted.training.health_checks if distributed.first() else 0
        self.next = job.started + self._stride(job.plan.steps)
        # As first planned, which is the same in every session.
        self.sample = sample(job.plan.stretches[0][1] * job.wanted.training.batch_size)
        self.began, self.spent = time.monotonic(), 0.0
        self.shared = is_shared(job.module)
        self.log = checkpoint.Log(job.folder / "health.jsonl", job.started) if self.health_checks else None
        self.lines = (
            checkpoint.read_log(job.folder / "health.jsonl", run_shapes.HEALTH) if self.health_checks else []
        )
        self.verdict: Verdict | None = None
        self.untrained: Encoder | None = None  # against what it shows, the rest is held
        if self.log is not None and not job.started and not self.lines:
            self.untrained = copy.deepcopy((job.plain or job.module).encoder)

    def _stride(self, steps: int) -> float:
        return steps / self.health_checks if self.health_checks else float("inf")

    def note(self, step: Step) -> Mapping[str, Any] | None:
        """Look, if it is time, or the end.

        Args:
            step: just done.

        Returns:
            The line that was written, if it was time.
        """
        if self.untrained is not None:  # checked once the first step has shown that training works here
            self._add(0, self.untrained)
            self.untrained = None
        due = self._is_due(step)
        if self.shared:
            due = bool(distributed.same(due))  # since all have to bring the weights together
        if not due:
            return None
        method = self.job.whole()
        if self.log is None:
            return None
        self._add(step.number, method.encoder, step.watched)
        self.next = step.number + self._stride(step.plan.steps)
        kind, start = self.job.wanted.kind, self.job.wanted.training.weights or ""
        before, self.verdict = self.verdict, judge(self.lines, self.expects, start=start, kind=kind)
        if step.last:
            share = self.spent / max(time.monotonic() - self.began, 1e-9)
            progress.say(
                f"{describe(self.lines[-1], kind.noun)} Health checks took {100 * share:.1f} % of the time."
            )
            if self.verdict is not None:
                progress.say(str(self.verdict))
        elif self.verdict is not None and self.verdict.bad and self.verdict.name != (before and before.name):
            progress.say(f"at step {step.number:,}: {self.verdict}")
        return self.lines[-1]

    def _is_due(self, step: Step) -> bool:
        """Tell whether it is time; of a check that would take too long, note when."""
        if self.log is None or not (step.last or step.number >= self.next):
            return False
        if not step.last and (due := self._due(step)) > step.number:
            self.next = due
            return False
        return True

    def _due(self, step: Step) -> float:
        """Tell the step from which one more check, and the last, keep to their share of the time."""
        done = max(1, step.number - self.job.started)
        pace = max(time.monotonic() - self.began - self.spent, 1e-9) / done
        two = 2 * self.lines[-1]["seconds"] if self.lines else 0.0
        due = self.job.started + (self.spent + two) / (SHARE * pace)
        if len(self.lines) > 1:
            return due
        # A collapse should be seen early: by a quarter, if the run is long enough for one look more.
        whole = pace * (step.plan.steps - self.job.started)
        early = self.judged or self.spent + two <= EARLY * whole
        return min(due, step.plan.steps / 4) if early else due

    def stops(self) -> bool:
        """Tell, the same on every process, whether the run has collapsed and was asked to stop then."""
        if not self.job.wanted.training.stop_on_collapse:
            return False
        return bool(distributed.same(int(self.verdict is not None and self.verdict.name in COLLAPSED)))

    def look(self, step: int, f: Encoder, watched: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """Measure the encoder after a step that had these tensors watched; nothing of it changes."""
        job, some, own = self.job, self.sample, self.job.module.views(self.job.wanted.views)[:2]
        made = [getattr(view, "recipe", view) for view in own]
        first, second = made[0], made[-1]  # a method with one view has it twice
        preprocess, seed = job.wanted.preprocess, job.wanted.training.seed
        if step == 0:
            f = settled(f, preprocess, job.dataset, first, seed=seed, device=job.device, sample=some)
        groups = some // GROUPS
        found = health(f, preprocess, self.images, seed=seed, device=job.device, sample=some, groups=groups)
        passes = epochs(step, job.wanted.training, len(job.dataset))
        figures = {"epoch": round(passes, 4), **found.to_json(), "holdout": self.held is not None}
        metrics = job.module.metrics(watched) if watched is not None else {}
        for name in ("spread", "deviation"):  # of z in the last batch, as the method itself tells
            if name in metrics:
                figures[f"{name}_of_z"] = float(metrics[name])
        if job.groups is not None:
            figures["task"] = self._groups(f)
        elif self.expects.task and step:
            figures["task"] = self._task()
        parts = {"partner_trained": job.dataset}
        if self.held is not None:
            parts["partner_holdout"] = self.held
        # As many of both: among more, a partner is harder to find. Of few images, more views.
        pairs = min(some // PAIRS, *map(len, parts.values()))
        turns = math.ceil((some // PAIRS) / pairs)
        for name, part in parts.items():
            how: dict[str, Any] = {"seed": seed, "device": job.device, "sample": pairs, "turns": turns}
            figures[name] = partner_found(f, preprocess, part, (first, second), **how)
        figures["partners"] = 2 * pairs * turns  # views whose partner was looked for,
        figures["partner_chance"] = 1 / (2 * pairs - 1)  # among so many others
        return figures

    def _task(self) -> dict[str, Any]:
        """Measure how well the method's own task is solved, on holdout images and on others."""
        job, found = self.job, {}
        parts = [("trained", job.dataset)]
        if self.held is not None and job.targets is None:  # a teacher was asked about the others alone
            parts.append(("held", self.held))
        precision = job.wanted.training.precision
        module = job.plain or job.module
        module.eval()
        for name, part in parts:
            count = min(self.sample, *(len(part) for _, part in parts))
            batch_size = min(count, BATCH)
            feed = job.feed(0, "cpu", part, batch_size)
            shares = []
            for number in range(count // batch_size):
                batch = feed.make(number).to(job.device)
                with (
                    torch.no_grad(),
                    named_draws(batch.key, device=job.device),
                    autocast(job.device, precision),
                ):
                    watched = module(batch).watched
                    metrics = module.metrics(watched)
                shares.append(float(metrics[self.expects.task]))
            found[name] = sum(shares) / len(shares)
        module.train()
        compared = int(watched.get("compared", batch_size))
        return {**found, "images": count // batch_size * batch_size, "compared": compared}

    def _groups(self, f: Encoder) -> dict[str, Any]:
        """Measure how often the nearest image is of the same group, on holdout images and on others."""
        job, found = self.job, {}
        assert job.groups is not None
        seed, preprocess = job.wanted.training.seed, job.wanted.preprocess
        for name, part in (("trained", job.dataset), *([("held", self.held)] if self.held else [])):
            rows = part.rows if isinstance(part, Subset) else np.arange(len(part))
            whole = part.dataset if isinstance(part, Subset) else part
            found[name], count = group_found(
                f, preprocess, whole, rows, job.groups, seed=seed, device=job.device, sample=self.sample
            )
        return {**found, "images": count}

    def close(self) -> None:
        """Close the file."""
        if self.log is not None:
            self.log.close()

    def _add(self, step: int, f: Encoder, watched: Mapping[str, Tensor] | None = None) -> float:
        """Look, and write what is seen; give the seconds it took."""
        assert self.log is not None
        began = time.monotonic()
        with distributed.alone():
            figures = self.look(step, f, watched)
        seconds = time.monotonic() - began
        self.spent += seconds
        if self.job.clock is not None:
            self.job.clock.aside += seconds
        steps = self.job.plan.steps
        self.lines.append({"step": step, "steps": steps, **figures, "seconds": round(seconds, 3)})
        self.log.add(self.lines[-1])
        return seconds


def sample(planned: int) -> int:
    """Choose how many images a run is checked with.

    Args:
        planned: images that it is to train on, repeats counted.
    """
    return max(SAMPLE[0], min(planned // COST, SAMPLE[-1]))


def describe(line: dict[str, Any], noun: str = "images") -> str:
    """Say in a line what was found.

    Args:
        line: of `health.jsonl`.
        noun: the word for the examples.

    Returns:
        One line.
    """
    where = f"held-out {noun}" if line["holdout"] else f"training {noun}"
    task = line.get("task", {})
    solved = f", own task solved {task.get('held', task['trained']):.0%}" if task else ""
    return (
        f"health on {line['images']:,} {where}: RankMe {line['rankme']:.0f} of {line['dim']}, uniformity "
        f"{line['uniformity']:.2f}, spread {line['spread']:.2f}, partner found "
        f"{line['contrastive_accuracy']:.0%}{solved}."
    )
