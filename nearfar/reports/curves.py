"""Draws how training went: the loss, and the figures of health, one curve a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..training.run import Run
from .blocks import Note, Plot, Plots, TableBlock
from .figures import Line, curves, smooth

# A figure of health: its title, whether it is a share, and what to see.
HEALTH = {
    "rankme": ("RankMe", False, "How many directions the features use; near 1 is a collapse."),
    "lidar": ("LiDAR", False, "In how many directions {noun} differ more than views of one."),
    "contrastive_accuracy": (
        "Partner found",
        True,
        "How often the other view of the same {one} is the nearest of all; it should rise.",
    ),
    "agreement": ("Agreement", True, "How many of the ten nearest two views have in common; it should rise."),
    "uniformity": ("Uniformity", False, "How evenly {noun} fill the sphere: lower is better, 0 a collapse."),
    "alignment": ("Alignment", False, "Squared distance of two views of one {one}; 0 is a collapse."),
    "spread": ("Spread", False, "How far features deviate from one another; 1 is even, 0 a collapse."),
    "alpha_req": ("alpha-ReQ", False, "How fast the spectrum falls; far above 1, few directions matter."),
}  # fmt: skip
UNLIKE = 3  # times that one run is longer than another, from which they share no axis of epochs
SHOWN = ("rankme", "contrastive_accuracy", "agreement", "uniformity", "alignment", "spread")


@dataclass(frozen=True)
class TrainingCurves:
    """One run's figures while it trained."""

    name: str
    log: Sequence[Mapping[str, Any]]
    health: Sequence[Mapping[str, Any]]
    steps_an_epoch: int
    steps: int = 0  # that it had in all

    @classmethod
    def of(cls, run: Run, name: str) -> TrainingCurves:
        """Read a run's logs.

        Args:
            run: the run.
            name: what the report calls it.
        """
        steps = int(run.config["data"]["images"]) // int(run.config["training"]["batch_size"])
        return cls(name, run.log(), run.health(), max(1, steps), int(run.provenance.get("steps") or 0))

    def points(
        self, lines: Sequence[Mapping[str, Any]], key: str, share: bool = False
    ) -> tuple[list[float], list[float]]:
        """Give a figure's epochs and values, leaving out what is no number.

        Args:
            lines: of a log.
            key: the figure.
            share: give the share of the run's own length, in per cent, instead of epochs.
        """
        known = [line for line in lines if isinstance(v := line.get(key), (int, float)) and math.isfinite(v)]
        unit = self.steps / 100 if share and self.steps else self.steps_an_epoch
        return [line["step"] / unit for line in known], [float(line[key]) for line in known]


def _axis(runs: Sequence[TrainingCurves]) -> tuple[bool, str]:
    """Choose what curves are drawn over: runs of unlike length over the share of each one's own length."""
    lengths = [one.steps / one.steps_an_epoch for one in runs]
    share = min(lengths) > 0 and max(lengths) > UNLIKE * min(lengths)
    return share, "% of each run's length" if share else "epochs"


def losses(runs: Sequence[TrainingCurves], key: Sequence[str] = ()) -> Plots | Note:
    """Draw the loss of every run, and its learning rate; `key` names the runs, if several."""
    share, axis = _axis(runs)
    lines, ends = [], []
    for number, one in enumerate(runs):
        x, y = one.points(one.log, "loss", share)
        if not y:
            continue
        even = smooth(y)
        lines += [Line(x, y, number, faint=True), Line(x, even, number)]
        ends.append((even[0], even[-1]))
    if not lines:
        return Note("log.jsonl holds no loss.")
    fell = " and ".join(f"from {first:.3g} to {last:.3g}" for first, last in ends[:1])
    says = "A curve still steep at its end needs a longer run; one that never falls, another learning rate."
    says = f"It went {fell}. {says}" if len(runs) == 1 else says
    plots = [Plot(curves("loss", f"Loss over {axis}, {fell}", lines, x=axis), "Loss", says)]
    if any("lr" in line for one in runs for line in one.log):
        rates = [Line(*one.points(one.log, "lr", share), n) for n, one in enumerate(runs)]
        says = "The learning rate rises while warming up and then falls to 0."
        plots.append(Plot(curves("lr", f"Learning rate over {axis}", rates, x=axis), "Learning rate", says))
    return Plots(plots, key)


def _meaning(key: str, noun: str) -> str:
    return HEALTH[key][2].format(noun=noun, one=noun.removesuffix("s"))


def health(runs: Sequence[TrainingCurves], noun: str = "images", key: Sequence[str] = ()) -> Plots | Note:
    """Draw the figures of health of every run.

    Args:
        runs: the runs.
        noun: the word for what they learnt from.
        key: the names of the runs, if several.
    """
    if not any(one.health for one in runs):
        return Note("No health was measured while training (--health-checks 0, or an older run).")
    share, axis = _axis(runs)
    plots = []
    for figure in SHOWN:
        title, percent, _ = HEALTH[figure]
        lines = [Line(*one.points(one.health, figure, share), n) for n, one in enumerate(runs)]
        lines = [line for line in lines if line.y]
        if lines:
            alt = f"{title} over {axis}, at the end {', '.join(f'{line.y[-1]:.3g}' for line in lines)}"
            svg = curves(f"health-{figure.replace('_', '-')}", alt, lines, x=axis, percent=percent)
            plots.append(Plot(svg, title, _meaning(figure, noun)))
    return Plots(plots, key)


def last_health(runs: Sequence[TrainingCurves], noun: str = "images") -> TableBlock | None:
    """List every figure of health at the end, a column a run; `noun` as for `health`."""
    last = [one.health[-1] if one.health else {} for one in runs]
    rows = [
        (title, *(_number(found.get(key), percent) for found in last), _meaning(key, noun))
        for key, (title, percent, _) in HEALTH.items()
        if any(key in found for found in last)
    ]
    if not rows:
        return None
    apart = [found for found in last if found.get("images")]
    counts = sorted({int(found["images"]) for found in apart})
    count = " and ".join(f"{one:,}" for one in counts) or "some"
    held = all(found.get("holdout") for found in apart)
    caption = f"Health at the end, on {count} {noun} " + ("never trained on" if held else "of the training")
    return TableBlock(caption, ("figure", *(one.name for one in runs), "meaning"), rows)


def _number(value: Any, percent: bool) -> str:
    if not isinstance(value, (int, float)):
        return "–"
    return f"{100 * value:.1f} %" if percent else f"{value:.3g}"


def spectrum(
    names: Sequence[str], features: Sequence[torch.Tensor | None], whitened: Sequence[str] = ()
) -> Plots | Note:
    """Draw how much of the features' variance each direction holds, the greatest first.

    Args:
        names: of the runs.
        features: (n, d) of each; None where there are none.
        whitened: names of those whose vectors training has whitened at its end.

    Returns:
        One plot: singular values of centred unit features, over the greatest, on two logarithmic axes; a note
        where no features differ.
    """
    lines = []
    for number, rows in enumerate(features):
        if rows is None:
            continue
        plain = torch.nn.functional.normalize(rows.double(), dim=1)
        values = torch.linalg.svdvals(plain - plain.mean(0))
        values = values[values > values.max() * 1e-6] / values.max().clamp(min=1e-300)
        if len(values):  # else all features are the same
            lines.append(Line(list(range(1, len(values) + 1)), values.tolist(), number))
    if not lines:
        return Note("All features are the same: there is no spectrum.")
    half = ", ".join(f"{sum(value > 0.1 for value in line.y):,}" for line in lines)
    svg = curves(
        "spectrum",
        "Singular values over the greatest, by rank",
        lines,
        x="direction",
        logarithmic=(True, True),
    )
    says = (
        f"Singular values, each over the greatest; {half} of them stand above a tenth. Features with a steep "
        "spectrum use few directions, with a flat one many."
    )
    if whitened:
        says += (
            f" The vectors of {' and '.join(whitened)} were whitened in part once training had ended, which "
            "makes the spectrum flatter; health, such as RankMe, is of the features before."
        )
    return Plots([Plot(svg, "Spectrum of the features", says)], names if len(names) > 1 else ())
