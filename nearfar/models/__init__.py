"""Encoders by name: a picture goes in, a vector of `.dim` numbers comes out.

A name is looked for among our own small networks, then torchvision's, then timm's; `timm:resnet50` or
`torchvision:resnet50` says which. (torchvision comes first because it is there sooner: timm takes two
seconds to import.) No input normalisation is added: a picture is numbers from 0 to 1, as in SimCLR.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.errors import NearfarError
from ..core.rng import fold
from ..images.view_settings import is_small
from . import libraries, stems
from . import weights as files
from .layers import GlobalBatchNorm, mlp, settle, sync_batchnorm
from .libraries import names
from .residual import SHAPES, Residual

__all__ = [
    "Encoder",
    "GlobalBatchNorm",
    "encoder",
    "mlp",
    "names",
    "seeded",
    "settle",
    "sync_batchnorm",
    "untrained",
]


class Encoder(nn.Module):
    """A network without its classifier, and what must be known to build it again.

    `net` is the network itself, under the names of its own library.
    """

    def __init__(self, net: nn.Module, dim: int, name: str, stem: str, size: int | None) -> None:
        """Wrap a network.

        Args:
            net: (n, 3, side, side) -> (n, dim).
            dim: numbers in a vector.
            name: as `encoder` takes it.
            stem: "small" or "standard".
            size: side of the images it was made for, if it matters to it.
        """
        super().__init__()
        self.net, self.dim, self.name, self.stem, self.size = net, dim, name, stem, size

    def forward(self, x: Tensor) -> Tensor:
        """Encode images.

        Args:
            x: (n, 3, side, side) in [0, 1].

        Returns:
            (n, dim).
        """
        h: Tensor = self.__dict__.get("_code", self.net)(x)
        return h

    def compiled(self, on: bool = True) -> None:
        """Run the network through torch.compile from now on, or no longer; its weights keep their names.

        Args:
            on: whether to compile, which happens at the next call and takes seconds to minutes.
        """
        # Past nn.Module's own way of setting, which would list the weights a second time.
        self.__dict__.pop("_code", None)
        if on:
            self.__dict__["_code"] = torch.compile(self.net)


@contextlib.contextmanager
def seeded(seed: int, *names: int | str) -> Iterator[None]:
    """Make the random weights drawn inside a function of a name; torch's own CPU stream is put back after.

    Args:
        seed: the run's seed.
        names: what is drawn, as for `rng.fold`.
    """
    with torch.random.fork_rng(devices=[]):
        # The generator itself: torch.manual_seed would also reset the GPUs'.
        torch.default_generator.manual_seed(fold(seed, *names) >> 1)
        yield


def encoder(
    name: str, *, stem: str = "auto", size: int | None = None, weights: str | None = None, seed: int = 0
) -> Encoder:
    """Build an encoder on the CPU.

    Args:
        name: one of `names()`, or one of them after "timm:" or "torchvision:".
        stem: "small" makes the first convolution 3x3 with stride 1 and drops the pooling after it, which
            suits images up to 64 px; "standard" is the network's own; "auto" takes "small" if `size` is at
            most 64, the network can have it, it is not one of ours, and it starts untrained.
        size: side of the images in pixels; a vision transformer is built for it.
        weights: None for random ones, "pretrained" to fetch the library's (the only use of the network),
            or a .safetensors file of such an encoder or of the plain network.
        seed: names the random weights.

    Returns:
        The encoder, in training mode.

    Raises:
        NearfarError: the name is unknown, the stem is not possible, or the weights are not to be had.

    Source:
        SimCLR, appendix B.9, for the small stem.
    """
    library, plain = libraries.find(name)
    pretrained = weights == "pretrained"
    if pretrained and library == "nearfar":
        raise NearfarError(
            f"there are no pretrained weights for {name!r}; leave --weights out or give a .safetensors file."
        )
    if pretrained and stem == "small":
        raise NearfarError(
            f"the pretrained weights of {name!r} belong to its own first layers; use --stem standard."
        )
    with seeded(seed, "encoder", name):
        if library == "nearfar":
            net: nn.Module = Residual(SHAPES[plain])
            dim = SHAPES[plain].dim
        elif library == "torchvision":
            net, dim = libraries.from_torchvision(plain, size, pretrained)
        else:
            net, dim = libraries.from_timm(plain, size, pretrained)
        possible = stems.has_small(net)
        if stem == "small" and not possible:
            raise NearfarError(f"{name!r} has no first layers that could be made small; use --stem standard.")
        if stem == "auto":
            small = size is not None and is_small(size) and library != "nearfar" and not pretrained
            stem = "small" if small and possible else "standard"
        if stem == "small":
            stems.make_small(net)
    if weights is not None and not pretrained:
        files.read(net, name, stem, Path(weights))
    return Encoder(net, dim, name, stem, size)


def untrained(like: Encoder, seed: int = 0) -> Encoder:
    """Build an encoder of the same make with fresh random weights, as a baseline.

    Args:
        like: the encoder to match.
        seed: names the weights.

    Returns:
        The encoder, in training mode.
    """
    return encoder(like.name, stem=like.stem, size=like.size, seed=seed)
