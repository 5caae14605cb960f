"""What a task brings to `nearfar finetune` and `nearfar predict`: labels, head, loss, figures, predictions.

The two verbs do the rest, the same for every task: the run folder, its lock, saves, resuming and Ctrl-C; the
images held out; the choice of the learning rate; the loop; the comparison with the frozen encoder and with
training from scratch; the verdict; and the prediction of a collection chunk by chunk, its files, sheet and
store columns.

A `Task` is made from its settings, and knows its classes once it has read labelled images, or a card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..data.batch import Batch
from ..data.dataset import Subset
from ..data.reading import Rejected
from ..data.source import Source
from ..methods.base import Method
from ..models import Encoder
from ..training.run import Run

Rows = npt.NDArray[np.int64]
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
class TaskRecipe:
    """How a network is trained by gradient steps.

    Attributes:
        lrs: learning rates for 256 images a step, the usual one first; all are tried on held-out images.
        steps: optimizer steps.
        batch_size: images a step.
        warmup: share of the steps over which the rate rises.
        trial: share of the steps that a trial of a learning rate has.
    """

    lrs: tuple[float, ...]
    steps: int
    batch_size: int
    warmup: float = 0.0
    trial: float = 0.25


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


@dataclass(frozen=True)
class Figures:
    """How good a network is on labelled images.

    Attributes:
        main: the figure that choices are made by, such as "accuracy"; higher is better, 0 to 1.
        values: all figures by name, the main one among them.
        per_image: (n,) float64 whose mean is the main figure, for a paired comparison; None where the figure
            is no mean over images.
        per_class: class to its own figures.
    """

    main: str
    values: Mapping[str, float]
    per_image: npt.NDArray[np.float64] | None = None
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """The main figure."""
        return self.values[self.main]


class Task(Protocol):
    """One task; see the module."""

    name: ClassVar[str]
    """As `--task` takes it, and the name of its file."""
    trains_frozen: ClassVar[bool]
    """Whether a head on the frozen encoder is trained by gradient steps too; else `solve` gives it."""
    modalities: ClassVar[tuple[str, ...] | None]
    """The kinds of data that it works for; None for all."""
    config: Any
    """Its own settings, a `Config` of its file."""
    classes: tuple[str, ...]

    def __init__(self, config: Any) -> None: ...

    def begin(self, run: Run) -> None:
        """Take from the run that is started from what the task needs beside its encoder; usually nothing.

        Raises:
            NearfarError: the run did not keep it.
        """
        ...

    # Labelled images

    def read(self, data: Any, preprocess: Any, where: Where) -> Labelled:
        """Open and decode training images, and keep their classes.

        Args:
            data: what the user named.
            preprocess: what the encoder's input is.
            where: how labels are found.

        Raises:
            NearfarError: there are no labels, or images cannot be used.
        """
        ...

    def read_test(self, data: Any, preprocess: Any, where: Where) -> Labelled:
        """Open and decode test images, with the numbers of the training's classes.

        Raises:
            NearfarError: as `read`; or a class has no training image.
        """
        ...

    def reading(self, preprocess: Any) -> Any:
        """Say how images to predict are decoded, where it is not as the encoder's own images are."""
        ...

    def baseline(self, fit: Labelled, data: Labelled, seed: int) -> tuple[str, Figures] | None:
        """Give the name and the figures of what needs no network; None where there is no such baseline.

        Args:
            fit: what it is fitted to.
            data: what it is measured on.
            seed: names every draw.
        """
        ...

    def strata(self, data: Labelled) -> Rows:
        """Give (n,) numbers; of each number the same share of images is held out."""
        ...

    def mode(self, data: Labelled, side: int, device: torch.device) -> str:
        """Choose what is trained where `--mode` is auto: linear, few-labels or full."""
        ...

    # Training

    def solve(
        self,
        encoder: Encoder,
        preprocess: Any,
        fit: Labelled,
        choice: Labelled | None,
        *,
        seed: int,
        device: torch.device,
        workers: int,
    ) -> Solved | None:
        """Fit a head on the frozen encoder without gradient steps.

        Args:
            encoder: frozen, on the device.
            preprocess: how an image becomes its input.
            fit: images to fit to.
            choice: images to choose a penalty on; None to choose among those that are fitted.
            seed: names every draw.
            device: where to compute.
            workers: CPU threads that prepare images.

        Returns:
            What was fitted; None where the task has no such way.
        """
        ...

    def recipe(self, mode: str, images: int, size: int, epochs: float | None) -> TaskRecipe:
        """Say how a network is trained.

        Args:
            mode: "linear", "full" or "scratch".
            images: how many it is trained on.
            size: side of the input in pixels.
            epochs: passes over the images, if they were given.
        """
        ...

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
    ) -> TaskNetwork:
        """Put an untrained head on an encoder.

        Args:
            encoder: on the device; it is trained unless frozen.
            preprocess: how an image becomes its input.
            fit: what it is trained on.
            frozen: whether the encoder stays as it is.
            seed: names the random weights.
            device: where to compute.
            workers: CPU threads that prepare images.
        """
        ...

    def optimizer(self, network: TaskNetwork, lr: float) -> torch.optim.Optimizer:
        """Make the optimizer; a group's `lr_scale` is a factor on its rate."""
        ...

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
        """Open the batches of a training, from step `start` on; augmentation is drawn here."""
        ...

    # What a network says

    def answers(
        self,
        network: TaskNetwork,
        images: Any,
        preprocess: Any,
        *,
        device: torch.device,
        batch_size: int,
        workers: int,
    ) -> Sequence[Answer]:
        """Predict images.

        Args:
            network: trained; left in the mode that it was in.
            images: n of them, with `gather`, as a data set or a chunk of one.
            preprocess: how an image becomes its input.
            device: where to compute.
            batch_size: images at a time.
            workers: CPU threads that prepare images.

        Returns:
            n answers.
        """
        ...

    def measure(self, answers: Sequence[Answer], data: Labelled) -> Figures:
        """Compare answers with the truth."""
        ...

    def calibrate(
        self, choice: tuple[Sequence[Answer], Labelled], rest: tuple[Sequence[Answer], Labelled]
    ) -> tuple[str, ...]:
        """Fix what is fixed on images that were not trained on, such as a temperature; part of the card.

        Args:
            choice: held-out images that other choices were made on too, and the answers.
            rest: held-out images on which nothing was chosen.

        Returns:
            What a user must know of it, a sentence each.
        """
        ...

    # The card, and predictions

    def card(self) -> dict[str, Any]:
        """Give all that `predict` must know beside the weights, in plain values."""
        ...

    def restore(self, card: Mapping[str, Any], where: str) -> None:
        """Take over what `card` gave.

        Args:
            card: from a file.
            where: how an error names the file.

        Raises:
            NearfarError: it is damaged.
        """
        ...

    def prepare(self, predicting: Any) -> tuple[str, ...]:
        """Take the settings of a prediction, `Predicting` of the task's file.

        Returns:
            What a user must know of them, a sentence each.

        Raises:
            NearfarError: the run does not allow them.
        """
        ...

    def empty(self, encoder: Encoder, preprocess: Any) -> TaskNetwork:
        """Build a network of the card's make, whose head takes the saved state."""
        ...

    def columns(self) -> Mapping[str, str]:
        """Name the columns of predictions after `path`, with their kinds: "text", "number" or "flag"."""
        ...

    def rows(self, answer: Answer) -> list[tuple[Any, ...]]:
        """Write an answer as rows of these columns: one for a class, one an object for a detection."""
        ...

    def store_columns(self, answer: Answer) -> Mapping[str, Any]:
        """Give the values that an image's row in a store gets, by column."""
        ...

    @property
    def document(self) -> Callable[[Iterator[list[Any]]], Any] | None:
        """What makes of all rows, the path first, what a .json file holds; None for a list of the rows."""
        ...

    def files(self, answer: Answer) -> Mapping[str, bytes]:
        """Give files of an answer by their ending, such as {".png": a mask}; usually none."""
        ...

    def draw(self, pixels: npt.NDArray[np.uint8], answer: Answer) -> tuple[npt.NDArray[np.uint8], str]:
        """Draw an answer on its image (h, w, 3), for a sheet; and write its caption."""
        ...
