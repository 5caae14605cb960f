"""Lets the directions in which a collection varies most count most, where few of it have labels.

One label of a class says little of a thousand features. What all images say, without labels, is in which
directions they form groups: those of greatest variance, which are few. Measured in docs/decisions.md,
"Evaluation with labels".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .logistic import standards

FEW = 4  # labels of a class, on average, up to which this is better than features as they are
LEAST = 100  # images by which directions can be told
ROWS = 4096  # by which they are
RIDGE = 1e-6  # of the mean variance, added to each direction's


@dataclass(frozen=True)
class Emphasis:
    """Features standardised, and each direction of theirs multiplied by its standard deviation.

    Attributes:
        mean, inverse: (d,) what standardises them.
        factor: (d, d) by which they are multiplied then, on the right: the covariance's Cholesky factor, so
            that inner products are those of the directions multiplied as is said above.

    Source:
        Chapelle, Weston and Schoelkopf 2002, "Cluster kernels for semi-supervised learning", section 4: a
        kernel whose eigenvalues are changed by a function of theirs, here the square.
    """

    mean: Tensor
    inverse: Tensor
    factor: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Emphasis | None:
        """Measure a collection; its labels are not needed.

        Args:
            x: (n, d) floats, of all images.

        Returns:
            What to do with features; None where there are too few images, or all are the same.
        """
        if len(x) < LEAST:
            return None
        mean, inverse = standards(x)
        z = ((x[:: max(1, len(x) // ROWS)] - mean) * inverse).double()
        covariance = z.T @ z / len(z)
        share = float(covariance.diagonal().mean())
        if not share > 0:
            return None
        covariance.diagonal().add_(RIDGE * share)
        # Rows are as long on average as standardised ones, so that a penalty means the same.
        scale = (covariance.trace() / covariance.square().sum()).sqrt()
        return cls(mean, inverse, (scale * torch.linalg.cholesky(covariance)).to(x))

    def __call__(self, x: Tensor) -> Tensor:
        """Turn features (n, d) into (n, d) in which directions count by their variance."""
        return ((x - self.mean) * self.inverse) @ self.factor

    def probe_weight(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Turn a linear classifier of what comes out into one of the features as they are.

        Args:
            weight: (d, classes).
            bias: (classes,).

        Returns:
            The same, on the features' own scale.
        """
        own = self.inverse[:, None] * (self.factor @ weight)
        return own, bias - self.mean @ own
