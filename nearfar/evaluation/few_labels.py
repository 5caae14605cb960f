"""What a few labels are worth: accuracy by the number of labels, over many draws of which images have them.

The features are those of all training images, labels of which few: their mean and spread are known without
any label, and are used. Everything else, the penalty included, comes from the labels drawn and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..core import rng
from ..core.text import columns
from ..features import logistic
from ..features.knn import unit
from ..features.probes import Reader, Rows, Seen
from .few_label_fits import linear, prototypes
from .label_efficiency import Efficiency, efficiency
from .result import CALLED, CLASSIFIERS

SHARES = (0.01, 0.1)  # of all labels, beside 1, 2, 4, ... a class
MOST = 1000  # labels up to which 1, 2, 4, ... a class go on, or up to a tenth of all labels
DRAWS = (3, 20)  # at least, and at most: as many as DRAWN labels allow
DRAWN = 10_000
TUNED = 3  # draws for what trains a network anew for each


@dataclass(frozen=True)
class Size:
    """A number of labels: what it is called, and how many each class has."""

    name: str
    counts: tuple[int, ...]

    @property
    def labels(self) -> int:
        """Count the labels of all classes."""
        return sum(self.counts)


@dataclass(frozen=True)
class Spread:
    """Accuracy over draws of labels: mean, standard deviation, and where the middle 95 % of draws lie."""

    mean: float
    std: float
    low: float
    high: float
    draws: tuple[float, ...]

    @classmethod
    def of(cls, draws: Sequence[float]) -> Spread:
        """Summarise one accuracy a draw."""
        low, high = np.quantile(draws, [0.025, 0.975])
        std = float(np.std(draws, ddof=1)) if len(draws) > 1 else 0.0
        return cls(float(np.mean(draws)), std, float(low), float(high), tuple(draws))


Curve = Mapping[int, Spread]  # labels -> accuracy


@dataclass(frozen=True)
class FewLabels:
    """Curves by way of seeing (encoder, pixels, ...) and by classifier (linear, prototype, ...)."""

    sizes: tuple[Size, ...]
    rows: Mapping[str, Mapping[str, Curve]]

    def efficiency(self) -> Efficiency:
        """Tell how many labels the others need to be as good as the encoder."""
        curves = {}
        for name, found in self.rows.items():
            curve = found.get("linear") or next(iter(found.values()))
            curves[name] = {labels: spread.draws for labels, spread in curve.items()}
        # Where a class has 16 labels the curves are steep, and differ from draw to draw by little.
        drawn = [size for size in self.sizes if size.labels in curves["encoder"]][:-1]
        at = next((size for size in drawn if size.name == "16 a class"), drawn[-1])
        return efficiency(curves, at.labels, at.name)

    def to_json(self) -> dict[str, Any]:
        """Write the curves, and what they mean for the labels needed, in plain values."""
        return {
            "sizes": [{"name": size.name, "labels": size.labels} for size in self.sizes],
            "rows": {
                name: {
                    classifier: [{"labels": labels, **vars(spread)} for labels, spread in curve.items()]
                    for classifier, curve in found.items()
                }
                for name, found in self.rows.items()
            },
            "efficiency": self.efficiency().to_json(),
        }

    def lines(self) -> list[str]:
        """Write a table a classifier, a row a number of labels, and the sentence that sums them up."""
        lines = []
        for classifier in dict.fromkeys(key for found in self.rows.values() for key in found):
            curves = {name: found[classifier] for name, found in self.rows.items() if classifier in found}
            cells = []
            for size in self.sizes:
                shares = [curve.get(size.labels) for curve in curves.values()]
                if any(shares):
                    cells.append([f"{size.labels:,} labels, {size.name}", *map(_cell, shares)])
            heads = [f"few labels, {CLASSIFIERS.get(classifier, classifier)}"]
            lines += [*columns([*heads, *(CALLED.get(name, name) for name in curves)], cells), ""]
        return [*lines, str(self.efficiency())]


def _cell(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    plus = f" ± {100 * spread.std:.1f}" if len(spread.draws) > 1 else ""
    return f"{100 * spread.mean:.1f}{plus} %"


def sizes(labels: Rows, classes: int) -> tuple[Size, ...]:
    """List the numbers of labels to try: 1, 2, 4, ... a class, 1 % and 10 % of each class, and all.

    Args:
        labels: (n,) class numbers of all training images.
        classes: how many classes there are.

    Returns:
        Each number of labels once, ascending. A class with fewer images than asked for gives all it has.
    """
    there = np.bincount(labels, minlength=classes)
    found = {"all": there}
    each = 1
    while each <= there.max() / 2 and (each == 1 or each * classes <= max(MOST, len(labels) / 10)):
        found[f"{each} a class"] = np.minimum(there, each)
        each *= 2
    for share in SHARES:
        found[f"{100 * share:.0f} %"] = np.minimum(there, np.maximum(1, np.round(share * there)))
    made: dict[int, Size] = {}
    for name, counts in found.items():
        made.setdefault(int(counts.sum()), Size(name, tuple(counts.astype(np.int64).tolist())))
    return tuple(made[labels] for labels in sorted(made))


def draw(labels: Rows, classes: Sequence[str], size: Size, seed: int, number: int) -> Rows:
    """Draw the images that have labels; of one draw, the fewer are among the more.

    Args:
        labels: (n,) class numbers of all training images.
        classes: their names.
        size: how many of each class.
        seed: names the draws.
        number: which draw it is, from 0.

    Returns:
        (size.labels,) rows, class after class.
    """
    rows = []
    for at, name in enumerate(classes):
        own = np.flatnonzero(labels == at)
        order = rng.permutation(rng.fold(seed, "few labels", number, name), len(own))
        rows.append(own[order[: size.counts[at]]])
    return np.concatenate(rows)


def draws(size: Size) -> int:
    """Say how often a number of labels is drawn."""
    return max(DRAWS[0], min(DRAWS[1], DRAWN // size.labels))


@torch.no_grad()
def measure(reader: Reader, seen: Seen, truth: Rows, seed: int) -> dict[str, Curve]:
    """Measure one way of seeing: a linear and a nearest-prototype classifier on few labels.

    Memory: the features of both sets twice more for a moment, and once for as long as it takes.

    Source:
        Prototypes as class means of centred features of length 1: Wang et al. 2019, "SimpleShot:
        Revisiting nearest-neighbor classification for few-shot learning".
    """
    labels, count = reader.y.cpu().numpy(), len(reader.classes)
    scaling = logistic.standards(reader.x)
    middle = scaling[0]
    near, asked = unit(reader.x - middle), unit(seen.x - middle)
    answer = torch.from_numpy(truth).to(seen.x.device)

    def right(found: torch.Tensor) -> float:
        return int((found.argmax(dim=1) == answer).sum()) / len(answer)

    curves: dict[str, dict[int, Spread]] = {"linear": {}, "prototype": {}}
    for size in sizes(labels, count):
        if size.name == "all":
            straight = [right(seen.logits)]
            close = [right(prototypes(near, reader.y, count).logits(asked))]
        else:
            straight, close = [], []
            for number in range(draws(size)):
                rows = torch.from_numpy(draw(labels, reader.classes, size, seed, number)).to(reader.y.device)
                y = reader.y[rows]
                straight.append(right(linear(reader.x[rows], y, count, scaling).logits(seen.x)))
                close.append(right(prototypes(near[rows], y, count).logits(asked)))
        curves["linear"][size.labels] = Spread.of(straight)
        curves["prototype"][size.labels] = Spread.of(close)
    return dict(curves)


def tuned(
    labels: Rows, classes: Sequence[str], truth: Rows, seed: int, answer: Callable[[Rows], Rows]
) -> dict[int, Spread]:
    """Measure what trains a network anew for each draw: fewer draws, of every second size up to 10 %.

    Args:
        labels: (n,) class numbers of all training images.
        classes: their names.
        truth: (m,) class numbers of the test images.
        seed: names the draws, the same as for `measure`.
        answer: trains on some rows of the training images, and names the test images' classes.
    """
    curve = {}
    each = [size for size in sizes(labels, len(classes)) if size.name.endswith(" a class")][::2]
    for size in each:
        shares = []
        for number in range(TUNED):
            found = answer(draw(labels, classes, size, seed, number))
            shares.append(float((found == truth).mean()))
        curve[size.labels] = Spread.of(shares)
    return curve
