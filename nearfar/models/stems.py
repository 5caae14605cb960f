"""First layers for small images: a 3x3 convolution with stride 1, and no pooling after it."""

from __future__ import annotations

from typing import Any

from torch import nn

from .residual import Residual

# Where networks of the residual kind keep their first convolution and the pooling after it.
_STEMS = (("conv1", "maxpool"), ("features.conv0", "features.pool0"), ("stem.conv", "stem.pool"))


def _part(net: nn.Module, path: str) -> Any:
    """Find a part by its dotted name, or None."""
    found: Any = net
    for key in path.split("."):
        found = getattr(found, key, None)
    return found if isinstance(found, nn.Module) else None


def has_small(net: nn.Module) -> bool:
    """Tell whether the first convolution and the pooling are where `make_small` finds them."""
    return isinstance(net, Residual) or any(_part(net, conv) and _part(net, pool) for conv, pool in _STEMS)


def make_small(net: nn.Module) -> None:
    """Make the first convolution 3x3 with stride 1, and drop the pooling after it.

    Args:
        net: a network that `has_small`; changed in place.

    Source:
        SimCLR, appendix B.9.
    """
    if isinstance(net, Residual):
        net.conv1 = nn.Conv2d(3, net.conv1.out_channels, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        return
    path, pool = next(pair for pair in _STEMS if _part(net, pair[0]) and _part(net, pair[1]))
    first = _part(net, path)
    if isinstance(first, nn.Conv2d):
        make: Any = type(first)  # timm has kinds of its own, such as with standardised weights
        biased = first.bias is not None
        small = make(first.in_channels, first.out_channels, 3, stride=1, padding=1, bias=biased)
        nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
        net.set_submodule(path, small)
    else:  # several 3x3 convolutions
        for part in first.modules():
            if isinstance(part, nn.Conv2d):
                part.stride = (1, 1)
    net.set_submodule(pool, nn.Identity())
