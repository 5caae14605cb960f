"""CoCa: let images and captions find each other, and write each caption, token by token, from its image.

Jiahui Yu, Zirui Wang, Vijay Vasudevan, Legg Yeung, Mojtaba Seyedhosseini and Yonghui Wu, "CoCa: Contrastive captioners are
image-text foundation models", TMLR 2022 (arXiv:2205.01917).

Choose it when captions tell more of an image than a name, such as sentences or reports: every word of a caption has to be
found in the image. A step costs more than CLIP's. Afterwards images are found and classified by words.

Shapes: N pairs; x, y (N, P) of length 1, from the encoders of images and captions and their projections; s (N,), each
e^t, a learnt number; c (N,), a number of each caption: equal captions are no negatives of each other; v (N, T, V), a number
for each of V tokens of the vocabulary in each place, from a decoder that sees the image's last map and the tokens before
that place; target (N, T), the caption, -1 after its end.

Equations 1 to 4, as plain loops; the second part is the mean over tokens:

    def loss(x, y, s, c, v, target, caption_weight):
        total, scale = 0.0, sum(s) / len(s)
        for i in range(len(x)):
            others = [k for k in range(len(x)) if k == i or c[k] != c[i]]
            of_image = sum(exp(scale * dot(x[i], y[k])) for k in others)
            of_text = sum(exp(scale * dot(x[k], y[i])) for k in others)
            total += log(of_image) + log(of_text) - 2 * scale * dot(x[i], y[i])
        named, count = 0.0, 0
        for i in range(len(v)):
            for t in range(len(v[i])):
                if target[i][t] >= 0:
                    named += log(sum(exp(u) for u in v[i][t])) - v[i][t][target[i][t]]
                    count += 1
        return total / (2 * len(x)) + caption_weight * named / count

This is a small form. In the paper the first half of the decoder, which sees no image, is the encoder of captions too; here
that is a network of its own, which looks both ways. The decoder has the same table of tokens, and is left out afterwards.
It sees the places of a map as they are, without attentional pooling, and names no end of a caption.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import losses
from ..core.config import setting
from ..models import Encoder
from ..models.transformer import positions
from .base import Batch, Loss
from .clip import MOST, START
from .image_text import ImageText, Places, Scale, looking_layers
from .token_names import naming_loss, scores, share_named


@dataclass(frozen=True)
class Config:
    """CoCa's own settings."""

    text_encoder: str = setting(
        "text_w128_d2",
        "encoder of captions: a network of nearfar for texts, or a run or folder of one that knows texts",
        source="ours; CoCa has a transformer of 12 blocks",
    )
    width: int = setting(
        256,
        "numbers in the vectors that images and captions share",
        low=1,
        source="ours; CoCa has 768 to 1408",
    )
    decoder_depth: int = setting(
        2,
        "number of the decoder's layers",
        low=1,
        source="ours; CoCa: as many as the encoder of captions has",
    )
    caption_weight: float = setting(
        2.0, "weight of the captions' loss; the other has 1", low=0.0, source="CoCa, section 4.1"
    )


class CoCa(ImageText):
    """CoCa: CLIP's parts, and a decoder that writes the caption of an image."""

    modality: ClassVar[str | None] = "pairs"

    def __init__(self, f: Encoder, config: Config = Config(), *, text: Encoder) -> None:
        """Add the projections, the scale and the decoder; see `Config`."""
        from ..text.networks import table_of

        super().__init__(f, config, text, Scale(START))
        table = table_of(text.net)
        width = table.embedding_dim
        self.places, self.decoder = Places(f, width), looking_layers(config.decoder_depth, width)
        self.norm, self.bias = nn.LayerNorm(width), nn.Parameter(torch.zeros(table.num_embeddings))

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Turn images and captions into x and y, and write the captions."""
        from ..text.networks import table_of
        from ..text.tokenizer import PAD

        images, ids = batch.views  # (N, 3, S, S) and (N, T)
        h, levels = self.f.with_maps(images)
        table, seen = table_of(self.text.net), self.places(levels)
        before = F.pad(table(ids[:, :-1]), (0, 0, 1, 0))  # (N, T, D): in each place the token before it
        z = before + 0.1 * positions(1, ids.shape[1], before.shape[2]).to(before)
        later = torch.ones(2 * ids.shape[1:], dtype=torch.bool, device=ids.device).triu(1)
        for layer in self.decoder:
            z = layer(z, seen, tgt_mask=later, tgt_is_causal=True)
        v = scores(self.norm(z), table, self.bias)
        return *self.rows_of(h, ids), v, ids.masked_fill(ids == PAD, -1)

    def loss(self, x: Tensor, y: Tensor, s: Tensor, c: Tensor, v: Tensor, target: Tensor) -> Loss:
        """Let images and captions find each other, and compare captions with what was written: equation 4."""
        named, watched = naming_loss(v, target)
        terms = {"clip": losses.clip(x, y, s.mean(), c), "captions": self.config.caption_weight * named}
        return Loss(terms, {"x": x, "y": y, "s": s, "c": c, **watched})

    @torch.no_grad()
    def after_step(self, progress: float, watched: Mapping[str, Tensor]) -> None:
        """Keep the scale at 100 or less, as CLIP does."""
        self.scale.t.clamp_(max=MOST)

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how often a caption was the nearest, the scale, and which share of the tokens was named."""
        return {**super().metrics(watched), "tokens_named": share_named(watched)}
