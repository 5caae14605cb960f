"""Views of sound: draws a box of a spectrogram and what else changes, and computes it. See `images.views`.

A draw depends on a key and a clip's number alone. A clip fills the frames of an input whatever its length: it
is stretched, by a factor of two at most. Of what is longer the middle is taken; what is shorter goes on as it
begins and ends.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..core import rng
from .logmel import STEP
from .view_settings import SoundPreprocess, SoundViews

Numbers = npt.NDArray[np.float32]
MOST_STRETCH = 2.0  # by which a clip is stretched to fill an input
BELOW = (10.0, 40.0)  # dB that noise lies below the loudest value
SLANT = 15.0  # dB that noise falls or rises over the bands, at most
# Every quantity has its own column of uniform numbers, so that a new one moves none of the others.
SHARE, SPEED, PLACE, SHIFT, WARP, NOISY, DEPTH, SLOPE, TIME, TIME_AT, BAND, BAND_AT, TILT, BEND = range(14)
COLUMNS = 14


@dataclass(frozen=True)
class RaggedFrames:
    """Some spectrograms: clip k is `frames[offset[k] :][: length[k]]`.

    `frames` is (total, mels) uint8, `offset` and `length` are (n,) int64; all are tensors on one device.
    """

    frames: torch.Tensor
    offset: torch.Tensor
    length: torch.Tensor

    def __len__(self) -> int:
        """Count the clips."""
        return len(self.offset)

    def take(self, rows: npt.NDArray[np.int64]) -> RaggedFrames:
        """Keep some of the clips, by number; nothing is copied."""
        at = torch.from_numpy(np.asarray(rows, np.int64))
        return RaggedFrames(self.frames, self.offset[at], self.length[at])


def collate(values: Any) -> RaggedFrames:
    """Lay spectrograms in one buffer, one after another.

    Args:
        values: n arrays (frames, mels) uint8.
    """
    length = np.array([len(value) for value in values], np.int64)
    frames = np.concatenate(values) if len(values) else np.empty((0, 1), np.uint8)
    offset = np.cumsum(length) - length
    return RaggedFrames(*(torch.from_numpy(x) for x in (frames, offset, length)))


@dataclass(frozen=True)
class SoundParams:
    """The parameters of n views, one row a view; all float32.

    Attributes:
        start, span: (n,) the box in time, in frames of the clip; it may reach over its ends.
        low, step: (n,) where the box in mels begins, and bands of the clip for each of the view's.
        noise: (n,) dB of the noise below the loudest value; infinity for none.
        slant: (n,) dB by which the noise rises from the first band to the last.
        colour: (n, 2) dB that the last bands gain and the first lose, and that the middle ones gain.
        time, band: (n, 2) where each mask begins and how wide it is, as shares of the view.
    """

    start: Numbers
    span: Numbers
    low: Numbers
    step: Numbers
    noise: Numbers
    slant: Numbers
    colour: Numbers
    time: Numbers
    band: Numbers

    def __len__(self) -> int:
        """Count the views."""
        return len(self.start)

    def mixed(self, other: SoundParams, rows: Any) -> SoundParams:
        """Take some rows from another's draws of the same clips.

        Args:
            other: of as many views.
            rows: a slice or row numbers, of those to take from it.
        """
        parts = {}
        for field in dataclasses.fields(self):
            parts[field.name] = getattr(self, field.name).copy()
            parts[field.name][rows] = getattr(other, field.name)[rows]
        return SoundParams(**parts)


def _whole(lengths: npt.NDArray[np.int64], size: int) -> Numbers:
    """Tell how many frames of each clip fill an input."""
    return np.clip(lengths, size / MOST_STRETCH, size * MOST_STRETCH).astype(np.float32)


def centre(lengths: npt.ArrayLike, size: int) -> SoundParams:
    """Take the whole of each clip, or its middle, and change nothing else.

    Args:
        lengths: (n,) frames of the clips.
        size: frames of the input.
    """
    long = np.asarray(lengths, np.int64)
    span, zero = _whole(long, size), np.zeros(len(long), np.float32)
    none, two = np.full(len(long), np.inf, np.float32), np.zeros((len(long), 2), np.float32)
    start = ((long - span) / 2).astype(np.float32)
    return SoundParams(start, span, zero, zero + 1, none, zero, two, two, two)


def draw(views: SoundViews, key: int, ids: npt.ArrayLike, lengths: npt.ArrayLike, size: int) -> SoundParams:
    """Draw one view of each clip.

    Args:
        views: the settings: ranges and chances.
        key: from `rng.fold`, one for each epoch and view.
        ids: (n,) integers that name the clips; a row depends on its own alone.
        lengths: (n,) frames of the clips, at least 1.
        size: frames of the view.

    Returns:
        The parameters of n views.
    """
    u = rng.uniform(key, np.asarray(ids), COLUMNS)
    long = np.asarray(lengths, np.float32)
    both = 2 * u - 1
    share = views.keep + (1 - views.keep) * u[:, SHARE]
    span = _whole(np.asarray(lengths, np.int64), size) * share * views.stretch ** both[:, SPEED]
    step = 1 + views.warp * both[:, WARP]
    middle = (views.mels - 1) / 2
    masks = [
        np.stack([u[:, at] * (1 - views.masks * u[:, wide]), views.masks * u[:, wide]], axis=1)
        for wide, at in ((TIME, TIME_AT), (BAND, BAND_AT))
    ]
    made = SoundParams(
        start=u[:, PLACE] * (long - span),
        span=span,
        low=middle - middle * step + views.shift * both[:, SHIFT],
        step=step,
        noise=np.where(u[:, NOISY] < views.floor, BELOW[0] + (BELOW[1] - BELOW[0]) * u[:, DEPTH], np.inf),
        slant=SLANT * both[:, SLOPE],
        colour=views.tilt * both[:, [TILT, BEND]],
        time=masks[0],
        band=masks[1],
    )
    return SoundParams(*(np.asarray(x, np.float32) for x in vars(made).values()))


def apply(
    block: RaggedFrames,
    params: SoundParams,
    settings: SoundViews | SoundPreprocess,
    size: int,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Compute the views from their parameters.

    Args:
        block: n clips.
        params: of n views.
        settings: their `mels` and `level` count.
        size: frames of the view.
        dtype: of the views; None for float32.

    Returns:
        (n, 1, mels, size), in units of 20 dB; 0 is the level that `settings.level` names.
    """
    drawn = {
        field.name: torch.from_numpy(getattr(params, field.name)).to(block.frames.device)
        for field in dataclasses.fields(params)
    }
    x = _mels(_times(block, drawn["start"], drawn["span"], size), drawn["low"], drawn["step"], settings.mels)
    x = x * (STEP / 20)  # of 0 at -100 dB
    band = torch.linspace(-1, 1, settings.mels, device=x.device)
    colour = drawn["colour"] / 20
    x = x + (colour[:, :1] * band + colour[:, 1:] * (0.5 - band.square()))[:, None, :]
    if bool(torch.isfinite(drawn["noise"]).any()):
        x = _noisy(x, drawn["noise"], drawn["slant"])
    if settings.level != "nothing":
        x = x - x.mean(dim=1 if settings.level == "bands" else (1, 2), keepdim=True)
    for mask, count in (("time", size), ("band", settings.mels)):
        where = (torch.arange(count, device=x.device) + 0.5) / count
        first, wide = drawn[mask][:, :1], drawn[mask][:, 1:]
        hidden = (where >= first) & (where < first + wide)  # (n, count)
        x = x.masked_fill(hidden[:, :, None] if mask == "time" else hidden[:, None, :], 0.0)
    return x.transpose(1, 2)[:, None].to(dtype or torch.float32).contiguous()


def _times(block: RaggedFrames, start: torch.Tensor, span: torch.Tensor, size: int) -> torch.Tensor:
    """Resample clips in time: (n, size, mels) float32 of bytes' values.

    Each frame of a view is the mean of as many places in the clip as it is long in frames of the clip, each
    blended of two neighbours.
    """
    step = span / size
    taps = step.ceil().clamp(min=1)
    last = (block.length - 1)[:, None]
    steps = torch.arange(size, device=start.device)
    total: torch.Tensor | None = None
    for tap in range(int(taps.max()) if len(taps) else 1):
        share = ((tap + 0.5) / taps)[:, None]
        place = start[:, None] + (steps + share) * step[:, None] - 0.5
        at = place.floor()
        part = (place - at)[:, :, None]
        left, right = (
            block.frames[block.offset[:, None] + torch.minimum(x.long().clamp(min=0), last)].float()
            for x in (at, at + 1)
        )
        blended = torch.lerp(left, right, part) * ((tap < taps) / taps)[:, None, None]
        total = blended if total is None else total + blended
    assert total is not None
    return total


def _mels(x: torch.Tensor, low: torch.Tensor, step: torch.Tensor, mels: int) -> torch.Tensor:
    """Resample (n, size, bands) over the bands; those beyond the ends are as the ends."""
    place = low[:, None] + torch.arange(mels, device=x.device) * step[:, None]
    at = place.floor()
    part = (place - at)[:, None, :]
    left, right = (
        x.gather(2, y.long().clamp(0, x.shape[2] - 1)[:, None, :].expand(-1, x.shape[1], -1))
        for y in (at, at + 1)
    )
    return torch.lerp(left, right, part)


def _noisy(x: torch.Tensor, below: torch.Tensor, slant: torch.Tensor) -> torch.Tensor:
    """Add the powers of noise to those of (n, size, mels), in units of 20 dB."""
    slope = torch.linspace(-0.5, 0.5, x.shape[2], device=x.device)
    loudest = x.amax(dim=(1, 2))
    noise = (loudest - below / 20)[:, None] + slant[:, None] / 20 * slope
    ten = 2 * float(np.log(10))  # 20 dB are a factor of 100 in power
    return torch.logaddexp(x * ten, (noise * ten)[:, None, :]) / ten
