"""An encoder with a detector, and what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ..analysis.detection_scores import Found
from ..data.batch import Batch
from ..methods.base import Loss
from ..models import Encoder
from ..models.detectors.pyramid import Detector, OneStage
from .maps_network import MapsNetwork


@dataclass(frozen=True)
class Objects:
    """What a network finds on an image: boxes in shares of its sides, and its height and width in pixels."""

    found: Found
    height: int
    width: int


class DetectionNetwork(MapsNetwork):
    """An encoder with a detector; the loss is the detector's."""

    head: Detector

    def __init__(self, f: Encoder, head: Detector, levels: Sequence[int], frozen: bool) -> None:
        """Join them; `levels` are the places of the maps used in `encoder.maps`."""
        super().__init__(f, head, frozen)
        self.levels = tuple(levels)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Give the maps used."""
        found = super().maps(x)
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


class RawHeads(nn.Module):
    """Images to what the heads say of each place."""

    def __init__(self, network: DetectionNetwork) -> None:
        """Take a trained network."""
        super().__init__()
        assert isinstance(network.head, OneStage)
        self.network, self.head = network, network.head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give logits, sides and centredness of (n, 3, h, w)."""
        found = list(self.network.f.maps(x))
        return self.head.places([found[level] for level in self.network.levels])
