"""Detects objects on an encoder's feature maps: a feature pyramid, and the heads of FCOS by torchvision.

Shapes: n images; boxes are left, top, right and bottom in pixels of the input.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..core.dynamo import import_without_compiler

FEWEST = 3  # maps; where an encoder has fewer, coarser ones are made


class Detector(nn.Module):
    """A pyramid on some maps of an encoder, and what says at each place which object it is in.

    Source:
        Lin et al. 2017, "Feature pyramid networks", section 3; Tian et al. 2019, "FCOS", section 3.
    """

    def __init__(
        self,
        widths: Sequence[int],
        strides: Sequence[int],
        classes: int,
        width: int = 128,
        convolutions: int = 2,
    ) -> None:
        """Build it with random weights.

        Args:
            widths: channels of the maps used, finest first.
            strides: of these maps, in pixels.
            classes: C.
            width: channels of the pyramid, a multiple of 32.
            convolutions: of each head.
        """
        import_without_compiler("torchvision")
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.models.detection.fcos import FCOS, FCOSHead
        from torchvision.ops import FeaturePyramidNetwork

        super().__init__()
        more = max(0, FEWEST - len(widths))
        self.strides, self.made = tuple(strides), more
        sizes = [*strides, *(strides[-1] << (at + 1) for at in range(more))]
        pyramid = FeaturePyramidNetwork(list(widths), width)
        pyramid.out_channels = width
        self.coarser = nn.ModuleList(nn.Conv2d(width, width, 3, 2, 1) for _ in range(more))
        anchors = AnchorGenerator(tuple((size,) for size in sizes), ((1.0,),) * len(sizes))
        self.fcos = FCOS(
            pyramid,
            classes,
            anchor_generator=anchors,
            head=FCOSHead(width, 1, classes, num_convs=convolutions),
            score_thresh=0.01,
            nms_thresh=0.6,
            detections_per_img=300,
        )

    def raw(self, maps: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Give what the heads say, in float32, and the maps that they saw.

        Args:
            maps: of the encoder, finest first.

        Returns:
            `cls_logits` (n, places, C), `bbox_regression` (n, places, 4), `bbox_ctrness` (n, places, 1), and
            the pyramid's maps.
        """
        levels = self.fcos.backbone(OrderedDict((str(at), y) for at, y in enumerate(maps)))
        features = list(levels.values())
        for step in self.coarser:
            features.append(step(torch.relu(features[-1])))
        return {name: value.float() for name, value in self.fcos.head(features).items()}, features

    def _heads(self, x: Tensor, maps: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
        """Give what the heads say, the places, and their number on each map."""
        from torchvision.models.detection.image_list import ImageList

        said, features = self.raw(maps)
        shapes = [(x.shape[2], x.shape[3])] * len(x)
        anchors = self.fcos.anchor_generator(ImageList(x, shapes), features)
        return said, anchors, [y.shape[2] * y.shape[3] for y in features]

    def loss(
        self, x: Tensor, maps: Sequence[Tensor], targets: list[dict[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """Compute the terms of the loss.

        Args:
            x: (n, 3, h, w).
            maps: of the encoder, finest first.
            targets: of each image `boxes` (k, 4) and `labels` (k,) int64.

        Returns:
            Name to scalar.
        """
        said, anchors, counts = self._heads(x, maps)
        found: Mapping[str, Tensor] = self.fcos.compute_loss(targets, said, anchors, counts)
        return found

    def detect(self, x: Tensor, maps: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Find objects.

        Args:
            x: (n, 3, h, w).
            maps: of the encoder, finest first.

        Returns:
            Of each image `boxes` (k, 4), `scores` (k,), the highest first, and `labels` (k,).
        """
        said, anchors, counts = self._heads(x, maps)
        parts = {name: list(value.split(counts, dim=1)) for name, value in said.items()}
        places = [list(some.split(counts)) for some in anchors]
        shapes = [(x.shape[2], x.shape[3])] * len(x)
        found: list[dict[str, Tensor]] = self.fcos.postprocess_detections(parts, places, shapes)
        return found
