"""Measures an encoder's health without labels: every figure of `metrics`, on a sample of images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import models
from ..core import rng
from ..core.device import cores
from ..core.errors import NearfarError
from ..data.dataset import Subset
from ..data.groups import Partners
from ..data.modalities import modality_of
from ..features.extract import features
from ..losses import contrastive_accuracy, unit
from . import metrics

SAMPLE = 2048  # images measured on, at most
BATCH = 256  # images encoded at a time
GROUPS, MEMBERS = 256, 8  # images, and augmented views of each, that LiDAR uses


@dataclass(frozen=True)
class Health:
    """What features show without labels; see the functions of the same names in `metrics`.

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
    encoder: models.Encoder,
    preprocess: Any,
    dataset: Any,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    settings: Any = None,
    sample: int = SAMPLE,
    groups: int = GROUPS,
) -> Health:
    """Compute every figure for an encoder, trained or in training, on a sample of images.

    Args:
        encoder: left as it is.
        preprocess: how an example becomes its input; it says of which modality.
        dataset: images, at least 2, as `cache.load` gives them.
        seed: names the sample and the views.
        device: where to compute.
        settings: how views are made; default the modality's own, so that runs can be compared.
        sample: images measured on, at most.
        groups: of these, the images of which LiDAR uses `MEMBERS` views.

    Returns:
        The figures.

    Raises:
        NearfarError: the encoder gives something else than numbers.
    """
    where = torch.device(device)
    model = encoder.plain().to(where).eval()
    order = rng.permutation(rng.fold(seed, "health"), len(dataset))[:sample]
    # Both are of all folders, also where the images of a class stand together.
    rows = np.sort(order)
    chosen, few = Subset(dataset, rows), Subset(dataset, np.sort(order[:groups]))
    plain = torch.from_numpy(features(model, chosen, preprocess, device=where))
    settings = settings or modality_of(preprocess).views()

    def view(part: Subset, number: int) -> Tensor:
        return _view(model, part, preprocess, settings, rng.fold(seed, "health view", number), where)

    x, y = view(chosen, 0), view(chosen, 1)
    several = torch.stack([view(few, 2 + number) for number in range(MEMBERS)], 1)
    k = min(10, len(rows) - 1)
    if not all(bool(torch.isfinite(found).all()) for found in (plain, x, y, several)):
        raise NearfarError(
            "the encoder gives NaN or infinite values, as after a rate that is too high; train again with "
            "--overwrite and a lower --lr or --weight-decay."
        )
    return Health(
        images=len(rows),
        dim=plain.shape[1],
        rankme=metrics.rankme(plain),
        lidar=metrics.lidar(several),
        alpha_req=metrics.alpha_req(plain),
        nesum=metrics.nesum(plain),
        stable_rank=metrics.stable_rank(plain),
        alignment=metrics.alignment(x, y),
        uniformity=metrics.uniformity(plain),
        spread=metrics.spread(plain),
        agreement=metrics.agreement(x, y, k),
        contrastive_accuracy=float(contrastive_accuracy(unit(x), unit(y))),
    )


def partner_found(
    encoder: models.Encoder,
    preprocess: Any,
    dataset: Any,
    settings: tuple[Any, Any],
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    sample: int = SAMPLE,
    turns: int = 1,
) -> float:
    """Tell how often the nearest of all views is the other view of the same image.

    Args:
        encoder, preprocess, dataset, seed, device, sample: as in `health`.
        settings: how the first and the second view are made.
        turns: how often it is done, with other views of the same images each time.

    Returns:
        Share of the views, 0 to 1; high for an encoder that knows the images, or for views that are similar.
    """
    where = torch.device(device)
    model = encoder.plain().to(where).eval()
    rows = np.sort(rng.permutation(rng.fold(seed, "partner"), len(dataset))[:sample])
    part = Subset(dataset, rows)

    def found(turn: int) -> float:
        x, y = (
            _view(model, part, preprocess, made, rng.fold(seed, "partner view", 2 * turn + number), where)
            for number, made in enumerate(settings)
        )
        return float(contrastive_accuracy(unit(x), unit(y)))

    return sum(map(found, range(turns))) / turns


def group_found(
    encoder: models.Encoder,
    preprocess: Any,
    dataset: Any,
    rows: npt.NDArray[np.int64],
    partners: Partners,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    sample: int = SAMPLE,
) -> tuple[float, int]:
    """Tell how often the image nearest to an image is of the same group.

    Args:
        encoder, preprocess, seed, device, sample: as in `health`.
        dataset: all images.
        rows: (n,) the images to ask for, of which a sample is taken.
        partners: the groups of all; another image of the group of each is among those that are searched.

    Returns:
        Share of the images, 0 to 1, and how many were asked for; those alone in their group are not.
    """
    where = torch.device(device)
    model = encoder.plain().to(where).eval()
    chosen = rows[rng.permutation(rng.fold(seed, "groups"), len(rows))[:sample]]
    mates = partners.of(chosen, rng.fold(seed, "group mates"))
    asked = np.unique(chosen[mates != chosen])
    if not len(asked):
        return 0.0, 0
    among = np.union1d(asked, mates)
    z = unit(torch.from_numpy(features(model, Subset(dataset, among), preprocess, device=where)))
    at = torch.from_numpy(np.searchsorted(among, asked))
    likeness = z[at] @ z.T
    likeness[torch.arange(len(at)), at] = -torch.inf
    nearest = among[likeness.argmax(1).numpy()]
    right = partners.groups[nearest] == partners.groups[asked]
    return float(right.mean()), len(asked)


def settled(
    encoder: models.Encoder,
    preprocess: Any,
    dataset: Any,
    settings: Any,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    sample: int = SAMPLE,
) -> models.Encoder:
    """Copy an encoder with its batch norms measured on views of some images, as training would have it.

    While its batch norms do nothing, an untrained encoder is no measure for a trained one.

    Args:
        encoder, preprocess, dataset, seed, device, sample: as in `health`; the encoder is left as it is.
        settings: how views are made.

    Returns:
        The copy, on the device, in eval mode.
    """
    where = torch.device(device)
    rows = rng.permutation(rng.fold(seed, "settled"), len(dataset))[:sample]
    rows = np.sort(rows[: len(rows) - (len(rows) % BATCH == 1)])  # one image has no variance
    copied = encoder.plain().to(where)
    key = rng.fold(seed, "settled view")
    models.settle(copied, _views(Subset(dataset, rows), preprocess, settings, key, where))
    return copied


def _view(
    model: torch.nn.Module, part: Subset, preprocess: Any, settings: Any, key: int, where: torch.device
) -> Tensor:
    """Encode one augmented view of each image, drawn by name."""
    with torch.inference_mode():
        return torch.cat([model(x).float().cpu() for x in _views(part, preprocess, settings, key, where)])


def _views(part: Subset, preprocess: Any, settings: Any, key: int, where: torch.device) -> Iterator[Tensor]:
    """Make one augmented view of each image, some at a time."""
    kind, size = modality_of(preprocess), preprocess.size
    for low in range(0, len(part), BATCH):
        rows = np.arange(low, min(low + BATCH, len(part)))
        block = part.gather(rows)
        draws = kind.draw(settings, key, part.rows[rows], block, size)
        yield kind.apply(block, draws, settings, size, threads=cores()).to(where)
