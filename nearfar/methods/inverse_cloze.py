"""Inverse cloze: a sentence of a passage asks for the passage that it was taken from, among all passages.

Kenton Lee, Ming-Wei Chang and Kristina Toutanova, "Latent retrieval for weakly supervised open domain question
answering", ACL 2019 (arXiv:1906.00300), section 4.

Choose it when you have passages of several sentences and want to search them by questions, and there are no pairs to
learn from. Where there are, multiple_negatives learns more from fewer.

Shapes: N passages; q (N, D), from the encoder f, of length 1, of a sentence of each; p (N, D), of the rest, and c (N,) its
number, the same for equal ones.

Equation 8, with cosines and a temperature, as plain loops:

    def loss(q, p, c, tau):
        total = 0.0
        for i in range(len(q)):
            met = [j for j in range(len(p)) if j == i or c[j] != c[i]]
            others = sum(exp(dot(q[i], p[j]) / tau) for j in met)
            total += -log(exp(dot(q[i], p[i]) / tau) / others)
        return total / len(q)

In one passage of ten the sentence stays, so that equal words count too. A passage of one sentence is its own question.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core import rng
from ..core.config import setting
from .base import Batch
from .multiple_negatives import MultipleNegatives


@dataclass(frozen=True)
class Config:
    """Settings of inverse cloze."""

    temperature: float = setting(
        0.05,
        "temperature; lower values give near negatives more weight",
        low=0.003,
        high=100.0,
        source="sentence-transformers, MultipleNegativesRankingLoss: scale 20",
    )
    left_in: float = setting(
        0.1,
        "share of the passages in which the sentence stays",
        low=0.0,
        high=1.0,
        source="Lee et al. 2019, section 9.2: 0.1",
    )


class InverseCloze(MultipleNegatives):
    """Inverse cloze: multiple negatives ranking, of a sentence and the rest of its passage."""

    modality: ClassVar[str | None] = "text"

    def views(self, views: Any) -> tuple[Any, ...]:
        """Take the passage as it is, and beside it the number of each token's sentence."""
        from ..text.views import Sentences

        whole = replace(views, deletion=0.0)
        return (whole, Sentences(whole))

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Take a sentence out of each passage, and turn both into vectors."""
        passages, sentences = batch.views  # (N, T) each; sentences are counted from 1
        u = torch.from_numpy(rng.uniform(rng.fold(batch.key, "sentence"), batch.rows, 2)).to(passages.device)
        count = sentences.amax(1)
        chosen = 1 + (u[:, 0] * count).long().clamp(max=count - 1)
        asks = sentences == chosen[:, None]
        stays = (u[:, 1] < self.config.left_in) | (count == 1)
        rest = ~asks | stays[:, None]
        return super().embed(replace(batch, views=[kept(passages, asks), kept(passages, rest)]))


def kept(x: Tensor, which: Tensor) -> Tensor:
    """Keep some tokens of each text, in their order, without gaps.

    Args:
        x: (n, t) int64, 0 after the end of a text.
        which: (n, t) bool.

    Returns:
        (n, u) int64, u the tokens of the longest.
    """
    which = which & (x != 0)
    order = (~which).long().argsort(dim=1, stable=True)[:, : int(which.sum(1).max())]
    return (x * which).gather(1, order)
