"""Turns a collection into vectors with a trained encoder, in order, by name, and resumes after a crash.

The collection is read in chunks, so that one of any size fits in memory; what came of each is kept
next to the output until all are done.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import nn

from ..core import locks, progress
from ..core.atomic import refuse_address
from ..core.config import to_json
from ..core.device import cores
from ..core.errors import NearfarError
from ..core.text import counted
from ..data.box_list import open_boxes
from ..data.modalities import modality_of
from ..data.open import open_data
from ..data.reading import Rejected, none_usable, write_rejected_beside
from ..data.source import Source
from ..features import files
from ..features.chunked import CHUNK_IMAGES, ChunkResult, Journal, read_chunks
from ..features.extract import Vectors, features, fingerprint, finite
from ..training.run import Run, default_encoder, is_run, load
from . import engines, joining
from .fill import Filled, fill
from .joining import JoinedParts
from .on_ray import EmbeddedParts, embed_on_ray
from .part import CollectionPart
from .parts import EmbeddedPart, drop_unused, embed_part


@dataclass(frozen=True)
class Embeddings:
    """Vectors of a collection, in its own order, without the images that could not be used.

    Attributes:
        ids: n names.
        vectors: (n, d) float32, the encoder's pooled features, not scaled.
        labels: n class names, if they were asked for.
        path: the file written, if any.
        rejected: the rejected images, each with its reason.
    """

    ids: tuple[str, ...]
    vectors: Vectors
    labels: tuple[str, ...] | None
    path: Path | None
    rejected: tuple[Rejected, ...]

    def to_json(self) -> dict[str, Any]:
        """Describe the result in plain values, without the vectors themselves."""
        return {
            "path": str(self.path) if self.path else None,
            "images": len(self.ids),
            "dim": int(self.vectors.shape[1]),
            "labels": self.labels is not None,
            "rejected": [{"id": item.id, "reason": item.reason} for item in self.rejected],
        }


@overload
def embed(
    run: Run | str | Path,
    data: Any = None,
    *,
    out: str | Path | None = None,
    boxes: str | Path | None = None,
    device: str = "auto",
    engine: str = "torch",
    batch_size: int = 256,
    workers: int | None = None,
    labels: bool = False,
) -> Embeddings: ...


@overload
def embed(
    run: Run | str | Path,
    data: Any,
    *,
    out: str | Path,
    part: str,
    device: str = "auto",
    engine: str = "torch",
    batch_size: int = 256,
    workers: int | None = None,
    labels: bool = False,
) -> EmbeddedPart: ...


@overload
def embed(
    run: Run | str | Path,
    data: Any,
    *,
    out: str | Path,
    on: str,
    parts: int | None = None,
    device: str = "auto",
    engine: str = "torch",
    batch_size: int = 256,
    workers: int | None = None,
    labels: bool = False,
) -> EmbeddedParts: ...


@overload
def embed(
    run: Run | str | Path,
    *,
    join: str | Path,
    out: str | Path | None = None,
    store: str | Path | None = None,
) -> JoinedParts: ...


@overload
def embed(
    run: Run | str | Path,
    data: Any = None,
    *,
    store: str | Path,
    boxes: str | Path | None = None,
    columns: str | Path | None = None,
    prune: bool = False,
    thumbnail: int | None = None,
    part: str | None = None,
    device: str = "auto",
    engine: str = "torch",
    batch_size: int = 256,
    workers: int | None = None,
    labels: bool = False,
) -> Filled: ...


def embed(
    run: Run | str | Path,
    data: Any = None,
    *,
    out: str | Path | None = None,
    store: str | Path | None = None,
    boxes: str | Path | None = None,
    columns: str | Path | None = None,
    prune: bool = False,
    thumbnail: int | None = None,
    part: str | None = None,
    join: str | Path | None = None,
    on: str | None = None,
    parts: int | None = None,
    device: str = "auto",
    engine: str = "torch",
    batch_size: int = 256,
    workers: int | None = None,
    labels: bool = False,
) -> Embeddings | Filled | EmbeddedPart | EmbeddedParts | JoinedParts:
    """Turn images into vectors. Run the same command again to resume, or to add new images to a store.

    Example: nearfar embed runs/a photos/ --out photos.parquet

    Takes some 2,000 decoded images of memory, and n x d x 4 bytes for the vectors where no store takes them.

    Args:
        run: the folder of a run, or a known encoder such as timm:resnet18; if left out, known.
        data: images.
        out: a .parquet, .npz or .npy file to write.
        store: instead of a file, a vector store to bring up to date: only new and changed images are encoded.
        boxes: embed the objects on the images instead, each cut out: what nearfar predict of a detection
            wrote, a COCO file, or a folder of .xml or .txt files.
        columns: with store: add columns from a .csv or .tsv, whose first column names images by id or path.
        prune: with store: delete images whose files are gone.
        thumbnail: with a new store: pixels of the longer side of its thumbnails; if not given, 96.
        part: only one part of the images, such as 3/64; --out is then a folder for all parts.
        join: instead of images, the folder of all parts: checked for what is missing or twice, and written.
        on: ray: all parts, shared by the workers of a Ray cluster; --out is then a folder for all parts.
        parts: with on: their number; if not given, four for each worker.
        device: auto, cpu, cuda or mps.
        engine: what computes on a CPU: torch, onnx or openvino; the first images are computed by torch too.
        batch_size: number of images encoded at a time.
        workers: CPU threads that read images; if not given, all cores.
        labels: also write the labels: names of folders, or a list's column.

    Returns:
        Names and vectors in the collection's order; with a store, what was done with the images; with part,
        join or on, what was done with the parts.

    Raises:
        NearfarError: the run or the images cannot be used, or `out` cannot be written.
    """
    for flag, value in (("--batch-size", batch_size), ("--workers", workers), ("--parts", parts)):
        if value is not None and value < 1:
            raise NearfarError(f"{flag} is {value}; give 1 or more.")
    if out is not None:
        refuse_address(Path(out))
    if on not in (None, "ray"):
        raise NearfarError(f"--on is {on!r}; write --on ray, or leave it out.")
    if parts is not None and on is None:
        raise NearfarError("--parts is for --on ray; to do one part, write --part 1/64.")
    if on is not None and (part is not None or join is not None or store is not None):
        raise NearfarError(
            "--on ray does all parts, into a folder: leave --part, --join and --store out, and put them "
            "together afterwards with nearfar embed RUN --join FOLDER."
        )
    if boxes is not None and (join is not None or on is not None or (part is not None and store is None)):
        raise NearfarError(
            "--boxes is for a file or a store of all objects; leave --join, --on and --part out, or give "
            "--store."
        )
    if join is not None:
        if data is not None or part is not None or columns is not None or prune or labels or thumbnail:
            raise NearfarError(
                f"--join puts together what is in {join}, and reads no images; give only --out or --store, "
                f"such as nearfar embed RUN --join {shlex.quote(str(join))} --out photos.parquet."
            )
        if (out is None) == (store is None):
            raise NearfarError("--join needs either --out FILE or --store STORE.")
        if out is not None:
            files.check_name(Path(out))
        return joining.join(load(run), join, out=None if out is None else Path(out), store=store)
    if data is None:
        data = run
        if isinstance(data, Run) or is_run(data):
            name = shlex.quote(str(getattr(data, "name", data)))
            raise NearfarError(f"no images are named; write nearfar embed {name} DATA.")
        run = default_encoder(f"nearfar embed RUN {shlex.quote(str(data))}")
    if boxes is not None:
        data, labels = open_boxes(data, boxes), True
    if store is not None:
        if out is not None:
            raise NearfarError("--out and --store exclude each other; give one of them.")
        how: dict[str, Any] = {
            "device": device,
            "engine": engine,
            "batch_size": batch_size,
            "workers": workers,
            "labels": labels,
        }
        slice_ = None if part is None else CollectionPart.read(part)
        if slice_ is not None and prune:
            raise NearfarError("--prune looks at all images; run it without --part, when all parts are done.")
        return fill(run, data, store, columns=columns, prune=prune, thumbnail=thumbnail, part=slice_, **how)
    if columns is not None or prune or thumbnail is not None:
        raise NearfarError(
            "--columns, --prune and --thumbnail need a store; name one, such as --store photos.nf"
        )
    run = load(run)
    path = Path(out) if out is not None else None
    if on is not None:
        if path is None or path.suffix.lower() in files.SUFFIXES or path.is_file():
            raise NearfarError("with --on ray, --out is a folder for all parts; write --out parts/")
        how = {"device": device, "engine": engine, "batch_size": batch_size, "workers": workers}
        if isinstance(data, str | Path) and Path(data).exists():  # workers may stand elsewhere
            data = str(Path(data).absolute())
        return embed_on_ray(_address(run), data, path.absolute(), parts=parts, labels=labels, **how)
    if part is not None:
        if path is None or path.suffix.lower() in files.SUFFIXES or path.is_file():
            raise NearfarError("with --part, --out is a folder for all parts; write --out parts/")
        how = {"device": device, "engine": engine, "batch_size": batch_size, "workers": workers}
        return embed_part(run, data, path, CollectionPart.read(part), labels=labels, **how)
    if path is not None:
        files.check_name(path)
    where = engines.place(device, engine)
    net = engines.network(run, where, engine)
    job = _Job(run, net, engine, where, batch_size, workers or cores(), labels)
    if path is None:
        source = open_data(data, expected=run.preprocess.modality, labels=labels)
        return _embed(job, source, None, None)
    folder = path.with_name(path.name + ".parts")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NearfarError(
            f"{folder.parent} cannot be written ({error.strerror}); choose another place with --out."
        ) from error
    try:
        with locks.hold(folder / ".lock"):
            # Opened once the folder is ours: listing a million files is part of the work.
            source = open_data(data, expected=run.preprocess.modality, labels=labels)
            journal = Journal(folder, _key(job, source))
            result = _embed(job, source, path, journal)
    except locks.Busy:
        raise NearfarError(f"another process is writing {path}; wait for it, or name another file.") from None
    except NearfarError:
        drop_unused(folder)
        raise
    journal.clear()
    drop_unused(folder)
    return result


def _address(run: Run) -> str:
    """Name a run so that other processes can open it."""
    if run.path is None:
        return run.name
    return str(run.path.absolute())


@dataclass(frozen=True)
class _Job:
    """How vectors are made."""

    run: Run
    net: nn.Module
    engine: str
    device: torch.device
    batch_size: int
    workers: int
    labels: bool


def _key(job: _Job, source: Source) -> str:
    """Name a job by all that its vectors depend on: encoder, preprocessing, engine, images."""
    digest = hashlib.sha256()
    told = [fingerprint(job.run.encoder), to_json(job.run.preprocess), job.engine, CHUNK_IMAGES]
    digest.update(json.dumps(told).encode())
    for row, name in enumerate(source.ids):
        digest.update(f"{name}\0{source.stamp(row)}\0".encode())
    return digest.hexdigest()


def _embed(job: _Job, source: Source, path: Path | None, journal: Journal | None) -> Embeddings:
    """Do the chunks that are missing, put all together, and write the output."""
    run = job.run
    starts = range(0, len(source.ids), CHUNK_IMAGES)
    parts: dict[int, ChunkResult] = {}
    for low in starts:
        done = journal.get(low) if journal else None
        if done is not None:
            parts[low] = done
    left = [low for low in starts if low not in parts]
    if parts:
        progress.say(f"{len(parts):,} of {len(starts):,} chunks are done; resuming.")
    how: dict[str, Any] = {"device": job.device, "batch_size": job.batch_size, "threads": job.workers}
    with progress.Bar("embedding", len(source.ids), modality_of(source).noun) as bar:
        bar.done = len(source.ids) - sum(min(CHUNK_IMAGES, len(source.ids) - low) for low in left)
        for low, decoded in zip(left, read_chunks(source, left, run.preprocess, job.workers), strict=True):
            vectors = finite(features(job.net, decoded, run.preprocess, **how))
            bad = np.array([row for row, _ in decoded.bad], np.int64)
            reasons = np.array([reason for _, reason in decoded.bad], np.str_)
            parts[low] = ChunkResult(decoded.kept, vectors, bad, reasons)
            if journal is not None:
                journal.put(low, parts[low])
            bar.advance(len(decoded) + len(bad))
    ordered = [parts[low] for low in starts]
    good = [part for part in ordered if len(part.kept)]
    rejected = tuple(
        Rejected(source.ids[row], str(reason))
        for part in ordered
        for row, reason in zip(part.bad.tolist(), part.reasons.tolist(), strict=True)
    )
    if not good:
        raise none_usable(source, rejected[0].reason)
    kept = np.concatenate([part.kept for part in good]).tolist()
    result = Embeddings(
        ids=tuple(source.ids[row] for row in kept),
        vectors=np.concatenate([part.vectors for part in good]),
        labels=tuple(source.labels[row] for row in kept)
        if job.labels and source.labels is not None
        else None,
        path=path,
        rejected=rejected,
    )
    if path is not None:
        facts = {
            "run": run.name,
            "encoder": fingerprint(run.encoder),
            "preprocess": to_json(run.preprocess),
            "engine": job.engine,
            **engines.closeness(job.net),
            "data": source.name,
            "provenance": run.provenance,
        }
        files.write_vectors(path, result.ids, result.vectors, result.labels, facts)
        write_rejected_beside(path, rejected)
        if rejected:
            many = counted(len(rejected), f"unusable {modality_of(source).one} is")
            progress.say(f"{many} skipped; {path}.rejected.csv lists them.")
    return result
