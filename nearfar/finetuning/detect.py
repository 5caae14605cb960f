"""Detection: boxes around objects, by FCOS on the encoder's feature maps."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
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
from ..core.threads import map_in_order
from ..data import box_labels, coco
from ..data.box_labels import BoxLabels
from ..data.modality import modality_of
from ..images.files import MAX_PIXELS
from ..models import Encoder, seeded
from ..models.detector import Detector
from ..models.feature_maps import takes_any_shape
from ..training.run import Run
from . import crops
from .detect_network import DetectionNetwork, Objects
from .task import Feed, Figures, Labelled, Rows, TaskRecipe, Where

SIDES = (128, 640)  # the short side that is chosen where none is given lies between
LONGEST = 4096  # pixels of the longer side that a network sees
FINEST = (4, 8)  # strides of the finest map used
WIDTHS = (64, 128)  # channels of the pyramid: with a map finer than stride 8, and without
SMALL = 4.0  # of the finest stride, that a small object's side should have at least
BATCH = 8
LR = 0.032  # for 256 images a step, so .001 for 8
PRETRAINED = 0.3  # of this rate, for the weights of an encoder that was trained before
STEPS, EPOCHS = (300, 8000), 24
CORNERS = ("x0", "y0", "x1", "y1")
SIDE_COLUMNS = {"width": "number", "height": "number"}
COLOURS = np.array(
    [(230, 25, 75), (0, 130, 200), (60, 180, 75), (245, 130, 48), (145, 30, 180), (70, 240, 240)],
    np.uint8,
)  # fmt: skip


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
    turns: bool = setting(
        False, "train on quarter turns too, for images that have no upright, as from a microscope"
    )


@dataclass(frozen=True)
class Predicting:
    """The settings of a prediction of boxes."""

    min_score: float = setting(0.3, "score from which a box is written", low=0.0, high=1.0)


class Detection:
    """The task of `--task detect`; see `task.Task` for what each function is."""

    name: ClassVar[str] = "detect"
    trains_frozen: ClassVar[bool] = True
    modalities: ClassVar[tuple[str, ...] | None] = ("images",)

    def __init__(self, config: Config = Config()) -> None:
        """Start without classes; `read` or `restore` gives them."""
        self.config, self.predicting = config, Predicting()
        self.classes: tuple[str, ...] = ()
        self.side, self.finest = config.side or 0, config.finest or 0
        self.shape = (0, 0)  # of a training crop, height and width

    def read(self, data: Any, preprocess: Any, where: Where) -> Labelled:
        """Open images and boxes; the short side, the crop's shape and the finest stride are chosen."""
        found = box_labels.open_box_labels(data, where.labels)
        if not any((~one.crowd).any() for one in found.boxes):
            raise NearfarError(f"there is not one box on the images of {found.source.name}; add labels.")
        self.classes = found.classes
        sides = np.array([(one.height, one.width) for one in found.boxes if one.height])
        shorts = sides.min(1)
        if not self.side:
            self.side = int(min(max(32 * round(float(np.median(shorts)) / 32), SIDES[0]), SIDES[1]))
        shape = self.side / float(np.median(shorts)) * np.median(sides, axis=0)
        height, width = (int(32 * max(1, -(-length // 32))) for length in np.minimum(shape, 2 * self.side))
        self.shape = height, width
        if not self.finest:
            self.finest = FINEST[0] if _small(found, self.side) < SMALL * FINEST[1] else FINEST[1]
        return self._load(found, self.reading(preprocess), where)

    def read_test(self, data: Any, preprocess: Any, where: Where) -> Labelled:
        """Open images and boxes, in the training's classes."""
        found = box_labels.renumbered(box_labels.open_box_labels(data, where.labels), self.classes)
        if not any((~one.crowd).any() for one in found.boxes):
            raise NearfarError(f"there is not one box on the test images of {found.source.name}; add labels.")
        return self._load(found, self.reading(preprocess), where)

    def begin(self, run: Run) -> None:
        """Take nothing but the encoder; see `Task.begin`."""

    def reading(self, preprocess: Any) -> Any:
        """Give settings with which larger images are reduced to the short side when they are decoded."""
        return dataclasses.replace(preprocess, size=self.side, short_side=self.side)

    def _load(self, found: BoxLabels, preprocess: Any, where: Where) -> Labelled:
        """Decode images, and keep the boxes of those that can be used."""
        dataset = modality_of(preprocess).load(
            found.source, preprocess, limit=MAX_PIXELS, max_bad=where.max_bad, threads=where.workers
        )
        bad = {item.id for item in dataset.rejected}
        boxes = [one for name, one in zip(found.source.ids, found.boxes, strict=True) if name not in bad]
        digest = hashlib.blake2b(f"{dataset.fingerprint} {found.classes}".encode(), digest_size=16)
        for one in boxes:
            digest.update(one.boxes.tobytes() + one.labels.tobytes() + one.crowd.tobytes())
        return Labelled(
            found.source.name,
            found.source,
            dataset,
            boxes,
            found.classes,
            digest.hexdigest(),
            rejected=tuple(dataset.rejected),
            notes=found.notes,
        )

    def baseline(self, fit: Labelled, data: Labelled, seed: int) -> None:
        """Have none: nothing without a network finds objects."""

    def strata(self, data: Labelled) -> Rows:
        """Group images by the rarest class on them; those without objects are a group too."""
        often = np.bincount(
            np.concatenate([np.unique(one.labels) for one in data.targets]), minlength=len(self.classes)
        )
        return np.array(
            [min(one.labels.tolist(), key=lambda v: (often[v], v), default=-1) for one in data.targets],
            np.int64,
        )

    def mode(self, data: Labelled, side: int, device: torch.device) -> str:
        """Train all: the heads need gradient steps anyway."""
        return "full"

    def solve(self, *_: Any, **how: Any) -> None:
        """Say that there is no way without gradient steps."""

    def recipe(self, mode: str, images: int, size: int, epochs: float | None) -> TaskRecipe:
        """Say how long: a few images are seen more often."""
        steps = min(max(STEPS[0], EPOCHS * images // BATCH), STEPS[1])
        batch_size = min(BATCH, images)
        steps = steps if epochs is None else max(1, round(epochs * images / batch_size))
        return TaskRecipe((LR,), steps, batch_size, warmup=0.05)

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
    ) -> DetectionNetwork:
        """Put an untrained detector on an encoder."""
        if not takes_any_shape(encoder):
            raise NearfarError(
                f"encoder {encoder.name!r} takes square images of {encoder.size} px alone, and a detection "
                "needs whole images; choose a convolutional network, such as resnet18."
            )
        with seeded(seed, "detector"):
            return self._network(copy.deepcopy(encoder), frozen).to(device)

    def _network(self, encoder: Encoder, frozen: bool) -> DetectionNetwork:
        strides, widths = encoder.strides, encoder.map_widths
        levels = [at for at, stride in enumerate(strides) if stride >= self.finest] or [len(strides) - 1]
        width = WIDTHS[self.finest >= FINEST[1]]
        used = [widths[at] for at in levels], [strides[at] for at in levels]
        head = Detector(*used, len(self.classes), width)
        return DetectionNetwork(encoder, head, levels, frozen)

    def empty(self, encoder: Encoder, preprocess: Any) -> DetectionNetwork:
        """Build a network of the card's make."""
        return self._network(encoder, frozen=True)

    def optimizer(self, network: DetectionNetwork, lr: float) -> torch.optim.Optimizer:
        """Make AdamW; an encoder that was trained before learns more slowly."""
        groups: list[dict[str, Any]] = [{"params": list(network.head.parameters())}]
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
        """Open crops of images and boxes."""
        most = max(1, max(len(one.boxes) for one in fit.targets))

        def one(
            row: int, pixels: npt.NDArray[np.uint8], u: npt.NDArray[np.float32]
        ) -> tuple[Tensor, Tensor, Tensor]:
            height, width = pixels.shape[:2]
            crop = crops.draw(u, (height, width), self.shape, turns=self.config.turns)
            own = fit.targets[row]
            kept = ~own.crowd
            scaled = own.boxes[kept] * np.array([width, height, width, height], np.float32)
            moved, good = crop.boxes(scaled)
            boxes, labels = torch.zeros(most, 4), torch.full((most,), -1)
            count = int(good.sum())
            boxes[:count] = torch.from_numpy(moved[good])
            labels[:count] = torch.from_numpy(own.labels[kept][good])
            return crop.image(pixels), boxes, labels

        return crops.CropFeed(
            fit.dataset, one, batch_size=batch_size, seed=seed, start=start, workers=workers
        )

    def answers(
        self,
        network: DetectionNetwork,
        images: Any,
        preprocess: Any,
        *,
        device: torch.device,
        batch_size: int,
        workers: int,
    ) -> Sequence[Objects]:
        """Find the objects on each image; one image at a time."""
        training = network.training
        network.eval()
        multiple, sizes = max(network.f.strides), getattr(images, "sizes", None)

        def prepared(row: int) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
            pixels = images.gather(np.array([row])).image(0)
            shape = pixels.shape[:2] if sizes is None else tuple(sizes[row].tolist())
            return *self._prepared(pixels, multiple), shape

        found = []
        try:
            with torch.inference_mode():
                ready = map_in_order(prepared, range(len(images)), threads=workers, ahead=workers)
                for x, (tall, wide), shape in ready:
                    here = x.to(device)
                    own = network.head.detect(here, network.maps(here))[0]
                    boxes = own["boxes"].cpu().double().numpy() / (wide, tall, wide, tall)
                    boxes = boxes.clip(0, 1)
                    good = (boxes[:, 2:] > boxes[:, :2]).all(1)
                    scores, labels = own["scores"].cpu().double().numpy(), own["labels"].cpu().numpy()
                    found.append(Objects(Found(boxes[good], labels[good], scores[good]), *shape))
        finally:
            network.train(training)
        return found

    def _prepared(self, pixels: npt.NDArray[np.uint8], multiple: int) -> tuple[Tensor, tuple[int, int]]:
        """Resize an image to its short side, and continue it in grey to multiples of the strides."""
        height, width = pixels.shape[:2]
        scale = min(self.side / min(height, width), LONGEST / max(height, width))
        tall, wide = (max(1, round(length * scale)) for length in (height, width))
        x = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
        x = F.interpolate(x, (tall, wide), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
        return F.pad(x, (0, -wide % multiple, 0, -tall % multiple), value=crops.FILL), (tall, wide)

    def measure(self, answers: Sequence[Objects], data: Labelled) -> Figures:
        """Compare with the true boxes, in pixels of the original images."""
        truth, found = [], []
        for answer, own in zip(answers, data.targets, strict=True):
            sides = np.array([own.width, own.height, own.width, own.height], np.float64)
            truth.append(Found(own.boxes.astype(np.float64) * sides, own.labels, None, own.crowd))
            given = answer.found
            found.append(Found(given.boxes * sides, given.labels, given.scores))
        if not any((~own.crowd).any() for own in data.targets):  # of a few held-out images
            return Figures("ap50", dict.fromkeys(("ap50", "low", "high", "ap", "ap75"), 0.0))
        got = detection_scores.scores(truth, found, self.classes)
        values = {name: getattr(got, name) for name in ("ap50", "low", "high", "ap", "ap75")}
        return Figures("ap50", values, None, got.per_class)

    def calibrate(self, *_: Any) -> tuple[str, ...]:
        """Fix nothing."""
        return ()

    def prepare(self, predicting: Predicting) -> tuple[str, ...]:
        """Take the settings of a prediction."""
        self.predicting = predicting
        return ()

    def card(self) -> dict[str, Any]:
        """Give the classes, the side, the crop's shape and the finest stride."""
        plain = {"classes": list(self.classes), "side": self.side}
        return {**plain, "shape": list(self.shape), "finest": self.finest}

    def restore(self, card: Mapping[str, Any], where: str) -> None:
        """Take over what `card` gave."""
        try:
            self.classes = tuple(map(str, card["classes"]))
            self.side, self.finest = int(card["side"]), int(card["finest"])
            height, width = map(int, card["shape"])
            self.shape = height, width
        except (KeyError, TypeError, ValueError):
            raise NearfarError(f"{where}the classes make no sense; the file is damaged.") from None

    def columns(self) -> Mapping[str, str]:
        """Name the columns: a row for each object, its corners and the image's sides in pixels."""
        return {"class": "text", "score": "number", **dict.fromkeys(CORNERS, "number"), **SIDE_COLUMNS}

    def _kept(self, answer: Objects) -> list[tuple[str, float, list[float]]]:
        """Give the objects whose score is high enough, the highest first, in shares of the sides."""
        found = answer.found
        assert found.scores is not None
        good = found.scores >= self.predicting.min_score
        return [
            (self.classes[label], float(score), box.tolist())
            for label, score, box in zip(
                found.labels[good], found.scores[good], found.boxes[good], strict=True
            )
        ]

    def rows(self, answer: Objects) -> list[tuple[Any, ...]]:
        """Write a row for each object; one without a class for an image that has none."""
        sides = np.array([answer.width, answer.height, answer.width, answer.height])
        found = [
            (
                name,
                round(score, 4),
                *(round(v, 2) for v in (sides * box).tolist()),
                answer.width,
                answer.height,
            )
            for name, score, box in self._kept(answer)
        ]
        return found or [("", None, None, None, None, None, answer.width, answer.height)]

    def document(self, rows: Iterator[list[Any]]) -> dict[str, Any]:
        """Write rows, the path first, as a COCO file."""
        return coco.document(rows, self.classes)

    def store_columns(self, answer: Objects) -> Mapping[str, Any]:
        """Give the number of objects of each class."""
        names = [name for name, _, _ in self._kept(answer)]
        return {f"objects_{name}": names.count(name) for name in self.classes}

    def files(self, answer: Objects) -> Mapping[str, bytes]:
        """Give none; boxes are rows of the one file."""
        return {}

    def draw(self, pixels: npt.NDArray[np.uint8], answer: Objects) -> tuple[npt.NDArray[np.uint8], str]:
        """Draw frames in the classes' colours, and count the objects."""
        from PIL import Image, ImageDraw

        image = Image.fromarray(pixels)
        pen, thick = ImageDraw.Draw(image), max(1, round(max(image.size) / 160))
        kept = self._kept(answer)
        for name, _, (left, top, right, bottom) in kept:
            colour = tuple(COLOURS[self.classes.index(name) % len(COLOURS)].tolist())
            corners = (left * image.width, top * image.height, right * image.width, bottom * image.height)
            pen.rectangle(corners, outline=colour, width=thick)
        names = [name for name, _, _ in kept]
        told = [f"{names.count(name)} {name}" for name in self.classes if name in names]
        return np.asarray(image), ", ".join(told) or "nothing"


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
