"""Segmentation: a class for every pixel, by a decoder on the encoder's feature maps.

The decoder sees the 16 colour features of every pixel too: where few images are labelled, these are what
other methods have to be better than.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..analysis import segmentation_scores
from ..core.config import setting
from ..core.errors import NearfarError
from ..data import pixel_labels
from ..data.dataset import Dataset
from ..data.pixel_labels import IGNORED, PixelLabels
from ..images.class_colours import coloured
from ..models import Encoder, seeded
from ..models.feature_maps import takes_any_shape
from ..models.pixel_heads import HEADS
from ..stores.schema import column_names
from ..training.run import Run
from . import crops, segment_baseline
from .crop_task import CropTask, NetworkInput, OneCrop
from .segment_baseline import ColourFeatures
from .segment_network import PixelHead, PixelLogits, SegmentationNetwork
from .task_types import Answer, Figures, HeadExport, Labelled, Mistake, Setup, Where


@dataclass(frozen=True)
class Config:
    """How masks are read, and what predicts them."""

    decoder: str = setting(
        "unet", "what turns feature maps into classes of pixels", choices=("unet", "fpn", "linear")
    )
    side: int | None = setting(
        None,
        "short side in pixels at which images are seen; that of half of the training images if not given, "
        "64 to 512",
        low=32,
        high=4096,
    )
    turns: bool = setting(
        False, "train on quarter turns too, for images that have no upright, as from a microscope"
    )
    ignore: int | None = setting(None, "value of masks whose pixels count for nothing", low=0)


@dataclass(frozen=True)
class Predicting:
    """The settings of a prediction of masks: none."""


@dataclass(frozen=True)
class Pixels:
    """What a network says of an image.

    Attributes:
        classes: (h, w) class numbers, of the image as it was decoded.
        confidence: the mean probability of these classes.
        shape: height and width of the image before it was reduced; None where that is not known.
    """

    classes: npt.NDArray[np.uint8]
    confidence: float
    shape: tuple[int, int] | None = None


class Segmentation(CropTask):
    """The task; see `task.Task` for what each function is."""

    name: ClassVar[str] = "segment"
    document: ClassVar[None] = None
    masks: ClassVar[bool] = True
    sides, pretrained = (64, 512), 0.1
    steps, epochs, warmup = (300, 4000), 40, 0.1

    def __init__(self, config: Config = Config()) -> None:
        """Start without classes; `read` or `restore` gives them."""
        super().__init__(config)
        self.values: tuple[int, ...] = ()
        self.colours = False  # whether these are colours
        self.decoder = str(config.decoder)

    def begin(self, run: Run) -> Encoder:
        """Take the encoder; one of a single size decides the side."""
        encoder = super().begin(run)
        if not takes_any_shape(encoder):
            self.side = self.side or int(encoder.size or 0)
            if self.side != encoder.size:
                raise NearfarError(
                    f"encoder {encoder.name!r} takes images of {encoder.size} px alone; give --side "
                    f"{encoder.size}, or leave it out."
                )
        if self.side != self.whole(self.side):
            raise NearfarError(
                f"--side {self.side} does not divide into this encoder's patches of {self.patch} px; give "
                f"{self.whole(self.side)}."
            )
        return encoder

    def read(self, data: Any, preprocess: Any, where: Where) -> Labelled:
        """Open images and masks; the classes are the masks' values, and the short side is chosen."""
        found = self._open(data, where)
        if len(found.classes) < 2:
            raise NearfarError(
                f"the masks of {found.source.name} hold a single value; segmentation needs two classes."
            )
        self.classes, self.values, self.colours = found.classes, found.values, found.colours
        if not self.side:
            masks = found.masks[:: max(1, len(found.masks) // 64)]
            self.side = self.usual_side(np.array([min(mask.read().shape) for mask in masks]))
        return self.load(found, found.masks, preprocess, where)

    def read_test(self, data: Any, preprocess: Any, where: Where) -> Labelled:
        """Open images and masks, in the training's classes."""
        found = pixel_labels.renumbered(self._open(data, where), self.classes, self.values)
        return self.load(found, found.masks, preprocess, where)

    def _open(self, data: Any, where: Where) -> PixelLabels:
        return pixel_labels.open_pixel_labels(
            data, where.labels, ignore=self.config.ignore, workers=where.workers, colours=self.colours
        )

    def content(self, found: Any, dataset: Dataset, targets: Sequence[Any]) -> Iterator[bytes]:
        """Give the masks; one that does not fit its image is an error."""
        yield f"{dataset.fingerprint} {found.classes} {found.values}".encode()
        for row, (name, mask) in enumerate(zip(dataset.ids, targets, strict=True)):
            content = mask.read()
            height, width = dataset.gather(np.array([row])).image(0).shape[:2]
            pixel_labels.fitted(content, (height, width), name)
            yield content.tobytes()

    def labels_on(self, target: Any) -> npt.NDArray[np.uint8]:
        """Give the mask's class numbers, of the pixels that count."""
        mask: npt.NDArray[np.uint8] = target.read()
        return mask[mask != IGNORED]

    def baselines(
        self, encoder: Encoder, fit: Labelled, data: Labelled, setup: Setup
    ) -> Mapping[str, Figures]:
        """Classify pixels by colour features."""
        fitted = ColourFeatures(self.side, len(self.classes), setup.seed).fit(fit.dataset, fit.targets)
        answers = [Pixels(classes, 1.0) for classes in fitted.predict(data.dataset)]
        return {segment_baseline.NAME: self.measure(answers, data)}

    def untrained(self, encoder: Encoder, fit: Labelled, setup: Setup, frozen: bool) -> SegmentationNetwork:
        """Put an untrained decoder on an encoder, and scale the colour features by the images."""
        if frozen:  # which measures the encoder's maps alone
            self.decoder = "linear"
        with seeded(setup.seed, "decoder"):
            network = self.build(encoder, frozen)
        rows = np.unique(np.linspace(0, len(fit) - 1, min(len(fit), 64)).round().astype(np.int64))
        feed = self.feed(fit, setup, batch_size=1, start=0)
        network.head.scale_by(torch.cat([feed.make(int(row)).views[0] for row in rows]))
        return network

    def build(self, encoder: Encoder, frozen: bool) -> SegmentationNetwork:
        """Put a decoder on an encoder."""
        head = PixelHead(self.decoder, encoder.map_widths, len(self.classes))
        return SegmentationNetwork(encoder, head, frozen)

    def cropping(self, fit: Labelled) -> OneCrop:
        """Give what makes a crop of an image and of its mask."""

        @functools.lru_cache(maxsize=1024)
        def mask(row: int) -> npt.NDArray[np.uint8]:
            height, width = fit.dataset.gather(np.array([row])).image(0).shape[:2]
            return pixel_labels.fitted(fit.targets[row].read(), (height, width), fit.dataset.ids[row])

        def one(row: int, pixels: npt.NDArray[np.uint8], u: npt.NDArray[np.float32]) -> tuple[Tensor, Tensor]:
            height, width = pixels.shape[:2]
            square = self.side, self.side
            crop = crops.draw(u, (height, width), square, turns=self.config.turns, tilt=crops.TILT)
            return crop.image(pixels), crop.mask(mask(row))

        return one

    def padded(self, x: Tensor, down: int, across: int) -> Tensor:
        """Continue an image, mirrored where it is large enough."""
        fits = down < x.shape[2] and across < x.shape[3]
        return F.pad(x, (0, across, 0, down), mode="reflect" if fits else "replicate")

    def answer(self, network: SegmentationNetwork, x: Tensor, image: NetworkInput) -> Pixels:
        """Predict every pixel of an image, as it was decoded."""
        tall, wide = image.resized
        z = network.logits(x).float()[:, :, :tall, :wide]
        z = F.interpolate(z, image.decoded, mode="bilinear", align_corners=False)
        chance, classes = z.softmax(1)[0].max(0)
        return Pixels(classes.to(torch.uint8).cpu().numpy(), float(chance.mean()), image.original)

    def measure(self, answers: Sequence[Pixels], data: Labelled) -> Figures:
        """Compare with the masks, at the masks' own size."""
        found = segmentation_scores.scores(self._counts(answers, data), self.classes, groups=data.groups)
        values = {name: getattr(found, name) for name in ("miou", "low", "high", "image_miou", "accuracy")}
        per_class = {name: {"iou": value} for name, value in found.per_class.items() if not np.isnan(value)}
        return Figures("miou", values, None, per_class)

    def mistakes(self, answers: Sequence[Pixels], data: Labelled, count: int) -> list[Mistake]:
        """Find the images whose own mIoU is lowest."""
        counts = self._counts(answers, data)
        own = [float(np.nanmean(iou)) if some.any() else 1.0
               for iou, some in zip(segmentation_scores.iou(counts), counts, strict=True)]  # fmt: skip
        found = []
        for row in np.argsort(own, kind="stable")[:count].tolist():
            pixels, name = data.dataset[row], data.dataset.ids[row]
            mask = pixel_labels.fitted(data.targets[row].read(), pixels.shape[:2], name)
            true = Pixels(np.where(mask == IGNORED, 0, mask).astype(np.uint8), 1.0)
            drawn = [("true", self.draw(pixels, true)[0]), ("predicted", self.draw(pixels, answers[row])[0])]
            found.append(Mistake(name, f"mIoU {100 * own[row]:.0f} %", [("", pixels), *drawn]))
        return found

    def _counts(self, answers: Sequence[Pixels], data: Labelled) -> npt.NDArray[np.int64]:
        """Count the pixels of each true and predicted class, by image."""
        number = len(self.classes)
        return np.stack(
            [
                segmentation_scores.confusion(
                    truth := mask.read(),
                    pixel_labels.fitted(answer.classes, truth.shape, name),
                    number,
                    IGNORED,
                )
                for answer, mask, name in zip(answers, data.targets, data.dataset.ids, strict=True)
            ]
        )

    def card(self) -> dict[str, Any]:
        """Give the classes, the masks' values, whether they are colours, and the side."""
        plain = {"classes": list(self.classes), "values": list(self.values), "colours": self.colours}
        return {**plain, "side": self.side, "decoder": self.decoder}

    def take(self, card: Mapping[str, Any]) -> None:
        """Take over the same."""
        self.classes = tuple(map(str, card["classes"]))
        self.values, self.side = tuple(map(int, card["values"])), int(card["side"])
        self.decoder = str(card["decoder"])
        self.colours = bool(card.get("colours", max(self.values, default=0) > 65535))  # older ones lack it
        if self.decoder not in HEADS:
            raise ValueError(f"there is no decoder {self.decoder!r}")
        if self.values and len(self.values) != len(self.classes):
            raise ValueError("the masks' values are not one a class")

    def exported(self, network: SegmentationNetwork, preprocess: Any) -> HeadExport:
        """Give logits of every pixel of the input."""
        shape, step = self.input_shape(network, (self.side, self.side))
        return HeadExport(
            PixelLogits(network),
            shape,
            step,
            ("logits",),
            ("`logits` (n, classes, h, w), float32: the greatest one of a pixel is its class.",),
            "image-segmentation",
            self.prepared_as(network, "mirrored, which is cut off from the answer again"),
            facts={"side": self.side, "values": list(self.values)},
        )

    def columns(self) -> Mapping[str, str]:
        """Name the columns: a row for each class on an image."""
        return {"class": "text", "share": "number", "confidence": "number"}

    def rows(self, answer: Answer) -> list[tuple[Any, ...]]:
        """Give the share of the image that each class has, the largest first."""
        return [(name, round(share, 6), round(answer.confidence, 6)) for name, share in self._shares(answer)]

    def _shares(self, answer: Pixels) -> Iterator[tuple[str, float]]:
        count = np.bincount(answer.classes.ravel(), minlength=len(self.classes)) / answer.classes.size
        for at in np.argsort(-count, kind="stable").tolist():
            if count[at]:
                yield self.classes[at], float(count[at])

    def store_kinds(self) -> Mapping[str, str]:
        """Name a column for each class."""
        return dict.fromkeys(column_names("share", tuple(self.classes)), "number")

    def store_columns(self, answer: Answer) -> Mapping[str, Any]:
        """Give the share of each class."""
        shares = dict(self._shares(answer))
        columns = column_names("share", tuple(self.classes))
        return {column: shares.get(name, 0.0) for column, name in zip(columns, self.classes, strict=True)}

    def common_files(self) -> Mapping[str, bytes]:
        """Give none."""
        return {}

    def files(self, answer: Answer) -> Mapping[str, bytes]:
        """Write the mask as a PNG with the values that the training's masks had."""
        from PIL import Image

        classes = pixel_labels.fitted(answer.classes, answer.shape or answer.classes.shape, "an image")
        values = np.array(self.values or range(len(self.classes)), np.int64)[classes]
        if self.colours:
            image = Image.fromarray(
                np.stack([values >> 16, values >> 8 & 255, values & 255], 2).astype(np.uint8)
            )
        elif values.max(initial=0) < 256:
            image = Image.fromarray(values.astype(np.uint8))
        else:
            image = Image.fromarray(values.astype(np.uint16))
        out = io.BytesIO()
        image.save(out, "PNG")
        return {".png": out.getvalue()}

    def draw(self, pixels: npt.NDArray[np.uint8], answer: Answer) -> tuple[npt.NDArray[np.uint8], str]:
        """Lay the classes' colours over the image; the first class, often the background, stays clear."""
        classes = pixel_labels.fitted(answer.classes, pixels.shape[:2], "an image")
        mixed = (pixels.astype(np.uint16) + coloured(classes)) // 2
        shown = np.where((classes == 0)[:, :, None], pixels, mixed).astype(np.uint8)
        return shown, ", ".join(f"{name} {100 * share:.0f} %" for name, share in self._shares(answer))
