"""Accuracy by the number of labels, over many draws of which images have labels.

All training images have features, and few of them labels. The mean and deviation of the features, and in
which directions they vary, are those of all images, since they need no label. Everything else, the penalty
included, comes from the labels drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..core import rng
from ..core.progress import Bar
from ..core.text import columns, counted
from ..features import logistic
from ..features.emphasis import Emphasis
from ..features.knn import unit
from ..features.probes import FeatureProbe, ProbeOutputs, Rows
from .few_label_fits import linear, prototypes
from .label_efficiency import LabelEfficiency, label_efficiency
from .part import EvaluationPart, Trained
from .result import CLASSIFIERS, FEATURE_SETS

LABEL_SHARES = (0.01, 0.1)  # of all labels, besides 1, 2, 4, ... a class
MAX_LABELS = 1000  # labels up to which 1, 2, 4, ... a class go on, or up to a tenth of all labels
DRAWS = (3, 20)  # at least, and at most: as many as LABELS_DRAWN allows
LABELS_DRAWN = 10_000
TRAINED_DRAWS = 3  # draws for what trains a network again for each


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
class DrawStatistics:
    """Accuracy over draws of labels: mean, standard deviation, and where the middle 95 % of draws lie."""

    size: Size
    mean: float
    std: float
    low: float
    high: float
    draws: tuple[float, ...]

    @classmethod
    def of(cls, size: Size, draws: Sequence[float]) -> DrawStatistics:
        """Summarise one accuracy a draw."""
        low, high = np.quantile(draws, [0.025, 0.975])
        std = float(np.std(draws, ddof=1)) if len(draws) > 1 else 0.0
        return cls(size, float(np.mean(draws)), std, float(low), float(high), tuple(draws))


Curve = Mapping[int, DrawStatistics]  # labels -> accuracy


@dataclass(frozen=True)
class FewLabels(EvaluationPart):
    """Curves by feature set (encoder, pixels, ...) and by classifier (linear, prototype, ...)."""

    rows: Mapping[str, Mapping[str, Curve]]

    @classmethod
    def measure(cls, probe: FeatureProbe, outputs: ProbeOutputs, truth: Rows, seed: int) -> dict[str, Curve]:
        """Measure one feature set, by a linear and by a nearest-prototype classifier."""
        return few_label_curves(probe, outputs, truth, seed)

    @classmethod
    def measure_trained(cls, trained: Trained, seed: int) -> Curve | None:
        """Train again on each draw of a few labels; a linear layer on a frozen encoder is measured above."""
        return None if trained.mode == "linear" else trained_curve(trained, seed)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The numbers of labels, ascending."""
        return tuple(point.size for point in self.rows["encoder"]["linear"].values())

    def efficiency(self) -> LabelEfficiency:
        """Tell how many labels the others need to be as good as the encoder."""
        curves = {}
        for name, found in self.rows.items():
            curve = found.get("linear") or next(iter(found.values()))
            curves[name] = {labels: point.draws for labels, point in curve.items()}
        # Where a class has 16 labels the curves are steep, and differ from draw to draw by little.
        drawn = [size for size in self.sizes if size.labels in curves["encoder"]][:-1]
        at = next((size for size in drawn if size.name == "16 a class"), drawn[-1])
        return label_efficiency(curves, at.labels, at.name)

    def to_json(self) -> dict[str, Any]:
        """Write the curves, and what they mean for the labels needed, in plain values."""
        return {
            "sizes": [{"name": size.name, "labels": size.labels} for size in self.sizes],
            "rows": {
                name: {
                    classifier: [_plain(point) for point in curve.values()]
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
                points = [curve.get(size.labels) for curve in curves.values()]
                if any(points):
                    cells.append([f"{counted(size.labels, 'label')}, {size.name}", *map(_cell, points)])
            heads = [f"few labels, {CLASSIFIERS.get(classifier, classifier)}"]
            lines += [*columns([*heads, *(FEATURE_SETS.get(name, name) for name in curves)], cells), ""]
        return [*lines, str(self.efficiency())]


def _plain(point: DrawStatistics) -> dict[str, Any]:
    facts = {name: value for name, value in vars(point).items() if name != "size"}
    return {"labels": point.size.labels, **facts}


def _cell(point: DrawStatistics | None) -> str:
    if point is None:
        return "-"
    plus = f" ± {100 * point.std:.1f}" if len(point.draws) > 1 else ""
    return f"{100 * point.mean:.1f}{plus} %"


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
    while each <= there.max() / 2 and (each == 1 or each * classes <= max(MAX_LABELS, len(labels) / 10)):
        found[f"{each} a class"] = np.minimum(there, each)
        each *= 2
    for share in LABEL_SHARES:
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
    return max(DRAWS[0], min(DRAWS[1], LABELS_DRAWN // size.labels))


@torch.no_grad()
def few_label_curves(
    probe: FeatureProbe, outputs: ProbeOutputs, truth: Rows, seed: int, tried: Sequence[Size] = ()
) -> dict[str, Curve]:
    """Fit a linear and a nearest-prototype classifier to each draw of a few labels.

    Where a class has few labels, the linear one sees features emphasised (`features.emphasis`).

    Memory: the features of both sets twice more for a moment, and once for as long as it takes.

    Args:
        probe: one feature set, fitted on the training images.
        outputs: what it gives for the test images.
        truth: (m,) class numbers of the test images.
        seed: names the draws.
        tried: the numbers of labels; those of `sizes` by default.

    Returns:
        A curve for each of the two.

    Source:
        Prototypes as class means of centred features of length 1: Wang et al. 2019, "SimpleShot:
        Revisiting nearest-neighbor classification for few-shot learning".
    """
    labels, count = probe.y.cpu().numpy(), len(probe.classes)
    scaling = logistic.standards(probe.x)
    middle = scaling[0]
    emphasis = Emphasis.of(probe.x)
    near, asked = unit(probe.x - middle), unit(outputs.x - middle)
    expected = torch.from_numpy(truth).to(outputs.x.device)

    def right(found: torch.Tensor) -> float:
        return int((found.argmax(dim=1) == expected).sum()) / len(expected)

    curves: dict[str, dict[int, DrawStatistics]] = {"linear": {}, "prototype": {}}
    tried = tried or sizes(labels, count)
    total = sum(draws(size) * size.labels for size in tried if size.name != "all")
    with Bar("fitting to few labels", total, "labels") as bar:
        for size in tried:
            if size.name == "all":
                by_line = [right(outputs.logits)]
                by_prototype = [right(prototypes(near, probe.y, count).logits(asked))]
            else:
                by_line, by_prototype = [], []
                for number in range(draws(size)):
                    rows = draw(labels, probe.classes, size, seed, number)
                    drawn = torch.from_numpy(rows).to(probe.y.device)
                    y = probe.y[drawn]
                    groups = None if probe.groups is None else probe.groups[rows]
                    fitted = linear(probe.x[drawn], y, count, scaling, emphasis, groups)
                    by_line.append(right(fitted.logits(outputs.x)))
                    by_prototype.append(right(prototypes(near[drawn], y, count).logits(asked)))
                    bar.advance(size.labels)
            curves["linear"][size.labels] = DrawStatistics.of(size, by_line)
            curves["prototype"][size.labels] = DrawStatistics.of(size, by_prototype)
    return dict(curves)


def trained_curve(trained: Trained, seed: int) -> Curve:
    """Train a network again for each draw: few draws, of every second number of labels up to 10 %.

    Args:
        trained: the network trained on all labels, and how to train it again.
        seed: names the draws, the same as for `few_label_curves`.

    Returns:
        The curve, with all labels as its last point.
    """
    labels, classes = trained.dataset.labels, trained.dataset.classes
    assert labels is not None
    everything = sizes(labels, len(classes))
    curve = {}
    for size in [size for size in everything if size.name.endswith(" a class")][::2]:
        shares = []
        for number in range(TRAINED_DRAWS):
            answers = trained.retrain(draw(labels, classes, size, seed, number))
            shares.append(float((answers == trained.truth).mean()))
        curve[size.labels] = DrawStatistics.of(size, shares)
    right = float((trained.answers == trained.truth).mean())
    curve[len(labels)] = DrawStatistics.of(everything[-1], [right])
    return curve
