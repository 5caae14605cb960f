"""The networks of a re-identification: an encoder, and what maps its vectors to those that are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import losses
from ..data.batch import Batch
from ..methods.base import Loss
from ..models import Encoder
from .task_types import TaskNetwork

SMOOTHING = 0.1  # of the cross-entropy's labels
MARGIN = 0.3  # of the triplet loss
TEMPERATURE = 0.1  # of the supervised contrastive loss
NECKS = ("batch-norm", "whitening")

Vectors = npt.NDArray[np.float32]


class Whitening(nn.Module):
    """A linear map after which the images of one identity vary alike in all directions."""

    mean: Tensor
    matrix: Tensor

    def __init__(self, dim: int) -> None:
        """Start with the map that changes nothing."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("matrix", torch.eye(dim))

    def forward(self, h: Tensor) -> Tensor:
        """Map (n, dim)."""
        return (h - self.mean) @ self.matrix


class IdentityHead(nn.Module):
    """The neck, (n, dim) to (n, dim) of length 1.

    Source:
        Luo et al. 2019, "Bag of tricks and a strong baseline for deep person re-identification", section
        3.5: the batch norm without a bias between encoder and classifier.
    """

    def __init__(self, dim: int, neck: str) -> None:
        """Build it; `neck` is one of `NECKS`."""
        super().__init__()
        self.neck: nn.Module = Whitening(dim)
        if neck == "batch-norm":
            norm = nn.BatchNorm1d(dim)
            norm.bias.requires_grad_(False)
            self.neck = norm

    def forward(self, h: Tensor) -> Tensor:
        """Give the vectors that are compared."""
        return losses.unit(self.neck(h.float()))


class IdentityNetwork(TaskNetwork):
    """An encoder and a neck, trained by cross-entropy over the identities and by a loss of pairs."""

    head: IdentityHead

    def __init__(self, f: Encoder, neck: str, identities: int, metric_loss: str, *, frozen: bool) -> None:
        """Put an untrained neck and classifier on an encoder; the classifier is not kept."""
        super().__init__(f.requires_grad_(not frozen), None)
        self.head = IdentityHead(f.dim, neck)
        self.classifier = nn.Linear(f.dim, identities, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)
        self.metric_loss = metric_loss

    def forward(self, batch: Batch) -> Loss:
        """Give the losses, in float32: of the vectors before the neck, and of the classes behind it."""
        assert batch.labels is not None
        h = self.f(torch.cat(batch.views))
        with torch.autocast(h.device.type, enabled=False):
            h = h.float()
            logits = self.classifier(self.head.neck(h))
            terms = {"cross_entropy": F.cross_entropy(logits, batch.labels, label_smoothing=SMOOTHING)}
            if self.metric_loss == "triplets":
                terms["triplets"] = losses.triplet(losses.unit(h), batch.labels, MARGIN, "hard")
            elif self.metric_loss == "contrastive":
                terms["contrastive"] = losses.supcon(losses.unit(h), batch.labels, TEMPERATURE)
        return Loss(terms)


def within(x: Vectors, identities: npt.NDArray[np.int64]) -> tuple[Any, Any]:
    """Find the directions in which images of one identity vary.

    Args:
        x: (n, d).
        identities: (n,) numbers.

    Returns:
        The variances (d,), and the directions (d, d), a column each.
    """
    own = np.unique(identities, return_inverse=True)[1]
    count = np.bincount(own).astype(np.float64)
    means = np.stack([np.bincount(own, column, len(count)) for column in x.astype(np.float64).T], 1)
    apart = x - (means / count[:, None])[own]
    values, vectors = np.linalg.eigh(apart.T @ apart / max(1, len(x) - len(count)))
    return np.maximum(values, 0), vectors


def whitening(values: Any, vectors: Any, shrinkage: float) -> Vectors:
    """Give the map that makes these variances alike.

    Args:
        values, vectors: from `within`.
        shrinkage: 0 to 1, how much the variances are drawn towards their mean; 1 leaves all as it is.

    Returns:
        (d, d) float32, symmetric.
    """
    mean = max(float(values.mean()), 1e-12)
    kept = (1 - shrinkage) * values / mean + shrinkage
    return np.asarray((vectors / np.sqrt(np.maximum(kept, 1e-6))) @ vectors.T, np.float32)
