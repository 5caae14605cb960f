"""TSDAE: delete most tokens of a text, and write the whole text again from the vector of what is left.

Kexin Wang, Nils Reimers and Iryna Gurevych, "TSDAE: Using transformer-based sequential denoising auto-encoder for
unsupervised sentence embedding learning", Findings of EMNLP 2021 (arXiv:2104.06979).

Choose it when you have single sentences of a subject of their own, and no pairs: the vector has to hold all that a text
says. Start with `--weights RUN` of `--method mlm`, or with a BERT.

Shapes: N texts of T tokens; f(text) (N, D), of the tokens that are left; y (N, T, V), a number for each of V tokens of the
vocabulary in each place, from a decoder that sees the vector and the tokens before that place; target (N, T), the whole
text, -1 after its end.

Equation 1, the mean over tokens, as plain loops:

    def loss(y, target):
        total, count = 0.0, 0
        for i in range(len(y)):
            for t in range(len(y[i])):
                if target[i][t] >= 0:
                    total += log(sum(exp(v) for v in y[i][t])) - y[i][t][target[i][t]]
                    count += 1
        return total / count

The decoder's attention to the text has the vector as its one key and value, so it cannot look at single tokens (section
3). One table of tokens serves the encoder, the decoder and the names of what is written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.config import setting
from ..models import Encoder
from ..models.transformer import positions
from .base import Batch
from .recipes import recipes
from .token_names import NamesTokens, scores

HEADS = 4  # of the decoder's attention
DROPOUT = 0.1  # in the decoder, as in the encoders of texts


@dataclass(frozen=True)
class Config:
    """TSDAE's own settings."""

    decoder_depth: int = setting(
        1, "number of the decoder's layers", low=1, source="ours; TSDAE, section 3: as many as the encoder's"
    )


class DecoderLayer(nn.Module):
    """Attention to one vector, then to the tokens before a place, then two layers, each with a shortcut.

    Of one key the attention's weight is 1 whatever is asked, so what it gives is a linear map of the one value.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_vector = nn.Linear(width, width)
        self.to_tokens = nn.TransformerEncoderLayer(
            width, HEADS, 4 * width, DROPOUT, "gelu", batch_first=True, norm_first=True
        )

    def forward(self, x: Tensor, z: Tensor, later: Tensor) -> Tensor:
        """(n, t, width), (n, 1, width) and (t, t) bool, what a place does not see -> (n, t, width)."""
        y: Tensor = self.to_tokens(x + self.to_vector(z), src_mask=later, is_causal=True)
        return y


class TSDAE(NamesTokens):
    """TSDAE: f on what is left of a text, and a decoder that is left out afterwards."""

    modality: ClassVar[str | None] = "text"

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the decoder; see `Config`."""
        from ..text.networks import table_of

        super().__init__(f, config)
        table = table_of(f.net)
        self.decoder = nn.ModuleList(DecoderLayer(f.dim) for _ in range(config.decoder_depth))
        self.norm = nn.LayerNorm(f.dim)
        self.bias = nn.Parameter(torch.zeros(table.num_embeddings))

    def views(self, views: Any) -> tuple[Any, ...]:
        """Take what is left of a text, and all of it."""
        return (views, replace(views, deletion=0.0))

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Encode what is left, and give every token of the vocabulary a number in each place of the whole."""
        from ..text.networks import table_of
        from ..text.tokenizer import PAD

        left, whole = batch.views  # (N, T) each
        table = table_of(self.f.net)
        z = self.f(left)[:, None]  # (N, 1, D): all that the decoder sees of the text
        before = F.pad(table(whole[:, :-1]), (0, 0, 1, 0))  # (N, T, D): in each place the token before it
        x = before + 0.1 * positions(1, whole.shape[1], z.shape[2]).to(before)
        later = torch.ones(2 * whole.shape[1:], dtype=torch.bool, device=x.device).triu(1)
        for layer in self.decoder:
            x = layer(x, z, later)
        return scores(self.norm(x), table, self.bias), whole.masked_fill(whole == PAD, -1)


# Section 4.2: 60 % of the tokens are deleted.
TSDAE.recipes = recipes(
    cpu={"deletion": 0.6, "batch_size": 64},
    cifar={"deletion": 0.6, "encoder": "text_w256_d4"},
    imagenet={"deletion": 0.6, "encoder": "text_w256_d4"},
    vit={"deletion": 0.6},
)
