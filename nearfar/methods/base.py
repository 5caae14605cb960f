"""What every method is: a module that turns a batch of views into named loss terms.

A method has two verbs, `forward` and `after_step`. Most are written in two halves, `embed` and `loss`, so
that a large batch can pass through a small memory in pieces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ..images.view_settings import Views
from ..images.views import View
from ..models import Encoder

Terms = dict[str, Tensor]
"""Loss terms by name, already weighted: scalars whose sum is the loss."""


@dataclass(frozen=True)
class Batch:
    """What a method is given for one step: this process's part of it."""

    views: list[Tensor]  # each (n, 3, its side, its side) in [0, 1], row for row views of the same images
    rows: Tensor  # (n,) int64, which images of the collection
    labels: Tensor | None = None  # (n,) int64, only for a method that needs "labels"


class Method(nn.Module):
    """A way to learn without labels. To add one: one file, one class, one line in `METHODS`.

    The terms average over processes to the loss of the global batch: a `.mean()` over the rows given is
    right, and so is `nt_xent`.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """What a method must be given besides views: "labels" in a batch, a "teacher" when it is built, or nothing."""

    keep: ClassVar[tuple[str, ...]] = ()
    """Names of the parts that a finished run saves beside the encoder, as a head that others may learn from."""

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """By name of a recipe, settings in which this method differs from it: training's, views' or its own."""

    constant_lr: ClassVar[tuple[str, ...]] = ()
    """Names of the parts whose learning rate does not fall, as SimSiam's predictor."""

    def __init__(self, f: Encoder, config: Any) -> None:
        """Keep the encoder; a method then adds its heads.

        Args:
            f: the encoder that is trained and, in the end, kept.
            config: the method's own settings.
        """
        super().__init__()
        self.f, self.config = f, config

    @classmethod
    def requires(cls, config: Any) -> frozenset[str]:
        """Say what a method must be given, where its settings decide it.

        Args:
            config: the method's own settings.

        Returns:
            `needs`, unless a method differs.
        """
        return cls.needs

    def views(self, views: Views) -> tuple[Views | View, ...]:
        """Say how each view of an image is made; one entry a view, two alike unless a method differs.

        Args:
            views: what the user set.

        Returns:
            The settings of each view. A view whose side is a share of the run's is a `View`: six of 96 px
            where the others have 224 are `(views, views, *6 * [View(views, 96 / 224)])`.
        """
        return (views, views)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Take the part of the work that treats images one by one (but for batch norm).

        Args:
            batch: views of n images.

        Returns:
            Tensors of n rows each, which `loss` takes.
        """
        raise NotImplementedError

    def loss(self, *z: Tensor) -> Terms:
        """Take the part of the work that compares images.

        Args:
            z: what `embed` returned, or several such put together.

        Returns:
            The terms.
        """
        raise NotImplementedError

    def forward(self, batch: Batch) -> Terms:
        """Compute the loss of a batch.

        Args:
            batch: views of n images.

        Returns:
            The terms; the loss is their sum.
        """
        return self.loss(*self.embed(batch))

    def after_step(self, progress: float) -> None:
        """Do what a method does after each optimizer step, such as moving a slow copy.

        All that it changes must be a parameter or a buffer, so that a save holds it.

        Args:
            progress: share of the training that is done, 0 to 1.
        """

    def negatives(self, batch: int) -> int:
        """Say how many others each row is pushed from.

        Args:
            batch: images a step, over all processes.

        Returns:
            Their number; 0 for a method without negatives.
        """
        return 0

    def metrics(self) -> dict[str, Tensor]:
        """Compute figures to watch, about the last loss; every process must call it at the same time.

        Returns:
            Name to scalar, the same on every process.
        """
        return {}
