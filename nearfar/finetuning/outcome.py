"""What came of a fine-tuning: figures beside those of the frozen encoder and from scratch; a verdict."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.intervals import units_of
from ..core.text import columns, counted
from ..health.verdict import Verdict
from .task_types import Figures, figure_name

DROP = 0.03  # of the main figure on held-out images, from which on a training has gone on for too long
GAP = 0.1  # between images trained on and held out, where that is over-fitting
LEAST_GAIN = 0.0005  # over chance: less is shown as 0.0 %
PLAIN_GAIN = 0.02  # difference that counts where images cannot be compared in pairs
TUNED, FROZEN, SCRATCH = "fine-tuned", "frozen encoder", "from scratch"
LINEAR = "linear"


@dataclass(frozen=True)
class Finetuned:
    """A finished fine-tuning.

    Attributes:
        path: its folder.
        task, mode: what was learnt, and what was trained.
        classes: their names.
        figures: by part, "held-out", "cross-validated" or "test", and there by row, such as "fine-tuned".
        images: part to number of images; "train" among them.
        main: the figure that choices were made by.
        chosen: what was chosen on held-out images, such as a learning rate.
        per_class: class to figures, on the last part.
        verdict: in a few words.
        notes: what else a user has to know, a sentence each.
        one: the word for one example, such as clip.
    """

    path: Path
    task: str
    mode: str
    classes: tuple[str, ...]
    figures: Mapping[str, Mapping[str, Mapping[str, float]]]
    images: Mapping[str, int]
    main: str
    chosen: Mapping[str, Any]
    per_class: Mapping[str, Mapping[str, float]]
    verdict: Verdict
    notes: tuple[str, ...] = ()
    one: str = "image"

    def __fspath__(self) -> str:
        """Stand for the folder, so that `predict`, `embed` and others take what `finetune` returned."""
        return str(self.path)

    def to_json(self) -> dict[str, Any]:
        """Give all of it in plain values."""
        plain = {**asdict(self), "path": str(self.path), "verdict": self.verdict.to_json()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    def __str__(self) -> str:
        """Write the figures as tables, the verdict, and the next command."""
        what = f"{self.task}, {self.mode}, {counted(len(self.classes), 'class')}"
        lines = [f"{self.path}: {what}, {counted(self.images['train'], f'training {self.one}')}"]
        for part, rows in self.figures.items():
            heads = [name for name in next(iter(rows.values())) if name != "chance"]
            cells = [[row, *(_number(name, found[name]) for name in heads)] for row, found in rows.items()]
            lines += [
                f"{part}, {counted(self.images[part], self.one)}",
                *columns(["", *map(figure_name, heads)], cells),
            ]
        lines += [*self.notes, f"verdict    {self.verdict}"]
        what = {"image": "photos/", "pair": "photos/"}.get(self.one, f"{self.one}s/")
        what += " --gallery known/" if self.task == "reidentify" else ""
        run = shlex.quote(str(self.path))
        return "\n".join([*lines, f"next: nearfar predict {run} {what} --out predictions.csv"])


def _number(name: str, value: float) -> str:
    return f"{value:.3f}" if "loss" in name else f"{100 * value:.1f} %"


def judge(
    mode: str,
    part: str,
    rows: Mapping[str, Figures],
    checks: Sequence[Mapping[str, Any]],
    noun: str = "images",
) -> Verdict:
    """Judge a fine-tuning.

    Args:
        mode: what was trained.
        part: what errors call the images of the figures, such as "test".
        rows: figures of these images: TUNED, and FROZEN, SCRATCH and a baseline where they were measured.
        checks: lines of checks.jsonl, in order.
        noun: the word for several examples, such as clips.

    Returns:
        over-fitting, worse than or no gain over the frozen encoder, no gain over training from scratch, no
        or not surely better than chance, or learnt.
    """
    tuned = rows[TUNED]
    if (found := _over_fitting(checks, tuned.main, noun)) is not None:
        return found
    said, reached = [], f"{figure_name(tuned.main)} {_percent(tuned)} on {part} {noun}"
    plain = [name for name in rows if name not in (TUNED, FROZEN, SCRATCH)]  # what needs no network
    more = "train for more --epochs" if mode == "full" else "take --mode full"
    for other, advice in (
        *((name, f"{more}, or add labelled {noun}") for name in plain),
        (FROZEN, f"take --mode linear, which trains in seconds, or add labelled {noun}"),
        (SCRATCH, f"the encoder brings nothing here: choose another, or pretrain on {noun} like these"),
    ):
        if other not in rows:
            continue
        gain, error = difference(tuned, rows[other])
        told = f"{reached}, {_percent(rows[other])} {_with(other)}"
        if gain + error < 0:
            return Verdict(f"worse than {_name(other)}", told, advice)
        if gain - error <= 0:
            return Verdict(f"no gain over {_name(other)}", told, advice)
        said.append(f"{told}, {100 * gain:.1f} points less (+- {100 * error:.1f})")
    chance = tuned.values.get("chance") or 0.0  # of boxes: none is right
    told = f"{reached}, and {100 * chance:.1f} % by chance"
    if tuned.score < chance + LEAST_GAIN:
        advice = (
            "check the labels, or choose another encoder" if chance else f"{more}, or add labelled {noun}"
        )
        return Verdict("no better than chance", told, advice)
    low, high = tuned.values.get("low"), tuned.values.get("high")
    if low is not None and high is not None and low < chance + LEAST_GAIN:
        told = told.replace(" on ", f" ({100 * low:.1f} to {100 * high:.1f} %) on ", 1)
        return Verdict("not surely better than chance", told, f"test on more {noun}, or add labelled ones")
    if not said:
        said = [reached]
        advice = "--scratch tells what the encoder brings"
        if mode != "full":
            advice = "--mode full trains the encoder too, which may bring more"
        return Verdict("learnt", reached, advice, bad=False)
    return Verdict("learnt", "; ".join(said), "no action needed", bad=False)


def _name(other: str) -> str:
    return {FROZEN: "the frozen encoder", SCRATCH: "training from scratch"}.get(other, other)


def _with(other: str) -> str:
    return {FROZEN: "with the encoder frozen", SCRATCH: "from scratch"}.get(other, f"by {other}")


def _percent(figures: Figures) -> str:
    return f"{100 * figures.score:.1f} %"


def difference(one: Figures, other: Figures) -> tuple[float, float]:
    """Compare two networks on the same images.

    Returns:
        How much higher the main figure of the first is, and how much that may be by chance: 1.96 standard
        errors of the paired difference, between groups where there are such; PLAIN_GAIN where the figure is
        no mean over images.
    """
    if one.per_image is None or other.per_image is None:
        return one.score - other.score, PLAIN_GAIN
    apart = one.per_image - other.per_image
    units = units_of(one.groups)
    units = np.arange(len(apart)) if units is None else units
    sums = np.bincount(units, apart - apart.mean())  # images of a group are not independent
    return float(apart.mean()), 1.96 * math.sqrt(float((sums**2).sum())) / len(apart)


def _over_fitting(checks: Sequence[Mapping[str, Any]], main: str, noun: str) -> Verdict | None:
    if len(checks) < 2:
        return None
    best, last = max(checks, key=lambda line: line["held"]), checks[-1]
    share = last["held"]
    error = 2 * math.sqrt(max(share * (1 - share), 0.0) / max(last["images"], 1))
    if best["held"] - share <= max(DROP, error) or last["trained"] - share <= GAP:
        return None
    told = (
        f"{figure_name(main)} on held-out {noun} fell from {best['held']:.1%} at step {best['step']:,} to "
        f"{share:.1%} at the end, where it is {last['trained']:.1%} on training {noun}"
    )
    return Verdict("over-fitting", told, "train for fewer --epochs, or take --mode linear")
