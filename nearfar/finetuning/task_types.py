"""What a task and its callers pass to one another: labelled images, recipes, networks, figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..core.errors import NearfarError
from ..data.batch import Batch
from ..data.dataset import Subset
from ..data.reading import Rejected
from ..data.source import Source
from ..methods.base import Method


class TooFewError(NearfarError):
    """There are too few labelled images to train on."""


Rows = npt.NDArray[np.int64]
TERMS = {"miou": "mIoU", "ap": "AP", "ap50": "AP50", "ap75": "AP75", "map": "mAP"}  # as the field writes them
Answer = Any
"""What a network says of one image, in the task's own form: of a classification (classes,) logits."""


@dataclass(frozen=True)
class Labelled:
    """Labelled images, decoded.

    Attributes:
        name: what errors call them.
        source: where they came from; its ids and paths are those of all images, also of rejected ones.
        dataset: n images that can be used: `ids`, `gather`, `fingerprint`.
        targets: n, one an image, in the task's own form; an array where that fits.
        classes: names of the classes that targets point to.
        digest: of images, targets and classes; another digest is another training.
        groups: (n,) numbers of the groups that images belong to, such as patients, or None.
        least_groups: of how many groups images have to be for a figure to say anything of them.
        rejected: images that cannot be used.
        notes: what the reader left out or took another way, a sentence each.
    """

    name: str
    source: Source
    dataset: Any
    targets: Any
    classes: tuple[str, ...]
    digest: str
    groups: Rows | None = None
    least_groups: int = 1
    rejected: tuple[Rejected, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Count the images that can be used."""
        return len(self.dataset)

    def take(self, rows: Rows) -> Labelled:
        """Keep some of the images.

        Args:
            rows: (m,) int64 places among the n.
        """
        wanted = self.targets
        part = wanted[rows] if isinstance(wanted, np.ndarray) else [wanted[row] for row in rows.tolist()]
        own = None if self.groups is None else self.groups[rows]
        return replace(self, dataset=Subset(self.dataset, rows), targets=part, groups=own)

    def tells(self, rows: Rows) -> bool:
        """Say whether figures of some of the images could tell one network from another.

        Args:
            rows: (m,) int64 places among the n.
        """
        groups = rows if self.groups is None else self.groups[rows]
        return len(np.unique(groups)) >= self.least_groups


@dataclass(frozen=True)
class Where:
    """How labelled images are found and read, as it was typed.

    Attributes:
        labels: a file to take labels from, or None.
        label_level: which folder on the way to an image names its class, or None.
        max_bad: share of unusable images beyond which reading fails.
        workers: CPU threads.
        keep: the run folder, in which a task may keep what takes long, as `vectors.encode` does.
    """

    labels: str | Path | None = None
    label_level: int | None = None
    max_bad: float = 0.1
    workers: int = 1
    keep: Path | None = None


@dataclass(frozen=True)
class Setup:
    """What a task computes with.

    Attributes:
        preprocess: how an image becomes the encoder's input.
        device: where to compute.
        workers: CPU threads that prepare images.
        seed: names every draw; a prediction draws nothing.
    """

    preprocess: Any
    device: torch.device
    workers: int = 1
    seed: int = 0

    @property
    def feed_device(self) -> torch.device | None:
        """The device that makes a training's batches; None for the CPU."""
        return self.device if self.device.type == "cuda" else None


@dataclass(frozen=True)
class TaskRecipe:
    """How a network is trained by gradient steps.

    Attributes:
        lrs: learning rates for 256 images a step, the usual one first; all are tried on held-out images.
        steps: optimizer steps.
        batch_size: images a step.
        warmup: share of the steps over which the rate rises.
        trial: share of the steps that a trial of a learning rate has.
        images: that it is trained on, where these are not the labelled ones alone.
    """

    lrs: tuple[float, ...]
    steps: int
    batch_size: int
    warmup: float = 0.0
    trial: float = 0.25
    images: int | None = None


@dataclass(frozen=True)
class Solved:
    """A head that was fitted without gradient steps.

    Attributes:
        network: encoder and head.
        chosen: what was chosen, such as a penalty, in plain values.
        crossed: n answers for the images fitted, each of a fit that did not see the image; where the choice
            was made among these.
    """

    network: TaskNetwork
    chosen: dict[str, Any]
    crossed: Sequence[Answer] | None = None


class Feed(Protocol):
    """An endless iterator of batches from a given step on: `data.loader.DataLoader`, or the task's own.

    The batch of a step is a function of the seed and the step, so that a resumed training sees the same.
    """

    waited: float
    """Seconds that the consumer has waited for data."""

    def __iter__(self) -> Iterator[Batch]: ...

    def make(self, step: int) -> Batch:
        """Make the batch of one step, counted from 0, here and now."""

    def close(self) -> None:
        """Stop preparing."""


class TaskNetwork(Method):
    """An encoder `f` with a `head`; `forward(batch)` gives the loss. The task answers with it in eval mode.

    Where the encoder is frozen, its parameters need no gradient, and `train()` leaves it in eval mode.
    """

    head: nn.Module
    """What is saved beside the encoder: its `state_dict` is head.safetensors."""


@dataclass
class HeadExport:
    """A network as it leaves for other tools, and what these must know.

    Attributes:
        module: (n, 3, h, w) floats in [0, 1] to one tensor, or to a tuple of several.
        shape: height and width of a usual input.
        step: other sides are allowed if they are multiples of it; 0 where the shape is fixed.
        outputs: names of the tensors.
        says: what they are, a sentence each.
        prepared: how a picture becomes an input, a sentence each; empty where it is as for the encoder.
        square: whether the encoder's own preparation is right, so that a graph of all can be written.
        facts: more that a program needs, in plain values.
        beside: files of `exports` that go with it.
        tag: what the Hugging Face hub calls such a task.
    """

    module: nn.Module
    shape: tuple[int, int]
    step: int
    outputs: tuple[str, ...]
    says: tuple[str, ...]
    tag: str
    prepared: tuple[str, ...] = ()
    square: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mistake:
    """An image of which a network says something wrong.

    Attributes:
        name: of the image.
        says: what is said, and what is true.
        pictures: titles and (h, w, 3) pixels that show it; none of a kind of data without pictures.
    """

    name: str
    says: str
    pictures: Sequence[tuple[str, npt.NDArray[np.uint8]]] = ()


def figure_name(key: str) -> str:
    """Write the name of a figure for people: image_miou is the image mIoU."""
    return " ".join(TERMS.get(word, word) for word in key.split("_"))


@dataclass(frozen=True)
class Figures:
    """How good a network is on labelled images.

    Attributes:
        main: the figure that choices are made by, such as "accuracy"; higher is better, 0 to 1.
        values: all figures by name, the main one among them.
        per_image: (n,) float64 whose mean is the main figure, for a paired comparison; None where the figure
            is no mean over images.
        per_class: class to its own figures.
        groups: (n,) numbers of the groups that images belong to, such as patients; None without groups.
    """

    main: str
    values: Mapping[str, float]
    per_image: npt.NDArray[np.float64] | None = None
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    groups: Rows | None = None

    @property
    def score(self) -> float:
        """The main figure."""
        return self.values[self.main]
