"""Settings of sound: how a clip becomes a spectrogram, and that a view. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core.config import setting

MELS = 40
RATE = 16_000


_RATE = setting(RATE, "samples a second to which all clips are brought", low=1000, high=192_000)
_MELS = setting(MELS, "bands of the spectrogram", low=8, high=256)
_TRIM = setting(25.0, "decibels below a clip's loudest frame; quieter ends are cut off", low=1.0)
_DEPTH = setting(50.0, "decibels below a clip's loudest value from which all counts as silence", low=1.0)
_LEVEL = setting(
    "all",
    "what is taken from a spectrogram: the mean of all, each band's mean over time, or nothing",
    choices=("all", "bands", "nothing"),
)


@dataclass(frozen=True)
class SoundViews:
    """How a clip becomes a view: part of its spectrogram, stretched, shifted, coloured, noisy, masked."""

    rate: int = _RATE
    mels: int = _MELS
    trim: float = _TRIM
    depth: float = _DEPTH
    level: str = _LEVEL
    keep: float = setting(0.8, "least share of a clip that a view keeps", low=0.05, high=1.0)
    stretch: float = setting(1.15, "how much slower or faster a view is, at most", low=1.0, high=4.0)
    shift: float = setting(2.0, "mels that a view is moved up or down, at most", low=0.0, high=64.0)
    warp: float = setting(
        0.15, "share by which the bands of a view are drawn apart or together, at most", low=0.0, high=0.5
    )
    tilt: float = setting(
        10.0,
        "decibels that a view's outer bands, or its middle ones, gain or lose, at most",
        low=0.0,
    )
    floor: float = setting(
        0.5, "chance of noise under a view, 10 to 40 dB below its loudest part", low=0.0, high=1.0
    )
    masks: float = setting(
        0.15,
        "share of a view that one mask covers, at most; there is one over time and one over mels",
        low=0.0,
        high=1.0,
        source="Park et al. 2019, SpecAugment",
    )


@dataclass(frozen=True)
class SoundPreprocess:
    """How a clip becomes an encoder's input when nothing is random."""

    modality: ClassVar[str] = "sound"

    size: int = setting(96, "frames of the input, 10 ms each before a clip is stretched", low=1)
    rate: int = _RATE
    mels: int = _MELS
    trim: float = _TRIM
    depth: float = _DEPTH
    level: str = _LEVEL
