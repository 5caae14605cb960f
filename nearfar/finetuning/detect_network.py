"""An encoder with a detector, and what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ..analysis.detection_scores import Found
from ..data.batch import Batch
from ..methods.base import Loss
from ..models import Encoder
from ..models.detector import Detector
from .task import TaskNetwork


@dataclass(frozen=True)
class Objects:
    """What a network finds on an image: boxes in shares of its sides, and its height and width in pixels."""

    found: Found
    height: int
    width: int


class DetectionNetwork(TaskNetwork):
    """An encoder with a detector; the loss is that of FCOS.

    Batch norm of an encoder that was trained before keeps its statistics: those of a few images are worse.
    """

    head: Detector

    def __init__(self, f: Encoder, head: Detector, levels: Sequence[int], frozen: bool) -> None:
        """Join them; `levels` are the places of the maps used in `encoder.maps`."""
        super().__init__(f.requires_grad_(not frozen), None)
        self.head, self.levels, self.frozen = head, tuple(levels), frozen
        self.still = frozen or not f.untrained

    def train(self, mode: bool = True) -> Self:
        """Set the mode; of an encoder that was trained before, batch norm stays in eval mode."""
        super().train(mode)
        if self.still:
            self.f.eval()
        return self

    def maps(self, x: Tensor) -> list[Tensor]:
        """Give the maps used; a frozen encoder builds no graph."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            found = self.f.maps(x)
        return [found[level] for level in self.levels]

    def forward(self, batch: Batch) -> Loss:
        """Give the loss of crops (n, 3, h, w), boxes (n, k, 4) and class numbers (n, k), -1 for none."""
        x, boxes, labels = batch.views
        there = labels >= 0
        targets = [
            {"boxes": own[some], "labels": kinds[some]}
            for own, kinds, some in zip(boxes, labels, there, strict=True)
        ]
        return Loss(self.head.loss(x, self.maps(x), targets))
