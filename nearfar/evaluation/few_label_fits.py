"""Two classifiers for few labels: a linear one with its penalty chosen on those, and the nearest mean."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..features import logistic
from ..features.emphasis import FEW, Emphasis
from ..features.probes import Rows

Scaling = tuple[torch.Tensor, torch.Tensor]

FOLDS = 4
ALONE = 1000  # rows from which one fold tells enough
PENALTY = 1.0  # where a class has one row, so that there is nothing to choose by


def prototypes(x: torch.Tensor, y: torch.Tensor, classes: int) -> logistic.Probe:
    """Make the classifier that gives each row the class whose mean is nearest.

    Args:
        x: (n, d) rows of length 1.
        y: (n,) int64 classes.
        classes: how many there are; one without rows is never the answer.
    """
    there = torch.bincount(y, minlength=classes)
    mean = x.new_zeros(classes, x.shape[1]).index_add_(0, y, x) / there.clamp_min(1)[:, None]
    # |q - c|^2 is least where q.c - |c|^2 / 2 is greatest.
    bias = torch.where(there > 0, -mean.square().sum(dim=1) / 2, -math.inf)
    return logistic.Probe(mean.T, bias, l2=0.0, steps=0)


def linear(
    x: torch.Tensor,
    y: torch.Tensor,
    classes: int,
    scaling: Scaling,
    emphasis: Emphasis | None = None,
    groups: Rows | None = None,
) -> logistic.Probe:
    """Fit logistic regression to few rows, its penalty chosen among them by cross-validation.

    Args:
        x: (n, d) features as they are stored.
        y: (n,) int64 classes, class after class.
        classes: how many there are.
        scaling: what standardises features, from `logistic.standards` of all training images.
        emphasis: what else all training images say; used where a class has few rows.
        groups: as for `penalty`.

    Returns:
        The fit, on the features' own scale.
    """
    mean, inverse = scaling
    emphasised = emphasis is not None and len(y) <= FEW * classes
    z = emphasis(x) if emphasis is not None and emphasised else (x - mean) * inverse
    short = len(z) < z.shape[1]
    place, factor = coordinates(z) if short else (z, None)
    found = logistic.fit(place, y, classes, penalty(place, y, classes, groups), as_is=True)
    weight = found.weight
    if factor is not None:
        back = torch.linalg.solve_triangular(factor.T, weight.double().to(factor.device), upper=True)
        weight = z.T @ back.to(z)
    if emphasis is not None and emphasised:
        weight, bias = emphasis.probe_weight(weight, found.bias)
        return logistic.Probe(weight, bias, found.l2, found.steps)
    weight = weight * inverse[:, None]
    return logistic.Probe(weight, found.bias - mean @ weight, found.l2, found.steps)


def coordinates(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn n rows of more than n numbers so that n numbers hold all of their lengths and angles.

    The weights of a penalised linear classifier lie in the span of its rows, so nothing is lost, and a fit
    costs n numbers a row instead of d.

    Args:
        z: (n, d) with n < d.

    Returns:
        (n, n) coordinates, on z's device; and the same, float64 on the CPU: the factor L of z z' = L L'.
    """
    gram = z.cpu().double()
    gram = gram @ gram.T
    gram.diagonal().add_(1e-9 * float(gram.trace()) / len(gram) + 1e-300)
    factor = torch.linalg.cholesky(gram)
    return factor.to(z), factor


def penalty(z: torch.Tensor, y: torch.Tensor, classes: int, groups: Rows | None = None) -> float:
    """Choose the penalty within a few rows: by stratified folds, or one fold where they are many.

    Args:
        z: (n, d) standardised features.
        y: (n,) int64 classes, class after class.
        classes: how many there are.
        groups: (n,) numbers of the groups that rows belong to, such as patients, which are held out whole; or
            None.

    Returns:
        The strength with the most right answers along `probe.path`, which ends as `probe.choose`'s does; of
        equals, the strongest; PENALTY where every class has one row or one group, or one class all.
    """
    there = torch.bincount(y, minlength=classes)
    folds = min(FOLDS, int(there.max()))
    if folds < 2 or int((there > 0).sum()) < 2:
        return PENALTY
    # Rows lie class after class, so their place within the class deals them out evenly.
    starts = there.cumsum(0) - there
    fold = (torch.arange(len(y), device=y.device) - starts[y]) % folds
    if groups is not None:  # of which each is of the class of its first row
        _, first, units = np.unique(groups, return_index=True, return_inverse=True)
        order = np.argsort(first)
        kinds, dealt = y.cpu().numpy()[first[order]], np.empty(len(first), np.int64)
        dealt[order] = (np.arange(len(order)) - np.searchsorted(kinds, kinds)) % folds
        fold = torch.from_numpy(dealt[units]).to(y.device)
    # What is alone is never held out, nor what is of its group: nothing would be left to know it by.
    for number in range(folds):
        alone = there == torch.bincount(y[fold == number], minlength=classes)
        lone = (fold == number) & alone[y]
        fold[lone if groups is None else _with_their_groups(lone, groups)] = folds
    held = [out for number in range(folds) if (out := fold == number).any()][: None if len(y) < ALONE else 1]
    if not held:
        return PENALTY
    paths = [logistic.path(z[~out], y[~out], classes, as_is=True) for out in held]
    best, chosen, waited = -1, PENALTY, 0
    for fits in zip(*paths, strict=True):  # one penalty for all folds, from strong to weak
        right = sum(int((fit.predict(z[out]) == y[out]).sum()) for fit, out in zip(fits, held, strict=True))
        if right > best:
            best, chosen, waited = right, fits[0].l2, 0
        elif (waited := waited + 1) == logistic.PATIENCE:
            break
    return chosen


def _with_their_groups(rows: torch.Tensor, groups: Rows) -> torch.Tensor:
    """Add to some rows (n,) bool all others of their groups."""
    return torch.from_numpy(np.isin(groups, groups[rows.cpu().numpy()])).to(rows.device)
