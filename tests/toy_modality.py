"""A second kind of data, as small as one can be: sequences of numbers, and an encoder of two layers.

A view is the sequence, moved round by some places and with noise added. Tests put it into `MODALITIES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from nearfar import models
from nearfar.core import rng
from nearfar.core.config import setting
from nearfar.core.errors import BadImage, NearfarError
from nearfar.data.modality import Example, Modality
from nearfar.data.source import Source, class_names


@dataclass(frozen=True)
class Views:
    """How a sequence becomes a view."""

    noise: float = setting(0.1, "deviation of the noise that is added", low=0.0)
    shift: int = setting(2, "places that a sequence is moved by, at most", low=0)


@dataclass(frozen=True)
class Preprocess:
    """How a sequence becomes an encoder's input."""

    modality: ClassVar[str] = "sequences"
    size: int = setting(16, "numbers in the input", low=1)


@dataclass(frozen=True)
class Sequences(Source):
    """Sequences in a list, each of its own length."""

    values: Sequence[np.ndarray]

    @property
    def modality(self) -> str:
        return "sequences"

    def read(self, index: int) -> Any:
        return self.values[index]

    def stamp(self, index: int) -> str:
        return self.values[index].tobytes().hex()


@dataclass(frozen=True)
class Block:
    """Some sequences, and nothing else: lengths differ."""

    values: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: np.ndarray) -> Block:
        return Block([self.values[row] for row in np.asarray(rows).tolist()])


@dataclass(frozen=True)
class Params:
    """Drawn views: how far each sequence moves, and the noise that is added to it."""

    shift: np.ndarray
    noise: np.ndarray


def cut(values: list[np.ndarray], size: int) -> np.ndarray:
    """Bring sequences to one length: what is too long loses its end, what is too short is repeated."""
    return np.stack([np.resize(value, size) for value in values]).astype(np.float32)


class SequenceModality(Modality):
    """Sequences of numbers, from a .npy of shape (n, t) or a list of arrays."""

    name = "sequences"
    views = Views
    preprocess = Preprocess
    columns: ClassVar = {"length": "number"}
    training: ClassVar = {"encoder": "two_layers", "image_size": None}

    def holds(self, data: Any) -> bool:
        if isinstance(data, (str, Path)):
            path = Path(data)
            return path.suffix == ".npy" and path.is_file() and np.load(path, mmap_mode="r").ndim == 2
        return isinstance(data, list) and all(np.ndim(value) == 1 for value in data) and len(data) > 0

    def is_one(self, data: Any) -> bool:
        return isinstance(data, np.ndarray) and data.ndim == 1

    def open(self, data: Any, *, labels: bool = False, download: bool = True) -> Source:
        marks = None
        if isinstance(data, tuple):
            data, marks = data
        if isinstance(data, (str, Path)):
            if not Path(data).is_file():
                raise NearfarError(
                    f"there is no file {str(data)!r} of sequences; give a .npy of shape (n, t)."
                )
            values, name = list(np.load(data)), str(data)
        else:
            values, name = [np.asarray(value) for value in data], "the list"
        if labels and marks is None:
            raise NearfarError(f"{name} has no labels; pass the pair (sequences, labels).")
        named = class_names(name, marks, len(values)) if labels else None
        return Sequences(name, [f"s{row:03d}" for row in range(len(values))], named, values)

    def decode(self, data: np.ndarray, preprocess: Any, *, limit: int) -> Example:
        if not np.isfinite(data).all():
            raise BadImage("a number is not finite")
        whole = preprocess is None
        return Example(data if whole else data[: preprocess.size], {"length": len(data)})

    def collate(self, values: Sequence[np.ndarray]) -> Block:
        return Block(list(values))

    def size_of(self, value: np.ndarray) -> int:
        return len(value)

    def input_size(self, usual: int) -> int:
        return max(8, usual)

    def preprocess_for(self, size: int, views: Views) -> Preprocess:
        return Preprocess(size)

    def draw(self, view: Views, key: int, ids: Any, block: Block, size: int) -> Params:
        u = rng.uniform(key, np.asarray(ids), 1 + size)
        shift = np.floor(u[:, 0] * (2 * view.shift + 1)).astype(np.int64) - view.shift
        return Params(shift, view.noise * np.sqrt(12, dtype=np.float32) * (u[:, 1:] - np.float32(0.5)))

    def apply(
        self, block: Block, params: Params, view: Views, size: int, *, dtype: Any = None, threads: int = 1
    ) -> torch.Tensor:
        moved = [np.roll(row, by) for row, by in zip(cut(block.values, size), params.shift, strict=True)]
        return torch.from_numpy(np.stack(moved) + params.noise).to(dtype or torch.float32)

    def prepare(self, block: Block, preprocess: Preprocess, *, threads: int = 1) -> torch.Tensor:
        return torch.from_numpy(cut(block.values, preprocess.size))

    def encoder(
        self,
        name: str,
        *,
        stem: str = "auto",
        size: int | None = None,
        weights: str | None = None,
        seed: int = 0,
        **own: Any,
    ) -> models.Encoder:
        if name != "two_layers" or weights is not None or size is None:
            raise NearfarError(f"there is no encoder {name!r} of sequences; give --encoder two_layers")
        with models.seeded(seed, "encoder", name):
            net = nn.Sequential(nn.Linear(size, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8))
        return models.Encoder(net, 8, name, "standard", size)


MODALITY = SequenceModality()
