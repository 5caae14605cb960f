"""What the triplet loss and DrLIM share: a head, and pairs of views of one image or of images of one label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.errors import NearfarError
from ..data.sampler import ClassBalanced, Sampler, Shuffled
from ..losses import contrastive_accuracy, unit
from ..models import Encoder, mlp
from .base import Batch, Method


class Pairs(Method):
    """f and a head g; a loss then compares all rows of z with what they are similar to."""

    def __init__(self, f: Encoder, config: Any) -> None:
        """Add the head; the settings are `head`, `pairs` and `per_class`, besides the method's own."""
        super().__init__(f, config)
        self.g = mlp(f.dim, *config.head)

    @classmethod
    def sampler(cls, config: Any) -> Sampler:
        """Take several images of each label, where that is asked for."""
        if config.per_class and config.pairs != "labels":
            raise NearfarError("--per-class selects images by label; add --pairs labels.")
        return ClassBalanced(config.per_class) if config.per_class else Shuffled()

    def embed(self, batch: Batch) -> tuple[tuple[Tensor, ...], Tensor]:
        """Turn the views into a z each, and add what is similar: images' labels, or their numbers."""
        z = unit(self.g(self.f(torch.cat(batch.views)))).chunk(len(batch.views))  # (N, P) each
        labels = batch.labels if self.config.pairs == "labels" else batch.rows
        assert labels is not None
        return z, labels.to(z[0].device)  # (N,)

    def watch(self, z: Sequence[Tensor]) -> dict[str, Tensor]:
        """Keep two views, where views are what is similar."""
        return {"z_1": z[0], "z_2": z[1]} if self.config.pairs == "views" and len(z) > 1 else {}

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how often a view's partner was the nearest of all, where partners are what is similar."""
        return (
            {"contrastive_accuracy": contrastive_accuracy(watched["z_1"], watched["z_2"])} if watched else {}
        )
