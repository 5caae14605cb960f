"""RetinaNet: nine anchors at each place of a map, each with its classes, by focal loss, and its sides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .pyramid import ANCHOR, MIN_SCORE, MOST, RATIOS, NoBackbone, OneStage

OCTAVE = tuple(2 ** (at / 3) for at in range(3))  # sides of a map's anchors, in the smallest one's
MOST_STRETCHED = math.log(1000 / 16)  # torchvision's bound on the logarithm of a side over its anchor's


class RetinaNet(OneStage):
    """RetinaNet by torchvision, with two convolutions a head, and group norm as in its second version.

    The smallest anchor of a map is `ANCHOR` strides wide, as in the paper.

    Source:
        Lin et al. 2017, "Focal loss for dense object detection", section 4.
    """

    boxes_a_place = len(RATIOS) * len(OCTAVE)

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
        from torchvision.models.detection import retinanet
        from torchvision.models.detection.anchor_utils import AnchorGenerator

        sides = tuple(tuple(ANCHOR * size * part for part in OCTAVE) for size in self.sizes)
        norm = partial(nn.GroupNorm, 32)
        head = retinanet.RetinaNetHead(width, self.boxes_a_place, classes, norm_layer=norm)
        for part in (head.classification_head, head.regression_head):
            part.conv = part.conv[:convolutions]
        self.model = retinanet.RetinaNet(
            NoBackbone(width),
            classes,
            anchor_generator=AnchorGenerator(sides, (RATIOS,) * len(sides)),
            head=head,
            score_thresh=MIN_SCORE,
            nms_thresh=0.5,
            detections_per_img=MOST,
        )

    def loss(
        self, x: Tensor, maps: Sequence[Tensor], targets: list[dict[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """Compute the terms of the loss: focal, and of the sides."""
        said, features = self.said(maps)
        found: Mapping[str, Tensor] = self.model.compute_loss(targets, said, self.anchors(x, features))
        return found

    def places(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Give what the heads say, as distances; the third is the first, so that scores are probabilities."""
        said, features = self.said(maps)
        counts = [self.boxes_a_place * y.shape[2] * y.shape[3] for y in features]
        deltas, cells = said["bbox_regression"].split(counts, dim=1), self.model.anchor_generator.cell_anchors
        moved = []
        for size, own, corners in zip(self.sizes, deltas, cells, strict=True):
            sides = (corners[:, 2:] - corners[:, :2]).to(own) / size  # of the anchors, in strides
            sides = sides.repeat(own.shape[1] // len(sides), 1)
            middle = own[..., :2] * sides
            half = 0.5 * sides * own[..., 2:].clamp(max=MOST_STRETCHED).exp()
            moved.append(torch.cat([half - middle, half + middle], 2))
        return said["cls_logits"], torch.cat(moved, 1), said["cls_logits"]
