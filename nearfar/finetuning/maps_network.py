"""An encoder with a head on its feature maps, as segmentation and detection train it."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from ..models import Encoder
from .task_types import TaskNetwork


class MapsNetwork(TaskNetwork):
    """An encoder and a head that takes its feature maps.

    Batch norm of an encoder that was trained before keeps its statistics: those of a few images are worse.
    """

    def __init__(self, f: Encoder, head: nn.Module, frozen: bool) -> None:
        """Join them."""
        super().__init__(f.requires_grad_(not frozen), None)
        self.head, self.frozen, self.still = head, frozen, frozen or not f.untrained

    def train(self, mode: bool = True) -> Self:
        """Set the mode; of an encoder that was trained before, batch norm stays in eval mode."""
        super().train(mode)
        if self.still:
            self.f.eval()
        return self

    def maps(self, x: Tensor) -> list[Tensor]:
        """Give the feature maps of images (n, 3, h, w); a frozen encoder builds no graph."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return list(self.f.maps(x))
