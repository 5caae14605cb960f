"""What a learning curve found: figures by number of labels, and how many labels pretraining saved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.text import columns, counted, percent
from ..evaluation.label_efficiency import labels_needed, two_digits
from ..finetuning.task_types import figure_name

SHOWN = 0.0005  # less is shown as 0.0 %
USUAL = 0.1  # the share nearest to which the sentences speak of
DECIDED_SEEDS = (
    3  # from which on the seeds alone decide; with fewer the test's intervals have to be apart too
)


@dataclass(frozen=True)
class Point:
    """The figures of a row at one number of labels: one a seed.

    Attributes:
        labels: images that were labelled, those held out for choices among them; the mean over seeds.
        share: of all, above 0, up to 1.
        values: the main figure, 0 to 1, by seed.
        intervals: its 95 % interval over the test images, by seed; None where the task gives none.
    """

    labels: int
    share: float
    values: Mapping[int, float]
    intervals: Mapping[int, tuple[float, float] | None]

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return sum(self.values.values()) / len(self.values)

    def above(self, other: Point) -> bool | None:
        """Tell whether it is above (True) or below (False) another one; None if the seeds do not decide."""
        seeds = [seed for seed in self.values if seed in other.values]
        gaps = [self.values[seed] - other.values[seed] for seed in seeds]
        up = all(gap > 0 for gap in gaps)
        if not gaps or not (up or all(gap < 0 for gap in gaps)):  # equal ones decide nothing either
            return None
        if len(seeds) >= DECIDED_SEEDS:
            return up
        higher, lower = (self, other) if up else (other, self)
        pairs = [(higher.intervals[seed], lower.intervals[seed]) for seed in seeds]
        apart = (one is not None and two is not None and one[0] > two[1] for one, two in pairs)
        return up if all(apart) else None


@dataclass(frozen=True)
class Helped:
    """Whether an encoder helped, and how many labels others need for the same.

    Attributes:
        encoder: its name.
        at: what it reaches, at the number of labels that is told.
        scratch: what its network reaches from random weights.
        helped: whether it is above (True) or below (False) that; None if the seeds do not decide.
        needed: labels that its network needs from scratch, then other encoders; None where the most that were
            tried do not suffice.
        better: rows that are above it with as many labels, and their mean.
        most: the most labels that were tried.
        all: whether these are all there are.
    """

    encoder: str
    at: Point
    scratch: Point
    helped: bool | None
    needed: Mapping[str, float | None]
    better: Mapping[str, float]
    most: int
    all: bool

    def sentence(self, figure: str, one: str) -> str:
        """Answer in one sentence.

        Args:
            figure: what was measured, such as AP50.
            one: the word for one example.
        """
        given = counted(self.at.labels, f"labelled {one}")
        if max(self.at.mean, self.scratch.mean) < SHOWN:
            return (
                f"Did pretraining help {self.encoder}? It cannot be told: with {given} "
                f"({_share(self.at.share)}) {figure} is 0 %, and from scratch too; train for more --epochs, "
                "or give larger --shares."
            )
        answer = {True: "Yes", False: "No", None: "The seeds do not decide"}[self.helped]
        needs: list[str] = []
        for name, labels in self.needed.items():
            need = f"more than {'all ' if self.all else ''}{self.most:,}"
            if labels is not None:
                need = f"about {two_digits(labels)} ({two_digits(labels / self.at.labels)} times as many)"
            needs.append(f"{name} would need {need}" if needs else f"which would need {need}")
        reached = f"{figure} {percent(self.at.mean)}, and {percent(self.scratch.mean)} from scratch"
        start = f"Did pretraining help {self.encoder}? {answer}: with {given}"
        better = ", ".join(f"{name} ({percent(value)})" for name, value in self.better.items())
        ending = f"; better there: {better}" if better else ""
        return f"{start} ({_share(self.at.share)}) it reaches {reached}, {'; '.join(needs)}{ending}."


@dataclass(frozen=True)
class LearningCurve:
    """The curves of several encoders and what they are compared with.

    Attributes:
        path: the folder of all runs.
        task: what was learnt.
        figure: what was measured, such as ap50; higher is better, 0 to 1.
        rows: name to points, ascending in labels; encoders first.
        scratch: encoder to the row of its network from random weights.
        test: number of test images.
        one: the word for one example.
        notes: what else a user has to know, a sentence each.
    """

    path: Path
    task: str
    figure: str
    rows: Mapping[str, Sequence[Point]]
    scratch: Mapping[str, str]
    test: int
    one: str = "image"
    notes: tuple[str, ...] = ()

    def helped(self) -> list[Helped]:
        """Compare each encoder with its network from scratch, at the share nearest to USUAL."""
        found = []
        for name, row in self.scratch.items():
            there = {point.share: point for point in self.rows[row]}
            both = [point for point in self.rows[name] if point.share in there]
            if not both:
                continue
            at = min(both, key=lambda point: abs(math.log(point.share / USUAL)))
            others = [row, *(other for other in self.scratch if other != name)]
            needed = {other: labels_needed(self._curve(other), at.mean) for other in others}
            beside = {other: point.mean for other, points in self.rows.items() for point in points
                      if point.share == at.share and point.mean > at.mean}  # fmt: skip
            beside = dict(sorted(beside.items(), key=lambda item: -item[1]))
            above = at.above(there[at.share])
            last = self.rows[name][-1]
            most, every = last.labels, last.share == 1
            found.append(Helped(name, at, there[at.share], above, needed, beside, most, every))
        return found

    def _curve(self, name: str) -> dict[int, list[float]]:
        return {point.labels: [*point.values.values()] for point in self.rows[name]}

    def sentences(self) -> list[str]:
        """Say for each encoder whether pretraining helped, and by how many labels."""
        return [found.sentence(figure_name(self.figure), self.one) for found in self.helped()]

    def to_json(self) -> dict[str, Any]:
        """Write everything in plain values."""

        def plain(point: Point) -> dict[str, Any]:
            seeds = [{"seed": seed, "value": value, "interval": point.intervals[seed]}
                     for seed, value in point.values.items()]  # fmt: skip
            return {"labels": point.labels, "share": point.share, "mean": point.mean, "seeds": seeds}

        return {
            "sentences": self.sentences(),
            "task": self.task,
            "figure": self.figure,
            "test": self.test,
            "rows": {name: [plain(point) for point in points] for name, points in self.rows.items()},
            "notes": list(self.notes),
            "path": str(self.path),
        }

    def __str__(self) -> str:
        """Write the sentences, a table of a row an encoder and a column a share, and what else is to know."""
        points = {point.share: point for found in self.rows.values() for point in found}
        shares = sorted(points)
        heads = [
            f"{figure_name(self.figure)}, by labels",
            *(f"{points[at].labels:,} ({_share(at)})" for at in shares),
        ]
        cells = []
        for name, found in self.rows.items():
            own = {point.share: point for point in found}
            cells.append([name, *(_cell(own.get(at)) for at in shares)])
        tested = f"tested on {counted(self.test, self.one)}"
        if any(len(point.values) > 1 for found in self.rows.values() for point in found):
            tested += "; in brackets behind a figure the least and the greatest seed"
        return "\n".join([*self.sentences(), *columns(heads, cells), tested, *self.notes])


def _share(share: float) -> str:
    return f"{100 * share:.3g} %"


def _cell(point: Point | None) -> str:
    if point is None:
        return "-"
    low, high = min(point.values.values()), max(point.values.values())
    spread = f" ({100 * low:.1f} to {100 * high:.1f})" if len(point.values) > 1 else ""
    return f"{percent(point.mean)}{spread}"


def draw(found: LearningCurve) -> Any:
    """Draw a line a row over the number of labels, the spread of seeds as bars.

    Returns:
        A figure of matplotlib.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 4.5), layout="constrained")
    axes = figure.subplots()
    colours = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9")  # distinct for colour-blind readers
    owners = {row: name for name, row in found.scratch.items()}
    colour = {name: colours[at % len(colours)] for at, name in enumerate(found.scratch)}
    others = [name for name in found.rows if name not in colour]
    marks = {name: "sD^v"[at % 4] for at, name in enumerate(others)}
    for name, points in found.rows.items():
        y = [100 * point.mean for point in points]
        low = [100 * (point.mean - min(point.values.values())) for point in points]
        high = [100 * (max(point.values.values()) - point.mean) for point in points]
        style: dict[str, Any] = {"color": colour.get(name, colour.get(owners.get(name, ""), "#999999"))}
        style["linestyle"] = "-" if name in found.scratch else "--" if name in owners else ":"
        style["fmt"] = marks.get(name, "o")
        axes.errorbar([point.labels for point in points], y, [low, high], label=name, capsize=3, **style)
    axes.set_xscale("log")
    ticks = sorted({point.labels for points in found.rows.values() for point in points})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"labelled {found.one}s")
    axes.set_ylabel(f"{figure_name(found.figure)}, %")
    axes.set_title("Higher is better; the bars span the seeds", fontsize=10)
    figure.legend(loc="outside right upper", frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure
