"""The network of a classification: an encoder and a linear layer on its centred and scaled vectors."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.batch import Batch
from ..methods.base import Loss
from ..models import Encoder
from .task import TaskNetwork


class LinearHead(nn.Module):
    """A linear layer on centred and scaled vectors."""

    mean: Tensor
    scale: Tensor
    linear: nn.Linear

    def __init__(self, dim: int, classes: int) -> None:
        """Start at 0, which gives every class the same probability."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.tensor(1.0))
        self.linear = nn.Linear(dim, classes)
        for weight in self.linear.parameters():
            nn.init.zeros_(weight)

    def forward(self, h: Tensor) -> Tensor:
        """Turn (n, dim) vectors into (n, classes) logits."""
        logits: Tensor = self.linear((h.float() - self.mean) * self.scale)
        return logits

    @torch.no_grad()
    def start_at(self, other: LinearHead) -> None:
        """Give the logits that another head gives, on this one's own centred and scaled vectors."""
        weight = other.linear.weight.to(self.mean) * other.scale.to(self.mean)
        bias = other.linear.bias.to(self.mean) - weight @ other.mean.to(self.mean)
        self.linear.weight.copy_(weight / self.scale)
        self.linear.bias.copy_(bias + weight @ self.mean)


class Classifier(TaskNetwork):
    """An encoder and a linear head, trained by cross-entropy; of several labels by one for each."""

    head: LinearHead

    def __init__(
        self, f: Encoder, classes: int, *, frozen: bool, many: bool, weights: Tensor | None = None
    ) -> None:
        """Put an untrained head on an encoder; `weights` (classes,) say how much each counts."""
        super().__init__(f.requires_grad_(not frozen), None)
        self.frozen, self.many, self.weights = frozen, many, weights
        self.head = LinearHead(f.dim, classes)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.f.eval()
        return self

    def forward(self, batch: Batch) -> Loss:
        """Give the cross-entropy, in float32."""
        assert batch.labels is not None
        h = self.f(torch.cat(batch.views))
        with torch.autocast(h.device.type, enabled=False):
            logits = self.head(h)
            weights = None if self.weights is None else self.weights.to(logits.device)
            if self.many:
                loss = F.binary_cross_entropy_with_logits(logits, batch.labels, pos_weight=weights)
            else:
                loss = F.cross_entropy(logits, batch.labels, weights)
            return Loss({"cross_entropy": loss})

    def plain(self) -> nn.Sequential:
        """Give the network that turns images into logits."""
        return nn.Sequential(self.f, self.head)
