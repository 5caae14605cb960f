"""Several encoders as one: each sees an image at its own size, and their vectors follow one another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_PIXELS = 1 << 14  # a side of what an encoder sees
NAME = "combined"  # in encoder.json; its `args` describe the parts


@dataclass(frozen=True)
class Sight:
    """What an encoder sees of a square image: it is resized to `short` px, and its centre has `size` px."""

    short: int
    size: int


def combine(vectors: Sequence[Tensor]) -> Tensor:
    """Put vectors of several encoders one after the other, so that a cosine is the mean of their cosines.

    Args:
        vectors: (n, d) each, of the same images.

    Returns:
        (n, sum of d), of length 1 in float32.
    """
    return torch.cat([F.normalize(x, dim=1) for x in vectors], 1) / math.sqrt(len(vectors))


class Combined(nn.Module):
    """The network of a combined encoder."""

    def __init__(self, parts: Sequence[nn.Module], sides: Sequence[Sight]) -> None:
        """Combine.

        Args:
            parts: encoders, (n, 3, side, side) in [0, 1] to (n, d); they bring their own normalisation.
            sides: what each sees.
        """
        super().__init__()
        self.parts, self.sides = nn.ModuleList(parts), tuple(sides)

    def forward(self, x: Tensor) -> Tensor:
        """Encode images.

        Args:
            x: (n, 3, side, side) in [0, 1].

        Returns:
            (n, sum of the parts' numbers), of length 1.
        """
        return combine([part(_seen(x, sides)) for part, sides in self.members()])

    def members(self) -> list[tuple[Any, Sight]]:
        """List the encoders, each with what it sees."""
        return list(zip(self.parts, self.sides, strict=True))


def _seen(x: Tensor, sides: Sight) -> Tensor:
    """Reduce images, as an encoder's own preprocessing does, and take their centre."""
    if x.shape[-1] != sides.short:
        small = (sides.short, sides.short)
        x = F.interpolate(x, small, mode="bilinear", align_corners=False, antialias=True)
    low = (sides.short - sides.size) // 2
    return x[..., low : low + sides.size, low : low + sides.size]


def build(
    parts: Sequence[Mapping[str, Any]],
    encoder: Callable[..., Any],
    projection: Callable[[int, int], nn.Linear],
) -> tuple[Combined, int]:
    """Build a network with random weights from the descriptions of its parts.

    Args:
        parts: as `described` makes them.
        encoder, projection: `models.encoder` with a seed, and `models.projection`.

    Returns:
        The network, and how many numbers its vectors have.

    Raises:
        ValueError: a part sees no part of an image, or there is none.
    """
    made, sights = [], [Sight(item["short"], item["size"]) for item in parts]
    if not sights or any(not 0 < each.size <= each.short <= MOST_PIXELS for each in sights):
        raise ValueError("its parts see no part of an image")
    for item in parts:
        own = {name: item[name] for name in ("name", "stem", "size", "mean", "std")}
        part = encoder(**own, args=item["args"] or None)
        made.append(part.projected(projection(part.dim, item["dim"])) if item["projection"] else part)
    return Combined(made, sights), sum(part.dim for part in made)


def described(encoder: Any, sides: Sight) -> dict[str, Any]:
    """Describe a part in plain values, by which `models.encoder` builds it again.

    Args:
        encoder: a `models.Encoder`.
        sides: what it sees.
    """
    made = {"name": encoder.name, "stem": encoder.stem, "dim": encoder.dim, "args": encoder.args}
    made |= {"mean": list(encoder.mean), "std": list(encoder.std)}
    return made | {"projection": encoder.projection is not None, "short": sides.short, "size": sides.size}
