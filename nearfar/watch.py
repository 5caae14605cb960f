"""Looks at a run's health while it trains, without labels: on images held apart, and never for long."""

from __future__ import annotations

import time

from . import checkpoint, parallel, progress
from .data.store import Part
from .engine import Step
from .health import Health, health
from .job import Job

SHARE = 0.02  # of the time of training that looking may take, but for the one look at the end
SAMPLE, GROUPS = 1024, 128  # images looked at, at most; and of these LiDAR's


class Watch:
    """Measures health now and then, and writes it to `health.jsonl`; only the first process does."""

    def __init__(self, job: Job, held: Part | None) -> None:
        """Open `health.jsonl` at the step from which training goes on.

        Args:
            job: the sitting.
            held: the images held apart; None to look at images that are trained on.
        """
        self.job, self.images, self.apart = job, held if held is not None else job.store, held is not None
        self.looks = job.wanted.training.looks if parallel.first() else 0
        self.next = job.started + self._stride(job.plan.steps)
        self.began = time.monotonic()
        self.log = checkpoint.Log(job.folder / "health.jsonl", job.started) if self.looks else None

    def _stride(self, steps: int) -> float:
        return steps / self.looks if self.looks else float("inf")

    def note(self, step: Step) -> None:
        """Look, if it is time, or the end.

        Args:
            step: just done.
        """
        if self.log is None or not (step.last or step.number >= self.next):
            return
        began = time.monotonic()
        with parallel.alone():
            found = self.look()
        spent = time.monotonic() - began
        figures = {"step": step.number, **found.to_json(), "held_out": self.apart}
        self.log.add({**figures, "seconds": round(spent, 3)})
        pace = max(began - self.began, 1e-9) / max(1, step.number - self.job.started)
        self.next = step.number + max(self._stride(step.plan.steps), spent / (SHARE * pace))
        if step.last:
            progress.say(describe(found, self.apart))

    def look(self) -> Health:
        """Measure the encoder as it is now; nothing of it changes."""
        job = self.job
        return health(
            job.module.f,
            job.wanted.preprocess,
            self.images,
            seed=job.wanted.training.seed,
            device=job.device,
            sample=SAMPLE,
            groups=GROUPS,
        )

    def close(self) -> None:
        """Close the file."""
        if self.log is not None:
            self.log.close()


def describe(found: Health, apart: bool) -> str:
    """Say in a line what was found.

    Args:
        found: the figures.
        apart: whether the images were held apart from training.

    Returns:
        One line.
    """
    where = "held-out images" if apart else "images of the training"
    return (
        f"Health on {found.images:,} {where}: RankMe {found.rankme:.0f} of {found.dim}, uniformity "
        f"{found.uniformity:.2f}, spread {found.spread:.2f}, partner found {found.contrastive_accuracy:.0%}."
    )
