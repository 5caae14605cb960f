"""Search by example: the query vector from liked and disliked images."""

from __future__ import annotations

import numpy as np
import torch

from ..core.errors import NearfarError
from ..features.extract import Vectors
from ..features.knn import unit

DISLIKE = 0.3  # weight of the mean dislike relative to the mean like; at 0.7 it costs more than it helps


def query(likes: Vectors, dislikes: Vectors | None = None) -> Vectors:
    """Make the one vector to look for: towards the mean of the likes, and away from that of the dislikes.

    With unit rows u, the query is mean(u of likes) - DISLIKE * mean(u of dislikes), then scaled to length 1.

    Args:
        likes: (a, d) floats, a at least 1.
        dislikes: (b, d) floats, or None.

    Returns:
        (d,) float32 of length 1.

    Raises:
        NearfarError: nothing is liked, or likes and dislikes cancel out.

    Source:
        Rocchio 1971, "Relevance feedback in information retrieval", without a first query of words.
    """
    if not len(likes):
        raise NearfarError("a search needs an example; give at least one.")
    towards = _mean(likes)
    if dislikes is not None and len(dislikes):
        towards = towards - DISLIKE * _mean(dislikes)
    length = float(np.linalg.norm(towards))
    if length < 1e-6:
        raise NearfarError("the vectors of the examples are 0 or cancel out; give other examples.")
    return towards / np.float32(length)


def _mean(x: Vectors) -> Vectors:
    return unit(torch.from_numpy(np.ascontiguousarray(x, np.float32))).mean(dim=0).numpy()
