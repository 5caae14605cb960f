"""Learns a sparse dictionary of features: each vector as a sum of a few of many directions.

A direction that few images use is easier to name than one of the vector's own numbers, in each of which
several things are mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import dynamo, rng
from ..features.knn import unit

SIZE, ACTIVE = 128, 8  # features in the dictionary, and how many of them make up a vector, at most
STEPS, BATCH, RATE = 600, 256, 3e-3
UNUSED = 50  # steps without use, from which a feature counts as dead
DEAD_SHARE = 1 / 32  # weight of the loss that brings dead features back
ROUNDING = 1e-5  # of vectors' length, by which those of equal images may differ
NAMING = 20  # images by which a feature is named and its name is tested, half each


@dataclass(frozen=True)
class Dictionary:
    """A dictionary of m features for vectors of d numbers.

    Attributes:
        centre: (d,) the mean vector.
        scale: what a centred vector is divided by.
        encoder: (m, d), and its `bias` (m,).
        directions: (m, d), of length 1.
        active: features that make up a vector, at most.
    """

    centre: Tensor
    scale: float
    encoder: Tensor
    bias: Tensor
    directions: Tensor
    active: int

    def encode(self, vectors: Tensor) -> Tensor:
        """Find how strongly each feature is in some vectors.

        Args:
            vectors: (n, d).

        Returns:
            (n, m), at least 0, with at most `active` numbers above 0 in a row.
        """
        x = (vectors - self.centre) / self.scale
        return _strongest(F.linear(x, self.encoder, self.bias), self.active)

    def decode(self, activations: Tensor) -> Tensor:
        """Put vectors (n, d) together again from activations (n, m)."""
        return activations @ self.directions * self.scale + self.centre

    def explained(self, vectors: Tensor) -> float:
        """Tell the share of the variance of vectors (n, d) that is explained; 0 where all are one."""
        return _share(vectors - self.decode(self.encode(vectors)), vectors)


def _strongest(x: Tensor, active: int) -> Tensor:
    """Keep the greatest numbers of each row (n, m), if they are above 0."""
    values, places = x.topk(min(active, x.shape[1]), dim=1)
    return torch.zeros_like(x).scatter(1, places, values.relu())


def fit(
    vectors: Tensor, *, size: int = SIZE, active: int = ACTIVE, steps: int = STEPS, seed: int = 0
) -> Dictionary:
    """Learn a dictionary.

    Args:
        vectors: (n, d) float32, at least 2.
        size: features in it.
        active: features that make up a vector, at most.
        steps: of training.
        seed: names the first directions and the batches.

    Returns:
        The dictionary.

    Source:
        Gao et al. 2024, "Scaling and evaluating sparse autoencoders", sections 2.3 (top-k) and A.2 (the loss
        that brings dead features back).
    """
    centre = vectors.mean(0)
    scale = max(float((vectors - centre).square().sum(1).mean().sqrt()), 1e-12)
    x = (vectors - centre) / scale
    # The first directions are images', so that each is used by some.
    order = np.resize(rng.permutation(rng.fold(seed, "directions"), len(x)), size)
    noise = torch.from_numpy(rng.normal(rng.fold(seed, "noise"), np.arange(size), x.shape[1]))
    start = unit(x[torch.from_numpy(order)] + 0.1 * noise / x.shape[1] ** 0.5)
    directions = start.clone().requires_grad_()
    encoder, bias = start.clone().requires_grad_(), torch.zeros(size, requires_grad=True)
    optimizer = torch.optim.Adam([directions, encoder, bias], lr=RATE)
    idle = torch.zeros(size, dtype=torch.int64)
    epoch = max(1, len(x) // BATCH)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, 2 * (1 - step / steps))  # the second half falls to 0
        rows = rng.permutation(rng.fold(seed, "batch", step // epoch), len(x))
        batch = x[torch.from_numpy(rows[step % epoch * BATCH : (step % epoch + 1) * BATCH])]
        raw = F.linear(batch, encoder, bias)
        used = _strongest(raw, active)
        rest = batch - used @ directions
        loss = rest.square().sum(1).mean()
        idle = torch.where((used > 0).any(0), 0, idle + 1)
        dead = torch.nonzero(idle > UNUSED)[:, 0]
        if len(dead):
            again = _strongest(raw[:, dead], active) @ directions[dead]
            loss = loss + DEAD_SHARE * (rest.detach() - again).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        dynamo.step(optimizer)
        with torch.no_grad():
            directions.copy_(unit(directions))
    return Dictionary(centre, scale, encoder.detach(), bias.detach(), directions.detach(), active)


@dataclass(frozen=True)
class Feature:
    """A feature of the dictionary, and what it is called.

    Attributes:
        number: its row in the dictionary.
        used: share of the images in which it is.
        top: rows of the images in which it is strongest, the strongest first.
        name: the label that most of every second of them have; "" without labels, or if too few have it.
        share: share of the others that have this label: what the name is worth.
    """

    number: int
    used: float
    top: tuple[int, ...]
    name: str = ""
    share: float | None = None


def describe(activations: Tensor, labels: Sequence[str] | None = None) -> list[Feature]:
    """Describe features by the images in which they are strongest.

    A name is chosen on one half of these images and tested on the other half, so `share` is not too high.

    Args:
        activations: (n, m); above 0 where a feature is in an image.
        labels: of the n images.

    Returns:
        One entry a feature that is in at least one image; those that hold most of the activations first.
    """
    weight = activations.square().sum(0)
    found = []
    for number in weight.argsort(descending=True, stable=True).tolist():
        column = activations[:, number]
        count = int((column > 0).sum())
        if not count:
            break
        top = column.argsort(descending=True, stable=True)[: min(count, NAMING)].tolist()
        name, share = _name([labels[row] for row in top]) if labels is not None else ("", None)
        found.append(Feature(number, count / len(column), tuple(top), name, share))
    return found


def _name(labels: Sequence[str]) -> tuple[str, float | None]:
    """Choose a name by every second label, and test it on the others; no test for a single image."""
    asked, kept = labels[::2], labels[1::2]
    name = max(sorted(set(asked)), key=list(asked).count)
    return name, (sum(one == name for one in kept) / len(kept) if kept else None)


def agreement(features: Sequence[Feature]) -> float | None:
    """Take the mean of what the names of features are worth; None if none was tested."""
    shares = [one.share for one in features if one.share is not None]
    return float(np.mean(shares)) if shares else None


def numbers(vectors: Tensor) -> Tensor:
    """Write a vector's own numbers as activations, to compare: (n, d), how far each is above its mean."""
    centred: Tensor = (vectors - vectors.mean(0)).relu()
    return centred


def principal(vectors: Tensor, held: Tensor, active: int) -> float:
    """Tell the share of variance that as many principal components explain as a vector uses features.

    Args:
        vectors: (n, d), to which they are fitted.
        held: (m, d), of which they explain a share.
        active: how many.
    """
    _, _, axes = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    x = held - vectors.mean(0)
    return _share(x - x @ axes[:active].T @ axes[:active], held)


def differ(vectors: Tensor) -> bool:
    """Tell whether vectors (n, d) are not all one and the same, but for rounding."""
    return bool((vectors - vectors.mean(0)).norm() > ROUNDING * vectors.norm())


def _share(rest: Tensor, vectors: Tensor) -> float:
    """Tell which share of the variance of vectors (n, d) is not in the rest (n, d); 0 where all are one."""
    if not differ(vectors):
        return 0.0
    return 1 - float(rest.square().sum() / (vectors - vectors.mean(0)).square().sum())
