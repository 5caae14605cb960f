"""FCOS: each place of a map says which object it is in, and how far its four sides are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .pyramid import MIN_SCORE, MOST, NoBackbone, OneStage


class Fcos(OneStage):
    """FCOS by torchvision, with two convolutions a head.

    Source:
        Tian et al. 2019, "FCOS", section 3.
    """

    def __init__(
        self,
        widths: Sequence[int],
        strides: Sequence[int],
        classes: int,
        width: int = 128,
        convolutions: int = 2,
        **how: Any,
    ) -> None:
        """Build it with random weights; see `Detector`, and `convolutions` are those of each head."""
        super().__init__(widths, strides, classes, width, **how)
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.models.detection.fcos import FCOS, FCOSHead

        # An anchor's corners are rounded to pixels: of a stride of 1 nothing would be left.
        sides = tuple((max(2, size),) for size in self.sizes)
        anchors = AnchorGenerator(sides, ((1.0,),) * len(sides))
        # Of an anchor, in strides: one of an odd stride is rounded up.
        self.wide = [
            float(cell[0, 2] - cell[0, 0]) / size
            for cell, size in zip(anchors.cell_anchors, self.sizes, strict=True)
        ]
        self.model = FCOS(
            NoBackbone(width),
            classes,
            anchor_generator=anchors,
            head=FCOSHead(width, 1, classes, num_convs=convolutions),
            score_thresh=MIN_SCORE,
            nms_thresh=0.6,
            detections_per_img=MOST,
        )

    def loss(
        self, x: Tensor, maps: Sequence[Tensor], targets: list[dict[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """Compute the terms of the loss: focal, of the sides, and of how central a place is."""
        said, features = self.said(maps)
        counts = [y.shape[2] * y.shape[3] for y in features]
        found: Mapping[str, Tensor] = self.model.compute_loss(
            targets, said, self.anchors(x, features), counts
        )
        return found

    def places(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Give what the heads say, as distances in strides; the third is how central a place is."""
        said, features = self.said(maps)
        sides = said["bbox_regression"]  # in anchors
        if {*self.wide} != {1.0}:
            parts = zip(self.wide, features, strict=True)
            sides = sides * torch.cat([sides.new_full((y.shape[2] * y.shape[3], 1), one) for one, y in parts])
        return said["cls_logits"], sides, said["bbox_ctrness"]
