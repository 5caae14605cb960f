"""Ranks encoders and baselines on the same test images, with what each encoder costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.text import columns, percent
from ..features.probes import Rows
from .accuracy import Accuracy
from .differences import Difference, compare

CLASSIFIERS = {"knn": "k-NN", "linear": "linear"}


@dataclass(frozen=True)
class EncoderCost:
    """What an encoder costs.

    Attributes:
        parameters: numbers in its weights.
        image_size: of its input: of images the side in pixels.
        licence: of its weights.
        images_per_second: of the training images, decoded before, on the device of the evaluation.
        noun, unit: what they are called, and what their size counts.
    """

    parameters: int
    image_size: int
    licence: str
    images_per_second: float
    noun: str = "images"
    unit: str = "px"

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:.2f} M parameters, {self.images_per_second:,.0f} {self.noun}/s of "
            f"{self.image_size} {self.unit}, licence {self.licence}"
        )


@dataclass(frozen=True)
class Candidate:
    """One row: (n,) class numbers named for the test images by each classifier, and an encoder's cost."""

    name: str
    answers: Mapping[str, Rows]
    cost: EncoderCost | None = None


@dataclass(frozen=True)
class Ranking:
    """Encoders and baselines, the best by k-NN first.

    Attributes:
        rows: each with its accuracy by classifier.
        leads: by classifier the best row, the second, and their difference on the same images.
    """

    rows: tuple[tuple[Candidate, Mapping[str, Accuracy]], ...]
    leads: Mapping[str, tuple[Candidate, Candidate, Difference]]

    @property
    def noun(self) -> str:
        """What the examples are called."""
        return next((row.cost.noun for row, _ in self.rows if row.cost), "images")

    def sentences(self) -> list[str]:
        """Say, by classifier, which is best on these images, by how much, and at what cost."""
        made = []
        for classifier, (best, second, gap) in self.leads.items():
            start = f"{CLASSIFIERS[classifier]}: best on these {self.noun} is {best.name}"
            points = f"({100 * gap.low:.1f} to {100 * gap.high:.1f} points)"
            if gap.outcome == "better":
                by = f"by {100 * gap.difference:.1f} over {second.name} {points}"
            elif gap.low > 0:
                by = f"but {second.name} is no different: too few {self.noun} to tell, p = {gap.p:.2g}"
            else:
                by = f"but {second.name} is no different {points}"
            cost = f"; {best.name} has {best.cost}" if best.cost else ""
            made.append(f"{start}, {by}{cost}")
        return made

    def lines(self) -> list[str]:
        """Write the table, and the sentences after it."""
        cells = []
        for row, scores in self.rows:
            cost = row.cost
            cells.append(
                [
                    row.name,
                    *(_share(scores.get(classifier)) for classifier in CLASSIFIERS),
                    f"{cost.parameters / 1e6:.2f} M" if cost else "-",
                    f"{cost.images_per_second:,.0f}" if cost else "-",
                    cost.licence if cost else "-",
                ]
            )
        heads = ["ranked by k-NN", *CLASSIFIERS.values(), "parameters", f"{self.noun}/s", "licence"]
        heads[0] += " " * max(0, max(len(row[0]) for row in cells) - 24)
        return [*columns(heads, cells), "", *self.sentences()]

    def to_json(self) -> dict[str, Any]:
        """Write it in plain values."""
        rows = [
            {
                "name": row.name,
                **{classifier: vars(score) for classifier, score in scores.items()},
                "cost": None if row.cost is None else vars(row.cost),
            }
            for row, scores in self.rows
        ]
        leads = {
            classifier: {"best": best.name, "second": second.name, **vars(gap)}
            for classifier, (best, second, gap) in self.leads.items()
        }
        return {"sentences": self.sentences(), "rows": rows, "leads": leads}


def _share(score: Accuracy | None) -> str:
    return (
        "-"
        if score is None
        else f"{percent(score.accuracy)} ({100 * score.low:.1f} to {100 * score.high:.1f})"
    )


def rank(truth: Rows, rows: list[Candidate], seed: int, groups: Rows | None = None) -> Ranking:
    """Rank rows of answers.

    Args:
        truth: (n,) class numbers of the test images.
        rows: two at least.
        seed: names the resamples.
        groups: (n,) numbers of the groups that images belong to, or None.

    Returns:
        The ranking.
    """
    scored = [
        (
            row,
            {
                name: Accuracy.of(row.answers[name] == truth, groups)
                for name in CLASSIFIERS
                if name in row.answers
            },
        )
        for row in rows
    ]
    leads = {}
    for name in CLASSIFIERS:
        there = [row for row, scores in scored if name in scores]
        there.sort(key=lambda row: -float(np.mean(row.answers[name] == truth)))
        if len(there) > 1:
            best, second = there[:2]
            both = best.answers[name], second.answers[name]
            leads[name] = best, second, compare(truth, *both, seed, groups)
    scored.sort(key=lambda item: -item[1]["knn"].accuracy if "knn" in item[1] else 0.0)
    return Ranking(tuple(scored), leads)
