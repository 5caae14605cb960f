"""SimCSE: pass each text through the encoder twice, and tell its other vector from those of other texts.

Tianyu Gao, Xingcheng Yao and Danqi Chen, "SimCSE: Simple contrastive learning of sentence embeddings", EMNLP 2021
(arXiv:2104.08821). Dropout is the only difference between the two passes, and so the only augmentation. With
`--triples` (section 4) each row holds a text, one that follows from it, and one that contradicts it; the second
is the positive, and the third of every row a further negative.

Choose it when you have single sentences, and an encoder that knows language already: start with
`--weights RUN` of `--method mlm`. From random weights it learns little more than to know the words again.

Shapes: N texts; z_1, z_2, and with triples z_3, each (N, P) of length 1: from the encoder f and, without triples,
a head g, which is left out afterwards.

Equation 1, with triples equation 5, as plain loops:

    def loss(z_1, z_2, tau, z_3=()):
        total = 0.0
        for i in range(len(z_1)):
            others = sum(exp(dot(z_1[i], z) / tau) for z in [*z_2, *z_3])
            total += -log(exp(dot(z_1[i], z_2[i]) / tau) / others)
        return total / len(z_1)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core.config import setting
from ..losses import info_nce, key_accuracy, unit
from ..models import Encoder
from .base import Batch, Expects, Loss, Method
from .recipes import recipes


@dataclass(frozen=True)
class Config:
    """SimCSE's own settings."""

    temperature: float = setting(
        0.05,
        "temperature; lower values give near negatives more weight",
        low=0.003,
        high=100.0,
        source="SimCSE, appendix A",
    )
    triples: bool = setting(
        False,
        "learn from rows of three texts: one, what follows from it, and what contradicts it",
        source="SimCSE, section 4",
    )


class SimCSE(Method):
    """SimCSE: f, dropout, a head g while training, and InfoNCE in one direction."""

    modality: ClassVar[str | None] = "text"

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the head; see `Config`."""
        super().__init__(f, config)
        self.g = nn.Identity() if config.triples else nn.Sequential(nn.Linear(f.dim, f.dim), nn.Tanh())
        self.tau = config.temperature

    @classmethod
    def expects(cls, config: Config) -> Expects:
        """Judge by held-out texts: how often the other vector of one is the nearest."""
        return Expects(task="contrastive_accuracy", chance=None, at_chance="raise --lr, and train longer")

    def views(self, views: Any) -> tuple[Any, ...]:
        """Take each text as it is: once, and with triples all three."""
        from ..text.views import Which

        whole = replace(views, deletion=0.0)
        return (whole, Which(whole, 1), Which(whole, 2)) if self.config.triples else (whole,)

    def train(self, mode: bool = True) -> SimCSE:
        """Leave dropout on where it is all that tells z_1 from z_2, so that held-out texts are a task too."""
        super().train(mode)
        for part in () if self.config.triples else self.modules():
            if isinstance(part, nn.Dropout):
                part.train()
        return self

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Turn each text into z_1 and z_2, by dropout of its own for each, or each text of a triple into its z."""
        if self.config.triples:
            return tuple(unit(self.f(x)) for x in batch.views)
        (x,) = batch.views
        return unit(self.g(self.f(torch.cat([x, x])))).chunk(2)  # (N, P) each

    def loss(self, z_1: Tensor, z_2: Tensor, z_3: Tensor | None = None) -> Loss:
        """Compare each z_1 with all z_2, and with all z_3 where there are any."""
        return Loss({"info_nce": info_nce(z_1, z_2, None, self.tau, z_3)}, {"z_1": z_1, "z_2": z_2})

    def negatives(self, batch: int) -> int:
        """The other texts, and with triples as many contradictions."""
        return 2 * batch - 1 if self.config.triples else batch - 1

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how often a text's other vector was the nearest."""
        return {"contrastive_accuracy": key_accuracy(watched["z_1"], watched["z_2"])}


SimCSE.recipes = recipes(cpu={"batch_size": 64})
