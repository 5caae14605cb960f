"""The same sums as `tiled`, as two Triton kernels for CUDA: no tile of similarities ever leaves the chip.

One kernel keeps a running log-sum-exp for a block of rows while it walks over all columns; the other
walks again and gathers the gradient of that block. The maximum is each row's own, so any scale is safe
in float32. Products are in float32 (three TF32 products on tensor cores), sums in float32.

Flash attention's way with a softmax (Dao et al. 2022), on similarities. Set TRITON_INTERPRET=1 to run
the kernels on a CPU, for tests.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# (Triton compiles the two kernels; annotations in them mean constants, not types)

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiled import Directions

WIDEST_ROW = 256
"""The most numbers in a row that a block of the chip's memory holds."""

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_PRECISION = "ieee" if _INTERPRETED else "tf32x3"


@triton.jit
def _walk(x, rows, columns, n, m, first, half, SELF: tl.constexpr, PARTNERS: tl.constexpr):
    """Put -inf where there is no row or column, or where a row must not meet it."""
    keep = (rows[:, None] < n) & (columns[None, :] < m)
    if SELF:
        keep = keep & (columns[None, :] != first + rows[:, None])
    if PARTNERS:
        partner = first + (rows + half) % (2 * half)
        keep = keep & (columns[None, :] != partner[:, None])
    return tl.where(keep, x, float("-inf"))


@triton.jit
def _sum_kernel(
    a, b, scale, out, n, m, first, half,
    D: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    SELF: tl.constexpr, PARTNERS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    along = tl.arange(0, WIDE)
    s = tl.load(scale)
    mine = tl.load(a + rows[:, None].to(tl.int64) * D + along[None, :],
                   mask=(rows[:, None] < n) & (along[None, :] < D), other=0.0)  # fmt: skip
    top = tl.zeros((ROWS,), tl.float32) - 1e30
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, m, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        theirs = tl.load(b + columns[:, None].to(tl.int64) * D + along[None, :],
                         mask=(columns[:, None] < m) & (along[None, :] < D), other=0.0)  # fmt: skip
        x = tl.dot(mine, tl.trans(theirs), input_precision=PRECISION) * s
        x = _walk(x, rows, columns, n, m, first, half, SELF, PARTNERS)
        higher = tl.maximum(top, tl.max(x, 1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(x - higher[:, None]), 1)
        top = higher
    tl.store(out + rows, tl.log(total) + top, mask=rows < n)


@triton.jit
def _pull_kernel(
    a, b, scale, logs_a, grads_a, logs_b, grads_b, out, n, m, first, half,
    D: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ACROSS: tl.constexpr, DOWN: tl.constexpr,
    SELF: tl.constexpr, PARTNERS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    along = tl.arange(0, WIDE)
    s = tl.load(scale)
    mine = tl.load(a + rows[:, None].to(tl.int64) * D + along[None, :],
                   mask=(rows[:, None] < n) & (along[None, :] < D), other=0.0)  # fmt: skip
    if ACROSS:
        log_a = tl.load(logs_a + rows, mask=rows < n, other=0.0)
        grad_a = tl.load(grads_a + rows, mask=rows < n, other=0.0)
    pull = tl.zeros((ROWS, WIDE), tl.float32)
    for start in range(0, m, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        theirs = tl.load(b + columns[:, None].to(tl.int64) * D + along[None, :],
                         mask=(columns[:, None] < m) & (along[None, :] < D), other=0.0)  # fmt: skip
        x = tl.dot(mine, tl.trans(theirs), input_precision=PRECISION) * s
        x = _walk(x, rows, columns, n, m, first, half, SELF, PARTNERS)
        weight = tl.zeros((ROWS, COLUMNS), tl.float32)
        if ACROSS:
            weight += tl.exp(x - log_a[:, None]) * grad_a[:, None]
        if DOWN:
            log_b = tl.load(logs_b + columns, mask=columns < m, other=0.0)
            grad_b = tl.load(grads_b + columns, mask=columns < m, other=0.0)
            weight += tl.exp(x - log_b[None, :]) * grad_b[None, :]
        pull += tl.dot(weight, theirs, input_precision=PRECISION)
    tl.store(out + rows[:, None].to(tl.int64) * D + along[None, :], pull,
             mask=(rows[:, None] < n) & (along[None, :] < D))  # fmt: skip


def _shape(d: int) -> dict[str, int]:
    wide = max(16, triton.next_power_of_2(d))
    return {"D": d, "WIDE": wide, "ROWS": 64 if wide <= 128 else 32, "COLUMNS": 64 if wide <= 128 else 32}


def _sums(a: Tensor, b: Tensor, scale: Tensor, first: int = 0, half: int = 1, **flags: bool) -> Tensor:
    shape, a, b = _shape(a.shape[1]), a.contiguous(), b.contiguous()
    out = a.new_empty(len(a))
    grid = (triton.cdiv(len(a), shape["ROWS"]),)
    flags = {"SELF": False, "PARTNERS": False} | flags
    _sum_kernel[grid](a, b, scale, out, len(a), len(b), first, half, **shape, **flags, PRECISION=_PRECISION)
    return out


def _pull(
    a: Tensor, b: Tensor, scale: Tensor, logs: Directions, grads: Directions,
    first: int = 0, half: int = 1, **flags: bool,
) -> Tensor:  # fmt: skip
    shape, a, b = _shape(a.shape[1]), a.contiguous(), b.contiguous()
    out = torch.empty_like(a)
    given: list[Tensor] = []
    for log, grad in zip(logs, grads, strict=True):
        there = log is not None and grad is not None
        given += [log.contiguous(), grad.contiguous()] if there else [a, a]  # type: ignore[union-attr]
    flags = {"SELF": False, "PARTNERS": False} | flags
    flags |= {"ACROSS": logs[0] is not None and grads[0] is not None}
    flags |= {"DOWN": logs[1] is not None and grads[1] is not None}
    grid = (triton.cdiv(len(a), shape["ROWS"]),)
    _pull_kernel[grid](
        a, b, scale, *given, out, len(a), len(b), first, half, **shape, **flags, PRECISION=_PRECISION
    )
    return out


def square(z: Tensor, own: range, scale: Tensor, wide: bool, partners: bool) -> Tensor:
    """As `tiled.square`, in float32; any scale is safe."""
    mine = z[own.start : own.stop]
    return _sums(mine, z, scale, own.start, max(1, len(own) // 2), SELF=True, PARTNERS=partners)


def square_pull(
    z: Tensor, own: range, scale: Tensor, wide: bool, partners: bool, logs: Tensor, grads: Tensor
) -> Tensor:
    """As `tiled.square_pull`."""
    mine, both = z[own.start : own.stop], slice(own.start, own.stop)
    return _pull(
        mine, z, scale, (logs[both], logs), (grads[both], grads),
        own.start, max(1, len(own) // 2), SELF=True, PARTNERS=partners,
    )  # fmt: skip


def cross(a: Tensor, b: Tensor, scale: Tensor, wide: bool, both: bool) -> tuple[Tensor, Tensor | None]:
    """As `tiled.cross`."""
    return _sums(a, b, scale), _sums(b, a, scale) if both else None


def cross_pull(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    wide: bool,
    logs: Directions,
    grads: Directions,
    wanted: tuple[bool, bool],
) -> Directions:
    """As `tiled.cross_pull`."""
    return (
        _pull(a, b, scale, logs, grads) if wanted[0] else None,
        _pull(b, a, scale, logs[::-1], grads[::-1]) if wanted[1] else None,
    )
