"""What every method is: a module that turns a batch of views into named loss terms.

A method has two functions, `forward` and `after_step`. Most are written in two halves, `embed` and `loss`, so
that a large batch can be processed in chunks in little memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..data.sampler import Sampler, Shuffled
from ..images.view_settings import Views
from ..images.views import View
from ..models import Encoder

__all__ = ["Batch", "Expects", "Loss", "Method"]


class Loss(NamedTuple):
    """What a method makes of a batch: the terms of its loss, and tensors that are watched."""

    terms: Mapping[str, Tensor]  # by name, already weighted: scalars whose sum is the loss
    watched: Mapping[str, Tensor] = MappingProxyType({})  # what `metrics` and `after_step` are computed from

    @property
    def total(self) -> Tensor:
        """The loss, a scalar."""
        return torch.stack(list(self.terms.values())).sum()


@dataclass(frozen=True)
class Expects:
    """What a run's health figures mean under a method. By default: views of an image should be near each other.

    A method that does not bring views together names a task instead: a metric of its own, a share from 0 to 1,
    which is then measured on held-out images and judged in the place of partners found.
    """

    task: str = ""  # the metric's name; empty to judge by partners found
    chance: float | None = 0.0  # what the metric is by chance; None: one of what is compared at a time,
    # which is the number watched as "compared", or else the examples of a batch
    at_chance: str = ""  # what to try where it stays there
    solved: str = ""  # what to try where it is over 0.99; empty where that is no warning
    judged: tuple[str, ...] = ("knn", "linear")  # by which classifiers labels tell whether it has learnt
    passes: float = 0.0  # over the images, before which it is too early to say that it learns nothing


class Method(nn.Module):
    """A way to learn without labels. To add one: one file, one class, one line in `METHODS`.

    The terms average over processes to the loss of the global batch: a `.mean()` over the rows given is
    right, and so is `nt_xent`.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """What a method must be given besides views: in a batch "labels", or "targets", a teacher's vectors; when it is
    built a "teacher", the number of "images" that are trained on, an encoder of "text", or an encoder with "tokens"; or
    nothing."""

    teachers: ClassVar[str] = "known, timm:NAME, or a run's folder"
    """What can be named as a teacher, for a method that needs one, in words for users."""

    keep: ClassVar[tuple[str, ...]] = ()
    """Names of the parts that a finished run saves with the encoder, as a head that others may learn from."""

    exports: ClassVar[str] = "f"
    """Name of the part that a finished run saves as the encoder, and whose features its health figures are of."""

    modality: ClassVar[str | None] = None
    """The one kind of data that it is for, as `data.modality.MODALITIES` names it; None for any."""

    usual_from: ClassVar[int | None] = None
    """Of a method for one kind of data: the batch size from which on it is taken where none is named; None for never."""

    any_side: ClassVar[bool] = False
    """Whether views may be smaller in the first steps, `--early-size`, where the encoder takes any side."""

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """By name of a recipe, settings in which this method differs from it; see `methods.recipes`."""

    constant_lr: ClassVar[tuple[str, ...]] = ()
    """Names of the parts whose learning rate does not fall, as SimSiam's predictor."""

    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    """Momenta of AdamW, where it is the optimizer."""

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

    @classmethod
    def sampler(cls, config: Any) -> Sampler:
        """Say which images make a batch.

        Args:
            config: the method's own settings.

        Returns:
            A fresh order every epoch, unless a method differs.
        """
        return Shuffled()

    @classmethod
    def expects(cls, config: Any) -> Expects:
        """Say what the health figures of a run mean.

        Args:
            config: the method's own settings.

        Returns:
            That views of an image should be near each other, unless a method differs.
        """
        return Expects()

    @classmethod
    def fitted(cls, config: Any, views: Any) -> Any:
        """Change the method's settings where those of the views decide.

        Args:
            config: the method's own settings.
            views: the settings of a view, of the data's kind.

        Returns:
            The same settings, unless a method differs.
        """
        return config

    def views(self, views: Views) -> tuple[Views | View, ...]:
        """Say how each view of an image is made; one entry a view, two alike unless a method differs.

        Args:
            views: what the user set.

        Returns:
            The settings of each view. A view whose side is a share of the run's is a `View`: six of 96 px
            where the others have 224 are `(views, views, *6 * [View(views, 96 / 224)])`.
        """
        return (views, views)

    def embed(self, batch: Batch) -> tuple[Any, ...]:
        """Take the part of the work that treats images one by one (but for batch norm).

        Args:
            batch: views of n images. What is drawn here by chance is drawn from `batch.key` for each image,
                or by torch's generators, which the training loop seeds by the step.

        Returns:
            The arguments of `loss`: tensors of n rows each, or tuples of such.
        """
        raise NotImplementedError

    def loss(self, *embedded: Any) -> Loss:
        """Take the part of the work that compares images; a method names the arguments. No parameter is used.

        Args:
            embedded: what `embed` returned, or several such put together.

        Returns:
            The terms, and what is watched.
        """
        raise NotImplementedError

    def forward(self, batch: Batch) -> Loss:
        """Compute the loss of a batch.

        Args:
            batch: views of n images.

        Returns:
            The terms, whose sum is the loss, and what is watched.
        """
        return self.loss(*self.embed(batch))

    def after_step(self, progress: float, watched: Mapping[str, Tensor]) -> None:
        """Do what a method does after each optimizer step, such as updating an EMA copy.

        All that it changes must be a parameter or a buffer, so that a save holds it.

        Args:
            progress: share of the training that is done, 0 to 1.
            watched: of this step.
        """

    @property
    def encoder(self) -> Encoder:
        """The encoder that a finished run saves: the part that `exports` names."""
        found = getattr(self, self.exports)
        assert isinstance(found, Encoder)
        return found

    @property
    def text_tower(self) -> Encoder | None:
        """The encoder of texts that a finished run saves too, whose vectors are compared with the encoder's."""
        return None

    def frozen_at(self, progress: float) -> tuple[str, ...]:
        """Name the parameters that a step leaves as they are, without decay or momentum.

        Args:
            progress: share of the training that is done before the step, 0 to 1.

        Returns:
            Names as in `named_parameters`; none unless a method differs.
        """
        return ()

    def negatives(self, batch: int) -> int:
        """Say how many others each row is pushed from.

        Args:
            batch: images a step, over all processes.

        Returns:
            Their number; 0 for a method without negatives.
        """
        return 0

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute figures to show, when a step is logged; every process must call it at the same time.

        Args:
            watched: of that step.

        Returns:
            Name to scalar, the same on every process.
        """
        return {}
