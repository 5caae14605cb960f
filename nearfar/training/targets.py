"""The vectors that a teacher gives whole images: computed once, kept in the cache, and read back by row.

A pass that is stopped goes on where it was, and runs with the same images and teacher share what is kept.
Images come in a random order, so that those which a short pass has reached are a fair sample.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from ..core import distributed, locks, progress, rng
from ..core.atomic import atomic_write
from ..core.cache_root import cache_root
from ..core.config import to_json
from ..core.device import compute_threads
from ..core.errors import BadImage, NearfarError
from ..core.shapes import loads
from ..core.threads import map_in_order, one_torch_thread
from ..data.modalities import modality_of
from ..data.source import Source
from ..features.chunked import Bad, ragged_chunk
from ..features.extract import features, fingerprint, finite
from ..models.folding import folded
from .engine import autocast
from .precision import GAIN
from .teacher import Teacher
from .turns import FEWEST, Turns

BLOCK = 512  # images encoded at a time, and images whose work a kill can lose
SMALL = 16  # images a thread encodes at a time: more of them leave the processor's own memory
SAME = 0.998  # cosine of vectors of bfloat16 with those of float32, at least
ROOM = 1e-12  # least length of a vector; that of an image which cannot be read is 0


@dataclass(frozen=True)
class TeacherVectors:
    """A teacher's vector of each image of a data set, of length 1, mapped from disk in half precision.

    Attributes:
        vectors: (m, d), in the order in which they were computed.
        places: (n,) where each of the data set's images is among them.
        seconds: that this session has spent computing them.
    """

    vectors: npt.NDArray[np.float16]
    places: npt.NDArray[np.int64]
    seconds: float = 0.0

    def gather(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Give the vectors of these rows of the data set."""
        return self.vectors[self.places[rows]].astype(np.float32)


def teacher_vectors(
    teacher: Teacher,
    source: Source,
    ids: Sequence[str],
    *,
    device: torch.device,
    threads: int,
    limit: int,
    precision: str = "float32",
    seconds: float | None = None,
    least: int = 1,
    enough: int | None = None,
) -> TeacherVectors:
    """Compute the vectors of a collection's images, or find them in the cache.

    Args:
        teacher: what is learnt from; it sees each image in its own preprocessing and size.
        source: the images.
        ids: of those of them that can be used, in the source's order.
        device: where to compute.
        threads: CPU threads.
        limit: pixels of an image at most.
        precision: of the teacher's network, as the setting has it; "auto" takes bfloat16 where it is faster.
        seconds: when to stop, with the images that are done; None to do all.
        least: images to do in any case.
        enough: of `ids`, how many are wanted at most, as an earlier session had them; None for all.

    Returns:
        The vectors; `places` is -1 for images that were not done.

    Raises:
        NearfarError: the teacher is for another kind of data or gives NaN, or the disk cannot be written.
    """
    if teacher.run.preprocess.modality != source.modality:
        raise NearfarError(
            f"--teacher {teacher.run.name} is of {teacher.run.preprocess.modality}, and these are "
            f"{source.modality}; name another one."
        )
    began = time.monotonic()
    preprocess = modality_of(source).with_range(teacher.run.preprocess, source, limit=limit)
    folder = cache_root() / "teachers" / _key(teacher, preprocess, source, limit)
    order, own = rng.permutation(rng.fold(0, "teacher"), len(source)), _rows(source.ids, ids)
    if enough is not None:  # in whole blocks, as the session before had them
        last = np.flatnonzero(np.isin(order, own))[min(enough, len(own)) - 1]
        order = order[: (last // BLOCK + 1) * BLOCK]
    with distributed.first_goes_ahead("asks the teacher"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            waiting = "another process asks the same teacher about these images; waiting for it"
            with locks.hold(folder / "lock", wait=True, waiting=waiting):
                kept = _Kept(folder, len(source), teacher.encoder.dim)
                if distributed.first():
                    ask = _Pass(teacher, source, preprocess, device, threads, limit, precision)
                    ask.fill(kept, order, seconds, least)
        except OSError as error:
            raise NearfarError(
                f"{folder} cannot be written ({error.strerror}); set NEARFAR_CACHE to a folder with room."
            ) from error
    done = min(int(distributed.same(kept.done)), len(order))
    places = np.full(len(source), -1, np.int64)
    places[order[:done]] = np.arange(done)
    return TeacherVectors(kept.vectors, places[own], time.monotonic() - began)


def stand_in(teacher: Teacher, images: int) -> TeacherVectors:
    """Give vectors of 0 in the form of a teacher's, so that the time of a step can be measured.

    Args:
        teacher: what is learnt from.
        images: in the data set.
    """
    return TeacherVectors(np.zeros((1, teacher.encoder.dim), np.float16), np.zeros(images, np.int64))


def _key(teacher: Teacher, preprocess: Any, source: Source, limit: int) -> str:
    """Name what is kept by all that the vectors depend on: the encoder, its preprocessing, the images.

    The limit is part of it, since larger images have vectors of 0.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps([fingerprint(teacher.encoder), to_json(preprocess), BLOCK, limit]).encode())
    for row, name in enumerate(source.ids):
        digest.update(f"{name}\0{source.stamp(row)}\0".encode())
    return digest.hexdigest()


def _rows(all_ids: Sequence[str], ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """Find where the usable images are among all; both are in the same order."""
    wanted = iter(ids)
    next_one, found = next(wanted, None), []
    for row, name in enumerate(all_ids):
        if name == next_one:
            found.append(row)
            next_one = next(wanted, None)
    return np.array(found, np.int64)


class _Kept:
    """The file of the vectors, and a note of how many of them are written."""

    def __init__(self, folder: Path, images: int, width: int) -> None:
        self.folder, self.note, file = folder, folder / "done.json", folder / "vectors.npy"
        try:
            self.done = int(loads(self.note.read_text())["done"])
            self.vectors = np.load(file, mmap_mode="r+", allow_pickle=False)
        except (OSError, ValueError, KeyError, TypeError):
            self.done = 0
            self.vectors = np.lib.format.open_memmap(file, "w+", np.float16, (images, width))

    def add(self, block: npt.NDArray[np.float16]) -> None:
        """Write the next vectors, and then the note."""
        self.vectors[self.done : self.done + len(block)] = block
        self.vectors.flush()
        self.done += len(block)
        with atomic_write(self.note) as file:
            file.write(json.dumps({"done": self.done}).encode())


@dataclass(frozen=True)
class _Pass:
    """How images are read and given to the teacher."""

    teacher: Teacher
    source: Source
    preprocess: Any
    device: torch.device
    threads: int
    limit: int
    precision: str

    def fill(self, kept: _Kept, order: npt.NDArray[np.int64], seconds: float | None, least: int) -> None:
        """Compute what is missing, until the time is over."""
        began, left = time.monotonic(), order[kept.done :]
        if not len(left):
            return
        model = _quick(self.teacher, self.device, self.precision)
        at_once = SMALL * compute_threads() if self.device.type == "cpu" else BLOCK
        how: dict[str, Any] = {"device": self.device, "threads": self.threads, "batch_size": at_once}
        with progress.Bar("asking the teacher", len(order)) as bar:
            bar.done = kept.done
            for rows, values in self.decoded(left):
                chunk = ragged_chunk(rows, values, self.source.modality)
                block = np.zeros((len(rows), kept.vectors.shape[1]), np.float16)
                if len(chunk):
                    found = finite(features(model, chunk, self.preprocess, **how))
                    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), ROOM)
                    block[[not isinstance(value, Bad) for value in values]] = found
                kept.add(block)
                bar.advance(len(rows))
                late = seconds is not None and time.monotonic() - began > seconds
                if late and kept.done >= least:
                    break

    def decoded(self, order: npt.NDArray[np.int64]) -> Iterator[tuple[list[int], list[Any]]]:
        """Decode images in an order, block by block, each while the one before is in use."""
        kind = modality_of(self.source)

        def one(row: int) -> Any:
            try:
                content, _ = kind.fetch(self.source, row, limit=self.limit)
                return kind.decode(content, self.preprocess, limit=self.limit).value
            except BadImage as error:
                return Bad(str(error))

        rows = order.tolist()
        with closing(map_in_order(one, rows, threads=self.threads, ahead=BLOCK)) as found:
            for low in range(0, len(rows), BLOCK):
                part = rows[low : low + BLOCK]
                yield part, list(islice(found, len(part)))


class _Quick(nn.Module):
    """A network for inference, in the precision that was chosen."""

    def __init__(self, net: nn.Module, precision: str) -> None:
        super().__init__()
        self.net, self.precision = net, precision

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        with autocast(x.device, self.precision):
            found: torch.Tensor = self.net(x)
        return found.float()


@torch.no_grad()
def _quick(teacher: Teacher, device: torch.device, precision: str) -> nn.Module:
    """Make the teacher fast: fold it, and take bfloat16 where that is faster and its vectors the same."""
    x = torch.rand(8, 3, teacher.size, teacher.size, device=device)
    net = folded(copy.deepcopy(teacher.encoder).to(device), x[:2]).to(memory_format=torch.channels_last)
    made = {name: _Quick(net, name) for name in ("float32", "bfloat16")}
    if precision != "auto":
        return made[precision]
    if device.type != "cpu":
        return made["bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"]
    turns = Turns()
    with one_torch_thread():
        plain, quick = (model(x) for model in made.values())
        while len(turns.pairs) < FEWEST:
            turns.add(*(_cost(model, x) for model in made.values()))
    same = F.cosine_similarity(plain, quick).min() > SAME
    return made["bfloat16" if same and turns.ratio <= GAIN else "float32"]


def _cost(model: nn.Module, x: torch.Tensor) -> float:
    """Measure the seconds of this thread that a pass takes."""
    began = time.thread_time()
    model(x)
    return time.thread_time() - began
