"""BYOL-A: BYOL on two views of one part of a clip, each mixed with an earlier clip, and cropped and stretched.

Daisuke Niizumi, Daiki Takeuchi, Yasunori Ohishi, Noboru Harada and Kunio Kashino, "BYOL for audio: Exploring pre-trained
general-purpose audio representations", IEEE/ACM Transactions on Audio, Speech and Language Processing 31, 2023
(arXiv:2204.07402); first "BYOL for audio: Self-supervised learning for general-purpose audio representation", IJCNN 2021
(arXiv:2103.06695).

Choose it when sounds of any kind are learnt from, in small batches or with many clips nearly alike: it has no negatives,
and what is in the background of a clip is ignored.

A view is made in four steps (2021, section III-A): the spectrogram is normalised; an earlier clip is mixed in, quietly,
as powers are added; a part of it, or a larger plane around it, is cropped and brought to its size; and all views of a
batch are normalised together, since both changes move their mean and deviation.

Shapes: N clips, two views; f(view) (N, D); z (N, P) from the EMA copies of f and of the head g; q (N, P) from the
predictor q on top of g. No gradient reaches z. x and an earlier clip are log-mel values, and the share is up to `mixup`.

BYOL's equation 2, both ways round, as plain loops, and what is mixed (2021, equation 4):

    def loss(q_i, q_j, z_i, z_j):
        total = 0.0
        for n in range(len(q_i)):
            for q, z in ((q_i[n], z_j[n]), (q_j[n], z_i[n])):
                total += 2 - 2 * dot(q, z) / sqrt(dot(q, q) * dot(z, z))
        return total / len(q_i)

    def mixed(x, earlier, share):
        return log((1 - share) * exp(x) + share * exp(earlier))

(Here views have the encoder's own mean and deviation in the end, not 0 and 1, so that later it takes clips as they are;
and places between two values are blended of the nearest four, not sixteen.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import rng
from ..core.config import setting
from ..losses import contrastive_accuracy, unit
from ..models import Encoder
from ..models.queue import PastExamples
from .base import Batch, Expects, Loss
from .byol import BYOL
from .recipes import recipes

SMALLEST, LARGEST = 0.6, 1.5  # height and width of a crop, of the clip's; 2021, section IV-A
# Width and height, of the clip's, of the plane in which a crop lies; outside the clip it is 0.
PLANE = (1.5, 1.0)


@dataclass(frozen=True)
class Config:
    """BYOL-A's own settings."""

    mixup: float = setting(
        0.4,
        "share of an earlier clip in a view, at most",
        low=0.0,
        high=1.0,
        source="BYOL-A 2021, section IV-A",
    )
    memory: int = setting(
        2048, "number of earlier clips of which one is mixed in", low=1, source="BYOL-A 2021, section IV-A"
    )
    ema: float = setting(
        0.99,
        "momentum of the EMA copy at the start; it rises to 1",
        low=0.0,
        high=1.0,
        source="BYOL-A 2021, section IV-A, where it stays; BYOL, section 3.2, for the rise",
    )
    head: tuple[int, ...] = setting(
        (4096, 256),
        "widths of the head's layers; the last is the width of z",
        low=1,
        source="BYOL-A 2021, section IV-A",
    )
    predictor: int = setting(
        4096, "width of the predictor's hidden layer", low=1, source="BYOL-A 2021, section IV-A"
    )


class BYOLA(BYOL):
    """BYOL-A: BYOL, a memory of clips, and batch norms without weights before and after the views are made."""

    modality: ClassVar[str | None] = "sound"

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the memory and both normalisations to BYOL; see `Config`."""
        super().__init__(f, config)  # type: ignore[arg-type]  # it has the settings of BYOL's
        self.memory = PastExamples(config.memory)
        self.before = nn.BatchNorm2d(1, affine=False, momentum=None)  # the plain mean over all clips so far
        self.after = nn.BatchNorm2d(1, affine=False, track_running_stats=False)

    @classmethod
    def expects(cls, config: Any) -> Expects:
        """Judge by held-out clips: how often the other view of one, made here, is the nearest."""
        return Expects(task="contrastive_accuracy", chance=None, at_chance="raise --lr, and train longer")

    def views(self, views: Any) -> tuple[Any, ...]:
        """Take one part of each clip, as it is."""
        as_it_is = {"stretch": 1.0, "shift": 0.0, "warp": 0.0, "tilt": 0.0, "masks": 0.0, "floor": 0.0}
        return (replace(views, keep=1.0, **as_it_is),)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Make two views of the part, and let BYOL turn them into q and z; add the clips, for the memory."""
        (part,) = batch.views  # (N, 1, mels, frames)
        with torch.no_grad():
            x = self.before(part.to(torch.promote_types(part.dtype, torch.float32)))
            both = [self._view(x, batch, number) for number in range(2)]
            mean, variance = self.before.running_mean, self.before.running_var
            assert mean is not None and variance is not None
            views = (self.after(torch.cat(both)) * variance.sqrt() + mean).to(part.dtype).chunk(2)
        return *super().embed(replace(batch, views=list(views))), x

    def _view(self, x: Tensor, batch: Batch, number: int) -> Tensor:
        """Mix an earlier clip in, and crop; all is drawn by the clip's name."""
        key = rng.fold(batch.key, "view", number)
        share, which, *box = torch.from_numpy(rng.uniform(key, batch.rows, 6)).to(x).unbind(1)
        if len(self.memory):
            x = mixed(x, self.memory.take(which).to(x), self.config.mixup * share)
        return cropped(x, torch.stack(box, 1))

    def loss(self, q_i: Tensor, q_j: Tensor, z_i: Tensor, z_j: Tensor, x: Tensor) -> Loss:  # type: ignore[override]
        """Compare predictions with what they predict, as BYOL does."""
        terms, watched = super().loss(q_i, q_j, z_i, z_j)
        return Loss(terms, {**watched, "z_j": z_j, "x": x})

    def after_step(self, progress: float, watched: Mapping[str, Tensor]) -> None:
        """Update the EMA copies, and let the clips take the places of the oldest."""
        super().after_step(progress, watched)
        self.memory.push(watched["x"])

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how widely z is spread, and how often a view's partner was the nearest of all."""
        z_i, z_j = unit(watched["z"]), unit(watched["z_j"])
        return {**super().metrics(watched), "contrastive_accuracy": contrastive_accuracy(z_i, z_j)}


BYOLA.recipes = recipes(cpu={"head": (1024, 128), "predictor": 512, "ema": 0.9, "memory": 512})


def mixed(x: Tensor, earlier: Tensor, share: Tensor) -> Tensor:
    """Mix log-mel values, (n, 1, mels, frames), as powers: (n,) share of the earlier one; 2021, equation 4."""
    share = share[:, None, None, None]
    return torch.logaddexp(x + torch.log1p(-share), earlier + share.log())


def cropped(x: Tensor, u: Tensor) -> Tensor:
    """Crop a box of the plane around each clip, and bring it to the clip's size; 2021, section III-A.2.

    Args:
        x: (n, 1, mels, frames), in the middle of a plane of zeros.
        u: (n, 4) from 0 to 1: how wide and high the box is, and where it lies from left to right and low to high.

    Returns:
        (n, 1, mels, frames).
    """
    plane = torch.tensor(PLANE).to(x)
    half = torch.minimum(SMALLEST + (LARGEST - SMALLEST) * u[:, :2], plane)  # of the box; the clip is -1 to 1
    middle = (2 * u[:, 2:] - 1) * (plane - half)
    box = torch.cat([torch.diag_embed(half), middle[:, :, None]], 2)
    return F.grid_sample(x, F.affine_grid(box, list(x.shape), align_corners=False), align_corners=False)
