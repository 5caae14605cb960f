"""CPC: from the sound so far, predict features of the sound some steps later, among others.

Aäron van den Oord, Yazhe Li and Oriol Vinyals, "Representation learning with contrastive predictive coding", 2018
(arXiv:1807.03748).

Choose it when clips of sound should be learnt from as they are, without changes by chance: what can be predicted is what
lasts, such as a speaker or a place, or what follows, such as the sounds of a word.

Shapes: N clips, one view; z (N, T, P), T steps of it, from the features of the frames of the encoder f and a linear layer
g; predicted (N, K, T, P), from a recurrent network over the steps so far and a linear layer for each k: what is predicted
at step t for step t + first + k, where k is 0 to K - 1.

The InfoNCE loss, as plain loops:

    def loss(z, predicted, first, negatives):
        total, count = 0.0, 0
        for i in range(len(z)):
            for k in range(len(predicted[i])):
                for t in range(len(z[i]) - first - k):
                    came, scores = t + first + k, []
                    for j in range(len(z)):
                        for s in range(len(z[j])):
                            of_those = {"all": True, "own": j == i, "others": j != i}[negatives]
                            if of_those or (j, s) == (i, came):
                                scores.append(dot(predicted[i][k][t], z[j][s]))
                    true = dot(predicted[i][k][t], z[i][came])
                    total += -log(exp(true) / sum(exp(score) for score in scores))
                    count += 1
        return total / count

(The paper encodes samples by strided convolutions; here frames of a spectrogram, of which a step is four. Steps nearer
than `first` are left out, since the convolutions of both see the same frames.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core import collectives, distributed
from ..core.config import setting
from ..core.errors import NearfarError
from ..models import Encoder
from .base import Batch, Expects, Loss, Method
from .prediction import choices, tell
from .recipes import recipes


@dataclass(frozen=True)
class Config:
    """CPC's own settings."""

    width: int = setting(256, "width of z and of the recurrent network", low=1, source="CPC, section 3.1")
    first: int = setting(
        5,
        "steps of 40 ms to the first that is predicted; the same convolutions see up to 4",
        low=1,
        source="ours",
    )
    predicted: int = setting(
        4, "steps that are predicted, from the first on", low=1, source="CPC, section 3.1: 12"
    )
    negatives: str = setting(
        "all",
        "from where the other steps come: all clips, the own one, which teaches what is said, or the others, which "
        "teaches who says it",
        choices=("all", "own", "others"),
        source="CPC, section 3.1",
    )


class CPC(Method):
    """CPC: f by frames, a linear layer g, a recurrent network, and a linear layer for each step ahead."""

    modality: ClassVar[str | None] = "sound"

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the networks; see `Config`."""
        super().__init__(f, config)
        net: Any = f.net
        self.g = nn.Linear(net.frame.out_features, config.width)
        self.recurrent = nn.GRU(config.width, config.width, batch_first=True)
        self.ahead = nn.ModuleList(
            nn.Linear(config.width, config.width, bias=False) for _ in range(config.predicted)
        )
        self.first = config.first

    @classmethod
    def expects(cls, config: Config) -> Expects:
        """Judge by the steps told on held-out clips; changed clips need not be near each other."""
        return Expects(
            task="step_accuracy", chance=None, at_chance="raise --lr, lower --first, and train longer"
        )

    def views(self, views: Any) -> tuple[Any, ...]:
        """Take one part of each clip, as it is."""
        return (replace(views, stretch=1.0, shift=0.0, warp=0.0, tilt=0.0, masks=0.0, floor=0.0),)

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Compute the steps, and what is predicted from those so far."""
        (x,) = batch.views
        net: Any = self.f.net
        frames = net.frames(x)  # (N, features, T)
        net.pool(frames)  # so that its last norm knows the features
        z = self.g(frames.transpose(1, 2))
        if z.shape[1] <= self.first + self.config.predicted - 1:
            raise NearfarError(
                f"clips of {x.shape[3]} frames have {z.shape[1]} steps, too few to predict {self.config.predicted} from "
                f"the {self.first}th on; lower --predicted, or raise --image-size."
            )
        context, _ = self.recurrent(z)
        return z, torch.stack([layer(context) for layer in self.ahead], 1)

    def loss(self, z: Tensor, predicted: Tensor) -> Loss:
        """Tell each step that came from the others: the InfoNCE loss."""
        steps, pairs = z.shape[1], []
        for k in range(predicted.shape[1]):
            pairs += [(k, t, t + self.first + k) for t in range(steps - self.first - k)]
        ahead, now, came = torch.tensor(pairs, device=z.device).unbind(1)
        loss, right = tell(predicted[:, ahead, now], z, came, self.config.negatives)
        return Loss({"info_nce": loss}, {"right": right, "compared": choices(z, self.config.negatives)})

    def negatives(self, batch: int) -> int:
        """Steps of all clips: how many is not known before a clip is."""
        return batch - 1

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how often the step that came was the best of all."""
        return {"step_accuracy": collectives.total(watched["right"].float().mean()) / distributed.world()}


CPC.recipes = recipes(cpu={"width": 128, "batch_size": 64})
