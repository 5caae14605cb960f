"""Results of a sweep: its trials, which settings matter and how surely, as a table, JSON and a plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..core.text import counted
from .influence import Influence, deviation, influences, spearman
from .space import Axis, Value, rounded, short

SURE = (12.7, 4.3, 3.2)  # standard errors: Student's t for 95 %, by degrees of freedom; 3 and 2 runs have 3
SHARES = ("knn", "contrastive_accuracy", "agreement")  # measures shown in per cent
NAMES = {"knn": "k-NN", "contrastive_accuracy": "partner found"}
MEASURES = {
    "knn": "k-NN accuracy on validation images",
    "contrastive_accuracy": "share of views whose partner is found (no labels)",
}


@dataclass(frozen=True)
class Trial:
    """One run: a point, a seed, and what came of it; if nothing, `reason` says why, and `value` is None."""

    number: int
    seed: int
    params: Mapping[str, Value]
    figures: Mapping[str, float]
    value: float | None
    reason: str
    seconds: float


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Find the trial of the highest value, of equals the first; None where none has a value."""
    known = [(trial.value, -trial.number, trial) for trial in trials if trial.value is not None]
    return max(known, key=lambda item: item[:2])[2] if known else None


@dataclass(frozen=True)
class Sweep:
    """The trials, and all that follows from them.

    Attributes:
        axes: what was varied.
        trials: the proposals in order, the first being the recipe itself.
        repeats: further seeds of the recipe and of the best.
        measure: the figure that chose, the higher the better.
        command: a command line that repeats the best.
        path: the folder.
    """

    axes: tuple[Axis, ...]
    trials: tuple[Trial, ...]
    repeats: tuple[Trial, ...]
    measure: str
    command: str
    path: Path

    @property
    def best(self) -> Trial:
        """The trial of the highest value."""
        found = best_of(self.trials)
        assert found is not None
        return found

    @property
    def recipe(self) -> list[float]:
        """Values of the recipe itself, a seed each."""
        return self._of(0, (*self.trials, *self.repeats))

    @property
    def again(self) -> list[float]:
        """Values of the best with seeds that did not choose it; empty if it is the recipe."""
        return self._of(self.best.number, self.repeats) if self.best.number else []

    def _of(self, number: int, trials: Sequence[Trial]) -> list[float]:
        return [t.value for t in trials if t.number == number and t.value is not None]

    @cached_property
    def noise(self) -> float | None:
        """Standard deviation of a value between seeds; None where nothing was repeated."""
        return deviation([self.recipe, self.again])

    @cached_property
    def influences(self) -> tuple[Influence, ...]:
        """What each setting did; a run that was ended early counts as the worst that was not."""
        known = [trial.value for trial in self.trials if trial.value is not None]
        values = [min(known) if trial.value is None else trial.value for trial in self.trials]
        points = [trial.params for trial in self.trials]
        return influences(self.axes, points, values, noise=self.noise or 0.0)

    @cached_property
    def spearman(self) -> dict[str, float | None]:
        """With labels: the rank correlation of each health figure with k-NN, over the finished trials."""
        ended = [trial.figures for trial in self.trials if trial.value is not None]
        names = dict.fromkeys(name for figures in ended for name in figures if name != "knn")
        if self.measure != "knn":
            return {}
        both = {name: [figures for figures in ended if name in figures] for name in names}
        return {
            name: spearman([figures[name] for figures in rows], [figures["knn"] for figures in rows])
            for name, rows in both.items()
        }

    def shown(self, value: float | None, *, points: bool = False) -> str:
        """Write a value as people read it; `points` for a difference."""
        if value is None:
            return "-"
        if self.measure in SHARES:
            return f"{100 * value:.1f} {'points' if points else '%'}"
        return f"{value:.3g}"

    def verdict(self) -> list[str]:
        """Say in sentences what matters, how sure that is, and whether the best beats the recipe."""
        return [*self._matters(), *self._seeds(), *self._choice()]

    def _matters(self) -> list[str]:
        titles = {axis.name: axis.title for axis in self.axes}
        ended = sum(trial.value is None for trial in self.trials)
        said = []
        if not self.influences:
            said.append(
                f"Too few trials ({len(self.trials)}) to tell which settings matter; with a larger --budget "
                "the same command continues."
            )
        elif sure := [item for item in self.influences if item.matters]:
            sure.sort(key=lambda item: -item.effect)
            named = [f"{titles[item.name]} ({self.shown(item.effect, points=True)})" for item in sure]
            said.append(f"Beyond chance and noise, what matters here is: {', '.join(named)}.")
        else:
            said.append(
                f"In {len(self.trials)} trials no setting's effect is beyond chance and noise; "
                "a larger --budget may show one; the same command then continues."
            )
        if ended:
            of = f"{ended} of {counted(len(self.trials), 'trial')}"
            said.append(f"Not finished, and counted as the worst: {of}.")
        return said

    def _seeds(self) -> list[str]:
        values = self.recipe
        if self.noise is None:
            return ["The recipe was not repeated, so the noise between seeds is unknown."]
        ends = f"{self.shown(min(values))} to {self.shown(max(values))}"
        about = self.shown(self.noise, points=True)
        return [f"The recipe itself, over {len(values)} seeds: {ends}; seeds alone vary by about {about}."]

    def _choice(self) -> list[str]:
        best, again, recipe = self.best, self.again, self.recipe
        if len(self.trials) == 1:
            return ["Only the recipe itself has been tried yet."]
        if best.number == 0:
            return ["No trial was better than the recipe itself: keep it."]
        found = f"The best, trial {best.number}, reached {self.shown(best.value)}"
        if not again or self.noise is None:
            return [f"{found}; it was not repeated, so part of that is chance."]
        gain = float(np.mean(again) - np.mean(recipe))
        error = self.noise * math.sqrt(1 / len(again) + 1 / len(recipe))
        ours, theirs = (self.shown(float(np.mean(values))) for values in (again, recipe))
        found += f", and {ours} with other seeds, where the recipe reaches {theirs}"
        if gain > SURE[min(len(again) + len(recipe) - 2, len(SURE)) - 1] * error:
            return [f"{found}: it is better, beyond the noise."]
        if gain > 0:
            return [f"{found}: that is within the noise, and the recipe as good a choice."]
        return [f"{found}: no better, so keep the recipe."]

    def to_json(self) -> dict[str, Any]:
        """Write everything in plain values."""
        return {
            "measure": self.measure,
            "axes": [asdict(axis) for axis in self.axes],
            "trials": [asdict(trial) for trial in self.trials],
            "repeats": [asdict(trial) for trial in self.repeats],
            "influences": [asdict(item) for item in self.influences],
            "noise": self.noise,
            "spearman": self.spearman,
            "best": self.best.number,
            "verdict": self.verdict(),
            "command": self.command,
            "path": str(self.path),
        }

    def table(self) -> str:
        """Write Markdown: what matters, the trials, health against k-NN, the verdict and the command."""
        return "\n\n".join(part for part in (
            f"Chosen by: {MEASURES.get(self.measure, self.measure)}.",
            self._influence_table(), self._trial_table(), self._spearman_table(),
            "\n".join(f"- {line}" for line in self.verdict()),
            f"The best setting again, in a folder of its own:\n\n```text\n{self.command}\n```",
        ) if part)  # fmt: skip

    def _influence_table(self) -> str:
        if not self.influences:
            return ""
        lines = ["| setting | recipe | best | importance | effect | chance | matters |", "|---|" + "---|" * 6]
        axes = {axis.name: axis for axis in self.axes}
        for item in self.influences:
            axis, own = axes[item.name], self.best.params[item.name]
            effect, chance = (self.shown(value, points=True) for value in (item.effect, item.chance))
            cells = [axis.title, short(axis.own), short(rounded(own)), f"{item.importance:.0%}"]
            cells += [effect, chance, "yes" if item.matters else "not surely"]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def _trial_table(self) -> str:
        titles = [axis.title for axis in self.axes]
        heads = ["trial", "seed", *titles, NAMES.get(self.measure, self.measure), "seconds"]
        marks = {0: " (recipe)", self.best.number: " (best)"}
        lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
        for trial in (*self.trials, *self.repeats):
            where = [short(rounded(trial.params[axis.name])) for axis in self.axes]
            figures = [self.shown(trial.value), f"{trial.seconds:.0f}"]
            number = f"{trial.number}{marks.get(trial.number, '')}"
            lines.append(f"| {' | '.join([number, str(trial.seed), *where, *figures])} |")
        notes = [f"\n\nTrial {t.number}: {t.reason}" for t in (*self.trials, *self.repeats) if t.reason]
        return "\n".join(lines) + "".join(notes)

    def _spearman_table(self) -> str:
        known = sum(trial.value is not None for trial in self.trials)
        if known < 3 or not self.spearman:
            return ""
        lines = [f"| health, over {known} trials | Spearman with k-NN |", "|---|---|"]
        for name, value in sorted(self.spearman.items(), key=lambda item: -(item[1] or 0.0)):
            lines.append(f"| {name.replace('_', ' ')} | {'-' if value is None else f'{value:+.2f}'} |")
        return "\n".join(lines)
