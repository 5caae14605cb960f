"""Detection: boxes around objects, by FCOS, RetinaNet or Faster R-CNN on the encoder's feature maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..analysis import detection_scores
from ..analysis.detection_scores import Found
from ..core.config import setting
from ..core.errors import NearfarError
from ..data import box_labels
from ..data.box_labels import BoxLabels
from ..data.dataset import Dataset
from ..images.files import MAX_PIXELS
from ..models import Encoder, seeded
from ..models.detectors import DETECTORS, detector_class
from ..models.detectors.pyramid import OneStage
from ..models.feature_maps import takes_any_shape
from ..training.run import Run
from . import crops, windows
from .crop_task import NetworkInput, OneCrop
from .detect_answers import DetectionAnswers
from .detect_network import DetectionNetwork, Objects, RawHeads
from .task_types import Figures, HeadExport, Labelled, Setup, Where

FINEST = (4, 8)  # strides of the finest map used
WIDTHS = (64, 128)  # channels of the pyramid: with a map finer than stride 8, and without
MIN_SCORE = 0.3  # from which a box is written, where no images were held out
SMALL = 4.0  # of the finest stride, that a small object's side should have at least


@dataclass(frozen=True)
class Config:
    """How images are seen, and what finds objects."""

    side: int | None = setting(
        None,
        "short side in pixels at which images are seen; that of half of the training images if not given, "
        "128 to 640",
        low=32,
        high=4096,
    )
    finest: int | None = setting(
        None,
        "stride in pixels of the finest feature map used, such as 4 for small objects; by their size if not "
        "given",
        low=1,
        high=64,
    )
    tile: int | None = setting(
        None,
        "side in pixels of the windows in which images are seen, such as 640 with --side 2048 for small "
        "objects on large images; whole images if not given",
        low=32,
        high=4096,
    )
    detector: str = setting(
        "fcos",
        "what finds objects on the feature maps: fcos, without anchors; retinanet, nine anchors a place; "
        "faster-rcnn, in two stages",
        choices=("fcos", "retinanet", "faster-rcnn"),
    )
    turns: bool = setting(
        False, "train on quarter turns too, for images that have no upright, as from a microscope"
    )


@dataclass(frozen=True)
class Predicting:
    """The settings of a prediction of boxes."""

    min_score: float | None = setting(
        None,
        "score from which a box is written; the one with the best F1 on held-out images if not given",
        low=0.0,
        high=1.0,
    )
    yolo: bool = setting(
        False, "also write the boxes of each image as YOLO's text, into a folder beside the file of all"
    )


class Detection(DetectionAnswers):
    """The task of `--task detect`; see `task.Task` for what each function is."""

    name: ClassVar[str] = "detect"
    sides, pretrained = (128, 640), 0.3
    steps, epochs, warmup = (300, 8000), 24, 0.05

    def __init__(self, config: Config = Config()) -> None:
        """Start without classes; `read` or `restore` gives them."""
        super().__init__(config)
        self.predicting, self.finest, self.detector = Predicting(), config.finest or 0, config.detector
        self.tile = config.tile or 0  # side of the windows; 0 for whole images
        self.shape = (0, 0)  # of a training crop, height and width
        self.best = MIN_SCORE  # score from which boxes have the best F1

    def begin(self, run: Run) -> Encoder:
        """Take the encoder; one of a single size, as many vision transformers, sees an image in windows."""
        encoder = super().begin(run)
        if not takes_any_shape(encoder):
            if self.tile not in (0, encoder.size):
                raise NearfarError(
                    f"encoder {encoder.name!r} takes images of {encoder.size} px alone; give --tile "
                    f"{encoder.size}, or leave it out."
                )
            self.tile = int(encoder.size or 0)
        return encoder

    def read(self, data: Any, preprocess: Any, where: Where) -> Labelled:
        """Open images and boxes; the short side, the crop's shape and the finest stride are chosen."""
        found = box_labels.open_box_labels(data, where.labels)
        if not any((~one.crowd).any() for one in found.boxes):
            raise NearfarError(f"there is not one box on the images of {found.source.name}; add labels.")
        self.classes = found.classes
        sides = np.array([(one.height, one.width) for one in found.boxes if one.height])
        shorts = sides.min(1)
        if not self.side:
            self.side = self.usual_side(shorts)
        shape = self.side / float(np.median(shorts)) * np.median(sides, axis=0)
        unit = self.patch if 32 % self.patch else 32
        height, width = (
            int(unit * max(1, -(-length // unit))) for length in np.minimum(shape, 2 * self.side)
        )
        self.shape = (self.whole(self.tile),) * 2 if self.tile else (height, width)
        if not self.finest:
            self.finest = FINEST[0] if _small(found, self.side) < SMALL * FINEST[1] else FINEST[1]
        return self.load(found, found.boxes, preprocess, where)

    def read_test(self, data: Any, preprocess: Any, where: Where) -> Labelled:
        """Open images and boxes, in the training's classes."""
        found = box_labels.renumbered(box_labels.open_box_labels(data, where.labels), self.classes)
        if not any(one.counted.any() for one in found.boxes):
            raise NearfarError(f"there is not one box on the test images of {found.source.name}; add labels.")
        return self.load(found, found.boxes, preprocess, where)

    def content(self, found: Any, dataset: Dataset, targets: Sequence[Any]) -> Iterator[bytes]:
        """Give the boxes."""
        yield f"{dataset.fingerprint} {found.classes}".encode()
        for one in targets:
            yield one.boxes.tobytes() + one.labels.tobytes() + one.crowd.tobytes() + one.difficult.tobytes()

    def labels_on(self, target: Any) -> npt.NDArray[np.int64]:
        """Give the objects' class numbers."""
        labels: npt.NDArray[np.int64] = target.labels
        return labels

    def untrained(self, encoder: Encoder, fit: Labelled, setup: Setup, frozen: bool) -> DetectionNetwork:
        """Put an untrained detector on an encoder."""
        while encoder.strides[0] % 2 ** self._doublings(encoder):  # 14 pixels a place become 7, and not 3.5
            self.finest += 1
        with seeded(setup.seed, "detector"):
            return self.build(encoder, frozen)

    def build(self, encoder: Encoder, frozen: bool) -> DetectionNetwork:
        """Put a detector on an encoder, from the finest map that is used on."""
        strides, widths = encoder.strides, encoder.map_widths
        levels = [at for at, stride in enumerate(strides) if stride >= self.finest] or [len(strides) - 1]
        width = WIDTHS[self.finest >= FINEST[1]]
        used = [widths[at] for at in levels], [strides[at] for at in levels]
        finer = self._doublings(encoder)
        head = detector_class(self.detector)(*used, len(self.classes), width, finer=finer)
        return DetectionNetwork(encoder, head, levels, frozen)

    def _doublings(self, encoder: Encoder) -> int:
        """Say how often a single map, as of a vision transformer, is doubled to be as fine as is wanted."""
        strides = encoder.strides
        return max(0, (strides[0] // self.finest).bit_length() - 1) if len(strides) == 1 else 0

    def cropping(self, fit: Labelled) -> OneCrop:
        """Give what makes a crop of an image and of its boxes."""
        most = max(1, max(len(one.boxes) for one in fit.targets))

        def one(
            row: int, pixels: npt.NDArray[np.uint8], u: npt.NDArray[np.float32]
        ) -> tuple[Tensor, Tensor, Tensor]:
            height, width = pixels.shape[:2]
            own = fit.targets[row]
            kept = ~own.crowd
            scaled = own.boxes[kept] * np.array([width, height, width, height], np.float32)
            how: dict[str, Any] = {"turns": self.config.turns}
            if self.tile:  # at the scale of whole images, and often where an object is
                how |= {"fit": min(height, width) / self.side, "at": crops.chosen(float(u[11]), scaled)}
            crop = crops.draw(u, (height, width), self.shape, **how)
            moved, good = crop.boxes(scaled)
            boxes, labels = torch.zeros(most, 4), torch.full((most,), -1)
            count = int(good.sum())
            boxes[:count] = torch.from_numpy(moved[good])
            labels[:count] = torch.from_numpy(own.labels[kept][good])
            return crop.image(pixels), boxes, labels

        return one

    def padded(self, x: Tensor, down: int, across: int) -> Tensor:
        """Continue an image in grey."""
        return F.pad(x, (0, across, 0, down), value=crops.FILL)

    def answer(self, network: DetectionNetwork, x: Tensor, image: NetworkInput) -> Objects:
        """Find the objects on an image, whole or window by window."""
        tall, wide = image.resized
        if self.tile:
            found = windows.merged([*self._by_windows(network, x, tall, wide)])
        else:
            found = _found(network, x)
        boxes = (found.boxes / (wide, tall, wide, tall)).clip(0, 1)
        good = (boxes[:, 2:] > boxes[:, :2]).all(1)
        assert found.scores is not None
        found = Found(boxes[good], found.labels[good], found.scores[good])
        return Objects(found, *(image.original or image.decoded))

    def _by_windows(self, network: DetectionNetwork, x: Tensor, tall: int, wide: int) -> Iterator[Found]:
        """Find the objects of each window of an image (1, 3, h, w) that fills tall x wide of it."""
        multiple = max(network.f.strides)
        side = -(-self.tile // multiple) * multiple
        for down, across in windows.over(tall, wide, self.tile):
            part = x[:, :, down.start : down.start + self.tile, across.start : across.start + self.tile]
            part = self.padded(part, side - part.shape[2], side - part.shape[3])
            own = _found(network, part)
            assert own.scores is not None
            boxes, good = windows.owned(own.boxes, down, across)
            yield Found(boxes[good], own.labels[good], own.scores[good])

    @property
    def longest(self) -> float:
        """In windows as long as images may be: a long one is seen at the scale of the training's crops."""
        return MAX_PIXELS / self.side if self.tile else super().longest

    def sees_squares(self, network: DetectionNetwork) -> bool:
        """See images in their own shape, if need be in windows."""
        return False

    def calibrate(
        self, choice: tuple[Sequence[Objects], Labelled], rest: tuple[Sequence[Objects], Labelled]
    ) -> tuple[str, ...]:
        """Choose the score from which boxes are written; see `Task.calibrate`."""
        parts = [choice] if choice[1] is rest[1] else [choice, rest]
        truth = [
            Found(one.boxes, one.labels, None, one.crowd, one.difficult)
            for _, data in parts
            for one in data.targets
        ]
        found = [one.found for answers, _ in parts for one in answers]
        best = detection_scores.best_score(truth, found, len(self.classes))
        self.best = MIN_SCORE if best is None else best[0]
        if best is None:
            return ()
        return (
            f"boxes are written from a score of {self.best:.2f} on, where their F1 is best on {len(truth):,} "
            f"held-out images, {100 * best[1]:.1f} %; predict --min-score takes another",
        )

    def measure(self, answers: Sequence[Objects], data: Labelled) -> Figures:
        """Compare with the true boxes, in pixels of the original images."""
        truth, found = [], []
        for answer, own in zip(answers, data.targets, strict=True):
            sides = np.array([own.width, own.height, own.width, own.height], np.float64)
            boxes = own.boxes.astype(np.float64) * sides
            truth.append(Found(boxes, own.labels, None, own.crowd, own.difficult))
            given = answer.found
            found.append(Found(given.boxes * sides, given.labels, given.scores))
        if not any(own.counted.any() for own in data.targets):  # of a few held-out images
            return Figures("ap50", dict.fromkeys(("ap50", "low", "high", "ap", "ap75"), 0.0))
        got = detection_scores.scores(truth, found, self.classes, groups=data.groups)
        values = {name: getattr(got, name) for name in ("ap50", "low", "high", "ap", "ap75")}
        return Figures("ap50", values, None, got.per_class)

    def card(self) -> dict[str, Any]:
        """Give the classes, the side, the detector, the crop's shape and the finest stride."""
        plain = {
            "classes": list(self.classes),
            "side": self.side,
            "tile": self.tile,
            "detector": self.detector,
        }
        return {**plain, "shape": list(self.shape), "finest": self.finest, "min_score": self.best}

    def take(self, card: Mapping[str, Any]) -> None:
        """Take over the same."""
        self.classes = tuple(map(str, card["classes"]))
        self.side, self.finest = int(card["side"]), int(card["finest"])
        self.detector, self.tile = str(card["detector"]), int(card["tile"])
        if self.detector not in DETECTORS:
            raise ValueError(f"there is no detector {self.detector!r}")
        height, width = map(int, card["shape"])
        self.shape, self.best = (height, width), float(card["min_score"])

    def exported(self, network: DetectionNetwork, preprocess: Any) -> HeadExport:
        """Give what the heads say; what makes boxes of it is decode_boxes.py."""
        head = network.head
        if not isinstance(head, OneStage):
            raise NearfarError(
                f"--detector {self.detector} finds boxes in two stages, which is no graph of fixed "
                "shapes; train one with --detector fcos or retinanet to export it."
            )
        shape, step = self.input_shape(network, self.shape)
        first = len(head.strides)
        levels = [
            {"stride": stride, "made": at >= first, "boxes": head.boxes_a_place}
            for at, stride in enumerate(head.sizes)
        ]
        return HeadExport(
            RawHeads(network),
            shape,
            step,
            ("logits", "sides", "centredness"),
            (
                "`logits` (n, places, classes), `sides` (n, places, 4) and `centredness` (n, places, 1 or "
                "classes): what the detector says of each place, before boxes are made of it. "
                "`decode_boxes.py`, which needs NumPy alone, makes them.",
            ),
            "object-detection",
            self._windowed() if self.tile else self.prepared_as(network, f"with {crops.FILL:.3g}"),
            facts={
                "side": self.side,
                "tile": self.tile,
                "levels": levels,
                "min_score": self.best,
                "overlap": head.model.nms_thresh,
            },
            beside=("decode_boxes.py",),
        )

    def _windowed(self) -> tuple[str, ...]:
        """Say how a picture becomes windows."""
        return (
            f"Resize it so that its short side is {self.side} px, antialiased bilinear.",
            "Divide by 255.",
            f"Cut it into windows of {self.tile} px that share a quarter of their side, padded with "
            f"{crops.FILL:.3g}; of each keep the boxes whose middle is nearest to its own.",
            f"Of two boxes of a class that share more than {windows.SAME:g} of their union keep the surer.",
        )


def _found(network: DetectionNetwork, x: Tensor) -> Found:
    """Find the objects on (1, 3, h, w), in its pixels."""
    own = network.head.detect(x, network.maps(x))[0]
    scores, labels = own["scores"].cpu().double().numpy(), own["labels"].cpu().numpy()
    return Found(own["boxes"].cpu().double().numpy(), labels, scores)


def _small(found: BoxLabels, side: int) -> float:
    """Give the side in pixels of input that nine of ten objects of the smallest class exceed."""
    sizes: dict[int, list[float]] = {}
    for one in found.boxes:
        if not one.height:
            continue
        scale = side / min(one.height, one.width)
        for label, box in zip(one.labels.tolist(), one.boxes, strict=True):
            area = float((box[2] - box[0]) * one.width * (box[3] - box[1]) * one.height)
            sizes.setdefault(label, []).append(scale * area**0.5)
    return min(float(np.quantile(some, 0.1)) for some in sizes.values())
