"""Which settings mattered in a sweep: their importance, and their effect compared with chance."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..core import ranks, rng
from .proposals import quiet
from .space import Axis, Value

SHUFFLES = 2000  # of the trials' values, to learn what chance alone would show
DOUBT = 0.05  # chance that any setting at all is said to matter where none does
GROUPS = 3  # that the trials are divided into along a range: low, middle and high
TARGET = 0.25  # share of the trials that importance looks at: the best
LEAST = 6  # trials from which anything can be told

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Influence:
    """What one setting did.

    Attributes:
        name: of the axis.
        importance: its share of all settings' importance for being among the best trials (PED-ANOVA).
        effect: the mean of its best group of trials less that of its worst, in units of the value.
        chance: what chance alone seldom reaches: for any of the settings in one sweep of twenty.
        matters: whether the effect is beyond chance, and beyond twice the noise.
    """

    name: str
    importance: float
    effect: float
    chance: float
    matters: bool


def influences(
    axes: Sequence[Axis],
    params: Sequence[Mapping[str, Value]],
    values: Sequence[float],
    *,
    noise: float = 0.0,
    seed: int = 0,
) -> tuple[Influence, ...]:
    """Tell what each setting did, the most important first.

    Args:
        axes: what was varied.
        params: a point for each trial.
        values: what each trial reached, the higher the better.
        noise: the standard deviation of a value between seeds.
        seed: names the shuffles.

    Returns:
        One entry an axis; none where the trials are fewer than `LEAST`.

    Source:
        Watanabe, Bansal and Hutter 2023, "PED-ANOVA: efficiently quantifying hyperparameter importance in
        arbitrary subspaces". The bound on chance is a permutation test, divided among the settings after
        Bonferroni.
    """
    if len(values) < LEAST:
        return ()
    reached = np.asarray(values, np.float64)
    generator = np.random.Generator(np.random.Philox(key=rng.fold(seed, "shuffles")))
    shuffled = generator.permuted(np.tile(reached, (SHUFFLES, 1)), axis=1)
    shares = importances(axes, params, values)
    found = []
    for axis in axes:
        groups = grouped(axis, [point[axis.name] for point in params])
        effect = float(effects(reached[None], groups)[0])
        chance = float(np.quantile(effects(shuffled, groups), 1.0 - DOUBT / len(axes)))
        matters = effect > max(chance, 2.0 * noise)
        found.append(Influence(axis.name, shares[axis.name], effect, chance, matters))
    return tuple(sorted(found, key=lambda item: -item.importance))


def grouped(axis: Axis, points: Sequence[Value]) -> npt.NDArray[np.int64]:
    """Divide trials along an axis: by its values where these are listed, else into equal parts by rank.

    Args:
        axis: the axis.
        points: (n,) where each trial lies on it.

    Returns:
        (n,) numbers of groups.
    """
    if axis.values:
        return np.array([axis.values.index(point) for point in points], np.int64)
    order = np.argsort(np.argsort(np.asarray(points, np.float64), kind="stable"), kind="stable")
    return np.asarray(order * GROUPS // len(points), np.int64)


def effects(values: Numbers, groups: npt.NDArray[np.int64]) -> Numbers:
    """Take the mean of the best group less that of the worst.

    Args:
        values: (m, n), m ways to give n trials their values.
        groups: (n,) each trial's group; a group of one trial is left out, since one tells nothing.

    Returns:
        (m,), 0 where fewer than two groups are left.
    """
    counts = np.bincount(groups)
    means = [values[:, groups == k].mean(1) for k in np.flatnonzero(counts > 1)]
    return np.ptp(means, axis=0) if len(means) > 1 else np.zeros(len(values))


def importances(
    axes: Sequence[Axis], params: Sequence[Mapping[str, Value]], values: Sequence[float]
) -> dict[str, float]:
    """Ask Optuna for each setting's share in being among the best trials.

    Args:
        axes, params, values: as in `influences`.

    Returns:
        Shares by name, whose sum is 1; all equal where nothing can be told.
    """
    import optuna

    space = {axis.name: axis.distribution() for axis in axes}
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(direction="maximize")
        for point, value in zip(params, values, strict=True):
            study.add_trial(optuna.trial.create_trial(params=dict(point), distributions=space, value=value))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=TARGET)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Compute Spearman's rank correlation.

    Args:
        x, y: (n,) numbers.

    Returns:
        From -1 to 1; None where one of them is constant or n is below 3.
    """
    if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    return ranks.spearman(x, y)


def deviation(groups: Sequence[Sequence[float]]) -> float | None:
    """Pool the standard deviation of values that differ by their seed alone.

    Args:
        groups: the values of each setting that was repeated.

    Returns:
        The deviation; None where nothing was repeated.
    """
    inner = [float(np.sum((np.asarray(part) - np.mean(part)) ** 2)) for part in groups if part]
    free = sum(len(part) - 1 for part in groups if part)
    return (sum(inner) / free) ** 0.5 if free else None
