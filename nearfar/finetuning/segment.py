"""Segmentation: a class for every pixel, by a decoder on the encoder's feature maps.

The decoder sees the 16 colour features of every pixel too: where few images are labelled, these are what
other methods have to be better than.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import io
from collections import Counter
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
from ..core.threads import map_in_order
from ..data import pixel_labels
from ..data.modality import modality_of
from ..data.pixel_labels import IGNORED, PixelLabels
from ..images.files import MAX_PIXELS
from ..models import Encoder, seeded
from ..models.feature_maps import takes_any_shape
from ..training.run import Run
from . import crops, segment_baseline
from .segment_baseline import ColourFeatures
from .segment_network import PixelHead, SegmentationNetwork
from .task import Answer, Feed, Figures, Labelled, Rows, TaskRecipe, Where

SIDES = (64, 512)  # the short side that is chosen where none is given lies between
BATCH = 8
LR = 0.032  # for 256 images a step, so .001 for 8
PRETRAINED = 0.1  # of this rate, for the weights of an encoder that was trained before
STEPS, EPOCHS = (300, 4000), 40
LONGEST = 4096  # pixels of the longer side that a network sees
COLOURS = np.array(
    [(127, 127, 127), (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48),
     (145, 30, 180), (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212), (0, 128, 128)],
    np.uint8,
)  # fmt: skip


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


class Segmentation:
    """The task; see `task.Task` for what each function is."""

    name: ClassVar[str] = "segment"
    trains_frozen: ClassVar[bool] = True
    document: ClassVar[None] = None
    modalities: ClassVar[tuple[str, ...] | None] = ("images",)

    def __init__(self, config: Config = Config()) -> None:
        """Start without classes; `read` or `restore` gives them."""
        self.config = config
        self.classes: tuple[str, ...] = ()
        self.values: tuple[int, ...] = ()
        self.side, self.decoder = config.side or 0, str(config.decoder)

    def read(self, data: Any, preprocess: Any, where: Where) -> Labelled:
        """Open images and masks; the classes are the masks' values, and the short side is chosen."""
        found = pixel_labels.open_pixel_labels(
            data, where.labels, ignore=self.config.ignore, workers=where.workers
        )
        if len(found.classes) < 2:
            raise NearfarError(
                f"the masks of {found.source.name} hold a single value; segmentation needs two classes."
            )
        self.classes, self.values = found.classes, found.values
        if not self.side:
            self.side = _usual_side(found)
        return _load(found, self.reading(preprocess), where)

    def read_test(self, data: Any, preprocess: Any, where: Where) -> Labelled:
        """Open images and masks, in the training's classes."""
        found = pixel_labels.open_pixel_labels(
            data, where.labels, ignore=self.config.ignore, workers=where.workers
        )
        found = pixel_labels.renumbered(found, self.classes, self.values)
        return _load(found, self.reading(preprocess), where)

    def begin(self, run: Run) -> None:
        """Take nothing but the encoder; see `Task.begin`."""

    def reading(self, preprocess: Any) -> Any:
        """Give settings with which larger images are reduced to the short side when they are decoded."""
        return dataclasses.replace(preprocess, size=self.side, short_side=self.side)

    def baseline(self, fit: Labelled, data: Labelled, seed: int) -> tuple[str, Figures]:
        """Classify pixels by colour features."""
        fitted = ColourFeatures(self.side, len(self.classes), seed).fit(fit.dataset, fit.targets)
        answers = [Pixels(classes, 1.0) for classes in fitted.predict(data.dataset)]
        return segment_baseline.NAME, self.measure(answers, data)

    def strata(self, data: Labelled) -> Rows:
        """Group images by the rarest class on them."""
        held = [np.unique(mask.read()) for mask in data.targets]
        often = Counter(int(value) for some in held for value in some)
        return np.array([min(some.tolist(), key=lambda v: (often[v], v)) for some in held], np.int64)

    def mode(self, data: Labelled, side: int, device: torch.device) -> str:
        """Train all: the decoder needs gradient steps anyway."""
        return "full"

    def solve(self, *_: Any, **how: Any) -> None:
        """Say that there is no way without gradient steps."""

    def recipe(self, mode: str, images: int, size: int, epochs: float | None) -> TaskRecipe:
        """Say how long: a few images are seen more often."""
        steps = min(max(STEPS[0], EPOCHS * images // BATCH), STEPS[1])
        batch_size = min(BATCH, images)
        steps = steps if epochs is None else max(1, round(epochs * images / batch_size))
        return TaskRecipe((LR,), steps, batch_size, warmup=0.1)

    def network(
        self,
        encoder: Encoder,
        preprocess: Any,
        fit: Labelled,
        *,
        frozen: bool,
        seed: int,
        device: torch.device,
        workers: int,
    ) -> SegmentationNetwork:
        """Put an untrained decoder on an encoder."""
        if not takes_any_shape(encoder) and self.side != encoder.size:
            raise NearfarError(
                f"encoder {encoder.name!r} takes images of {encoder.size} px alone; give --side "
                f"{encoder.size}."
            )
        if frozen:  # an honest measure of the encoder's maps
            self.decoder = "linear"
        with seeded(seed, "decoder"):
            head = PixelHead(self.decoder, encoder.map_widths, len(self.classes))
        rows = np.unique(np.linspace(0, len(fit) - 1, min(len(fit), 64)).round().astype(np.int64))
        feed = self._feed(fit, batch_size=1, seed=seed, start=0, workers=1)
        head.scale_by(torch.cat([feed.make(int(row)).views[0] for row in rows]))
        return SegmentationNetwork(copy.deepcopy(encoder), head, frozen).to(device)

    def optimizer(self, network: SegmentationNetwork, lr: float) -> torch.optim.Optimizer:
        """Make AdamW; an encoder that was trained before learns a tenth as fast."""
        groups = [{"params": list(network.head.parameters()), "lr_scale": 1.0}]
        if not network.frozen:
            share = 1.0 if network.f.untrained else PRETRAINED
            groups.append({"params": list(network.f.parameters()), "lr_scale": share})
        return torch.optim.AdamW(groups, lr, weight_decay=0.05)

    def feed(
        self,
        fit: Labelled,
        preprocess: Any,
        *,
        batch_size: int,
        seed: int,
        start: int,
        workers: int,
        device: torch.device | None,
    ) -> Feed:
        """Open crops of images and masks."""
        return self._feed(fit, batch_size=batch_size, seed=seed, start=start, workers=workers)

    def _feed(self, fit: Labelled, *, batch_size: int, seed: int, start: int, workers: int) -> crops.CropFeed:
        @functools.lru_cache(maxsize=1024)
        def mask(row: int) -> npt.NDArray[np.uint8]:
            height, width = fit.dataset.gather(np.array([row])).image(0).shape[:2]
            return pixel_labels.fitted(fit.targets[row].read(), (height, width), fit.dataset.ids[row])

        def one(row: int, pixels: npt.NDArray[np.uint8], u: npt.NDArray[np.float32]) -> tuple[Tensor, Tensor]:
            height, width = pixels.shape[:2]
            square = self.side, self.side
            crop = crops.draw(u, (height, width), square, turns=self.config.turns, tilt=crops.TILT)
            return crop.image(pixels), crop.mask(mask(row))

        return crops.CropFeed(
            fit.dataset, one, batch_size=batch_size, seed=seed, start=start, workers=workers
        )

    def answers(
        self,
        network: SegmentationNetwork,
        images: Any,
        preprocess: Any,
        *,
        device: torch.device,
        batch_size: int,
        workers: int,
    ) -> Sequence[Pixels]:
        """Predict every pixel of each image; one image at a time."""
        training = network.training
        network.eval()
        whole = takes_any_shape(network.f)
        multiple, sizes = max(network.f.strides), getattr(images, "sizes", None)

        def prepared(row: int) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
            return self._prepared(images.gather(np.array([row])).image(0), whole, multiple)

        found = []
        try:
            with torch.inference_mode():
                ready = map_in_order(prepared, range(len(images)), threads=workers, ahead=workers)
                for row, (x, (tall, wide), (height, width)) in enumerate(ready):
                    z = network.logits(x.to(device)).float()[:, :, :tall, :wide]
                    z = F.interpolate(z, (height, width), mode="bilinear", align_corners=False)
                    chance, classes = z.softmax(1)[0].max(0)
                    kept = classes.to(torch.uint8).cpu().numpy()
                    own = None if sizes is None else (int(sizes[row, 0]), int(sizes[row, 1]))
                    found.append(Pixels(kept, float(chance.mean()), own))
        finally:
            network.train(training)
        return found

    def _prepared(
        self, pixels: npt.NDArray[np.uint8], whole: bool, multiple: int
    ) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
        """Resize an image to its short side, and continue it, mirrored, to multiples of the strides."""
        height, width = pixels.shape[:2]
        scale = min(self.side / min(height, width), LONGEST / max(height, width))
        tall, wide = (max(1, round(length * scale)) for length in (height, width))
        if not whole:
            tall = wide = self.side
        x = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
        x = F.interpolate(x, (tall, wide), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
        down, across = (-length % multiple for length in (tall, wide))
        fits = down < tall and across < wide
        x = F.pad(x, (0, across, 0, down), mode="reflect" if fits else "replicate")
        return x, (tall, wide), (height, width)

    def measure(self, answers: Sequence[Pixels], data: Labelled) -> Figures:
        """Compare with the masks, at the masks' own size."""
        number = len(self.classes)
        counts = np.stack(
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
        found = segmentation_scores.scores(counts, self.classes)
        values = {name: getattr(found, name) for name in ("miou", "low", "high", "image_miou", "accuracy")}
        per_class = {name: {"iou": value} for name, value in found.per_class.items() if not np.isnan(value)}
        return Figures("miou", values, None, per_class)

    def calibrate(self, *_: Any) -> tuple[str, ...]:
        """Fix nothing."""
        return ()

    def prepare(self, predicting: Predicting) -> tuple[str, ...]:
        """Take the settings of a prediction, of which there are none."""
        return ()

    def card(self) -> dict[str, Any]:
        """Give the classes, the masks' values and the side."""
        plain = {"classes": list(self.classes), "values": list(self.values)}
        return {**plain, "side": self.side, "decoder": self.decoder}

    def restore(self, card: Mapping[str, Any], where: str) -> None:
        """Take over what `card` gave."""
        try:
            self.classes = tuple(map(str, card["classes"]))
            self.values, self.side = tuple(map(int, card["values"])), int(card["side"])
            self.decoder = str(card["decoder"])
        except (KeyError, TypeError, ValueError):
            raise NearfarError(f"{where}the classes make no sense; the file is damaged.") from None

    def empty(self, encoder: Encoder, preprocess: Any) -> SegmentationNetwork:
        """Build a network of the card's make."""
        head = PixelHead(self.decoder, encoder.map_widths, len(self.classes))
        return SegmentationNetwork(encoder, head, frozen=True)

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

    def store_columns(self, answer: Answer) -> Mapping[str, Any]:
        """Give the share of each class."""
        shares = dict(self._shares(answer))
        return {f"share_{name}": shares.get(name, 0.0) for name in self.classes}

    def files(self, answer: Answer) -> Mapping[str, bytes]:
        """Write the mask as a PNG with the values that the training's masks had."""
        from PIL import Image

        classes = pixel_labels.fitted(answer.classes, answer.shape or answer.classes.shape, "an image")
        values = np.array(self.values or range(len(self.classes)), np.int64)[classes]
        if values.max(initial=0) < 256:
            image = Image.fromarray(values.astype(np.uint8))
        elif max(self.values) < 65536:
            image = Image.fromarray(values.astype(np.uint16))
        else:
            colours = np.stack([values >> 16, values >> 8 & 255, values & 255], 2).astype(np.uint8)
            image = Image.fromarray(colours)
        out = io.BytesIO()
        image.save(out, "PNG")
        return {".png": out.getvalue()}

    def draw(self, pixels: npt.NDArray[np.uint8], answer: Answer) -> tuple[npt.NDArray[np.uint8], str]:
        """Lay the classes' colours over the image; the first class, often the background, stays clear."""
        classes = pixel_labels.fitted(answer.classes, pixels.shape[:2], "an image")
        colours = COLOURS[1 + (classes.astype(np.int64) - 1) % (len(COLOURS) - 1)]
        mixed = (pixels.astype(np.uint16) + colours) // 2
        shown = np.where((classes == 0)[:, :, None], pixels, mixed).astype(np.uint8)
        return shown, ", ".join(f"{name} {100 * share:.0f} %" for name, share in self._shares(answer))


def _load(found: PixelLabels, preprocess: Any, where: Where) -> Labelled:
    """Decode images, and keep the masks of those that can be used."""
    dataset = modality_of(preprocess).load(
        found.source, preprocess, limit=MAX_PIXELS, max_bad=where.max_bad, threads=where.workers
    )
    bad = {item.id for item in dataset.rejected}
    masks = [mask for name, mask in zip(found.source.ids, found.masks, strict=True) if name not in bad]
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{dataset.fingerprint} {found.classes} {found.values}".encode())
    for row, (name, mask) in enumerate(zip(dataset.ids, masks, strict=True)):
        content = mask.read()
        height, width = dataset.gather(np.array([row])).image(0).shape[:2]
        pixel_labels.fitted(content, (height, width), name)
        digest.update(content.tobytes())
    return Labelled(
        found.source.name,
        found.source,
        dataset,
        masks,
        found.classes,
        digest.hexdigest(),
        rejected=tuple(dataset.rejected),
        notes=found.notes,
    )


def _usual_side(found: PixelLabels) -> int:
    """Choose the short side that half of the images have at most, in steps of 32 pixels."""
    shorts = [min(mask.read().shape) for mask in found.masks[:: max(1, len(found.masks) // 64)]]
    return int(min(max(32 * round(float(np.median(shorts)) / 32), SIDES[0]), SIDES[1]))
