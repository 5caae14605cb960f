"""Masked language modelling: hide some tokens of a text, and predict them from the others.

Jacob Devlin, Ming-Wei Chang, Kenton Lee and Kristina Toutanova, "BERT: Pre-training of deep bidirectional transformers
for language understanding", NAACL 2019 (arXiv:1810.04805), section 3.1, task 1.

Choose it when you train a transformer for texts from random weights: first this, then SimCSE or pairs with
`--weights RUN`. Its own vectors are of little use for search.

Shapes: N texts of T tokens, K of which are to be predicted; y (N, K, V), a number for each of V tokens of the
vocabulary; target (N, K), the hidden tokens, -1 where a text has fewer than K.

The loss, as plain loops over the hidden tokens:

    def loss(y, target):
        total, count = 0.0, 0
        for i in range(len(y)):
            for k in range(len(y[i])):
                if target[i][k] >= 0:
                    total += log(sum(exp(v) for v in y[i][k])) - y[i][k][target[i][k]]
                    count += 1
        return total / count

Of the hidden tokens, 8 of 10 become [MASK], one becomes any token, and one stays (section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core import rng
from ..core.config import setting
from ..core.errors import NearfarError
from ..models import Encoder
from .base import Batch
from .recipes import recipes
from .token_names import NamesTokens, scores


@dataclass(frozen=True)
class Config:
    """Settings of masked language modelling."""

    masked: float = setting(
        0.15, "share of the tokens that is hidden", low=0.01, high=0.9, source="BERT, section 3.1"
    )


class MLM(NamesTokens):
    """Masked language modelling: f's tokens, a layer, and the table of tokens once more to name the hidden ones."""

    modality: ClassVar[str | None] = "text"

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the layer before the names of tokens; see `Config`."""
        from ..text.networks import parts_of

        super().__init__(f, config)
        if not parts_of(f.net).shape.depth:
            raise NearfarError(
                f"--method mlm predicts a token from those around it, which {f.name} does not look at; choose "
                "--encoder text_w128_d2."
            )
        parts_of(f.net).weight.requires_grad_(False)  # of the mean of all tokens, which is not used here
        self.g = nn.Sequential(nn.Linear(f.dim, f.dim), nn.GELU(), nn.LayerNorm(f.dim))
        self.bias = nn.Parameter(torch.zeros(parts_of(f.net).table.num_embeddings))

    @classmethod
    def fitted(cls, config: Config, views: Any) -> Config:
        """Refuse a tokenizer with a word in the place of [MASK]."""
        if getattr(views, "tokenizer", None):
            from ..text.tokenizer import check_mask

            check_mask(views.tokenizer)
        return config

    def views(self, views: Any) -> tuple[Any, ...]:
        """Take each text once, as it is."""
        return (replace(views, deletion=0.0),)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Hide tokens, and give every token of the vocabulary a number in each hidden place."""
        from ..text.networks import parts_of

        (x,) = batch.views
        net = parts_of(self.f.net)
        hidden, places, target = self._hide(batch, x, net.table.num_embeddings)
        y = self.g(net.tokens(hidden).take_along_dim(places[:, :, None], 1))  # (N, K, D)
        return scores(y, net.table, self.bias), target

    def _hide(self, batch: Batch, x: Tensor, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
        """Choose the tokens to hide: the changed texts (N, T), the places (N, K), and what was there (N, K)."""
        from ..text.tokenizer import MASK, PAD

        count = x.shape[1]
        order, how, other = (  # (N, T) each
            torch.from_numpy(rng.uniform(rng.fold(batch.key, "mask", name), batch.rows, count)).to(x.device)
            for name in ("order", "how", "other")
        )
        there = (x != PAD).sum(1, keepdim=True)
        most = max(1, round(self.config.masked * count))
        wanted = (self.config.masked * there).round().clamp(min=1)
        places = order.masked_fill(x == PAD, 2.0).argsort(dim=1, stable=True)[:, :most]  # (N, K)
        known = torch.arange(most, device=x.device) < wanted
        old = x.take_along_dim(places, 1)
        how, other = how.take_along_dim(places, 1), other.take_along_dim(places, 1)
        any_token = MASK + 1 + (other * (vocabulary - MASK - 1)).long()
        new = torch.where(how < 0.8, MASK, torch.where(how < 0.9, any_token, old))
        return x.scatter(1, places, torch.where(known, new, old)), places, torch.where(known, old, -1)


MLM.recipes = recipes(
    cpu={"encoder": "text_w128_d2"},
    cifar={"encoder": "text_w256_d4"},
    imagenet={"encoder": "text_w256_d4"},
)
