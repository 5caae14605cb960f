"""The core of every contrastive loss: log-sums of exp over all pairs, differentiable, over all processes.

With z_i . z_k the similarity of two rows and s = 1 / tau, the core is log sum_k exp(s z_i . z_k), and each
loss adds its own positives to it. What computes the sums is chosen: `tiled` in plain torch, which runs
everywhere, or `triton_kernels`, where a measurement on the GPU finds it faster.

Over several processes each answers for its own rows and meets everyone's: `tiled` one process's rows after
the other's, so that no process ever holds all of them, and `triton_kernels` all at once. The gradient at
its rows is that of the sum of all processes' values: what another's anchor asks of our rows is found here,
by symmetry, from that anchor's log-sum and gradient, so that no gradient of rows has to travel.
"""

from __future__ import annotations

import functools
import time
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..core import collectives, distributed
from . import tiled


class _Square(torch.autograd.Function):
    """See `log_sums`."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, scale: Tensor, wide: bool, partners: bool) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            rows = len(z) * distributed.world()
            maker, everyone = _maker(z, rows, rows), None
            if maker is tiled:
                logs = tiled.square(z, collectives.blocks(z), distributed.rank(), scale, wide, partners)
            else:
                everyone = collectives.gather(z, grad=False)  # (M, d)
                logs = maker.square(everyone, _own(z), scale, wide, partners)
            ctx.save_for_backward(z, everyone, scale, logs)
            ctx.wide, ctx.partners = wide, partners
            return logs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, everyone, scale, logs = ctx.saved_tensors
        with torch.autocast(z.device.type, enabled=False):
            all_logs, all_grads = collectives.gather(torch.stack([logs, grad], 1), grad=False).unbind(1)
            given = (scale, ctx.wide, ctx.partners, all_logs.contiguous(), all_grads.contiguous())
            if everyone is None:
                pull = tiled.square_pull(z, collectives.blocks(z), distributed.rank(), *given)
            else:
                maker = _maker(z, len(everyone), len(everyone))
                pull = maker.square_pull(everyone, _own(z), *given)
            # Each pair stands in the pull of both its rows, and once in the log-sums' derivative.
            steepness = (z * pull).sum() / 2 if ctx.needs_input_grad[1] else None
            return pull.mul_(scale), steepness, None, None


def _own(z: Tensor) -> range:
    """Say which of everyone's rows are those of this process."""
    return range(distributed.rank() * len(z), (distributed.rank() + 1) * len(z))


class _Cross(torch.autograd.Function):
    """See `cross_log_sums`."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        wide: bool,
        both: bool,
        shared: bool,
        names: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(a.device.type, enabled=False):
            ctx.shared = shared and distributed.world() > 1
            maker: ModuleType = tiled
            if names is None:
                maker = _maker(a, len(a), len(b) * (distributed.world() if ctx.shared else 1))
            ctx.names = None if names is None else names_of(names, ctx.shared)
            ctx.passed = ctx.shared and maker is tiled  # one process's b after the other's
            columns = collectives.gather(b, grad=False) if ctx.shared and not ctx.passed else b
            if maker is tiled:
                blocks = collectives.blocks(b) if ctx.passed else [columns]
                across, down = tiled.cross(a, blocks, scale, wide, both, ctx.names)
            else:
                across, down = maker.cross(a, columns, scale, wide, both)
            if down is not None and ctx.shared:  # each process has met its own rows only
                down = collectives.gather(down[None], grad=False).logsumexp(0)
                down = down.chunk(distributed.world())[distributed.rank()].clone()
            ctx.wide, ctx.both = wide, both
            ctx.save_for_backward(a, columns, scale, across, *([down] if down is not None else []))
            none = a.new_empty(0)
            if down is None:
                ctx.mark_non_differentiable(none)
            return across, none if down is None else down

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_down: Tensor) -> tuple[Tensor | None, ...]:
        a, columns, scale, across, *rest = ctx.saved_tensors
        with torch.autocast(a.device.type, enabled=False):
            down = (rest[0], grad_down) if ctx.both else None
            wanted = (ctx.needs_input_grad[0] or ctx.needs_input_grad[2], ctx.needs_input_grad[1])
            if ctx.passed:
                sides = (across, grad), down
                pull_a, pull_b = _passed_pull(a, columns, scale, ctx.wide, sides, wanted, ctx.names)
            else:
                if down is not None and ctx.shared:
                    down = _everyone(*down)
                logs, grads = zip((across, grad), down or (None, None), strict=True)
                given = (a, columns, scale, ctx.wide, logs, grads, wanted)
                if ctx.names is None:
                    pull_a, pull_b = _maker(a, len(a), len(columns)).cross_pull(*given)
                else:
                    pull_a, pull_b = tiled.cross_pull(*given, ctx.names)
                if pull_b is not None and ctx.shared:
                    pull_b = collectives.total(pull_b).chunk(distributed.world())[distributed.rank()]
            steepness = (a * pull_a).sum() if pull_a is not None and ctx.needs_input_grad[2] else None
            found = [None if pull is None else pull * scale for pull in (pull_a, pull_b)]
            return found[0], found[1], steepness, None, None, None, None


Side = tuple[Tensor, Tensor]
"""The log-sums of some rows, and the gradient at each."""


def _everyone(logs: Tensor, grads: Tensor) -> Side:
    """Give the log-sums of all processes' rows, and the gradients at them."""
    both = collectives.gather(torch.stack([logs, grads], 1), grad=False)
    return both[:, 0].contiguous(), both[:, 1].contiguous()


def _passed_pull(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    wide: bool,
    sides: tuple[Side, Side | None],
    wanted: tuple[bool, bool],
    names: tiled.Names | None,
) -> tiled.Directions:
    """Compute the gradients at this process's a and b, while those of the others pass by.

    Args:
        a, b: (n, d) and (m, d), this process's own.
        scale, wide, wanted: as for `tiled.cross_pull`.
        sides: of a's rows, and of b's if these were asked for.
        names: of a's own rows and of all columns.

    Returns:
        (n, d) and (m, d), or None where not wanted.
    """
    across, down = sides
    pull_a, pull_b = (torch.zeros_like(x) if need else None for x, need in zip((a, b), wanted, strict=True))
    if pull_a is not None:
        columns = None if down is None else [x.split(len(b)) for x in _everyone(*down)]
        for number, block in enumerate(collectives.blocks(b)):
            logs, grads = (None, None) if columns is None else (part[number] for part in columns)
            told = tiled.part_of(names, number * len(b), len(b))
            pair = (across[0], logs), (across[1], grads)
            found, _ = tiled.cross_pull(a, block, scale, wide, *pair, (True, False), told)
            assert found is not None
            pull_a += found
    if pull_b is not None:
        rows = [x.split(len(a)) for x in _everyone(*across)]
        logs, grads = down or (None, None)
        for number, block in enumerate(collectives.blocks(a)):
            told = None
            if names is not None:
                of_rows = names[1].split(len(a))
                own = distributed.rank()
                told = of_rows[number], of_rows[own], (number - own) * len(a)
            pair = (rows[0][number], logs), (rows[1][number], grads)
            _, found = tiled.cross_pull(block, b, scale, wide, *pair, (False, True), told)
            assert found is not None
            pull_b += found
    return pull_a, pull_b


def log_sums(z: Tensor, scale: Tensor, wide: bool, partners: bool = False) -> Tensor:
    """Compute, for each row i, log of the sum over all other rows k of exp(scale z_i . z_k).

    Args:
        z: (n, d) rows of length 1, float32 or float64; as many on every process, and compared with all.
        scale: () of z's dtype and device, above 0; may ask for its gradient.
        wide: whether the scale may be above `tiled.WIDEST`, which costs a second exp.
        partners: leave out row i's partner too, the row n / 2 further on, or back.

    Returns:
        (n,) of z's dtype; -inf where there is nothing to add.
    """
    sums: Tensor = _Square.apply(z, scale, wide, partners)
    return sums


def names_of(names: Tensor, shared: bool) -> tiled.Names:
    """Give the numbers of rows and columns, as `tiled` takes them.

    Args:
        names: (n,) of this process's own.
        shared: whether the columns are those of all processes.
    """
    if not shared or distributed.world() == 1:
        return names, names, 0
    return names, collectives.gather(names, grad=False), distributed.rank() * len(names)


def cross_log_sums(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    wide: bool,
    both: bool = False,
    shared: bool = True,
    names: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute log of the sum over k of exp(scale a_i . b_k), and of exp(scale a_k . b_i).

    Args:
        a: (n, d) rows of length 1, float32 or float64.
        b: (m, d) rows of length 1, of the same dtype.
        scale: () of their dtype and device, above 0; may ask for its gradient.
        wide: whether the scale may be above `tiled.WIDEST`.
        both: whether the second is wanted.
        shared: whether to use the b of all processes, as many rows on each; else this process's alone.
        names: (n,) integers; of pairs with the same one, each meets only its own. None: all meet.

    Returns:
        (n,), the sum over all processes' b; and (m,), over all processes' a, or (0,) if not needed.
    """
    across, down = _Cross.apply(a, b, scale, wide, both, shared, names)
    return across, down


def _maker(a: Tensor, rows: int, columns: int) -> ModuleType:
    """Choose what computes the sums of rows like a's: it must be able to, and be the faster."""
    if a.device.type != "cuda" or a.dtype != torch.float32 or rows < 1024:
        return tiled
    try:
        from . import triton_kernels
    except ImportError:
        return tiled
    if a.shape[1] > triton_kernels.WIDEST_ROW:
        return tiled
    size = 1 << (min(rows, columns, 16384) - 1).bit_length()
    return triton_kernels if _fused_wins(a.device, size, a.shape[1], distributed.world()) else tiled


@functools.cache
def _fused_wins(device: torch.device, count: int, d: int, world: int) -> bool:
    """Choose alike on all processes, since `tiled` exchanges rows in another way than the kernel.

    Every process must call it at the same time; `world` is how many they are, as one may compute alone.
    """
    return int(collectives.total(torch.tensor(int(_fused_is_faster(device, count, d))))) == world


def _fused_is_faster(device: torch.device, count: int, d: int) -> bool:
    """Measure both on this GPU."""
    from . import triton_kernels

    z = torch.nn.functional.normalize(torch.randn(count, d, device=device), dim=1)
    scale, own = z.new_tensor(5.0), range(count)
    seconds = {}
    try:
        for maker in (tiled, triton_kernels):
            rows: tuple[Any, ...] = (z, [z], 0) if maker is tiled else (z, own)
            for _ in range(3):  # the first compiles
                torch.cuda.synchronize(device)
                began = time.perf_counter()
                logs = maker.square(*rows, scale, False, False)
                maker.square_pull(*rows, scale, False, False, logs, torch.ones_like(logs))
                torch.cuda.synchronize(device)
                seconds[maker] = time.perf_counter() - began
    except Exception:  # no compiler, an unknown GPU: whatever ails the kernel, plain torch is right too
        return False
    return seconds[triton_kernels] < seconds[tiled]
