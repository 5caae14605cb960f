"""Supervised: classify images by their labels; a baseline for methods without labels.

Kaiming He, Xiangyu Zhang, Shaoqing Ren and Jian Sun, "Deep residual learning for image recognition", CVPR
2016 (arXiv:1512.03385), section 3.4 and figure 3.

Choose it when every image has a label and only these classes matter, or as a baseline.

Shapes: N images, two views, both trained on; f(view) (N, D); logits_i, logits_j (N, K) from one linear
layer g, one for each of K classes; labels (N,) from 0 to K - 1.

The cross-entropy, as plain loops:

    def loss(logits_i, logits_j, labels):
        total = 0.0
        for logits in (logits_i, logits_j):
            for row, label in zip(logits, labels):
                total += -log(exp(row[label]) / sum(exp(x) for x in row))
        return total / (2 * len(labels))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import collectives, distributed
from ..core.config import setting
from ..core.errors import NearfarError
from ..models import Encoder
from .base import Batch, Expects, Loss, Method


@dataclass(frozen=True)
class Config:
    """Supervised training's own settings."""

    classes: int = setting(
        0, "number of classes; 0: as many as the labels have", low=0, source="the labels themselves"
    )


class Supervised(Method):
    """Supervised: f, one linear layer g, and cross-entropy; recipes as for the others, so that all compare."""

    any_side: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the linear layer; see `Config`."""
        super().__init__(f, config)
        if config.classes < 2:
            raise NearfarError(
                f"supervised learning needs labels of two classes or more, not {config.classes}; give images "
                "in one folder a class, or choose another --method."
            )
        self.g = nn.Linear(f.dim, config.classes)

    @classmethod
    def expects(cls, config: Config) -> Expects:
        """Judge by the labels told on held-out images."""
        return Expects(
            task="accuracy",
            chance=1 / max(config.classes, 2),
            at_chance="raise --lr, train longer, or look at the labels",
        )

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Turn the views into logits, and pass the labels on."""
        assert batch.labels is not None
        logits_i, logits_j = self.g(self.f(torch.cat(batch.views))).chunk(2)  # both see one batch norm
        return logits_i, logits_j, batch.labels

    def loss(self, logits_i: Tensor, logits_j: Tensor, labels: Tensor) -> Loss:
        """Compare what is said of both views with the labels."""
        logits, twice = torch.cat([logits_i, logits_j]), torch.cat([labels, labels])
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return Loss({"cross_entropy": F.cross_entropy(wide, twice)}, {"right": logits.argmax(1) == twice})

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell which share of the views was named rightly."""
        return {"accuracy": collectives.total(watched["right"].float().mean()) / distributed.world()}
