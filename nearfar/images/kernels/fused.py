"""Computes views fast: compiled by numba, one image at a time, every step while its pixels are in cache.

What makes it fast, and must stay so: float32 constants throughout (a bare Python literal would make
the arithmetic double); planar channels; inner loops over contiguous memory without a branch, which
the compiler turns into vector code; indices that are unsigned or count from 0, which spares numba's
test for negative ones. Within the kernel a view lies transposed, x by y, so that both passes of the
resize run along contiguous memory; the last copy, to (y, x, channel), turns it back.
"""

# mypy: disable-error-code="no-untyped-def"
# (numba works the types out; annotations on what it compiles would be decoration)

from __future__ import annotations

import functools
import os
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.compiled import jit
from ..views import AugmentationParams, Preprocess, blur_radius, centre

LANES = 32  # rows of a view resized together; a constant, so that the inner loop is unrolled
ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
THREE, FOUR, SIX = np.float32(3), np.float32(4), np.float32(6)
BYTE = np.float32(1 / 255)
RED, GREEN, BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)


@jit
def _clip(x):
    x = x if x > ZERO else ZERO
    return x if x < ONE else ONE


@jit
def _weigh(distance, cubic):
    """The resampling filter at a distance in source pixels: a triangle, or Keys' cubic with a = -0.5."""
    x = abs(distance)
    if not cubic:
        return max(0.0, 1.0 - x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    if x < 2.0:
        return ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return 0.0


@jit
def _tables(box, size, cubic):
    """Work out the resampling weights of every crop length that occurs, once each.

    Returns four arrays: taps by length (a multiple of 4), the place of a length's first entry in
    `starts`, `starts` itself (the first source pixel, `size` a length), and the weights (rows by
    entry of `starts`). All in float64 up to the last step.
    """
    longest = 0
    for k in range(len(box)):
        longest = max(longest, box[k, 2], box[k, 3])
    taps, place = np.zeros(longest + 1, np.int64), np.zeros(longest + 1, np.int64)
    for k in range(len(box)):
        taps[box[k, 2]] = taps[box[k, 3]] = 4
    count, most = 0, 4
    for length in range(1, longest + 1):
        if taps[length]:
            place[length] = count * size
            count += 1
            reach = (2.0 if cubic else 1.0) * max(1.0, length / size)
            taps[length] = (min(length, int(2 * reach) + 2) + 3) // 4 * 4
            most = max(most, taps[length])
    starts, weights = np.zeros(count * size, np.int64), np.zeros((count * size, most), np.float32)
    exact = np.zeros(most)
    for length in range(1, longest + 1):
        if taps[length] == 0:
            continue
        scale = length / size
        stretch = max(1.0, scale)
        reach = (2.0 if cubic else 1.0) * stretch
        for i in range(size):
            middle = scale * (i + 0.5)
            first = max(int(middle - reach + 0.5), 0)
            stop = min(int(middle + reach + 0.5), length)
            total = 0.0
            for t in range(stop - first):
                exact[t] = _weigh((first + t - middle + 0.5) / stretch, cubic)
                total += exact[t]
            starts[place[length] + i] = first
            for t in range(stop - first):
                weights[place[length] + i, t] = exact[t] / total
    return taps, place, starts, weights


@jit
def _four(first, last):
    """Give four neighbours in a row; those beyond the crop have weight 0 and read its last pixel."""
    return min(first, last), min(first + 1, last), min(first + 2, last), min(first + 3, last)


@jit
def _rows(pixels, base, stride, high, across, starts, weights, at, taps, count, out):
    """Blend source rows into out[y, j], j over pixels and channels, and bring bytes to [0, 1]."""
    for y in range(count):
        first, k = starts[at + y], at + y
        a, b, c, d = _four(first, high - 1)
        pa, pb = np.uint64(base + a * stride), np.uint64(base + b * stride)
        pc, pd = np.uint64(base + c * stride), np.uint64(base + d * stride)
        wa, wb = weights[k, 0] * BYTE, weights[k, 1] * BYTE
        wc, wd = weights[k, 2] * BYTE, weights[k, 3] * BYTE
        for j in range(np.uint64(across)):
            out[y, j] = (wa * np.float32(pixels[pa + j]) + wb * np.float32(pixels[pb + j])) + (
                wc * np.float32(pixels[pc + j]) + wd * np.float32(pixels[pd + j])
            )
        # Enlarging takes 4 taps, so that the loop below, which costs as much again, is for reducing.
        for t in range(4, taps, 4):
            a, b, c, d = _four(first + t, high - 1)
            pa, pb = np.uint64(base + a * stride), np.uint64(base + b * stride)
            pc, pd = np.uint64(base + c * stride), np.uint64(base + d * stride)
            wa, wb = weights[k, t] * BYTE, weights[k, t + 1] * BYTE
            wc, wd = weights[k, t + 2] * BYTE, weights[k, t + 3] * BYTE
            for j in range(np.uint64(across)):
                out[y, j] += (wa * np.float32(pixels[pa + j]) + wb * np.float32(pixels[pb + j])) + (
                    wc * np.float32(pixels[pc + j]) + wd * np.float32(pixels[pd + j])
                )


@jit
def _columns(turned, wide, starts, weights, at, taps, flip, view):
    """Blend source columns, which lie as rows of `turned` (wide, 3 LANES), into rows of `view`, clipped."""
    size = len(view)
    for i in range(size):
        x = size - 1 - i if flip else i
        first, k = starts[at + i], at + i
        a, b, c, d = _four(first, wide - 1)
        wa, wb, wc, wd = weights[k, 0], weights[k, 1], weights[k, 2], weights[k, 3]
        for y in range(3 * LANES):
            view[x, y] = (wa * turned[a, y] + wb * turned[b, y]) + (wc * turned[c, y] + wd * turned[d, y])
        for t in range(4, taps, 4):
            a, b, c, d = _four(first + t, wide - 1)
            wa, wb, wc, wd = weights[k, t], weights[k, t + 1], weights[k, t + 2], weights[k, t + 3]
            for y in range(3 * LANES):
                view[x, y] += wa * turned[a, y] + wb * turned[b, y]
                view[x, y] += wc * turned[c, y] + wd * turned[d, y]
        for y in range(3 * LANES):
            view[x, y] = _clip(view[x, y])


@jit
def _resize(pixels, base, stride, high, wide, flip, tables, rows, turned, view):
    """Resize a crop into `view` (blocks, size, 3 LANES), clipped, mirrored if asked: rows, then columns."""
    taps, place, starts, weights = tables
    size = view.shape[1]
    for block in range(len(view)):
        count = min(LANES, size - block * LANES)
        at = place[high] + block * LANES
        _rows(pixels, base, stride, high, 3 * wide, starts, weights, at, taps[high], count, rows)
        for c in range(3):
            for x in range(wide):
                for y in range(LANES):
                    turned[x, c * LANES + y] = rows[y, 3 * x + c]
        _columns(turned, wide, starts, weights, place[wide], taps[wide], flip, view[block])


# The colour steps take the view as lines of LANES reds, LANES greens and LANES blues: (n, 3 LANES).


@jit
def _brightness(lines, factor):
    for x in range(len(lines)):
        for y in range(3 * LANES):
            lines[x, y] = _clip(factor * lines[x, y])


@jit
def _contrast(lines, factor, size):
    """Blend with the mean luminance of the `size` x `size` pixels; a last block may be part padding."""
    total = ZERO
    for x in range(len(lines)):
        used = min(LANES, size - x // size * LANES)
        part = ZERO
        for y in range(used):
            part += RED * lines[x, y] + GREEN * lines[x, LANES + y] + BLUE * lines[x, 2 * LANES + y]
        total += part
    shift = (ONE - factor) * (total / np.float32(size * size))
    for x in range(len(lines)):
        for y in range(3 * LANES):
            lines[x, y] = _clip(factor * lines[x, y] + shift)


@jit
def _saturation(lines, factor):
    """Blend with the luminance; factor 0 turns the view grey."""
    for x in range(len(lines)):
        for y in range(LANES):
            r, g, b = lines[x, y], lines[x, LANES + y], lines[x, 2 * LANES + y]
            grayscale = (ONE - factor) * (RED * r + GREEN * g + BLUE * b)
            lines[x, y] = _clip(factor * r + grayscale)
            lines[x, LANES + y] = _clip(factor * g + grayscale)
            lines[x, 2 * LANES + y] = _clip(factor * b + grayscale)


@jit
def _hue(lines, turn):
    """Turn the hue in HSV without a branch: a channel is low + chroma x a clipped tent over the wheel."""
    for x in range(len(lines)):
        for y in range(LANES):
            r, g, b = lines[x, y], lines[x, LANES + y], lines[x, 2 * LANES + y]
            top = r if r > g else g
            top = top if top > b else b
            low = r if r < g else g
            low = low if low < b else b
            chroma = top - low
            inverse = ONE / (chroma if chroma > ZERO else ONE)
            h = (r - g) * inverse + FOUR
            h = (b - r) * inverse + TWO if top == g else h
            h = (g - b) * inverse if top == r else h
            h += SIX * turn
            h = h + SIX if h < ZERO else h
            h = h - SIX if h >= SIX else h
            lines[x, y] = low + chroma * _clip(abs(h - THREE) - ONE)
            lines[x, LANES + y] = low + chroma * _clip(TWO - abs(h - TWO))
            lines[x, 2 * LANES + y] = low + chroma * _clip(TWO - abs(h - FOUR))


@jit
def _solarise(lines):
    for x in range(len(lines)):
        for y in range(3 * LANES):
            lines[x, y] = ONE - lines[x, y] if lines[x, y] >= HALF else lines[x, y]


@jit
def _mirror(i, size):
    """Reflect an index at the first and the last pixel."""
    return size - 1 - abs(size - 1 - abs(i))


@jit
def _blur(view, sigma, radius, taps, spare, line, done):
    """Blur (blocks, size, 3 LANES) along x into `spare`, then along y; borders are mirrored.

    Taps that are 0 to float32 compared with the middle one, from 5.5 sigma on, are left out.
    """
    blocks, size = view.shape[0], view.shape[1]
    total = 0.0
    for k in range(-radius, radius + 1):
        total += np.exp(-0.5 * (k / sigma) ** 2)
    radius = min(radius, int(np.ceil(5.5 * sigma)))
    count = (2 * radius + 4) // 4 * 4  # up to a multiple of 4, with 0 at its end
    for k in range(count):
        taps[k] = np.exp(-0.5 * ((k - radius) / sigma) ** 2) / total if k <= 2 * radius else 0.0
    for block in range(blocks):
        for x in range(size):
            for y in range(3 * LANES):
                spare[block, x, y] = ZERO
            for k in range(0, count, 4):
                i = x - radius + k
                a, b, c, d = (
                    _mirror(i, size),
                    _mirror(i + 1, size),
                    _mirror(i + 2, size),
                    _mirror(i + 3, size),
                )
                wa, wb, wc, wd = taps[k], taps[k + 1], taps[k + 2], taps[k + 3]
                for y in range(3 * LANES):
                    spare[block, x, y] += (wa * view[block, a, y] + wb * view[block, b, y]) + (
                        wc * view[block, c, y] + wd * view[block, d, y]
                    )
    for x in range(size):
        for c in range(3):
            # line: `radius` mirrored pixels, the column, `radius` mirrored pixels
            for block in range(blocks):
                for y in range(min(LANES, size - block * LANES)):
                    line[radius + block * LANES + y] = spare[block, x, c * LANES + y]
            for k in range(1, radius + 1):
                line[radius - k] = line[radius + k]
                line[radius + size - 1 + k] = line[radius + size - 1 - k]
            for y in range(size):
                done[y] = ZERO
            for k in range(0, count, 4):
                at = np.uint64(k)
                wa, wb, wc, wd = taps[k], taps[k + 1], taps[k + 2], taps[k + 3]
                for y in range(np.uint64(size)):
                    i = at + y
                    done[y] += (wa * line[i] + wb * line[i + np.uint64(1)]) + (
                        wc * line[i + np.uint64(2)] + wd * line[i + np.uint64(3)]
                    )
            for block in range(blocks):
                for y in range(min(LANES, size - block * LANES)):
                    view[block, x, c * LANES + y] = _clip(done[block * LANES + y])


@jit
def _views(
    pixels, offset, width, box, flip, jitter, order, factors, grayscale, sigma, solarize, cubic, radius, out
):
    """Make n views into `out` (n, size, size, 3) float32."""
    size, widest = out.shape[1], 1
    for k in range(len(box)):
        widest = max(widest, box[k, 3])
    tables = _tables(box, size, cubic)
    blocks = (size + LANES - 1) // LANES
    rows = np.zeros((LANES, 3 * widest), np.float32)
    turned = np.zeros((widest, 3 * LANES), np.float32)
    view = np.zeros((blocks, size, 3 * LANES), np.float32)
    spare = np.zeros_like(view)
    lines = view.reshape(blocks * size, 3 * LANES)
    taps = np.zeros((2 * radius + 4) // 4 * 4, np.float32)
    line, done = np.zeros(size + 2 * radius + 4, np.float32), np.zeros(size, np.float32)
    for n in range(len(box)):
        stride = 3 * np.int64(width[n])
        base = offset[n] + box[n, 0] * stride + 3 * box[n, 1]
        high, wide = np.int64(box[n, 2]), np.int64(box[n, 3])
        _resize(pixels, base, stride, high, wide, flip[n], tables, rows, turned, view)
        if jitter[n]:
            for step in range(4):
                change = order[n, step]
                amount = factors[n, change]
                if change == 0 and amount != ONE:
                    _brightness(lines, amount)
                elif change == 1 and amount != ONE:
                    _contrast(lines, amount, size)
                elif change == 2 and amount != ONE:
                    _saturation(lines, amount)
                elif change == 3 and amount != ZERO:
                    _hue(lines, amount)
        if grayscale[n]:
            _saturation(lines, ZERO)
        if sigma[n] > ZERO:
            _blur(view, sigma[n], radius, taps, spare, line, done)
        if solarize[n]:
            _solarise(lines)
        for block in range(blocks):
            for y in range(min(LANES, size - block * LANES)):
                for x in range(size):
                    for c in range(3):
                        out[n, block * LANES + y, x, c] = view[block, x, c * LANES + y]


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Keep one pool of threads a size; a forked process, which has lost its threads, makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="nearfar-views")


def apply(
    block: Any, draws: AugmentationParams, out: npt.NDArray[np.float32], interpolation: str, threads: int
) -> None:
    """Make views; see `nearfar.images.kernels.apply`, which has checked the crops.

    Args:
        block: the images, a `RaggedImages`.
        draws: n views' parameters.
        out: (n, size, size, 3) float32, written in place.
        interpolation: "bilinear" or "bicubic".
        threads: how many share the rows.
    """
    # One type each, read-only included, so that numba compiles once.
    pixels = np.asarray(block.pixels).view()
    pixels.flags.writeable = False
    whole = (
        np.ascontiguousarray(block.offset, np.int64),
        np.ascontiguousarray(block.width, np.int32),
        np.ascontiguousarray(draws.box, np.int32),
        np.ascontiguousarray(draws.flip, np.bool_),
        np.ascontiguousarray(draws.jitter, np.bool_),
        np.ascontiguousarray(draws.order, np.uint8),
        np.ascontiguousarray(draws.factors, np.float32),
        np.ascontiguousarray(draws.grayscale, np.bool_),
        np.ascontiguousarray(draws.sigma, np.float32),
        np.ascontiguousarray(draws.solarize, np.bool_),
    )

    def part(start: int, stop: int) -> None:
        _views(
            pixels, *(a[start:stop] for a in whole), interpolation == "bicubic",
            blur_radius(out.shape[1]), out[start:stop],
        )  # fmt: skip

    count = min(threads, len(draws))
    if count <= 1:
        part(0, len(draws))
        return
    edges = [len(draws) * k // count for k in range(count + 1)]
    list(_pool(count, os.getpid()).map(part, edges[:-1], edges[1:]))


def warm() -> None:
    """Compile the kernel, or load it from disk, by making a view of one pixel."""
    block = types.SimpleNamespace(
        pixels=np.zeros(3, np.uint8), offset=np.zeros(1, np.int64), width=np.ones(1, np.int32)
    )
    apply(block, centre(Preprocess(size=1), [1], [1]), np.zeros((1, 1, 1, 3), np.float32), "bicubic", 1)
