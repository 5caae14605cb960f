"""Encodes labelled images a chunk at a time, and keeps each in the run folder, so that a kill loses one."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from .. import models
from ..core.config import to_json
from ..data.dataset import Subset
from ..data.modalities import modality_of
from ..features.chunked import CHUNK_IMAGES, ChunkResult, Journal
from ..features.extract import Vectors, features, fingerprint
from .task_types import Setup

PATTERN = "vectors-*"
SETTLE_IMAGES = 256  # on which batch norms are measured


def encode(net: nn.Module, dataset: Any, setup: Setup, keep: Path | None = None) -> Vectors:
    """Encode images; what an earlier call has kept is read.

    Args:
        net: n inputs to (n, d).
        dataset: the images.
        setup: what to compute with.
        keep: folder in which finished chunks are kept, if there are several; None to keep nothing.

    Returns:
        (len(dataset), d) float32.
    """
    how: dict[str, Any] = {"device": setup.device, "threads": setup.workers}
    if keep is None or len(dataset) <= CHUNK_IMAGES:
        return features(net, dataset, setup.preprocess, **how)
    told = [fingerprint(net), to_json(setup.preprocess), str(dataset.fingerprint)]
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    folder = keep / PATTERN.replace("*", key[:16])
    folder.mkdir(exist_ok=True)
    journal, parts = Journal(folder, key), []
    none = np.empty(0, np.int64), np.empty(0, np.str_)
    for low in range(0, len(dataset), CHUNK_IMAGES):
        rows = np.arange(low, min(low + CHUNK_IMAGES, len(dataset)))
        found = journal.get(low)
        if found is None:
            found = ChunkResult(rows, features(net, Subset(dataset, rows), setup.preprocess, **how), *none)
            journal.put(low, found)
        parts.append(found.vectors)
    return np.concatenate(parts)


def measure_norms(net: nn.Module, dataset: Any, setup: Setup) -> None:
    """Measure the batch norms of a network that is to be trained, on some of its images.

    Training uses the batches' own statistics: with those of other images, the first steps would go far
    astray.

    Args:
        net: n inputs to vectors, on the device.
        dataset: the images; of a single one nothing is measured.
        setup: what to compute with.
    """
    if len(dataset) < 2:
        return
    rows = np.arange(len(dataset))[:: -(-len(dataset) // SETTLE_IMAGES)]
    kind = modality_of(setup.preprocess)
    x = kind.prepare(dataset.gather(rows), setup.preprocess, threads=setup.workers)
    models.settle(net, [x.to(setup.device)])


def forget(folder: Path) -> None:
    """Remove what was kept in a run folder."""
    for kept in folder.glob(PATTERN):
        shutil.rmtree(kept, ignore_errors=True)
