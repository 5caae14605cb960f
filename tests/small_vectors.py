"""Vectors of known classes: written digits, and rows about orthogonal directions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 written digits of 8 x 8 pixels: scikit-learn's own."""
    x, y = load_digits(return_X_y=True)
    return x.astype(np.float32), y.astype(np.int64)


def blobs(sizes: list[int], d: int = 8, noise: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows about orthogonal directions, one a class."""
    draw = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(sizes)), sizes)
    return (np.eye(d)[y] + noise * draw.normal(size=(len(y), d))).astype(np.float32), y
