"""Log-sums of exp(scale a . b) over rows and columns in plain torch, a tile of similarities at a time.

A tile is computed, used, and dropped, so that memory grows with the rows and not with their square; the
backward pass computes it again. Where rows meet themselves half of the tiles suffice, since the
similarity of (i, j) is that of (j, i). On any device, in float32 or float64.

Up to `WIDEST` one exp serves rows and columns alike, less the largest logit of unit rows, the scale.
Above it that could underflow, and each direction subtracts its own greatest logit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

Directions = tuple[Tensor | None, Tensor | None]
"""Something of the rows, and of the columns."""

Names = tuple[Tensor, Tensor, int]
"""Numbers (n,) of rows and (m,) of columns, and which column row 0 belongs to: see `leave_out_equal`."""

WIDEST = 40.0
"""The greatest scale at which exp(-2 scale), the least term that unit rows can give, is a float32."""


def side(z: Tensor) -> int:
    """Choose the side of a tile: it should fill a CPU's cache, or a GPU.

    Args:
        z: any tensor; its device decides.

    Returns:
        Rows and columns of a tile.
    """
    return 512 if z.device.type == "cpu" else 4096


class _Sums:
    """A log-sum-exp for each of some rows, grown a tile at a time."""

    def __init__(self, count: int, scale: Tensor, wide: bool) -> None:
        self.top = (scale * (-1.01 if wide else 1.0)).repeat(count)  # no logit of unit rows lies below
        self.sum = torch.zeros_like(self.top)

    def add(self, where: slice, e: Tensor, dim: int) -> None:
        """Add exponentials that are already less the common maximum."""
        self.sum[where] += e.sum(dim)

    def add_logits(self, where: slice, x: Tensor, dim: int, scratch: Tensor) -> None:
        """Add logits, under a maximum of these rows' own."""
        top = torch.maximum(self.top[where], x.amax(dim))
        e = torch.sub(x, top.unsqueeze(dim), out=scratch[: x.numel()].view(x.shape)).exp_()
        self.sum[where] = self.sum[where] * (self.top[where] - top).exp_() + e.sum(dim)
        self.top[where] = top

    def log(self) -> Tensor:
        return self.sum.log() + self.top


class _Weights:
    """What each similarity is worth to the gradient: g_i of row i's share, and g_j of column j's."""

    def __init__(self, scale: Tensor, wide: bool, logs: Directions, grads: Directions) -> None:
        self.scale, self.wide, self.logs, self.grads = scale, wide, logs, grads
        self.row, self.column = (
            None if log is None or grad is None else grad * (scale - log).exp()
            for log, grad in zip(logs, grads, strict=True)
        )

    def of(self, x: Tensor, rows: slice, columns: slice, scratch: Tensor) -> Tensor:
        """Turn a tile of logits into weights; its content is lost."""
        if self.wide:
            return self._wide(x, rows, columns, scratch)
        e = x.sub_(self.scale).exp_()
        if self.row is None:
            assert self.column is not None
            return e.mul_(self.column[columns])
        if self.column is None:
            return e.mul_(self.row[rows, None])
        return e.mul_(self.row[rows, None] + self.column[columns])

    def _wide(self, x: Tensor, rows: slice, columns: slice, scratch: Tensor) -> Tensor:
        (log_a, log_b), (grad_a, grad_b) = self.logs, self.grads
        if log_a is None or grad_a is None:
            assert log_b is not None and grad_b is not None
            return x.sub_(log_b[columns]).exp_().mul_(grad_b[columns])
        e = torch.sub(x, log_a[rows, None], out=scratch[: x.numel()].view(x.shape))
        e.exp_().mul_(grad_a[rows, None])
        if log_b is None or grad_b is None:
            return e
        return e.add_(x.sub_(log_b[columns]).exp_().mul_(grad_b[columns]))


def _pairs(count: int, mine: bool, tile: int) -> Iterator[tuple[slice, slice, bool]]:
    """List the tiles that cover own rows x the rows of a block, leaving out those a mirrored tile stands for.

    Args:
        count: rows in each.
        mine: whether the block is the own rows.
        tile: side of a tile.

    Yields:
        rows, columns, and whether the tile stands for its mirror image too.
    """
    for top in range(0, count, tile):
        for left in range(top if mine else 0, count, tile):
            rows, columns = (slice(at, min(at + tile, count)) for at in (top, left))
            yield rows, columns, mine and left > top


def _logits(scaled: Tensor, b: Tensor, rows: slice, columns: slice, scratch: Tensor) -> Tensor:
    shape = rows.stop - rows.start, columns.stop - columns.start
    return torch.mm(scaled[rows], b[columns].T, out=scratch[: shape[0] * shape[1]].view(shape))


def _leave_out(x: Tensor, half: int, rows: slice, columns: slice, partners: bool) -> None:
    """Put -inf where a row meets itself and, if asked, where it meets its partner."""
    for offset in (0, half, -half) if partners else (0,):
        x.diagonal(rows.start - columns.start + offset).fill_(-torch.inf)


def leave_out_equal(x: Tensor, names: Names | None, rows: slice, columns: slice, value: float) -> None:
    """Put a value where a row meets a column that has its number, but is not its own.

    Args:
        x: a tile of logits; changed in place.
        names: the numbers; None leaves all as they are.
        rows, columns: of the tile.
        value: -inf where exponentials are added up.
    """
    if names is None:
        return
    of_rows, of_columns, start = names
    equal = of_rows[rows, None] == of_columns[columns]
    equal.diagonal(rows.start + start - columns.start).fill_(False)
    x.masked_fill_(equal, value)


def _scratch(z: Tensor, tile: int) -> Tensor:
    return z.new_empty(tile * tile)


def square(
    z: Tensor, blocks: Iterable[Tensor], place: int, scale: Tensor, wide: bool, partners: bool
) -> Tensor:
    """Compute, for each own row i, log of the sum over rows k != i of exp(scale z_i . z_k).

    Args:
        z: (n, d) the own rows, of length 1.
        blocks: all rows, (n, d) at a time.
        place: which of the blocks holds the own rows.
        scale: () above 0.
        wide: whether the scale may be above `WIDEST`.
        partners: leave out, too, the row n / 2 further on, or back.

    Returns:
        (n,) log-sums.
    """
    tile, scaled = side(z), z * scale
    one, two = _scratch(z, tile), _scratch(z, tile if wide else 0)
    sums = _Sums(len(z), scale, wide)
    for number, block in enumerate(blocks):
        mine = number == place
        for rows, columns, mirrored in _pairs(len(z), mine, tile):
            x = _logits(scaled, block, rows, columns, one)
            if mine:
                _leave_out(x, len(z) // 2, rows, columns, partners)
            if not wide:
                x.sub_(scale).exp_()
            for where, dim in [(rows, 1), (columns, 0)] if mirrored else [(rows, 1)]:
                if wide:
                    sums.add_logits(where, x, dim, two)
                else:
                    sums.add(where, x, dim)
    return sums.log()


def square_pull(
    z: Tensor,
    blocks: Iterable[Tensor],
    place: int,
    scale: Tensor,
    wide: bool,
    partners: bool,
    logs: Tensor,
    grads: Tensor,
) -> Tensor:
    """Compute the gradient of sum_i grads_i square_i at the own rows, but for a factor scale.

    Args:
        z, blocks, place, scale, wide, partners: as for `square`.
        logs: (M,) the log-sums of all rows.
        grads: (M,) the gradient at each.

    Returns:
        (n, d).
    """
    tile, scaled = side(z), z * scale
    one, two = _scratch(z, tile), _scratch(z, tile if wide else 0)
    log, grad = logs.split(len(z)), grads.split(len(z))
    pull = torch.zeros_like(z)
    for number, block in enumerate(blocks):
        mine = number == place
        weights = _Weights(scale, wide, (log[place], log[number]), (grad[place], grad[number]))
        for rows, columns, mirrored in _pairs(len(z), mine, tile):
            x = _logits(scaled, block, rows, columns, one)
            if mine:
                _leave_out(x, len(z) // 2, rows, columns, partners)
            w = weights.of(x, rows, columns, two)
            pull[rows].addmm_(w, block[columns])
            if mirrored:
                pull[columns].addmm_(w.T, block[rows])
    return pull


def grid(a: Tensor, b: Tensor, tile: int) -> Iterator[tuple[slice, slice]]:
    """List the tiles, as rows and columns, that cover all rows of a and of b."""
    for top in range(0, len(a), tile):
        for left in range(0, len(b), tile):
            yield slice(top, min(top + tile, len(a))), slice(left, min(left + tile, len(b)))


def part_of(names: Names | None, first: int, count: int) -> Names | None:
    """Give the numbers of all rows, and of so many columns from one on."""
    if names is None:
        return None
    of_rows, of_columns, start = names
    return of_rows, of_columns[first : first + count], start - first


def cross(
    a: Tensor, blocks: Iterable[Tensor], scale: Tensor, wide: bool, both: bool, names: Names | None = None
) -> tuple[Tensor, Tensor | None]:
    """Compute log of the sum over columns k of exp(scale a_i . b_k), and over rows the same.

    Args:
        a: (n, d) rows of length 1.
        blocks: (m, d) rows b of length 1, some at a time.
        scale: () above 0.
        wide: whether the scale may be above `WIDEST`.
        both: whether the columns' sums are wanted too.
        names: rows and columns of one number are left out, unless they belong together.

    Returns:
        (n,) log-sums of the rows; (m,) of the columns, or None.
    """
    tile, scaled = side(a), a * scale
    one, two = _scratch(a, tile), _scratch(a, tile if wide else 0)
    across, downs, first = _Sums(len(a), scale, wide), [], 0
    for b in blocks:
        down = _Sums(len(b), scale, wide) if both else None
        told = part_of(names, first, len(b))
        for rows, columns in grid(a, b, tile):
            x = _logits(scaled, b, rows, columns, one)
            leave_out_equal(x, told, rows, columns, -torch.inf)
            if not wide:
                x.sub_(scale).exp_()
            for sums, where, dim in ((across, rows, 1), (down, columns, 0)):
                if sums is not None and wide:
                    sums.add_logits(where, x, dim, two)
                elif sums is not None:
                    sums.add(where, x, dim)
        first += len(b)
        downs += [down.log()] if down is not None else []
    return across.log(), torch.cat(downs) if both else None


def cross_pull(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    wide: bool,
    logs: Directions,
    grads: Directions,
    wanted: tuple[bool, bool],
    names: Names | None = None,
) -> Directions:
    """Compute the gradients of the log-sums at a and b, but for a factor scale.

    Args:
        a, scale, wide, names: as for `cross`.
        b: (m, d) rows of length 1.
        logs: (n,) and (m,) log-sums; None for a direction that has no gradient.
        grads: (n,) and (m,) gradients at them.
        wanted: whether a's gradient is needed, and b's.

    Returns:
        (n, d) and (m, d), or None where not wanted.
    """
    tile, scaled = side(a), a * scale
    one, two = _scratch(a, tile), _scratch(a, tile if wide else 0)
    weights = _Weights(scale, wide, logs, grads)
    pull_a, pull_b = (torch.zeros_like(x) if need else None for x, need in zip((a, b), wanted, strict=True))
    for rows, columns in grid(a, b, tile):
        x = _logits(scaled, b, rows, columns, one)
        leave_out_equal(x, names, rows, columns, -torch.inf)
        w = weights.of(x, rows, columns, two)
        if pull_a is not None:
            pull_a[rows].addmm_(w, b[columns])
        if pull_b is not None:
            pull_b[columns].addmm_(w.T, a[rows])
    return pull_a, pull_b
