"""Takes an encoder's health without labels: every figure of `quality`, on a sample of images."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import kernels, quality, rng, views
from .features import cores, features
from .losses import contrastive_accuracy, unit
from .resolve import device_named
from .run import Run
from .settings import Views

SAMPLE = 2048  # images looked at, at most
GROUPS, MEMBERS = 256, 8  # images, and augmented views of each, that LiDAR looks at


@dataclass(frozen=True)
class Health:
    """What features show without labels; see the functions of the same names in `quality`.

    `rankme`, `alpha_req`, `nesum`, `stable_rank`, `uniformity` and `spread` are of images as they will be
    used; `lidar`, `alignment`, `agreement` and `contrastive_accuracy` of augmented views.
    """

    images: int
    dim: int
    rankme: float
    lidar: float
    alpha_req: float
    nesum: float
    stable_rank: float
    alignment: float
    uniformity: float
    spread: float
    agreement: float
    contrastive_accuracy: float

    def to_json(self) -> Mapping[str, Any]:
        """Write the figures in plain values; None where there is no number."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def health(
    run: Run, store: Any, *, seed: int = 0, device: str = "auto", settings: Views | None = None
) -> Health:
    """Compute every figure for a trained encoder on a sample of images.

    Args:
        run: the run; its encoder is left as it is.
        store: images, at least 2, as `pack.load` gives them.
        seed: names the sample and the views.
        device: "auto", "cpu", "cuda" or "mps".
        settings: how views are made; default SimCLR's for small images, so that runs can be compared.

    Returns:
        The figures.
    """
    where = device_named(device)
    model = copy.deepcopy(run.encoder).to(where).eval()
    rows = np.sort(rng.permutation(rng.fold(seed, "health"), len(store))[:SAMPLE])
    chosen = _Some(store, rows)
    plain = torch.from_numpy(features(model, chosen, run.preprocess, device=where))
    settings = settings or Views()
    x, y = (_views_of(model, chosen, run, settings, seed, number, where) for number in range(2))
    few = _Some(store, rows[:GROUPS])
    groups = [_views_of(model, few, run, settings, seed, number, where) for number in range(2, 2 + MEMBERS)]
    k = min(10, len(rows) - 1)
    return Health(
        images=len(rows),
        dim=plain.shape[1],
        rankme=quality.rankme(plain),
        lidar=quality.lidar(torch.stack(groups, 1)),
        alpha_req=quality.alpha_req(plain),
        nesum=quality.nesum(plain),
        stable_rank=quality.stable_rank(plain),
        alignment=quality.alignment(x, y),
        uniformity=quality.uniformity(plain),
        spread=quality.spread(plain),
        agreement=quality.agreement(x, y, k),
        contrastive_accuracy=float(contrastive_accuracy(unit(x), unit(y))),
    )


class _Some:
    """Some rows of a store, as a store."""

    def __init__(self, store: Any, rows: Any) -> None:
        self.store, self.rows = store, rows

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, rows: Any) -> Any:
        return self.store.gather(self.rows[rows])


def _views_of(
    model: torch.nn.Module,
    some: _Some,
    run: Run,
    settings: Views,
    seed: int,
    number: int,
    where: torch.device,
) -> Tensor:
    """Encode one augmented view of each image, drawn by name."""
    size, found = run.preprocess.size, []
    for low in range(0, len(some), 256):
        rows = np.arange(low, min(low + 256, len(some)))
        block = some.gather(rows)
        key = rng.fold(seed, "health view", number)
        draws = views.draw(settings, key, some.rows[rows], block.height, block.width, size)
        x = kernels.apply(block, draws, size, settings.interpolation, threads=cores())
        with torch.inference_mode():
            found.append(model(x.to(where)).float().cpu())
    return torch.cat(found)
