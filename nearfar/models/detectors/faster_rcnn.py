"""Faster R-CNN: first where objects may be, then of each such place what it is and where its sides are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .pyramid import ANCHOR, MIN_SCORE, MOST, RATIOS, Detector

POOLED, HIDDEN = 7, 256  # side of what is cut out of a map, and width of the second stage's two layers
SAMPLED = 64  # proposals of an image that the second stage learns from


class FasterRcnn(Detector):
    """Faster R-CNN on a feature pyramid, by torchvision's two stages.

    Anchors of a map are `ANCHOR` strides wide, half of those of Lin et al. 2017: the finest map is chosen so
    that small objects have as many. The second stage is narrower than the paper's, and sees fewer proposals.

    Source:
        Ren et al. 2015, "Faster R-CNN", section 3; Lin et al. 2017, "Feature pyramid networks", section 4.
    """

    def __init__(
        self, widths: Sequence[int], strides: Sequence[int], classes: int, width: int = 128, **how: Any
    ) -> None:
        """Build it with random weights; see `Detector`."""
        super().__init__(widths, strides, classes, width, **how)
        from torchvision.models.detection import roi_heads, rpn
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
        from torchvision.ops import MultiScaleRoIAlign

        anchors = AnchorGenerator(tuple((ANCHOR * size,) for size in self.sizes), (RATIOS,) * len(self.sizes))
        self.names = [str(at) for at in range(len(self.sizes))]
        head = rpn.RPNHead(width, len(RATIOS))
        few, many = {"training": 1000, "testing": 500}, {"training": 500, "testing": 300}
        self.proposes = rpn.RegionProposalNetwork(anchors, head, 0.7, 0.3, 256, 0.5, few, many, 0.7)
        pool = MultiScaleRoIAlign(self.names, POOLED, 2)
        layers = TwoMLPHead(width * POOLED**2, HIDDEN), FastRCNNPredictor(HIDDEN, classes + 1)
        self.decides = roi_heads.RoIHeads(pool, *layers, 0.5, 0.5, SAMPLED, 0.25, None, MIN_SCORE, 0.5, MOST)

    def _both(
        self, x: Tensor, maps: Sequence[Tensor], targets: list[dict[str, Tensor]] | None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Run both stages, in float32: what is cut out at a share of a pixel needs it."""
        from torchvision.models.detection.image_list import ImageList

        found = self.features(maps)
        with torch.autocast(x.device.type, enabled=False):
            features = {name: y.float() for name, y in zip(self.names, found, strict=True)}
            shapes = [(x.shape[2], x.shape[3])] * len(x)
            proposals, first = self.proposes(ImageList(x.float(), shapes), features, targets)
            boxes, second = self.decides(features, proposals, shapes, targets)
        return boxes, {**first, **second}

    def loss(
        self, x: Tensor, maps: Sequence[Tensor], targets: list[dict[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """Compute the terms of the loss: of both stages, the classes and the sides."""
        shifted = [{**one, "labels": one["labels"] + 1} for one in targets]  # 0 is no object
        with _drawn_by(targets, x.device):
            return self._both(x, maps, shifted)[1]

    def detect(self, x: Tensor, maps: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Find objects; see `Detector.detect`."""
        return [{**one, "labels": one["labels"] - 1} for one in self._both(x, maps, None)[0]]


@contextmanager
def _drawn_by(targets: Sequence[Mapping[str, Any]], device: torch.device) -> Iterator[None]:
    """Draw the proposals to learn from by the batch's boxes: a resumed training draws the same."""
    digest = hashlib.blake2b(digest_size=7)
    for one in targets:
        digest.update(one["boxes"].detach().cpu().numpy().tobytes())
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(int.from_bytes(digest.digest(), "little"))
        if device.type == "cuda":
            torch.cuda.manual_seed(int.from_bytes(digest.digest(), "little"))
        yield
