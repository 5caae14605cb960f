"""Chooses views by a few labels: every set in a short run, and the better half again for twice as long.

Source:
    Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization"
    (successive halving); each run starts anew here, since the learning rate falls to the end of a run.
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core import progress, rng
from ..core.device import device_named
from ..core.errors import NearfarError
from ..core.intervals import LEVEL, sign_test
from ..core.text import counted
from ..features import knn
from ..features.extract import features
from ..training import checkpoint
from ..training.pretrain import pretrain
from ..training.run import Run
from . import space

NOTE = "views.json"
FEWEST = 20  # labelled images that have another one of their class
SHORTEST = 20  # steps of a run of the first round, where minutes are asked for: fewer tell nothing
NEIGHBOURS, TEMPERATURE = 5, 0.1  # of the vote; fixed, since so few labels cannot choose them too
_TRIED = {"name": str, "length": float, "shares": [float], "seconds": float}


@dataclass(frozen=True)
class Tried:
    """One run of a set of views.

    Attributes:
        name: of the set.
        length: of the run, in the unit that was asked for.
        shares: of each labelled image, of the vote of its five nearest others the share that its class has.
            Fifty of these tell sets apart better than fifty hits and misses: docs/decisions.md has figures.
        seconds: that it took.
    """

    name: str
    length: float
    shares: tuple[float, ...]
    seconds: float

    @property
    def share(self) -> float:
        """The mean, 0 to 1; the higher, the better."""
        return float(np.mean(self.shares))


@dataclass(frozen=True)
class ViewChoice:
    """Which views suit a collection.

    Attributes:
        sets: the settings of each set of views, by name.
        rounds: the runs, round by round; in each the best is the first.
        unit: of their lengths: steps, epochs or minutes.
        command: trains with the best.
        path: the folder.
    """

    sets: Mapping[str, Mapping[str, Any]]
    rounds: tuple[tuple[Tried, ...], ...]
    unit: str
    command: str
    path: Path

    @property
    def best(self) -> str:
        """The name of the set that was first in the last round."""
        return self.rounds[-1][0].name

    def verdict(self) -> str:
        """Say which is best, and whether the labels suffice to tell it from the first set of all."""
        usual = next(iter(self.sets))
        if self.best == usual:
            return f"No set was better than {usual}."
        named = [{one.name: one for one in row} for row in self.rounds]
        last = next(found for found in reversed(named) if usual in found)  # the round that both were in
        first, second = last[self.best], last[usual]
        p = sign_test(np.subtract(first.shares, second.shares), rng.fold(0, "views"))
        p = min(1.0, p * (len(self.sets) - 1))  # the best of so many others is better than one by chance
        told = (
            f"{self.best}: {first.share:.1%} of the vote, {usual} {second.share:.1%} "
            f"({len(first.shares):,} images, in runs of {_length(first.length, self.unit)}; "
            f"p = {p:.2g} for the best of {len(self.sets)} sets)"
        )
        if p < 1 - LEVEL and first.share > second.share:
            return f"{told}. They are better beyond chance."
        return f"{told}. That may be chance; more labels, or longer runs, would tell."

    def table(self) -> str:
        """Write Markdown: a row for each set, a column for each round, then the verdict and the command."""
        lengths = [_length(row[0].length, self.unit) for row in self.rounds]
        lines = [f"| views | flags | {' | '.join(lengths)} |", "|---|---|" + "---|" * len(lengths)]
        for name, settings in self.sets.items():
            found = [next((one for one in row if one.name == name), None) for row in self.rounds]
            cells = ["-" if one is None else f"{one.share:.1%}" for one in found]
            flags = " ".join(space.words(settings))
            lines.append(f"| {name} | `{flags}` | {' | '.join(cells)} |")
        images = counted(len(self.rounds[0][0].shares), "labelled image")
        how = (
            f"Of the vote of an image's {NEIGHBOURS} nearest others, the share that its own class has: "
            f"the mean over {images}, one seed."
        )
        best = f"Train with the best:\n\n```text\n{self.command}\n```"
        return "\n\n".join([how, "\n".join(lines), self.verdict(), best])

    def to_json(self) -> dict[str, Any]:
        """Write everything in plain values."""
        return {
            "sets": {name: dict(settings) for name, settings in self.sets.items()},
            "rounds": [[asdict(one) for one in row] for row in self.rounds],
            "unit": self.unit,
            "best": self.best,
            "verdict": self.verdict(),
            "command": self.command,
            "path": str(self.path),
        }


@dataclass
class Halving:
    """The rounds of a choice; what was trained before is read, not trained again."""

    data: Any
    asked: Mapping[str, Any]  # what every run is given: method, recipe and settings
    sets: Mapping[str, Mapping[str, Any]]
    unit: str  # of the length: steps, epochs or minutes
    length: float  # of a run of the first round
    labelled: Any  # a data set of labelled images
    seed: int
    folder: Path

    def same(self, images: Mapping[str, str]) -> None:
        """Make sure that the folder's choice is the one now asked for.

        Args:
            images: fingerprints of all data that is read, by their kind.

        Raises:
            NearfarError: it is another, there are too few labelled images, or they are of one class.
        """
        kept = self.labelled.labels[has_others(torch.from_numpy(self.labelled.labels)).numpy()]
        if len(kept) < FEWEST:
            raise NearfarError(
                f"{counted(len(kept), 'labelled image')} with another of its class are too few to choose "
                f"by; give --train {FEWEST} or more."
            )
        if len(np.unique(kept)) < 2:
            raise NearfarError("all labelled images are of one class; give --train images of two or more.")
        asked = {name: value for name, value in self.asked.items() if name != "minutes"}
        now = {
            **images,
            "seed": self.seed,
            "asked": asked,
            "sets": self.sets,
            "length": [self.unit, self.length],
        }
        now = json.loads(json.dumps(now, default=str))
        note = self.folder / NOTE
        if not note.exists():
            checkpoint.write_json(note, now)
            return
        try:
            held = checkpoint.read_json(note)
        except NearfarError:
            raise NearfarError(f"{note} is damaged; name another folder with --out.") from None
        if held != now:
            differ = ", ".join(sorted(name for name in {*held, *now} if held.get(name) != now.get(name)))
            raise NearfarError(
                f"{self.folder} holds another choice ({differ}); name another folder with --out."
            )

    def go(self) -> ViewChoice:
        """Run round after round until one set is left."""
        left = list(self.sets)
        rounds: list[tuple[Tried, ...]] = []
        while len(left) > 1:
            tried = [self.run(name, len(rounds)) for name in left]
            tried.sort(key=lambda one: one.share, reverse=True)
            rounds.append(tuple(tried))
            left = [one.name for one in tried[: (len(left) + 1) // 2]]
        settings = {name: value for name, value in self.asked.items() if value != "auto"}
        settings.pop(self.unit, None)
        named = str(self.data) if isinstance(self.data, (str, Path)) else "DATA"
        words = space.words({**settings, **self.sets[left[0]], **({"seed": self.seed} if self.seed else {})})
        command = shlex.join(["nearfar", "pretrain", named, "--out", "runs/best", *words])
        return ViewChoice(self.sets, tuple(rounds), self.unit, command, self.folder)

    def run(self, name: str, number: int) -> Tried:
        """Train one set of views in one round, and measure it."""
        place = self.folder / f"round-{number + 1}-{name.replace(', ', '-').replace(' ', '-')}"
        if (note := place.with_suffix(".json")).exists():
            try:
                held = checkpoint.read_json(note, _TRIED)
                return Tried(held["name"], held["length"], tuple(held["shares"]), held["seconds"])
            except NearfarError as error:
                progress.say(f"{error} It is measured anew.")
        length, began = self.length * 2**number, time.monotonic()
        progress.say(f"\nround {number + 1}, runs of {_length(length, self.unit)}: {name}")
        settings = {"health_checks": 0, **self.asked, **self.sets[name]}
        settings |= {self.unit: length, "seed": self.seed}
        run = pretrain(self.data, out=place, **settings)
        if self.unit == "minutes" and not number:
            self._long_enough(run, place)
        shares = self.measured(run)
        seconds = round(time.monotonic() - began, 3)
        tried = Tried(name, length, tuple(shares), seconds)
        progress.say(f"{name}: {tried.share:.1%} of the vote of the nearest others")
        checkpoint.write_json(note, asdict(tried))
        (place / checkpoint.LAST).unlink(missing_ok=True)  # never resumed, and the largest of its files
        return tried

    def _long_enough(self, run: Run, place: Path) -> None:
        """Refuse to go on where a run has too few steps to tell anything; the folder is free again then."""
        steps = int(run.log()[-1]["step"])
        if steps >= SHORTEST:
            return
        (self.folder / NOTE).unlink(missing_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        raise NearfarError(
            f"runs of {_length(self.length, self.unit)} have {counted(steps, 'step')} here, and a choice "
            f"needs {SHORTEST}; give {math.ceil(SHORTEST / max(steps, 1))} times the --budget."
        )

    def measured(self, run: Run) -> list[float]:
        """Ask the nearest others of each labelled image that has another one of its class."""
        device = device_named(str(self.asked.get("device", "auto")))
        x = torch.from_numpy(features(run.encoder, self.labelled, run.preprocess, device=device))
        y = torch.from_numpy(self.labelled.labels)
        kept = has_others(y)
        return leave_one_out(x[kept], y[kept], len(self.labelled.classes))


def _length(length: float, unit: str) -> str:
    """Write how long a run is: "300 steps", "45 s"."""
    return progress.duration(60 * length) if unit == "minutes" else f"{length:g} {unit}"


def has_others(labels: torch.Tensor) -> torch.Tensor:
    """Tell which images have another one of their class.

    Args:
        labels: (n,) int64.

    Returns:
        (n,) bool.
    """
    return torch.bincount(labels)[labels] > 1


def leave_one_out(x: torch.Tensor, labels: torch.Tensor, classes: int) -> list[float]:
    """Let the nearest others of each image vote for its class.

    Args:
        x: (n, d) vectors.
        labels: (n,) int64.
        classes: how many there are.

    Returns:
        Of each image the share of the vote that its own class has.
    """
    similarity, who = knn.top_k(x, x, NEIGHBOURS, exclude_self=True)
    votes = knn.knn_votes(similarity, labels[who], classes, TEMPERATURE)
    return [float(share) for share in votes.gather(1, labels[:, None])[:, 0]]
