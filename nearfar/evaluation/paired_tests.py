"""Paired tests: compares runs on the same test images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core.intervals import units_of
from ..core.text import columns
from ..training.run import Run, load
from .differences import Difference, compare
from .known_row import KNOWN, is_start
from .ranking import Ranking, rank
from .result import CLASSIFIERS, Evaluation


@dataclass(frozen=True)
class PairedEvaluations:
    """Several runs evaluated on the same images, and their differences in pairs.

    Attributes:
        runs: the names of the runs; none twice.
        evaluations: one a run.
        pairs: (first, second, classifier, difference), the runs by name.
    """

    runs: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    pairs: tuple[tuple[str, str, str, Difference], ...]

    def ranking(self) -> Ranking:
        """Rank the runs, and the baselines of the first."""
        rows = [
            row
            for number, (name, item) in enumerate(zip(self.runs, self.evaluations, strict=True))
            for row in item.candidates(name, others=number == 0)
        ]
        first = self.evaluations[0]
        return rank(first.truth, rows, first.seed, first.groups)

    def to_json(self) -> dict[str, Any]:
        """Write every evaluation and every comparison in plain values."""
        return {
            "runs": {name: item.to_json() for name, item in zip(self.runs, self.evaluations, strict=True)},
            "ranking": self.ranking().to_json(),
            "pairs": [
                {"first": first, "second": second, "classifier": classifier, **vars(item)}
                for first, second, classifier, item in self.pairs
            ],
        }

    def table(self) -> str:
        """Write the ranking, each run's table, and then the differences."""
        lines = [*self.ranking().lines(), ""]
        for name, item in zip(self.runs, self.evaluations, strict=True):
            lines += [f"== {name}", item.table(), ""]
        cells = []
        for first, second, classifier, gap in self.pairs:
            points = f"{100 * gap.difference:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
            only = f"{gap.first_only:,} and {gap.second_only:,}"
            p = "below 0.0001" if gap.p < 1e-4 else f"{gap.p:.2g}"
            cells.append([f"{first} minus {second}", CLASSIFIERS[classifier], points, only, p])
        test = "McNemar" if units_of(self.evaluations[0].groups) is None else "signs of groups"
        heads = ["on the same test images", "", "points (95 % interval)", "only one is right", f"p ({test})"]
        width = max((len(row[0]) for row in cells), default=0) - 24
        heads[0] += " " * max(0, width)
        return "\n".join([*lines, *columns(heads, cells)])


def pair(runs: Sequence[str], evaluations: Sequence[Evaluation], seed: int) -> PairedEvaluations:
    """Compare each run with each of the later ones.

    Args:
        runs: what they are called.
        evaluations: theirs, of the same test images in the same order.
        seed: names the resamples.

    Returns:
        The evaluations and the comparisons.
    """
    found = []
    for (first, mine), (second, yours) in itertools.combinations(zip(runs, evaluations, strict=True), 2):
        for classifier in mine.answers:
            if any("encoder" not in each.answers.get(classifier, {}) for each in (mine, yours)):
                continue
            answers = mine.answers[classifier]["encoder"], yours.answers[classifier]["encoder"]
            found.append((first, second, classifier, compare(mine.truth, *answers, seed, mine.groups)))
    return PairedEvaluations(tuple(runs), tuple(evaluations), tuple(found))


def to_keep(runs: Sequence[Run], paired: PairedEvaluations) -> list[dict[str, Any]]:
    """Write what each run's folder keeps of an evaluation of several runs.

    A later reader of one folder is to find what was found on these images: the ranking of all, and a known
    encoder beside this one, though it was measured for another run or as one.

    Args:
        runs: in the order of the evaluations.
        paired: what was found.

    Returns:
        Each evaluation in plain values, with the ranking of all, and with a row "known" where one is there:
        its own, else the encoder that the run started from, else the first run's, else a known one of `runs`.
    """
    ranking = paired.ranking().to_json()
    first = paired.evaluations[0]
    others = [(run, found, "encoder") for run, found in zip(runs, paired.evaluations, strict=True)]
    shared = [(load(first.known), first, KNOWN)] if first.known else []
    kept = []
    for run, own in zip(runs, paired.evaluations, strict=True):
        rows = [*shared, *(row for row in others if row[0] is not run)]
        starts = [row for row in rows if is_start(run, row[0])]
        taken = next(iter([*starts, *shared, *(row for row in rows if row[0].path is None)]), None)
        if not own.known and taken is not None:
            row, found, name = taken
            own = own.with_known(row.name, found, name, bool(starts))
        kept.append({**own.to_json(), "ranking": ranking})
    return kept
