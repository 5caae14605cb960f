"""Randomness by name, not by history: every draw is a function of (seed, what, when, which image).

No generator is carried along, so a checkpoint holds no random state, resuming is just starting at
step t, and the number of threads, workers or processes cannot change a draw.

The bits are SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators", figure 17) applied to a key, an image number and a column number.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def fold(seed: int, *names: int | str) -> int:
    """Derive a 64-bit key from a seed and the names of a draw, such as `fold(0, "shuffle", epoch)`.

    Args:
        seed: the run's seed, any integer.
        names: what is drawn and when; integers and strings of any kind are distinguished.

    Returns:
        An integer in [0, 2**64) that depends on every argument and on their order.
    """
    text = "\x1f".join(f"{type(name).__name__[0]}{name}" for name in (int(seed), *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scramble 64-bit words: SplitMix64's finaliser, a bijection."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def uniform(key: int, ids: npt.ArrayLike, count: int) -> npt.NDArray[np.float32]:
    """Draw `count` uniform numbers for each image; the row of an image never depends on the others.

    Args:
        key: from `fold`.
        ids: (n,) integers that name the images.
        count: numbers an image.

    Returns:
        (n, count) float32 in [0, 1), 24 bits each.
    """
    rows = np.asarray(ids).astype(np.uint64)
    with np.errstate(over="ignore"):
        state = _mix(rows * _GOLDEN + np.uint64(key))
        columns = (np.arange(1, count + 1, dtype=np.uint64)) * _GOLDEN
        bits = _mix(state[:, None] + columns[None, :])
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def normal(key: int, ids: npt.ArrayLike, count: int) -> npt.NDArray[np.float32]:
    """Draw `count` numbers of mean 0 and variance 1 for each image, normally distributed.

    Args:
        key, ids, count: as for `uniform`.

    Returns:
        (n, count) float32.

    Source:
        Box and Muller 1958, "A note on the generation of random normal deviates".
    """
    u = uniform(key, ids, 2 * count)
    radius = np.sqrt(-2 * np.log1p(-u[:, :count]))
    return np.asarray(radius * np.cos(np.float32(2 * np.pi) * u[:, count:]), np.float32)


def permutation(key: int, n: int) -> npt.NDArray[np.int64]:
    """Order the numbers 0 to n - 1 at random, the same way for the same key.

    Args:
        key: from `fold`.
        n: how many.

    Returns:
        (n,) int64, a permutation.
    """
    return np.random.Generator(np.random.Philox(key=key)).permutation(n)
