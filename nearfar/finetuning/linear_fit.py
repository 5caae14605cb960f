"""Fits a linear head to vectors: one class an image or several labels; its penalty is chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..core import rng
from ..features import logistic

Rows = npt.NDArray[np.int64]
FOLDS = 4
ODDS = 10.0  # of a label that all rows have, or none: log odds that stand for certainty


@dataclass(frozen=True)
class Fit:
    """A linear head on the vectors' own scale: logits = x @ weight + bias."""

    weight: torch.Tensor  # (d, classes)
    bias: torch.Tensor  # (classes,)
    l2: float

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Give (n, classes) logits of (n, d) vectors; of several labels, the log odds of each."""
        return x @ self.weight + self.bias


@dataclass(frozen=True)
class LabelledVectors:
    """Vectors and what they are: `y` is (n,) int64 classes, or (n, classes) of 0 and 1 for several labels.

    `weights` are (n,) how much a row counts in the fit; or (classes,), how much a label that is there counts;
    None for all alike.
    """

    x: torch.Tensor
    y: torch.Tensor
    classes: int
    weights: torch.Tensor | None = None

    def take(self, rows: Rows) -> LabelledVectors:
        """Keep some rows."""
        at = torch.from_numpy(rows)
        many = self.y.dim() == 2
        weights = self.weights if many or self.weights is None else self.weights[at]
        return LabelledVectors(self.x[at], self.y[at], self.classes, weights)


def path(given: LabelledVectors) -> Iterator[Fit]:
    """Fit with every penalty of `logistic.STRENGTHS`, from strong to weak."""
    if given.y.dim() == 1:
        for probe in logistic.path(given.x, given.y, given.classes, weights=_mean_one(given.weights)):
            yield Fit(probe.weight, probe.bias, probe.l2)
        return
    columns = [_binary_path(given, at) for at in range(given.classes)]
    for l2, fits in zip(logistic.STRENGTHS, zip(*columns, strict=True), strict=True):
        yield Fit(torch.stack([w for w, _ in fits], 1), torch.stack([b for _, b in fits]), l2)


def _binary_path(given: LabelledVectors, at: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Fit one label of several, with every penalty."""
    y = given.y[:, at].long()
    if not 0 < int(y.sum()) < len(y):
        sure = given.x.new_tensor(ODDS if int(y[0]) else -ODDS)
        for _ in logistic.STRENGTHS:
            yield given.x.new_zeros(given.x.shape[1]), sure
        return
    weights = None if given.weights is None else torch.where(y > 0, given.weights[at], 1.0)
    for probe in logistic.path(given.x, y, 2, weights=_mean_one(weights)):
        yield probe.weight[:, 1] - probe.weight[:, 0], probe.bias[1] - probe.bias[0]


def _mean_one(weights: torch.Tensor | None) -> torch.Tensor | None:
    return None if weights is None else weights / weights.mean()


def choose(given: LabelledVectors, held: LabelledVectors) -> Fit:
    """Choose the penalty on held-out rows, along the path."""
    fits = list(_until_worse(given, lambda fit: _score(fit.logits(held.x), held.y)))
    return max(fits, key=lambda pair: pair[1])[0]  # of equals the first, the strongest penalty


def _until_worse(
    given: LabelledVectors, score: Callable[[Fit], tuple[float, float]]
) -> Iterator[tuple[Fit, tuple[float, float]]]:
    best, waited = (-math.inf, 0.0), 0
    for fit in path(given):
        found = score(fit)
        yield fit, found
        if found > best:
            best, waited = found, 0
        elif (waited := waited + 1) == logistic.PATIENCE:
            return


def _score(logits: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Rank fits: by right answers, of equals by likelihood; with several labels by likelihood alone."""
    if y.dim() == 1:
        likely = -float(torch.nn.functional.cross_entropy(logits.double(), y))
        return float((logits.argmax(1) == y).double().mean()), likely
    likely = -float(torch.nn.functional.binary_cross_entropy_with_logits(logits.double(), y.double()))
    return likely, likely


def crossed(given: LabelledVectors, seed: int, groups: Rows | None = None) -> tuple[Fit, torch.Tensor] | None:
    """Choose the penalty by cross-validation, and fit to all rows with it.

    Args:
        given: all rows.
        seed: names the folds.
        groups: (n,) numbers of groups that stay in one fold, or None.

    Returns:
        The fit, and (n, classes) logits of each row by the fit that did not see it; None where no class has
        two rows, so that there is nothing to choose by.
    """
    fold = folds(given.y, seed, groups)
    count = int(fold.max()) + 1
    every = [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(count)]
    parts = [(rest, own) for rest, own in every if len(rest) > 1 and len(own) and _kinds(given, rest) > 1]
    if len(parts) < 2:
        return None
    paths = [path(given.take(rest)) for rest, _ in parts]
    best: tuple[float, float] | None = None
    waited, l2 = 0, 1.0
    rows = np.concatenate([own for _, own in parts])
    held = torch.zeros(len(given.x), given.classes, dtype=given.x.dtype)
    for rest, own in every:
        if len(rest) and _kinds(given, rest) == 1:  # who knows one class answers with it: Laplace's odds
            held[own, int(given.y[rest[0]])] = math.log(len(rest) + 1)
    for fits in zip(*paths, strict=True):
        logits = held.clone()
        for fit, (_, own) in zip(fits, parts, strict=True):
            logits[own] = fit.logits(given.x[own])
        found = _score(logits[rows], given.y[rows])
        if best is None or found > best:
            best, kept, l2, waited = found, logits, fits[0].l2, 0
        elif (waited := waited + 1) == logistic.PATIENCE:
            break
    return at_strength(given, l2), kept


def at_strength(given: LabelledVectors, l2: float) -> Fit:
    """Fit with one penalty."""
    return next(fit for fit in path(given) if fit.l2 <= l2)


def _kinds(given: LabelledVectors, rows: Rows) -> int:
    return 2 if given.y.dim() == 2 else int(len(given.y[rows].unique()))


def folds(y: torch.Tensor, seed: int, groups: Rows | None) -> Rows:
    """Deal rows out into at most FOLDS folds: each class evenly; each group, by its first row, into one.

    Args:
        y: (n,) classes, or (n, classes) of several labels.
        seed: names the draw.
        groups: (n,) numbers, or None.

    Returns:
        (n,) int64.
    """
    kinds = y.numpy() if y.dim() == 1 else np.zeros(len(y), np.int64)
    if groups is not None:
        _, first, named = np.unique(groups, return_index=True, return_inverse=True)
        order = rng.permutation(rng.fold(seed, "group folds"), len(first))
        return _dealt(kinds[first], order)[named]
    return _dealt(kinds, rng.permutation(rng.fold(seed, "folds"), len(y)))


def _dealt(kinds: Rows, order: Rows) -> Rows:
    """Deal what is of some kinds out into folds, kind by kind, each in this order."""
    found = np.empty(len(kinds), np.int64)
    count = 0
    for kind in np.unique(kinds):
        own = order[kinds[order] == kind]
        found[own] = (np.arange(len(own)) + count) % FOLDS
        count += len(own)
    return found


def class_weights(y: torch.Tensor, classes: int) -> torch.Tensor:
    """Weigh classes so that each counts as much in all as any other.

    Args:
        y: (n,) int64 classes; or (n, classes) of 0 and 1, where a label that is there is made to count as
            much as its absence.
        classes: how many there are.

    Returns:
        (classes,) float32, 1 on average over rows; 100 at most for one of several labels.
    """
    if y.dim() == 1:
        there = torch.bincount(y, minlength=classes).clamp_min(1)
        return len(y) / ((there > 0).sum() * there).float()
    there = y.sum(0)
    return ((len(y) - there) / there.clamp_min(1)).clamp(1.0, 100.0).float()


def stacked(fit: Fit) -> Sequence[torch.Tensor]:
    """Give weight (classes, d) and bias (classes,) as `nn.Linear` has them, in float32."""
    return fit.weight.T.float().contiguous(), fit.bias.float()
