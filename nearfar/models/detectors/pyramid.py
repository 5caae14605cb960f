"""What all detectors share: a feature pyramid on some of an encoder's maps, and what a detector has to do.

Shapes: n images; boxes are left, top, right and bottom in pixels of the input.
"""

from __future__ import annotations

import abc
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...core.dynamo import import_without_compiler

FEWEST = 3  # maps; where an encoder has fewer, coarser ones are made
ANCHOR = 4  # strides that the side of the smallest anchor of a map has
RATIOS = (0.5, 1.0, 2.0)  # of an anchor's height to its width
MIN_SCORE, MOST = 0.01, 300  # of boxes that are given, and how many an image


class Detector(nn.Module, abc.ABC):
    """A pyramid on some maps of an encoder, and heads that find objects on it.

    Source:
        Lin et al. 2017, "Feature pyramid networks", section 3.
    """

    boxes_a_place: int = 1  # that the heads tell of, at each place of a map

    def __init__(
        self,
        widths: Sequence[int],
        strides: Sequence[int],
        classes: int,
        width: int = 128,
        *,
        finer: int = 0,
    ) -> None:
        """Build the pyramid with random weights.

        Args:
            widths: channels of the maps used, finest first.
            strides: of these maps, in pixels.
            classes: C.
            width: channels of the pyramid, a multiple of 32.
            finer: maps to make of the finest one, each of twice its side: a vision transformer has one map.
        """
        import_without_compiler("torchvision")
        from torchvision.ops import FeaturePyramidNetwork

        super().__init__()
        widths = [*(widths[0],) * finer, *widths]
        strides = [*(strides[0] >> at for at in range(finer, 0, -1)), *strides]
        more = max(0, FEWEST - len(widths))
        self.strides, self.made, self.classes, self.width = tuple(strides), more, classes, width
        self.sizes = [*strides, *(strides[-1] << (at + 1) for at in range(more))]  # strides of all maps
        self.pyramid = FeaturePyramidNetwork(list(widths), width)
        self.finer = nn.ModuleList(_Doubled(widths[0]) for _ in range(finer))
        self.coarser = nn.ModuleList(nn.Conv2d(width, width, 3, 2, 1) for _ in range(more))

    def features(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Give the pyramid's maps (n, width, h, w), finest first, of the encoder's maps."""
        every = list(maps)
        for double in self.finer:
            every.insert(0, double(every[0]))
        levels = self.pyramid(OrderedDict((str(at), y) for at, y in enumerate(every)))
        found = list(levels.values())
        for step in self.coarser:
            found.append(step(torch.relu(found[-1])))
        return found

    @abc.abstractmethod
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

    @abc.abstractmethod
    def detect(self, x: Tensor, maps: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Find objects.

        Args:
            x: (n, 3, h, w).
            maps: of the encoder, finest first.

        Returns:
            Of each image `boxes` (k, 4), `scores` (k,), the highest first, and `labels` (k,).
        """


class OneStage(Detector):
    """A detector whose heads say of each place what object it is in, and where its sides are.

    `model` is torchvision's, which knows the loss and how boxes are made of what the heads say; the
    pyramid is ours.
    """

    model: Any

    @abc.abstractmethod
    def places(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Give what the heads say of each place, as it leaves for other tools.

        Args:
            maps: of the encoder, finest first.

        Returns:
            Logits (n, places, C); distances (n, places, 4) to the left, top, right and bottom in strides; and
            logits (n, places, 1 or C): a score is the root of the product of both probabilities. A place has
            `boxes_a_place` rows, one after the other.
        """

    def said(self, maps: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Give what the heads say, in float32, and the maps that they saw."""
        features = self.features(maps)
        return {name: value.float() for name, value in self.model.head(features).items()}, features

    def anchors(self, x: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
        """Give the anchors (places, 4) of each image."""
        from torchvision.models.detection.image_list import ImageList

        shapes = [(x.shape[2], x.shape[3])] * len(x)
        found: list[Tensor] = self.model.anchor_generator(ImageList(x, shapes), list(features))
        return found

    def detect(self, x: Tensor, maps: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Find objects; see `Detector.detect`."""
        said, features = self.said(maps)
        counts = [self.boxes_a_place * y.shape[2] * y.shape[3] for y in features]
        parts = {name: list(value.split(counts, dim=1)) for name, value in said.items()}
        anchors = [list(some.split(counts)) for some in self.anchors(x, features)]
        shapes = [(x.shape[2], x.shape[3])] * len(x)
        found: list[dict[str, Tensor]] = self.model.postprocess_detections(parts, anchors, shapes)
        return found


class _Doubled(nn.Sequential):
    """Doubles the sides of a map, as the simple pyramid of a vision transformer does.

    Source:
        Li et al. 2022, "Exploring plain vision transformer backbones for object detection", section 3.
    """

    def __init__(self, width: int) -> None:
        """Build it for maps (n, width, h, w)."""
        super().__init__(nn.ConvTranspose2d(width, width, 2, 2), nn.GroupNorm(1, width), nn.GELU())


class NoBackbone(nn.Module):
    """Stands where torchvision's models keep a backbone: our pyramid is called before them."""

    def __init__(self, width: int) -> None:
        """Say how many channels the maps have."""
        super().__init__()
        self.out_channels = width
