"""Heads, and batch norm whose statistics span all processes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..core import collectives, distributed

Net = TypeVar("Net", bound=nn.Module)


def mlp(
    *widths: int, norm: bool = True, last_norm: bool = True, last_bias: bool = True, last_gamma: bool = True
) -> nn.Sequential:
    """Build a head: Linear, batch norm, ReLU, and so on, to a last Linear and its batch norm without beta.

    Args:
        widths: features that enter, of each hidden layer, and that leave; two or more.
        norm: whether the hidden layers have a batch norm (else they have a bias).
        last_norm: whether the last layer has a batch norm.
        last_bias: whether it has a bias where it has no batch norm.
        last_gamma: whether that batch norm has gamma; else it stays 1.

    Returns:
        (n, widths[0]) -> (n, widths[-1]).

    Source:
        Chen et al. 2020, SimCLR, section 4.2, and the authors' code for the batch norms.
    """
    layers: list[nn.Module] = []
    for inside, outside in itertools.pairwise(widths[:-1]):
        layers.append(nn.Linear(inside, outside, bias=not norm))
        layers += [nn.BatchNorm1d(outside), nn.ReLU(inplace=True)] if norm else [nn.ReLU(inplace=True)]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=last_bias and not last_norm))
    if last_norm:
        last = nn.BatchNorm1d(widths[-1])
        last.bias.requires_grad_(False)  # without beta: it stays 0
        last.weight.requires_grad_(last_gamma)
        layers.append(last)
    return nn.Sequential(*layers)


class GlobalBatchNorm(_BatchNorm):
    """Batch norm over the rows of all processes, in plain differentiable torch, for the CPU.

    Two sums over the processes, of the values and then of their squared distances from the mean, so that
    nothing cancels and the gradient is that of one process to rounding. It takes the place of any torch
    or timm batch norm and keeps the names of its state.

    Source:
        Ioffe and Szegedy 2015, "Batch normalization", algorithm 1, over the global batch.
    """

    def __init__(self, like: _BatchNorm) -> None:
        """Take the place of a batch norm.

        Args:
            like: the norm whose parameters and buffers are taken over; not changed itself.
        """
        super().__init__(like.num_features, like.eps, like.momentum, like.affine, like.track_running_stats)
        for name, value in [*like.named_parameters(recurse=False), *like.named_buffers(recurse=False)]:
            setattr(self, name, value)
        # timm folds dropout and the activation into its norms; they have no state.
        self.drop, self.act = getattr(like, "drop", nn.Identity()), getattr(like, "act", nn.Identity())
        self.train(like.training)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from 2 up will do."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise.

        Args:
            input: (n, channels, ...); n may differ between processes.

        Returns:
            The same shape and type.
        """
        if not (self.training or self.running_mean is None):
            return cast(Tensor, self.act(self.drop(super().forward(input))))
        x = input if input.dtype == torch.float64 else input.float()
        others = [0, *range(2, x.dim())]
        plane = (1, -1) + (1,) * (x.dim() - 2)
        count = collectives.total(x.new_tensor(x.numel() / x.shape[1]))
        mean = collectives.total(x.sum(others)) / count
        centred = x - mean.view(plane)
        variance = collectives.total(centred.square().sum(others)) / count
        if self.training and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                assert self.num_batches_tracked is not None
                self.num_batches_tracked += 1
                pace = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), pace)
                unbiased = variance * (count / (count - 1).clamp(min=1))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), pace)
        y = centred * (variance + self.eps).rsqrt().view(plane)
        if self.affine:
            y = y * self.weight.view(plane) + self.bias.view(plane)
        return cast(Tensor, self.act(self.drop(y.to(input.dtype))))


def settle(net: Net, batches: Iterable[Tensor]) -> Net:
    """Measure a network's batch norms again, as the plain mean over some batches; nothing else changes.

    Args:
        net: changed in place.
        batches: of two images or more, (n, 3, side, side), on the network's device.

    Returns:
        The network, in eval mode.
    """
    net.eval()
    norms = [part for part in net.modules() if isinstance(part, _BatchNorm)]
    if not norms:
        return net
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over what is seen
        norm.train()
    with torch.no_grad():
        for x in batches:
            net(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum  # for training
    return net.eval()


def sync_batchnorm(module: nn.Module) -> nn.Module:
    """Let every batch norm see the rows of all processes; with one process nothing changes.

    Args:
        module: already on its device.

    Returns:
        The module, its batch norms replaced: by torch's own on a GPU, by `GlobalBatchNorm` elsewhere.
    """
    if distributed.world() == 1:
        return module
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    if norms and next(module.parameters()).device.type == "cuda":
        if any(hasattr(norm, "act") for norm in norms):  # timm's norms, which torch would strip of theirs
            import timm.layers

            return cast(nn.Module, timm.layers.convert_sync_batchnorm(module))
        converted = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return cast(nn.Module, converted)
    return _replace(module)


def _replace(module: Any) -> nn.Module:
    """Put `GlobalBatchNorm` in the place of each batch norm."""
    if isinstance(module, _BatchNorm):
        return GlobalBatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, _replace(child))
    return cast(nn.Module, module)
