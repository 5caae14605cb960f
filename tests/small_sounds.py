"""Small sounds for tests: words of two vowels in four pitches, written as WAV files, the same each time."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

RATE = 8000
FORMANTS = {"ah": (730, 1090), "ee": (270, 2290)}  # Hz, of Peterson and Barney 1952
PITCHES = (100, 130, 170, 220)  # Hz


def vowel(name: str, pitch: float, seconds: float = 0.4, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Sum harmonics of a pitch, the stronger the nearer to a formant, and a little noise."""
    draw = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch *= draw.uniform(0.97, 1.03)
    sound = 0.003 * draw.standard_normal(len(time))
    for harmonic in np.arange(pitch, 0.45 * rate, pitch):
        height = sum(np.exp(-(((harmonic - at) / 150) ** 2)) for at in FORMANTS[name])
        sound += height * np.sin(2 * np.pi * (harmonic * time + draw.random()))
    rise = np.minimum(1, np.minimum(time, time[::-1]) / 0.05)
    return (0.3 * rise * sound / np.abs(sound).max()).astype(np.float32)


def write(path: Path, sound: np.ndarray, rate: int = RATE, width: int = 2) -> None:
    """Write (n,) or (n, channels) in [-1, 1] as PCM of some bytes a sample."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = np.clip(np.rint(sound * (2 ** (8 * width - 1) - 1)), -(2 ** (8 * width - 1)), None).astype("<i8")
    if width == 1:
        whole = whole + 128
    raw = whole.reshape(-1, 1).view("u1").reshape(-1, 8)[:, :width]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if sound.ndim == 1 else sound.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw.tobytes())


def folder(root: Path, each: int = 5, start: int = 0) -> Path:
    """Write a folder of folders by vowel: `each` clips of every vowel and pitch."""
    for name in FORMANTS:
        for pitch in PITCHES:
            for number in range(each):
                seed = start + 1000 * pitch + number
                sound = vowel(name, pitch, seconds=0.3 + 0.05 * (number % 4), seed=seed)
                write(root / name / f"{name}-{pitch}-{number}.wav", sound)
    return root
