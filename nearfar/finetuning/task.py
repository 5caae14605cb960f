"""What a task brings to `nearfar finetune` and `nearfar predict`: labels, head, loss, figures, predictions.

The two verbs do the rest, the same for every task: the run folder, its lock, saves, resuming and Ctrl-C; the
images held out; the choice of the learning rate; the loop; the comparison with the frozen encoder and with
training from scratch; the verdict; and the prediction of a collection chunk by chunk, its files, sheet and
store columns.

A `Task` is made from its settings, and knows its classes once it has read labelled images, or a card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ..models import Encoder
from ..training.run import Run
from .task_types import (
    Answer,
    Feed,
    Figures,
    HeadExport,
    Labelled,
    Mistake,
    Rows,
    Setup,
    Solved,
    TaskNetwork,
    TaskRecipe,
    Where,
)


class Task(Protocol):
    """One task; see the module."""

    name: ClassVar[str]
    """As `--task` takes it, and the name of its file."""
    trains_frozen: ClassVar[bool]
    """Whether a head on the frozen encoder is trained by gradient steps too; else `solve` gives it."""
    masks: ClassVar[bool]
    """Whether the file of an answer is its mask, which the page lays over the image."""
    modalities: ClassVar[tuple[str, ...] | None]
    """The kinds of data that it works for; None for all."""
    config: Any
    """Its own settings, a `Config` of its file."""
    classes: tuple[str, ...]

    def __init__(self, config: Any) -> None: ...

    def begin(self, run: Run) -> Encoder:
        """Take from the run that is started from what the task needs beside its encoder; usually nothing.

        Returns:
            The encoder to start from.

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

    def baselines(
        self, encoder: Encoder, fit: Labelled, data: Labelled, setup: Setup
    ) -> Mapping[str, Figures]:
        """Give the figures of what is not trained by this task, by name; usually none.

        Args:
            encoder: that the training starts from, on the device.
            fit: what may be fitted to.
            data: what is measured on.
            setup: what to compute with.
        """
        ...

    def strata(self, data: Labelled) -> Rows:
        """Give (n,) numbers; of each number the same share of images is held out."""
        ...

    def mode(self, data: Labelled, side: int, device: torch.device) -> str:
        """Choose what is trained where `--mode` is auto: linear, few-labels or full."""
        ...

    # Training

    def solve(self, encoder: Encoder, fit: Labelled, choice: Labelled | None, setup: Setup) -> Solved | None:
        """Fit a head on the frozen encoder without gradient steps.

        Args:
            encoder: frozen, on the device.
            fit: images to fit to.
            choice: images to choose a penalty on; None to choose among those that are fitted.
            setup: what to compute with.

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

    def lrs(self, encoder: Encoder, recipe: TaskRecipe) -> tuple[float, ...]:
        """Give the learning rates that are tried with an encoder that is trained; of a head, the recipe's.

        Args:
            encoder: what is trained.
            recipe: from `recipe`.
        """
        ...

    def network(self, encoder: Encoder, fit: Labelled, setup: Setup, *, frozen: bool) -> TaskNetwork:
        """Put an untrained head on an encoder.

        Args:
            encoder: on the device; it is trained unless frozen.
            fit: what it is trained on.
            setup: what to compute with; its seed names the random weights.
            frozen: whether the encoder stays as it is.
        """
        ...

    def optimizer(self, network: TaskNetwork, lr: float) -> torch.optim.Optimizer:
        """Make the optimizer; a group's `lr_scale` is a factor on its rate."""
        ...

    def feed(self, fit: Labelled, setup: Setup, *, batch_size: int, start: int) -> Feed:
        """Open the batches of a training, from step `start` on; augmentation is drawn here."""
        ...

    # What a network says

    def answers(
        self, network: TaskNetwork, images: Any, setup: Setup, *, batch_size: int
    ) -> Sequence[Answer]:
        """Predict images.

        Args:
            network: trained; left in the mode that it was in.
            images: n of them, with `gather`, as a data set or a chunk of one.
            setup: what to compute with.
            batch_size: images at a time.

        Returns:
            n answers.
        """
        ...

    def measure(self, answers: Sequence[Answer], data: Labelled) -> Figures:
        """Compare answers with the truth."""
        ...

    def mistakes(self, answers: Sequence[Answer], data: Labelled, count: int) -> list[Mistake]:
        """Find the images on which answers are most wrong.

        Args:
            answers: n, of the images.
            data: n images.
            count: how many are wanted, at most.

        Returns:
            The worst first.
        """
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

    def also_read(self) -> Sequence[str]:
        """Name what a prediction reads besides its images, such as a gallery; usually nothing.

        Returns:
            Texts that change where its content does.
        """
        ...

    def empty(self, encoder: Encoder, preprocess: Any) -> TaskNetwork:
        """Build a network of the card's make, whose head takes the saved state."""
        ...

    def exported(self, network: TaskNetwork, preprocess: Any) -> HeadExport:
        """Give the network as other tools get it, with its head."""
        ...

    def columns(self) -> Mapping[str, str]:
        """Name the columns of predictions after `path`, with their kinds: "text", "number" or "flag"."""
        ...

    def rows(self, answer: Answer) -> list[tuple[Any, ...]]:
        """Write an answer as rows of these columns: one for a class, one an object for a detection."""
        ...

    def store_kinds(self) -> Mapping[str, str]:
        """Name the columns that a store gets, with their kinds."""
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

    def common_files(self) -> Mapping[str, bytes]:
        """Give files by name that stand beside those of all answers, such as the names of classes."""
        ...

    def draw(self, pixels: npt.NDArray[np.uint8], answer: Answer) -> tuple[npt.NDArray[np.uint8], str]:
        """Draw an answer on its image (h, w, 3), for a sheet; and write its caption."""
        ...
