"""What segmentation and detection share: training on crops of images, and predictions of whole images."""

from __future__ import annotations

import abc
import copy
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import NearfarError
from ..core.threads import map_in_order
from ..data.dataset import Dataset
from ..data.modalities import modality_of
from ..images.files import MAX_PIXELS
from ..models import Encoder
from ..models.feature_maps import takes_any_shape
from ..training.run import Run
from .crops import CropFeed
from .maps_network import MapsNetwork
from .task_types import Answer, Figures, Labelled, Rows, Setup, TaskRecipe, Where

BATCH = 8
LR = 0.032  # for 256 images a step, so .001 for 8
LONGEST = 4096  # pixels of the longer side that a network sees

OneCrop = Callable[[int, npt.NDArray[np.uint8], npt.NDArray[np.float32]], tuple[Tensor, ...]]
"""From an image's row, its pixels and uniform numbers to tensors; see `crops.CropFeed`."""


@dataclass(frozen=True)
class NetworkInput:
    """An image as a network takes it.

    Attributes:
        x: (1, 3, h, w) float32, the image at the upper left, padded to multiples of the encoder's strides.
        resized: height and width of the image within x.
        decoded: height and width of the image as it was decoded.
        original: height and width of the image before it was reduced; None where that is not known.
    """

    x: Tensor
    resized: tuple[int, int]
    decoded: tuple[int, int]
    original: tuple[int, int] | None


class CropTask(abc.ABC):
    """A task whose head works on feature maps; see `task.Task` for what each function is."""

    trains_frozen: ClassVar[bool] = True
    masks: ClassVar[bool] = False
    modalities: ClassVar[tuple[str, ...] | None] = ("images",)
    sides: ClassVar[tuple[int, int]]
    """The short side that is chosen where none is given lies between."""
    pretrained: ClassVar[float]
    """Share of the learning rate for the weights of an encoder that was trained before."""
    steps: ClassVar[tuple[int, int]]
    """The fewest and the most steps of a training, where its length is not given."""
    epochs: ClassVar[int]
    """Passes over the images, where these steps allow it."""
    warmup: ClassVar[float]

    def __init__(self, config: Any) -> None:
        """Start without classes; `read` or `restore` gives them."""
        self.config: Any = config
        self.classes: tuple[str, ...] = ()
        self.side: int = config.side or 0
        self.patch = 1  # pixels that the sides of a crop are multiples of

    def begin(self, run: Run) -> Encoder:
        """Take the encoder, and the side of a vision transformer's patches; see `Task.begin`."""
        strides = run.encoder.strides
        self.patch = strides[0] if len(strides) == 1 else 1
        return run.encoder

    # Labelled images

    def reading(self, preprocess: Any) -> Any:
        """Give settings with which larger images are reduced to the short side when they are decoded."""
        return dataclasses.replace(preprocess, size=self.side, short_side=self.side)

    def usual_side(self, shorts: npt.NDArray[np.int64]) -> int:
        """Choose the short side that half of the images have at most, in steps of 32 pixels or in patches."""
        least, most = self.sides
        return self.whole(int(min(max(32 * round(float(np.median(shorts)) / 32), least), most)))

    def whole(self, side: int) -> int:
        """Make a side as long as whole patches are."""
        return self.patch * -(-side // self.patch)

    def load(self, found: Any, targets: Sequence[Any], preprocess: Any, where: Where) -> Labelled:
        """Decode images, and keep the targets of those that can be used.

        Args:
            found: what a reader of labels gives: `source`, `classes` and `notes`.
            targets: one for each image of the source.
            preprocess: the encoder's.
            where: how to read.
        """
        preprocess = self.reading(preprocess)
        dataset = modality_of(preprocess).load(
            found.source, preprocess, limit=MAX_PIXELS, max_bad=where.max_bad, threads=where.workers
        )
        bad = {item.id for item in dataset.rejected}
        kept = [target for name, target in zip(found.source.ids, targets, strict=True) if name not in bad]
        digest = hashlib.blake2b(digest_size=16)
        for content in self.content(found, dataset, kept):
            digest.update(content)
        return Labelled(
            found.source.name,
            found.source,
            dataset,
            kept,
            found.classes,
            digest.hexdigest(),
            rejected=tuple(dataset.rejected),
            notes=found.notes,
        )

    @abc.abstractmethod
    def content(self, found: Any, dataset: Dataset, targets: Sequence[Any]) -> Iterator[bytes]:
        """Give the bytes that tell one set of labelled images from another."""

    @abc.abstractmethod
    def labels_on(self, target: Any) -> npt.NDArray[Any]:
        """Give the class numbers on one image, in any order and number."""

    def strata(self, data: Labelled) -> Rows:
        """Group images by the rarest class on them; those without a class are the last group."""
        held = [np.unique(self.labels_on(target)).tolist() for target in data.targets]
        often = Counter(value for some in held for value in some)
        none = max(often, default=-1) + 1  # a number as the others, since they are counted
        return np.array([min(some, key=lambda v: (often[v], v), default=none) for some in held], np.int64)

    def baselines(
        self, encoder: Encoder, fit: Labelled, data: Labelled, setup: Setup
    ) -> Mapping[str, Figures]:
        """Have none."""
        return {}

    # Training

    def mode(self, data: Labelled, side: int, device: torch.device) -> str:
        """Train all: the head needs gradient steps anyway."""
        return "full"

    def solve(self, *_: Any, **how: Any) -> None:  # noqa: B027 - gives None
        """Say that there is no way without gradient steps."""

    def recipe(self, mode: str, images: int, size: int, epochs: float | None) -> TaskRecipe:
        """Say how long: a few images are seen more often."""
        least, most = self.steps
        steps, batch_size = min(max(least, self.epochs * images // BATCH), most), min(BATCH, images)
        steps = steps if epochs is None else max(1, round(epochs * images / batch_size))
        return TaskRecipe((LR,), steps, batch_size, warmup=self.warmup)

    @abc.abstractmethod
    def build(self, encoder: Encoder, frozen: bool) -> MapsNetwork:
        """Put a head on an encoder, its weights from torch's generator."""

    @abc.abstractmethod
    def untrained(self, encoder: Encoder, fit: Labelled, setup: Setup, frozen: bool) -> MapsNetwork:
        """Put an untrained head on an encoder; see `Task.network`."""

    def network(self, encoder: Encoder, fit: Labelled, setup: Setup, *, frozen: bool) -> MapsNetwork:
        """Put an untrained head on a copy of an encoder."""
        return self.untrained(copy.deepcopy(encoder), fit, setup, frozen).to(setup.device)

    def empty(self, encoder: Encoder, preprocess: Any) -> MapsNetwork:
        """Build a network of the card's make."""
        return self.build(encoder, frozen=True)

    def lrs(self, encoder: Encoder, recipe: TaskRecipe) -> tuple[float, ...]:
        """Give the recipe's."""
        return recipe.lrs

    def optimizer(self, network: MapsNetwork, lr: float) -> torch.optim.Optimizer:
        """Make AdamW; an encoder that was trained before learns more slowly."""
        groups = [{"params": list(network.head.parameters()), "lr_scale": 1.0}]
        if not network.frozen:
            share = 1.0 if network.f.untrained else self.pretrained
            groups.append({"params": list(network.f.parameters()), "lr_scale": share})
        return torch.optim.AdamW(groups, lr, weight_decay=0.05)

    @abc.abstractmethod
    def cropping(self, fit: Labelled) -> OneCrop:
        """Give what makes a crop of an image and of its labels."""

    def feed(self, fit: Labelled, setup: Setup, *, batch_size: int, start: int) -> CropFeed:
        """Open crops of images and labels."""
        how = {"batch_size": batch_size, "seed": setup.seed, "start": start, "workers": setup.workers}
        return CropFeed(fit.dataset, self.cropping(fit), **how)

    # What a network says

    def answers(self, network: MapsNetwork, images: Any, setup: Setup, *, batch_size: int) -> list[Answer]:
        """Predict whole images, one at a time."""
        training = network.training
        network.eval()
        multiple, sizes = max(network.f.strides), getattr(images, "sizes", None)
        square = self.sees_squares(network)

        def prepared(row: int) -> NetworkInput:
            pixels = images.gather(np.array([row])).image(0)
            original = None if sizes is None else (int(sizes[row, 0]), int(sizes[row, 1]))
            x = self._resized(pixels, square)
            tall, wide = x.shape[2:]
            padded = self.padded(x, -tall % multiple, -wide % multiple)
            return NetworkInput(padded, (tall, wide), pixels.shape[:2], original)

        try:
            with torch.inference_mode():
                threads = setup.workers
                ready = map_in_order(prepared, range(len(images)), threads=threads, ahead=threads)
                return [self.answer(network, one.x.to(setup.device), one) for one in ready]
        finally:
            network.train(training)

    @property
    def longest(self) -> float:
        """The longer side in pixels that the network sees at most; an image is made smaller for it."""
        return LONGEST

    def sees_squares(self, network: Any) -> bool:
        """Say whether images are resized to a square, since the encoder takes nothing else."""
        return not takes_any_shape(network.f)

    def _resized(self, pixels: npt.NDArray[np.uint8], square: bool) -> Tensor:
        """Resize an image to its short side, or to a square of it; give (1, 3, h, w)."""
        height, width = pixels.shape[:2]
        scale = min(self.side / min(height, width), self.longest / max(height, width))
        shape = [max(1, round(length * scale)) for length in (height, width)]
        x = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
        shape = [self.side, self.side] if square else shape
        return F.interpolate(x, shape, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)

    def input_shape(self, network: MapsNetwork, shape: tuple[int, int]) -> tuple[tuple[int, int], int]:
        """Give a usual shape of the network's input, and what other sides must be multiples of.

        Args:
            network: trained.
            shape: height and width of a training crop.

        Returns:
            Height and width, and the multiple; 0 where the encoder takes one shape alone.
        """
        multiple = max(network.f.strides)
        height, width = (multiple * -(-length // multiple) for length in shape)
        return (height, width), multiple if takes_any_shape(network.f) else 0

    def prepared_as(self, network: MapsNetwork, padding: str) -> tuple[str, ...]:
        """Say how a picture becomes the network's input."""
        if not takes_any_shape(network.f):
            return (f"Resize it to {self.side} x {self.side} px, antialiased bilinear.", "Divide by 255.")
        return (
            f"Resize it so that its short side is {self.side} px (its long side at most {LONGEST} px), "
            "antialiased bilinear.",
            "Divide by 255.",
            f"Pad it at the right and at the bottom to multiples of {max(network.f.strides)} px, {padding}.",
        )

    @abc.abstractmethod
    def padded(self, x: Tensor, down: int, across: int) -> Tensor:
        """Pad an image (1, 3, h, w) by so many pixels at the bottom and at the right."""

    @abc.abstractmethod
    def answer(self, network: Any, x: Tensor, image: NetworkInput) -> Answer:
        """Predict one image.

        Args:
            network: in eval mode.
            x: the image's `x`, on the network's device.
            image: its shapes.
        """

    def calibrate(self, *_: Any) -> tuple[str, ...]:
        """Fix nothing."""
        return ()

    # The card, and predictions

    def also_read(self) -> list[str]:
        """Name nothing."""
        return []

    @abc.abstractmethod
    def take(self, card: Mapping[str, Any]) -> None:
        """Take over what `card` gave, unchecked."""

    def restore(self, card: Mapping[str, Any], where: str) -> None:
        """Take over what `card` gave."""
        try:
            self.take(card)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise NearfarError(
                f"{where}its card makes no sense ({error}); the file is damaged, or of another version of "
                "nearfar."
            ) from None

    def prepare(self, predicting: Any) -> tuple[str, ...]:
        """Take the settings of a prediction."""
        self.predicting = predicting
        return ()
