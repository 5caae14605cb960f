"""Multiple negatives ranking: bring a question near its passage, and away from the passages of all other questions.

Matthew Henderson, Rami Al-Rfou, Brian Strope, Yun-hsuan Sung, Laszlo Lukacs, Ruiqi Guo, Sanjiv Kumar, Balint Miklos
and Ray Kurzweil, "Efficient natural language response suggestion for Smart Reply", 2017 (arXiv:1705.00652), section
4.4; with cosines and a temperature as sentence-transformers has it (Reimers and Gurevych 2019, arXiv:1908.10084).

Choose it when you have pairs of texts that belong together: questions and answers, titles and articles, a text and its
translation. Name their two columns: `pairs.csv:question,passage`.

Shapes: N pairs; q and p (N, D), from the encoder f, of length 1; c (N,) numbers the passages, equal ones alike.

The loss, as plain loops:

    def loss(q, p, c, tau):
        total = 0.0
        for i in range(len(q)):
            met = [j for j in range(len(p)) if j == i or c[j] != c[i]]
            others = sum(exp(dot(q[i], p[j]) / tau) for j in met)
            total += -log(exp(dot(q[i], p[i]) / tau) / others)
        return total / len(q)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from ..core.config import setting
from ..losses import info_nce, key_accuracy, unit
from ..models import Encoder
from .base import Batch, Expects, Loss, Method
from .token_names import numbers


@dataclass(frozen=True)
class Config:
    """Settings of multiple negatives ranking."""

    temperature: float = setting(
        0.05,
        "temperature; lower values give near negatives more weight",
        low=0.003,
        high=100.0,
        source="sentence-transformers, MultipleNegativesRankingLoss: scale 20",
    )


class MultipleNegatives(Method):
    """Multiple negatives ranking: f, and InfoNCE from questions to passages."""

    modality: ClassVar[str | None] = "text"

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Keep the encoder; see `Config`."""
        super().__init__(f, config)
        self.tau = config.temperature

    @classmethod
    def expects(cls, config: Config) -> Expects:
        """Judge by held-out pairs: how often the other vector of one is the nearest."""
        return Expects(task="contrastive_accuracy", chance=None, at_chance="raise --lr, and train longer")

    def views(self, views: Any) -> tuple[Any, ...]:
        """Take both texts of a pair as they are."""
        from ..text.views import Which

        whole = replace(views, deletion=0.0)
        return (whole, Which(whole, 1))

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Turn each text into its vector, and add a number of each passage."""
        q, p = (unit(self.f(x)) for x in batch.views)  # (N, D) each
        return q, p, numbers(batch.views[1])

    def loss(self, q: Tensor, p: Tensor, c: Tensor) -> Loss:
        """Compare each question with all passages; equal ones, of several questions, are no negatives."""
        return Loss({"info_nce": info_nce(q, p, None, self.tau, names=c)}, {"q": q, "p": p, "c": c})

    def negatives(self, batch: int) -> int:
        """The passages of the other questions."""
        return batch - 1

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how often a question's own passage was the nearest."""
        return {"contrastive_accuracy": key_accuracy(watched["q"], watched["p"], watched["c"])}
