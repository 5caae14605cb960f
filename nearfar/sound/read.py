"""Reads a sound file: WAV by the standard library, other forms by soundfile; mixed to one channel.

What cannot be used raises `BadImage` with the reason in a few words, as for images.
"""

from __future__ import annotations

import importlib.util
import io
import re
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.errors import BadImage
from ..images.files import read as read_file

Samples = npt.NDArray[np.float32]
WAV = frozenset({"wav", "wave"})
TO_INSTALL = "pip install 'nearfar[sound]'"
MOST_SECONDS = 600  # of one clip: an hour would be one vector, and take gigabytes to decode
RATES = (1_000, 768_000)  # samples a second
_BLOCK = 1 << 18  # frames decoded at a time, by which memory is bounded for many channels
_STREAMED = 0x7FFF0000  # from here on a size in a header is what a program writes that does not know it
_UNKNOWN = 1 << 62  # frames, from here on, that soundfile tells of a FLAC whose header does not count them
_LOUDEST = 16.0  # of a recording in floats: 24 dB above full scale; beyond it they were whole numbers
_CANCELLED = 1e-3  # of the loudest sample of a channel, below which a mix is silence
_FULL_SCALES = (2.0**15, 2.0**23, 2.0**31)  # of whole numbers of 16, 24 and 32 bits


def has_soundfile() -> bool:
    """Tell whether forms other than WAV can be read."""
    return importlib.util.find_spec("soundfile") is not None


def read(path: Path, limit: int) -> bytes:
    """Read a file whole.

    Args:
        path: the file.
        limit: a file larger than 8 bytes a sample of this many, plus 64 MiB, is not read.

    Raises:
        BadImage: it cannot be read, is empty, is too large, or is no regular file.
    """
    return read_file(path, max_pixels=limit)


def decode(data: bytes, limit: int) -> tuple[Samples, int]:
    """Decode a file and mix its channels to one.

    Args:
        data: the file's bytes.
        limit: the most samples allowed, of all channels.

    Returns:
        (n,) float32 in [-1, 1], at least one, and samples a second.

    Raises:
        BadImage: it cannot be decoded, or is too long.
    """
    if data[:4] == b"RIFF":
        try:
            return _decode_wav(data, limit)
        except (wave.Error, EOFError, RuntimeError) as error:  # RuntimeError: a block ends beyond the file
            if not has_soundfile():
                needs = f"; for other encodings than PCM: {TO_INSTALL}" if "format" in str(error) else ""
                raise BadImage(f"broken: {_told(error)}{needs}") from None
    if not has_soundfile():
        raise BadImage(f"no WAV file; for FLAC, Ogg and MP3: {TO_INSTALL}")
    return _decode_other(data, limit)


def _told(error: Exception) -> str:
    """Say an error of a library in a line; soundfile puts where the bytes lie in memory before its reason."""
    told = (str(error) or "it ends too soon").splitlines()[0]
    return re.sub(r"^Error opening <[^>]*>: ", "", told)[:100].removesuffix(".")


def _check(frames: int, channels: int, rate: int, limit: int) -> None:
    """Refuse what no one can want as one clip, before it is decoded."""
    if not RATES[0] <= rate <= RATES[1]:
        raise BadImage(f"{rate:,} samples a second, which is no rate of sound")
    if frames > MOST_SECONDS * rate:
        raise BadImage(
            f"over the limit of {MOST_SECONDS // 60} minutes: {frames / rate:,.0f} s; cut it into clips"
        )
    if frames * channels > limit:
        raise BadImage(f"over the limit of {limit:,} samples: {frames:,} x {channels}")
    if frames < 1:
        raise BadImage("no samples")


def _cut(count: int, told: int, rate: int) -> str:
    """Say how much of a file is there: in seconds, or in samples where only a few are missing."""
    there, wanted = f"{count / rate:.2f}", f"{told / rate:.2f} s"
    if f"{there} s" == wanted:
        there, wanted = f"{count:,}", f"{told:,} samples"
    return f"cut short: {there} of {wanted} are there"


def _check_mix(samples: Samples, peak: float) -> None:
    """Refuse channels that cancel each other, as where the wires of one were crossed, and leave silence."""
    if peak > 0 and float(np.abs(samples).max(initial=0)) < _CANCELLED * peak:
        raise BadImage("its channels cancel each other in the mix; keep one of them, or turn one round")


def _decode_wav(data: bytes, limit: int) -> tuple[Samples, int]:
    """Decode PCM of 8 to 32 bits."""
    with wave.open(io.BytesIO(data)) as file:
        rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
        told = file.getnframes()
        there = len(data) // (channels * width)  # at most: headers take a little
        streamed = told * channels * width >= _STREAMED or told == 0
        _check(min(told or there, there), channels, rate, limit)
        if width not in _PCM:
            raise wave.Error(f"unknown format: {8 * width} bits")
        parts, peak = [], 0.0
        while raw := file.readframes(_BLOCK) if told else b"":
            values = _PCM[width](raw[: len(raw) // (channels * width) * channels * width])
            peak = max(peak, float(np.abs(values).max(initial=0)))
            parts.append(values.reshape(-1, channels).mean(axis=1, dtype=np.float32))
    samples = np.concatenate(parts or [np.empty(0, np.float32)])
    if len(samples) < told and not streamed:
        raise BadImage(_cut(len(samples), told, rate))
    _check(len(samples), channels, rate, limit)
    _check_mix(samples, peak)
    return _to_full_scale(samples, peak, wide=width == 4), rate


def _to_full_scale(samples: Samples, peak: float, wide: bool) -> Samples:
    """Bring samples to [-1, 1] that a program wrote on the scale of other numbers.

    Such are whole numbers kept as floats, up to 32,768, and 16 bits in a file of 32, which would lie below
    all that a spectrogram shows.

    Args:
        samples: (n,) float32, as the file's own type has them.
        peak: the greatest value, without its sign, before channels were mixed.
        wide: whether they were whole numbers of 32 bits.

    Raises:
        BadImage: no such scale has them.
    """
    if peak > _FULL_SCALES[-1]:
        raise BadImage(f"samples of up to {peak:.1e}, where sound has at most 1")
    if peak > _LOUDEST:
        return samples / np.float32(next(full for full in _FULL_SCALES if peak <= full))
    return samples * np.float32(2.0**16) if wide and 0 < peak <= 2.0**-16 else samples


def _pcm24(raw: bytes) -> Samples:
    """Read little-endian numbers of three bytes."""
    wide = np.zeros((len(raw) // 3, 4), np.uint8)
    wide[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
    return wide.view("<i4")[:, 0] * np.float32(2.0**-31)


_PCM: dict[int, Callable[[bytes], Samples]] = {
    1: lambda raw: (np.frombuffer(raw, np.uint8) - np.float32(128)) / np.float32(128),
    2: lambda raw: np.frombuffer(raw, "<i2") * np.float32(2.0**-15),
    3: _pcm24,
    4: lambda raw: np.frombuffer(raw, "<i4") * np.float32(2.0**-31),
}


def _decode_other(data: bytes, limit: int) -> tuple[Samples, int]:
    """Decode by soundfile."""
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, told = int(file.samplerate), int(file.frames)
            if told >= _UNKNOWN:
                told, file.seekable = 0, lambda: False  # or it would seek beyond the end after the last block
            _check(told or 1, file.channels, rate, limit)
            parts, count, peak = [], 0, 0.0
            while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
                peak = max(peak, float(np.abs(block).max()))
                parts.append(block.mean(axis=1))
                count += len(block)
                _check(count, file.channels, rate, limit)
            form: Any = file.format
            wide = bool(file.subtype == "PCM_32")
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError) as error:
        raise BadImage(f"broken: {_told(error)}") from None
    if not parts:
        raise BadImage("no samples")
    samples: Samples = np.concatenate(parts)
    # Of an MP3 whose first frame does not count the others, the header only guesses.
    if count < told * (0.98 if form == "MP3" else 1) and (form != "MP3" or _counts_frames(data)):
        raise BadImage(_cut(count, told, rate))
    if not np.isfinite(samples).all():
        raise BadImage("a sample is no finite number")
    _check_mix(samples, peak)
    return _to_full_scale(samples, peak, wide), rate


def _counts_frames(data: bytes) -> bool:
    """Tell whether the first frame of an MP3 counts the others, as those that programs write today do."""
    start = 0
    if data[:3] == b"ID3":  # a tag, whose length has 7 bits a byte
        start = 10 + sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    first = data[start : start + 256]
    return b"Xing" in first or b"Info" in first


def wav(samples: Samples, rate: int) -> bytes:
    """Write samples as a WAV file of 16 bits.

    Args:
        samples: (n,) float32 in [-1, 1].
        rate: samples a second.
    """
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return file.getvalue()


def resample(samples: Samples, rate: int, wanted: int) -> Samples:
    """Bring samples to another rate.

    Args:
        samples: (n,) float32.
        rate: theirs, a second.
        wanted: the rate of the result; exact to a millionth.

    Returns:
        (m,) float32.
    """
    if rate == wanted:
        return samples
    from scipy.signal import resample_poly

    ratio = Fraction(wanted, rate).limit_denominator(1000)
    return np.asarray(resample_poly(samples, ratio.numerator, ratio.denominator), np.float32)
