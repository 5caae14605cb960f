"""PaDiM: a Gaussian of the features at each place, for pictures that are aligned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ..core import rng

DIMS = 100  # features drawn at random
BYTES = 1 << 27  # of the covariances, at most
RIDGE = 0.01  # of the mean variance, added to each variance


def oas_shrinkage(trace: Tensor, trace_squared: Tensor, dims: int, count: int) -> Tensor:
    """Choose how much of a covariance is replaced by a multiple of the identity.

    Args:
        trace: of the covariances, any shape.
        trace_squared: of their squares.
        dims: rows of each.
        count: examples that they were computed from.

    Returns:
        A share from 0 to 1 for each.

    Source:
        Chen et al. 2010, "Shrinkage algorithms for MMSE covariance estimation", equation 23 (OAS), without
        its terms in 1 / dims, as scikit-learn has it.
    """
    alpha, mu = trace_squared / dims**2, trace / dims
    top = alpha + mu.square()
    low = (count + 1) * (alpha - mu.square() / dims)
    return torch.where(low > 0, (top / low.clamp_min(1e-30)).clamp_max(1), torch.ones_like(top))


class Padim:
    """Means and covariances at each place of a grid; the score is the Mahalanobis distance.

    Source:
        Defard et al. 2021, "PaDiM: a patch distribution modeling framework for anomaly detection and
        localization", section 3. The covariances are shrunk, since normal pictures may be few.
    """

    name: ClassVar[str] = "padim"

    def __init__(self, shape: tuple[int, int], seed: int = 0) -> None:
        """Begin without pictures.

        Args:
            shape: places of a picture, height and width; all pictures have these.
            seed: names the features that are used.
        """
        self.shape, self.seed = shape, seed
        self.count = 0
        self.chosen = self.middle = self.total = self.products = torch.zeros(0)
        self._mean = self.factor = torch.zeros(0)

    def _begin(self, rows: Tensor) -> None:
        places, width = rows.shape
        dims = max(1, min(width, DIMS, int((BYTES / 4 / places) ** 0.5)))
        order = torch.from_numpy(rng.permutation(rng.fold(self.seed, "padim features"), width))
        self.chosen = order[:dims].sort().values
        # Sums of what is left after the first picture's features, so that float32 is exact enough.
        self.middle = rows[:, self.chosen].clone()
        self.total = torch.zeros(places, dims)
        self.products = torch.zeros(places, dims, dims)

    def add(self, features: Tensor, owner: int, name: int) -> None:
        """Add a normal picture.

        Args:
            features: (1, c, h, w) float32.
            owner, name: of no meaning here.
        """
        rows = features[0].flatten(1).T
        if not self.count:
            self._begin(rows)
        away = rows[:, self.chosen] - self.middle
        self.total += away
        self.products.baddbmm_(away[:, :, None], away[:, None, :])
        self.count += 1

    def settle(self, without: frozenset[int] = frozenset()) -> None:
        """Compute means and inverse covariances of what was added."""
        dims = self.total.shape[1]
        mean = self.total / self.count
        covariance = self.products / self.count - mean[:, :, None] * mean[:, None, :]
        trace = covariance.diagonal(dim1=1, dim2=2).sum(1)
        share = oas_shrinkage(trace, covariance.square().sum((1, 2)), dims, self.count)[:, None, None]
        self._mean = self.middle + mean
        # The spread over all places too, since one picture alone has none at a place.
        spread = float(trace.mean() / dims) + float(self._mean.var(0, unbiased=False).mean())
        even = share[:, 0] * trace[:, None] / dims + RIDGE * max(spread, 1e-12)
        covariance = covariance.mul_(1 - share)
        covariance.diagonal(dim1=1, dim2=2).add_(even)
        self.factor = torch.linalg.cholesky(covariance)

    def pooled(self) -> None:
        """Say that no single patches are kept."""
        return None

    def score(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Score pictures.

        Args:
            features: (n, c, h, w) float32, (h, w) the grid's.

        Returns:
            (n, h, w), the scores of places, and (n,), those of pictures; higher is more anomalous.
        """
        whitened = torch.linalg.solve_triangular(self.factor, self.centred(features), upper=False)
        places = whitened.square().sum(1).sqrt().T.reshape(len(features), *self.shape)
        return places, places.flatten(1).amax(1)

    def centred(self, features: Tensor) -> Tensor:
        """Take what is used of the features, less the normal means: (places, d, n)."""
        return features.flatten(2)[:, self.chosen].permute(2, 1, 0) - self._mean[:, :, None]

    def state(self) -> dict[str, Tensor]:
        """Give what a file has to hold."""
        count = torch.tensor([self.count])
        return {
            "count": count,
            "chosen": self.chosen,
            "middle": self.middle,
            "total": self.total,
            "products": self.products,
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        self.count = int(state["count"])
        self.chosen, self.middle = state["chosen"], state["middle"].clone()
        self.total, self.products = state["total"].clone(), state["products"].clone()
        self.settle()
