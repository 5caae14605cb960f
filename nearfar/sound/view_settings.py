"""Settings of sound: how a clip becomes a spectrogram, and that a view. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core.config import setting

MELS = 40
RATE = 16_000


@dataclass(frozen=True)
class SoundViews:
    """How a clip becomes a view: a part of its spectrogram, stretched, shifted, noisy and masked."""

    rate: int = setting(RATE, "samples a second to which all clips are brought", low=1000, high=192_000)
    mels: int = setting(MELS, "bands of the spectrogram", low=8, high=256)
    keep: float = setting(0.6, "least share of a clip that a view keeps", low=0.05, high=1.0)
    stretch: float = setting(1.25, "how much slower or faster a view is, at most", low=1.0, high=4.0)
    shift: float = setting(3.0, "mels that a view is moved up or down, at most", low=0.0, high=64.0)
    warp: float = setting(
        0.1, "share by which the bands of a view are drawn apart or together, at most", low=0.0, high=0.5
    )
    floor: float = setting(
        0.5, "chance of noise under a view, 5 to 30 dB below its loudest part", low=0.0, high=1.0
    )
    masks: float = setting(
        0.15,
        "share of a view that one mask covers, at most; there is one over time and one over mels",
        low=0.0,
        high=1.0,
        source="Park et al. 2019, SpecAugment",
    )
    level: str = setting(
        "bands",
        "what is taken from a spectrogram: each band's mean over time, the mean of all, or nothing",
        choices=("bands", "all", "nothing"),
    )


@dataclass(frozen=True)
class SoundPreprocess:
    """How a clip becomes an encoder's input when nothing is random."""

    modality: ClassVar[str] = "sound"

    size: int = setting(96, "frames of the input, 10 ms each before a clip is stretched", low=1)
    rate: int = setting(RATE, "samples a second to which all clips are brought", low=1000, high=192_000)
    mels: int = setting(MELS, "bands of the spectrogram", low=8, high=256)
    level: str = setting(
        "bands",
        "what is taken from a spectrogram: each band's mean over time, the mean of all, or nothing",
        choices=("bands", "all", "nothing"),
    )
