"""Encoders by name: the input is an image, the output a vector of `.dim` numbers.

A name is looked for among our own small networks, then torchvision's, then timm's; `timm:resnet50` or
`torchvision:resnet50` says which. (torchvision comes first because it is there sooner: timm takes two
seconds to import.) No input normalisation is added: a picture is numbers from 0 to 1, as in SimCLR.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.errors import NearfarError
from ..core.rng import fold
from ..images.view_settings import is_small
from . import combined, feature_maps, image_tower, libraries, stems
from . import weights as files
from .blocks import blocks, checkpoint_activations
from .feature_maps import Tokens
from .input_config import say_assumed
from .layers import GlobalBatchNorm, mlp, settle, sync_batchnorm
from .libraries import names
from .residual import SHAPES, Residual
from .transformer import TRANSFORMERS, Transformer

__all__ = [
    "Encoder",
    "GlobalBatchNorm",
    "Tokens",
    "blocks",
    "checkpoint_activations",
    "encoder",
    "like",
    "mlp",
    "names",
    "projection",
    "seeded",
    "settle",
    "sync_batchnorm",
]

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # mean and deviation with which nothing is changed


EVERY_SCALE = {"pool": "every_scale"}  # how an encoder of ours is built whose vectors hold every scale


class Encoder(nn.Module):
    """A network without its classifier, and what must be known to build it again.

    `net` is the network itself, under the names of its own library. `projection` maps its vectors into a
    space that another encoder shares, where there is one.
    """

    normalization: Tensor | None
    projection: nn.Linear | None
    frozen_statistics = False  # whether batch norms normalise by what they have measured in training too

    def __init__(
        self,
        net: nn.Module,
        dim: int,
        name: str,
        stem: str,
        size: int | None,
        mean: Sequence[float] = ZERO,
        std: Sequence[float] = ONE,
        untrained: bool = True,
        args: Mapping[str, Any] | None = None,
    ) -> None:
        """Wrap a network.

        Args:
            net: (n, 3, side, side) -> (n, dim).
            dim: numbers in a vector.
            name: as `encoder` takes it.
            stem: "small" or "standard".
            size: side of the images it was made for, if it matters to it.
            mean, std: what the network's input is less and over, a number a channel.
            untrained: whether its weights are random.
            args: what else its library built it with, in plain values; `EVERY_SCALE` for one of ours.
        """
        super().__init__()
        self.untrained = untrained
        self.net, self.dim, self.name, self.stem, self.size = net, dim, name, stem, size
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self.args = dict(args or {})
        self.register_module("projection", None)
        # Part of the state, so that networks that give other vectors have other fingerprints.
        plain = (self.mean, self.std) == (ZERO, ONE)
        both = None if plain else torch.tensor([self.mean, self.std]).view(2, 3, 1, 1)
        self.register_buffer("normalization", both)

    def train(self, mode: bool = True) -> Self:
        """Go into training mode or out of it; batch norms whose statistics are frozen stay out.

        Args:
            mode: whether to train.
        """
        super().train(mode)
        if mode and self.frozen_statistics:
            for part in self.modules():
                if isinstance(part, _BatchNorm):
                    part.eval()
        return self

    def _normalized(self, x: Tensor) -> Tensor:
        return x if self.normalization is None else (x - self.normalization[0]) / self.normalization[1]

    def forward(self, x: Tensor) -> Tensor:
        """Encode images.

        Args:
            x: (n, 3, side, side) in [0, 1].

        Returns:
            (n, dim).
        """
        h: Tensor = self.__dict__.get("_code", self.net)(self._normalized(x))
        return h if self.projection is None else self.projection(h)

    def projected(self, layer: nn.Linear) -> Encoder:
        """Give an encoder of the same network, with the same weights in memory, and a projection after it.

        Args:
            layer: (dim,) -> (its own dim,), without a bias.
        """
        made = copy.copy(self)
        made._modules = {**self._modules, "projection": layer}
        made.dim = layer.out_features
        return made

    def maps(self, x: Tensor) -> list[Tensor]:
        """Compute feature maps, with the weights that `encoder(x)` uses.

        Args:
            x: (n, 3, side, side) in [0, 1].

        Returns:
            One map for each of `strides`, the last that the network computes at it: (n, c, h, w), finest
            first. A vision transformer has one, its patch tokens.

        Raises:
            NearfarError: the network has no feature maps.
        """
        return feature_maps.maps(self.net, self._normalized(x), self.name)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of an image from one place of a map to the next, for each of `maps`; costs one image's run.

        Told for the side that the encoder was made for: maps of one place are one map.
        """
        return feature_maps.strides(self._levels(), self.size or 224)

    @property
    def map_widths(self) -> tuple[int, ...]:
        """Numbers at a place, for each of `maps`; costs one image's run."""
        return tuple(level.shape[1] for level in self._levels())

    def _levels(self) -> list[Tensor]:
        """Compute the maps of one black image, and leave no trace of it."""
        side, modes = self.size or 224, [(part, part.training) for part in self.net.modules()]
        held = next(self.net.parameters())
        self.net.eval()
        try:
            with torch.no_grad():
                return self.maps(torch.zeros(1, 3, side, side, dtype=held.dtype, device=held.device))
        finally:
            for part, training in modes:
                part.training = training

    def with_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode images, and give the feature maps on the way; one pass for our own networks.

        Args:
            x: (n, 3, side, side) in [0, 1].

        Returns:
            (n, dim), as `encoder(x)` gives, and `maps`.

        Raises:
            NearfarError: the network has no feature maps.
        """
        if isinstance(self.net, Residual):
            levels = self.maps(x)
            h = self.net.pooled(levels)
            return h if self.projection is None else self.projection(h), levels
        return self(x), self.maps(x)

    @property
    def patch(self) -> int:
        """Side of a vision transformer's patches, in pixels.

        Raises:
            NearfarError: the network has no patches.
        """
        return feature_maps.patch_side(self.net, self.name)

    def tokens(self, x: Tensor, keep: Tensor | None = None) -> Tokens:
        """Compute a vision transformer's tokens, with the weights that `encoder(x)` uses.

        Args:
            x: (n, 3, side, side) in [0, 1].
            keep: (n, k) int64, the patches of each image that enter the blocks, counted row by row from the
                top left; None for all.

        Returns:
            `patches` (n, t, d), or (n, k, d) in the order of `keep`, and `prefix` (n, p, d): the class token
            and its like.

        Raises:
            NearfarError: the network has no tokens, or cannot leave patches out.

        Source:
            `keep`: He et al. 2022, "Masked autoencoders are scalable vision learners", section 3.
        """
        return feature_maps.tokens(self.net, self._normalized(x), self.name, keep)

    def unprojected(self) -> Encoder:
        """Give an encoder of the same network, with the same weights in memory, without its projection."""
        if self.projection is None:
            return self
        made = copy.copy(self)
        made._modules = {**self._modules, "projection": None}
        made.dim = self.projection.in_features
        return made

    def plain(self) -> Encoder:
        """Give a copy, with weights of its own, that is not compiled."""
        made = copy.copy(self)
        made.__dict__.pop("_code", None)
        return copy.deepcopy(made)

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
    name: str,
    *,
    stem: str = "auto",
    size: int | None = None,
    weights: str | None = None,
    seed: int = 0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    args: Mapping[str, Any] | None = None,
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
        mean, std: what the network's input is less and over, a number a channel. By default the file's, if an
            `Encoder` wrote it; what is said beside a file of the plain network, see `weights.input_of`; the
            library's own for its pretrained weights, or where nothing is said; else 0 and 1.
        args: what else timm's `create_model` takes, such as `global_pool`; for one of ours `EVERY_SCALE`,
            with which its vector goes on after the features that it is trained by.

    Returns:
        The encoder, in training mode.

    Raises:
        NearfarError: the name is unknown, the stem is not possible, or the weights are not to be had.

    Source:
        SimCLR, appendix B.9, for the small stem.
    """
    if name == image_tower.NAME and args is not None:  # of a known encoder, or a run that started from one
        if size not in (None, args["image_size"]):
            raise NearfarError(f"this encoder takes images of {args['image_size']} px; set --image-size so.")
        with seeded(seed, "encoder", name):
            made = image_tower.ImageTower(args)
        return Encoder(made, args["hidden_size"], name, "standard", size, mean or ZERO, std or ONE, args=args)
    if name == combined.NAME and args is not None:
        both, width = combined.build(args["parts"], lambda **how: encoder(seed=seed, **how), projection)
        return Encoder(both, width, name, "standard", size, args=args)
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
            net: nn.Module
            if plain in TRANSFORMERS:
                net, dim = Transformer(TRANSFORMERS[plain]), TRANSFORMERS[plain].dim
            else:
                shape, every = SHAPES[plain], (args or {}) == EVERY_SCALE
                net = Residual(shape, every_scale=every)
                dim = shape.every_dim if every else shape.dim
        elif library == "torchvision":
            net, dim = libraries.from_torchvision(plain, size, pretrained)
        else:
            net, dim = libraries.from_timm(plain, size, pretrained, args)
        possible = stems.has_small(net)
        if stem == "small" and not possible:
            raise NearfarError(f"{name!r} has no first layers that can be replaced; use --stem standard.")
        if stem == "auto":
            small = size is not None and is_small(size) and library != "nearfar" and not pretrained
            stem = "small" if small and possible else "standard"
        if stem == "small":
            stems.make_small(net)
    known: tuple[Sequence[float], Sequence[float]] | None = None
    if weights is not None and not pretrained:
        known = files.read(net, name, stem, Path(weights))
    if known is None and weights is not None and library != "nearfar":
        if pretrained:
            config = libraries.input_config(library, plain)
        else:
            config = files.input_of(Path(weights), library, plain)
        if config.assumed and (mean is None or std is None):
            say_assumed(config, str(weights), f"{library}'s for {plain}", Path(weights).parent)
        known = config.mean, config.std
    own_mean, own_std = known or (ZERO, ONE)
    own_mean, own_std = own_mean if mean is None else mean, own_std if std is None else std
    return Encoder(net, dim, name, stem, size, own_mean, own_std, untrained=weights is None, args=args)


def projection(dim: int, width: int) -> nn.Linear:
    """Make a projection into a space that encoders share, with random weights.

    Args:
        dim: numbers in a network's vector.
        width: of the space.

    Source:
        Radford et al. 2021, CLIP, its code: a deviation of dim ^ -1/2.
    """
    layer = nn.Linear(dim, width, bias=False)
    nn.init.normal_(layer.weight, std=dim**-0.5)
    return layer


def like(made: Encoder, other: Encoder | None) -> Encoder:
    """Give an encoder a projection with random weights, where another one of the same network has one.

    Args:
        made: without a projection.
        other: the other one; None leaves it as it is.
    """
    if other is None or other.projection is None:
        return made
    return made.projected(projection(made.dim, other.dim))
