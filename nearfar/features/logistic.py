"""Multinomial logistic regression on frozen features, fitted to convergence.

Full-batch L-BFGS with line search, started from the curvature that bounds the problem, so that even
3,072 raw pixels converge in tens of steps. Features are standardised on the rows that are fitted: less
their mean, over their standard deviation. The penalty is then fair to every feature, and one grid of
strengths serves every encoder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ..core.errors import NearfarError

STRENGTHS = tuple(10.0**power for power in range(0, -7, -1))  # l2 from 1 down to 1e-6
PATIENCE = 2  # weaker penalties to try without a gain before the path ends
PATH_STEPS = 30  # L-BFGS steps a penalty on the path may take
MEMORY = 10  # pairs of steps L-BFGS remembers
CELLS = 1 << 24  # logits in memory at a time


@dataclass(frozen=True)
class Probe:
    """A fitted logistic regression, on the features' own scale: logits = x @ weight + bias."""

    weight: torch.Tensor  # (d, classes)
    bias: torch.Tensor  # (classes,)
    l2: float
    steps: int

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Give the logarithm of each class's share, up to a constant a row.

        Args:
            x: (n, d) features, of the dtype and on the device of the fit.

        Returns:
            (n, classes).
        """
        return x @ self.weight + self.bias

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Give each row its likeliest class.

        Args:
            x: (n, d) features, of the dtype and on the device of the fit.

        Returns:
            (n,) int64.
        """
        return self.logits(x).argmax(dim=1)


def standards(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Measure what standardises features: their mean, and one over their standard deviation.

    Args:
        x: (n, d) floats.

    Returns:
        (d,) and (d,); 0 instead of the second where a feature never moves.
    """
    mean = x.mean(dim=0)
    # Some rows at a time: torch's own standard deviation down a column is ten times slower.
    spread = torch.stack([(part - mean).square_().sum(dim=0) for part in torch.split(x, 4096)])
    scale = (spread.sum(dim=0) / len(x)).sqrt()
    # A feature that never moves says nothing; dividing by its rounding noise would make it shout.
    dead = scale <= 1e-6 * scale.max().clamp_min(torch.finfo(x.dtype).tiny)
    return mean, torch.where(dead, 0, 1 / scale.masked_fill(dead, 1))


class _Problem:
    """Mean cross-entropy plus l2/2 |W|^2 over standardised rows; the bias is not penalised."""

    def __init__(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        classes: int,
        as_is: bool = False,
        weights: torch.Tensor | None = None,
    ) -> None:
        self.x, self.y, self.classes, self.weights = x, y, classes, weights
        n, d = x.shape
        self.mean, self.inverse = (x.new_zeros(d), x.new_ones(d)) if as_is else standards(x)
        # The features' correlations, from a spread of rows: only the speed depends on them. If the rows are
        # fewer than the features, their products say the same in far less time and memory.
        stride = max(1, n // max(2 * d, 2048))
        some = (x[::stride] - self.mean) * self.inverse
        if weights is not None:
            some = some * weights[::stride, None].sqrt()
        self.rows = some / len(some) ** 0.5 if len(some) < d else None
        self.gram = some.T @ some / len(some) if self.rows is None else self.rows @ self.rows.T

    def bound(self, l2: float) -> Callable[[torch.Tensor], torch.Tensor]:
        """Invert the bound on the curvature, a half of the correlations plus l2 (Boehning 1992).

        Returns:
            A function that multiplies (d + 1, classes) by the inverse; of the bias, the bound is a half.
        """
        # Enough for the rounding of the largest eigenvalue, which the trace bounds, to leave it positive.
        numbers, rows, d = torch.finfo(self.gram.dtype), self.rows, self.x.shape[1]
        least = l2 + 4 * numbers.eps * float(self.gram.trace()) + numbers.tiny
        eye = torch.eye(len(self.gram), dtype=self.gram.dtype, device=self.gram.device)
        if rows is None:
            factor = torch.linalg.cholesky(self.gram / 2 + least * eye)
            return lambda g: torch.cat([torch.cholesky_solve(g[:d], factor), 2 * g[d:]])
        factor = torch.linalg.cholesky(self.gram + 2 * least * eye)

        def solve(g: torch.Tensor) -> torch.Tensor:
            """Woodbury's identity: what is solved has the size of the rows."""
            inner = g[:d] - rows.T @ torch.cholesky_solve(rows @ g[:d], factor)
            return torch.cat([inner / least, 2 * g[d:]])

        return solve

    def value(self, w: torch.Tensor, l2: float) -> tuple[float, torch.Tensor]:
        """Give the loss and its gradient at w (d + 1, classes), whose last row is the bias."""
        n, d = self.x.shape
        # A class a row, as the sums of slopes lie too: the product then takes half the time.
        inner = (w[:d] * self.inverse[:, None]).T.contiguous()
        shift = w[d] - inner @ self.mean
        slope = self.x.new_zeros(self.classes, d)
        total, bias = 0.0, torch.zeros_like(shift)
        step = max(1, CELLS // self.classes)
        for low in range(0, n, step):
            x, y = self.x[low : low + step], self.y[low : low + step]
            log_p = torch.log_softmax(torch.addmm(shift, x, inner.T), dim=1)
            right = log_p.gather(1, y[:, None])[:, 0]
            share = None if self.weights is None else self.weights[low : low + step]
            total -= float((right if share is None else right * share).sum(dtype=torch.float64))
            residual = log_p.exp_()
            residual[torch.arange(len(y), device=y.device), y] -= 1
            if share is not None:
                residual *= share[:, None]
            slope.addmm_(residual.T, x)  # this way round: rows of x are read as they lie
            bias += residual.sum(dim=0)
        # d/dw of logits that see (x - mean) / scale, from the sums over plain x.
        slope = (slope.T - self.mean[:, None] * bias) * self.inverse[:, None] / n
        gradient = torch.cat([slope + l2 * w[:d], bias[None] / n])
        return total / n + l2 / 2 * float(w[:d].square().sum()), gradient

    def minimise(self, w: torch.Tensor, l2: float, tolerance: float, steps: int) -> tuple[torch.Tensor, int]:
        """Run L-BFGS from w until no gradient entry exceeds `tolerance`, or for `steps` steps."""
        bound = self.bound(l2)
        past: deque[tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]] = deque(maxlen=MEMORY)
        scale, blur = 1.0, 4 * torch.finfo(self.x.dtype).eps
        loss, gradient = self.value(w, l2)
        bounded = bound(gradient)
        for step in range(steps):
            if float(gradient.abs().max()) <= tolerance:
                return w, step
            # The two-loop recursion, Nocedal and Wright, algorithm 7.4, around the bound's inverse.
            # The inverse is linear, so that of the past is known already: one is solved for a step.
            rest, direction, shares = gradient.clone(), bounded.clone(), []
            for s, g, b, curve in reversed(past):
                shares.append(float((s * rest).sum()) / curve)
                rest -= shares[-1] * g
                direction -= shares[-1] * b
            direction *= scale
            for (s, g, _, curve), share in zip(past, reversed(shares), strict=True):
                direction += s * (share - float((g * direction).sum()) / curve)
            descent = -float((gradient * direction).sum())
            # The loss is convex, so a step that lowers it enough is safe: shorten until one does.
            length = 1.0
            while True:
                trial = w - length * direction
                lower, slope = self.value(trial, l2)
                if lower <= loss + 1e-4 * length * descent:
                    break
                # Near the end the loss moves less than its rounding, and its slope alone can be trusted:
                # Hager and Zhang 2005, (4.1), where the slope must have lost a part of its steepness.
                steep = -float((slope * direction).sum())
                if lower <= loss + blur * abs(loss) and steep <= -(1 - 2e-4) * descent:
                    break
                # The least point of the parabola through what is known, within reason.
                bend = lower - loss - length * descent
                length *= min(0.5, max(0.1, -length * descent / (2 * bend)))
                if length < 1e-4:
                    return w, step  # nothing lower to the precision of the numbers
            solved = bound(slope)
            moved, turned, eased = trial - w, slope - gradient, solved - bounded
            curve = float((moved * turned).sum())
            if curve > 0:
                past.append((moved, turned, eased, curve))
                # How far the true curvature lies below its bound: (7.20), with the bound for identity.
                scale = curve / float((turned * eased).sum())
            w, loss, gradient, bounded = trial, lower, slope, solved
        return w, steps

    def probe(self, w: torch.Tensor, l2: float, steps: int) -> Probe:
        """Fold the standardisation into the weights."""
        inner = w[:-1] * self.inverse[:, None]
        return Probe(weight=inner, bias=w[-1] - self.mean @ inner, l2=l2, steps=steps)

    def unfold(self, probe: Probe) -> torch.Tensor:
        """Bring a fit's weights to the standardised features: the way back from `probe`."""
        inner = torch.where(self.inverse[:, None] > 0, probe.weight, 0)
        weight = inner / self.inverse.masked_fill(self.inverse == 0, 1)[:, None]
        return torch.cat([weight, (probe.bias + self.mean @ inner)[None]])


def _check(x: torch.Tensor, y: torch.Tensor, classes: int) -> None:
    """Refuse what cannot be fitted, in a sentence."""
    if len(x) != len(y):
        raise NearfarError(f"there are {len(x)} feature rows and {len(y)} labels; give one label per row.")
    if len(x) < 2 or classes < 2:
        raise NearfarError("logistic regression needs at least two images and two classes.")
    if not bool(torch.isfinite(x.abs().amax(dim=0)).all()):
        raise NearfarError("some features are not finite; look for NaN in the run's log.jsonl.")


def fit(
    x: torch.Tensor,
    y: torch.Tensor,
    classes: int,
    l2: float,
    *,
    start: Probe | None = None,
    tolerance: float = 1e-5,
    steps: int = 100,
    as_is: bool = False,
    weights: torch.Tensor | None = None,
) -> Probe:
    """Fit a multinomial logistic regression on standardised features.

    Minimises mean cross-entropy + l2/2 |W|^2, bias free: scikit-learn's LogisticRegression with
    C = 1 / (n l2) behind a StandardScaler.

    Args:
        x: (n, d) float32 or float64.
        y: (n,) int64 in [0, classes).
        classes: how many classes there are.
        l2: strength of the penalty, above 0.
        start: a fit on like rows to set out from, instead of zero: the way is shorter, its end the same.
        tolerance: largest gradient entry at which the fit counts as done.
        steps: L-BFGS steps at most.
        as_is: whether rows are fitted as they are, since they are standardised already.
        weights: (n,) how much a row counts, above 0 and 1 on average; None for all alike.

    Returns:
        The fit.

    Raises:
        NearfarError: too few rows or classes, rows and labels of unlike number, or values not finite.
    """
    _check(x, y, classes)
    problem = _Problem(x, y, classes, as_is, weights)
    w = x.new_zeros(x.shape[1] + 1, classes) if start is None else problem.unfold(start)
    w, taken = problem.minimise(w, l2, tolerance, steps)
    return problem.probe(w, l2, taken)


def path(
    x: torch.Tensor,
    y: torch.Tensor,
    classes: int,
    *,
    as_is: bool = False,
    weights: torch.Tensor | None = None,
) -> Iterator[Probe]:
    """Fit with every penalty of `STRENGTHS`, from strong to weak, each fit starting from the last.

    The fits are loose ones, good to choose by and for `fit` to start from.

    Args:
        x, y: (n, d) features and (n,) int64 classes to fit.
        classes: how many classes there are.
        as_is: whether rows are fitted as they are, since they are standardised already.
        weights: as for `fit`.

    Yields:
        One fit a penalty.

    Raises:
        NearfarError: as `fit`.
    """
    _check(x, y, classes)
    problem = _Problem(x, y, classes, as_is, weights)
    w = x.new_zeros(x.shape[1] + 1, classes)
    for l2 in STRENGTHS:
        # Loose, since only the choice is kept; yet tight enough that a weaker penalty shows its effect.
        w, taken = problem.minimise(w, l2, min(1e-3, max(0.03 * l2, 1e-5)), PATH_STEPS)
        yield problem.probe(w, l2, taken)


def choose(
    x: torch.Tensor,
    y: torch.Tensor,
    held_x: torch.Tensor,
    held_y: torch.Tensor,
    classes: int,
) -> Probe:
    """Choose the penalty by accuracy on held-out rows, along `path`.

    It ends after `PATIENCE` weaker penalties without a gain.

    Args:
        x, y: (n, d) features and (n,) int64 classes to fit.
        held_x, held_y: the validation rows, likewise.
        classes: how many classes there are.

    Returns:
        The best of the path's fits, whose `l2` is the choice; of equals, the strongest.

    Raises:
        NearfarError: as `fit`.
    """
    best, waited = -1, 0
    for found in path(x, y, classes):
        right = int((found.predict(held_x) == held_y).sum())
        if right > best:
            best, chosen, waited = right, found, 0
        elif (waited := waited + 1) == PATIENCE:
            break
    return chosen
