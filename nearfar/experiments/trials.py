"""The runs of a sweep: each trained, checked, measured and saved to a file, over one session or several."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core import progress
from ..core.errors import NearfarError
from ..core.shapes import COUNT
from ..features import knn
from ..features.extract import features
from ..features.probes import validation_split
from ..training import checkpoint, run_shapes
from ..training.pretrain import Ended, pretrain
from ..training.run import Run
from ..training.run_config import RunConfig
from . import space
from .findings import Sweep, Trial, best_of
from .measuring import last_health
from .proposals import Proposals
from .space import Axis, Value

METRIC = "contrastive_accuracy"
"""What chooses without labels; its views are the same for all runs, whatever views each was trained on."""
REPEATS = 3  # seeds of the recipe's own setting, and of the best
HEALTH_CHECKS = 4  # of a run, of which the first is early enough to save most of a bad one
START = 0.2  # share of a run before which it is not ended
COLLAPSED = 0.02  # spread of features below which a run is ended
LAG = 0.5  # share of the usual METRIC at that point of a run below which it is ended
GIVE_UP = 5  # failures in a row, which are no longer the points' fault


_TRIAL = {
    "number": COUNT,
    "seed": int,
    "params": {str: object},
    "figures": {str: float},
    "value": (float, None),
    "reason": str,
    "seconds": float,
}


def _trial(file: Path) -> Trial:
    """Read what an earlier session measured."""
    found = checkpoint.read_json(file, _TRIAL)
    return Trial(**{name: found[name] for name in _TRIAL})


@dataclass
class SweepSession:
    """One session of a sweep: proposes, trains and measures until the budget is spent."""

    data: Any
    asked: Mapping[str, Any]  # what every run is given: method, recipe and settings
    wanted: RunConfig
    axes: tuple[Axis, ...]
    proposals: Proposals
    limit: tuple[str, float]  # ("trials", runs) or ("seconds", of all runs)
    labelled: Any  # a data set of labelled images, or None
    seed: int
    folder: Path

    def __post_init__(self) -> None:
        """Read what earlier sessions measured."""
        self.measure = METRIC if self.labelled is None else "knn"
        self.failures = 0
        files = sorted(self.folder.glob("trial-*.json"))
        self.done = {file.stem: _trial(file) for file in files}

    def go(self) -> None:
        """Run the recipe with every seed, then proposals, then the best with the other seeds."""
        while (room := self.room()) >= 1:
            best = best_of(self.searched())
            if best is not None and not self.repeated(0):
                self.repeat(0)
            elif best is None or room >= REPEATS or self.repeated(best.number):
                self.search()
            else:
                self.repeat(best.number)

    def searched(self) -> list[Trial]:
        """List the trials that were proposed, in order; repeats are none."""
        return sorted((t for t in self.done.values() if t.seed == self.seed), key=lambda t: t.number)

    def repeated(self, number: int) -> bool:
        """Tell whether a trial was run with every seed."""
        return sum(trial.number == number for trial in self.done.values()) >= REPEATS

    def room(self) -> float:
        """Tell how many more runs the budget has room for."""
        kind, most = self.limit
        if kind == "trials":
            return most - len(self.done)
        whole = [trial.seconds for trial in self.done.values() if trial.value is not None]
        left = most - sum(trial.seconds for trial in self.done.values())
        return left * len(whole) / sum(whole) if whole else 1.0

    def search(self) -> None:
        """Run the next proposal."""
        number, params = self.proposals.next()
        self.proposals.tell(self.run(number, self.seed, params).value)

    def repeat(self, number: int) -> None:
        """Run a trial again with the next seed."""
        seeds = [trial.seed for trial in self.done.values() if trial.number == number]
        self.run(number, max(seeds) + 1, self.done[f"trial-{number:03d}"].params)

    def run(self, number: int, seed: int, params: Mapping[str, Value]) -> Trial:
        """Train and measure a point, or read what was measured before."""
        name = f"trial-{number:03d}" + (f"-seed-{seed}" if seed != self.seed else "")
        if name in self.done:
            return self.done[name]
        changed = space.settings(self.wanted, self.axes, params)
        what = " ".join(space.words(changed)) or "the recipe itself"
        progress.say(f"\nrun {len(self.done) + 1}, {name}: {what}")
        place, began = self.folder / name, time.monotonic()
        figures: dict[str, float] = {}
        reason = ""
        should_stop = self.should_stop if number and seed == self.seed else None
        try:
            settings = {"health_checks": HEALTH_CHECKS, **self.asked, **changed, "seed": seed}
            figures = self.measured(pretrain(self.data, out=place, should_stop=should_stop, **settings))
            self.failures = 0
        except Ended as ended:
            reason = str(ended)
        except Exception as error:  # a point that cannot be trained is a finding, unless it is the recipe
            self.failures += 1
            if number == 0 or self.failures == GIVE_UP:
                raise
            said = str(error).partition(";")[0]  # the advice is for the user who typed the setting
            reason = f"failed: {said if isinstance(error, NearfarError) else repr(error)}"
        if reason:
            progress.say(f"{name} {reason}")
        seconds = round(time.monotonic() - began, 3)
        trial = Trial(number, seed, dict(params), figures, figures.get(self.measure), reason, seconds)
        checkpoint.write_json(place.with_suffix(".json"), asdict(trial))
        (place / checkpoint.LAST).unlink(missing_ok=True)  # never resumed, and the largest of its files
        checkpoint.remove_shares(place)
        self.done[name] = trial
        return trial

    def should_stop(self, line: Mapping[str, Any], done: float) -> str:
        """Say why a run should end now, from a line of its health; or nothing."""
        if done < START:
            return ""
        at = f"at {done:.0%} of the run"
        if line["spread"] < COLLAPSED:
            return f"ended early: collapsed, spread {line['spread']:.3f} {at}"
        usual = float(np.median([np.interp(done, *curve) for curve in self.curves()]))
        if line[METRIC] < LAG * usual:
            return f"ended early: far behind, partner found {line[METRIC]:.1%} {at}, usually {usual:.1%}"
        return ""

    def curves(self) -> list[tuple[list[float], list[float]]]:
        """Read how `METRIC` rose in every finished run: shares of the run, and values, from nothing at 0."""
        names = [name for name, trial in self.done.items() if trial.value is not None]
        logs = [checkpoint.read_log(self.folder / name / "health.jsonl", run_shapes.HEALTH) for name in names]
        health_checks = [[line for line in log if line["step"] > 0] for log in logs]
        return [
            ([0.0, *(line["step"] / log[-1]["step"] for line in log)], [0.0, *(line[METRIC] for line in log)])
            for log in health_checks
            if log
        ]

    def measured(self, run: Run) -> dict[str, float]:
        """Gather the figures of a finished run: its last health check, and k-NN where there are labels."""
        figures = last_health(run)
        if self.labelled is not None:
            figures["knn"] = _knn(run, self.labelled, self.seed, self.wanted.training.device)
        if figures.get(self.measure) is None:
            raise NearfarError(f"{run.name} has no {self.measure} to choose by; give --train LABELLED.")
        return figures

    def found(self) -> Sweep | None:
        """Put together what is known by now; None before the first run has ended."""
        trials = tuple(self.searched())
        best = best_of(trials)
        if best is None:
            return None
        others = [trial for trial in self.done.values() if trial.seed != self.seed]
        others.sort(key=lambda trial: (trial.number, trial.seed))
        asked = {name: value for name, value in self.asked.items() if value != "auto"}
        changed = space.settings(self.wanted, self.axes, best.params)
        named = str(self.data) if isinstance(self.data, (str, Path)) else "DATA"
        words = ["nearfar", "pretrain", named, "--out", "runs/best", *space.words({**asked, **changed})]
        if self.seed:
            words += ["--seed", str(self.seed)]
        return Sweep(self.axes, trials, tuple(others), self.measure, shlex.join(words), self.folder)


def _knn(run: Run, labelled: Any, seed: int, device: str) -> float:
    """Measure k-NN on validation images; k and temperature are chosen as `evaluate` does."""
    validation = torch.from_numpy(validation_split(labelled.labels, labelled.classes, seed))
    x = torch.from_numpy(features(run.encoder, labelled, run.preprocess, device=device))
    y = torch.from_numpy(labelled.labels)
    asked, truth, base, own = x[validation], y[validation], x[~validation], y[~validation]
    count = len(labelled.classes)
    similarity, who = knn.top_k(asked, base, min(max(knn.NEIGHBOURS), len(base)))
    vote = knn.choose_vote(similarity, own[who], truth, count)
    votes = knn.knn_votes(similarity[:, : vote.k], own[who[:, : vote.k]], count, vote.temperature)
    return float((votes.argmax(1) == truth).double().mean())
