"""BLIP's first two losses: let images and captions find each other, and tell true pairs from nearly true ones.

Junnan Li, Dongxu Li, Caiming Xiong and Steven Hoi, "BLIP: Bootstrapping language-image pre-training for unified
vision-language understanding and generation", ICML 2022 (arXiv:2201.12086), section 3.2. Hard negatives: Junnan Li,
Ramprasaath R. Selvaraju, Akhilesh Gotmare, Shafiq Joty, Caiming Xiong and Steven Hoi, "Align before fuse", NeurIPS 2021
(arXiv:2107.07651), section 3.2.

Choose it when captions differ in details, such as which thing is left of which: each word of a caption looks at the places
of an image. A step costs more than CLIP's. Afterwards images are found and classified by words.

Shapes: N pairs; x, y (N, P) of length 1, from the encoders of images and captions and their projections; s (N,), each
e^t, a learnt number; c (N,), a number of each caption: equal captions are no negatives of each other; m (N, 3), of a
network that looks at an image and a caption together: of image i with its caption, with a wrong caption, and of caption i
with a wrong image; w (N,), 1 where there is a wrong one, 0 where all captions of the batch are equal.

The losses ITC and ITM, as plain loops:

    def loss(x, y, s, c, m, w):
        total, scale = 0.0, sum(s) / len(s)
        for i in range(len(x)):
            others = [k for k in range(len(x)) if k == i or c[k] != c[i]]
            of_image = sum(exp(scale * dot(x[i], y[k])) for k in others)
            of_text = sum(exp(scale * dot(x[k], y[i])) for k in others)
            total += log(of_image) + log(of_text) - 2 * scale * dot(x[i], y[i])
        wrong, count = 0.0, 0
        for i in range(len(m)):
            wrong += log(1 + exp(-m[i][0]))
            count += 1
            if w[i] == 1:
                wrong += log(1 + exp(m[i][1])) + log(1 + exp(m[i][2]))
                count += 2
        return total / (2 * len(x)) + wrong / count

A wrong caption of image i is k with a chance in proportion to 0.0001 + softmax over k of scale * x_i . y_k, k among the
captions of the batch that differ from its own; a wrong image of a caption likewise.

This is a small form: without slow copies, their queue and soft targets, and without the decoder of captions, which `coca`
has. The network that looks at both stands on the tokens of the encoder of captions, as ALBEF's does, and is left out
afterwards. With `--micro-batch`, or a share of the batch for each thread, wrong ones are of the same part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import losses
from ..core import collectives, distributed, rng
from ..core.config import setting
from ..models import Encoder
from .base import Batch, Loss
from .clip import MOST, START
from .image_text import ImageText, Places, Scale, looking_layers

LEAST = 1e-4  # added to each chance, as the authors' code does


@dataclass(frozen=True)
class Config:
    """BLIP's own settings."""

    text_encoder: str = setting(
        "text_w128_d2",
        "encoder of captions: a network of nearfar for texts, or a run or folder of one that knows texts",
        source="ours; BLIP has a transformer of 12 blocks",
    )
    width: int = setting(
        256, "numbers in the vectors that images and captions share", low=1, source="the authors' code"
    )
    matching_depth: int = setting(
        2, "number of layers that look at a caption and an image together", low=1,
        source="ours; ALBEF, section 3.1: 6",
    )  # fmt: skip


class Matching(nn.Module):
    """Layers in which a caption's tokens look at an image, their mean, and one number: above 0 says a true pair."""

    def __init__(self, width: int, depth: int) -> None:
        """Build it with random weights."""
        super().__init__()
        self.layers = looking_layers(depth, width)
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, 1)

    def forward(self, z: Tensor, there: Tensor, places: Tensor) -> Tensor:
        """(n, t, width) and (n, t) bool, of captions, and (n, p, width), of images -> (n,)."""
        for layer in self.layers:
            z = layer(z, places, tgt_key_padding_mask=~there)
        told: Tensor = self.last((self.norm(z) * there[:, :, None]).sum(1) / there.sum(1, keepdim=True))
        return told[:, 0]


class BLIP(ImageText):
    """BLIP: CLIP's parts, and a network that tells whether a caption belongs to an image."""

    modality: ClassVar[str | None] = "pairs"

    def __init__(self, f: Encoder, config: Config = Config(), *, text: Encoder) -> None:
        """Add the projections, the scale and the network that looks at both; see `Config`."""
        from ..text.networks import table_of

        super().__init__(f, config, text, Scale(START))
        width = table_of(text.net).embedding_dim
        self.places, self.matching = Places(f, width), Matching(width, config.matching_depth)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Turn images and captions into x and y, and look at true pairs and at nearly true ones."""
        from ..text.tokenizer import PAD

        images, ids = batch.views  # (N, 3, S, S) and (N, T)
        h, levels = self.f.with_maps(images)
        x, y, s, c = self.rows_of(h, ids)
        net: Any = self.text.net
        ids = _as_wide_as_all(ids)
        z, p = net.tokens(ids), self.places(levels)  # (N, T, D) and (N, places, D)
        captions, images_of, w = self._wrong(batch, x, y, s, c)
        every_z, every_p = collectives.gather(z), collectives.gather(p)
        there, every_there = ids != PAD, collectives.gather(ids, grad=False) != PAD
        m = self.matching(
            torch.cat([z, every_z[captions], z]),
            torch.cat([there, every_there[captions], there]),
            torch.cat([p, p, every_p[images_of]]),
        )
        return x, y, s, c, m.view(3, -1).T, w

    @torch.no_grad()
    def _wrong(
        self, batch: Batch, x: Tensor, y: Tensor, s: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a wrong caption of each image and a wrong image of each caption, (N,) among all, and give w (N,)."""
        every_x, every_y, every_c = (collectives.gather(part, grad=False) for part in (x, y, c))
        differ = c[:, None] != every_c
        wide = torch.float64 if x.device.type != "mps" else torch.float32  # which knows no float64
        drawn = []
        for name, own, others in (("captions", x, every_y), ("images", y, every_x)):
            with torch.autocast(x.device.type, enabled=False):  # s makes much of a rounding
                likeness = own @ others.T
            chance = ((s[:, None] * likeness).to(wide).softmax(1) + LEAST) * differ
            u = torch.from_numpy(rng.uniform(rng.fold(batch.key, "wrong", name), batch.rows, 1)).to(chance)
            up_to = chance.cumsum(1)
            drawn.append((up_to <= u * up_to[:, -1:]).sum(1).clamp(max=len(every_c) - 1))
        return drawn[0], drawn[1], differ.any(1).long()

    def loss(self, x: Tensor, y: Tensor, s: Tensor, c: Tensor, m: Tensor, w: Tensor) -> Loss:
        """Let images and captions find each other, and ask of each pair that was looked at whether it is true."""
        m = m.to(torch.promote_types(m.dtype, torch.float32))
        asked = torch.stack([torch.ones_like(w), w, w], 1)  # (N, 3)
        sign = m.new_tensor([-1.0, 1.0, 1.0])
        count = collectives.total(asked.sum().to(m)) / distributed.world()
        terms = {
            "clip": losses.clip(x, y, s.mean(), c),
            "matching": (F.softplus(sign * m) * asked).sum() / count,
        }
        right = ((sign * m < 0) * asked).sum()
        return Loss(terms, {"x": x, "y": y, "s": s, "c": c, "right": right, "count": asked.sum()})

    @torch.no_grad()
    def after_step(self, progress: float, watched: Mapping[str, Tensor]) -> None:
        """Keep the scale at 100 or less, as CLIP does."""
        self.scale.t.clamp_(max=MOST)

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how often a caption was the nearest, the scale, and how often a pair was judged right."""
        right, count = (collectives.total(watched[name].float()) for name in ("right", "count"))
        return {**super().metrics(watched), "pairs_told": right / count.clamp(min=1)}


def _as_wide_as_all(ids: Tensor) -> Tensor:
    """Fill rows (N, T) up to the longest caption of all processes."""
    if distributed.world() == 1:
        return ids
    longest = collectives.gather(torch.full_like(ids[:1, 0], ids.shape[1]), grad=False).max()
    return F.pad(ids, (0, int(longest) - ids.shape[1]))
