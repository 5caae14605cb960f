"""Embeds one part of a collection, so that any number of machines share the work: each does a part of n.

Which part an image belongs to depends on a hash of its id alone. A part is a folder of Parquet files of up
to `CHUNK_IMAGES` images, each written whole or not at all; `part.json`, written last, says that the part is
done. `joining` puts the parts together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core import locks, progress
from ..core.atomic import atomic_write
from ..core.config import to_json
from ..core.device import cores
from ..core.errors import NearfarError
from ..core.plain_path import plain_path
from ..core.shapes import loads
from ..core.text import counted
from ..data.modalities import modality_of
from ..data.open import open_data
from ..data.source import Source
from ..features.chunked import CHUNK_IMAGES, ragged_chunk
from ..features.extract import features, fingerprint, finite
from ..stores import arrow_rows, schema
from ..stores.base import THUMBNAIL
from ..training.run import Run
from . import engines
from .part import CollectionPart, Rows
from .reader import ImageReader, ReadImage, paths_of

JOB, DONE = "job.json", "part.json"


@dataclass(frozen=True)
class EmbeddedPart:
    """What was done for one part.

    Attributes:
        folder: of the part.
        part: its number.
        parts: of how many.
        images: in the part.
        encoded: in this call; the others were done before.
        unusable: images that have no vector.
        one: the word for one of them.
    """

    folder: Path
    part: int
    parts: int
    images: int
    encoded: int
    unusable: int
    one: str = "image"

    def to_json(self) -> dict[str, Any]:
        """Describe it in plain values."""
        names = ("part", "parts", "images", "encoded", "unusable")
        return {"folder": str(self.folder), **{name: getattr(self, name) for name in names}}

    def __str__(self) -> str:
        """Say it in a line."""
        counts = f"{self.encoded:,} encoded now, {self.unusable:,} unusable"
        return f"{self.folder}: part {self.part} of {self.parts}, {counted(self.images, self.one)} ({counts})"


def embed_part(
    run: Run,
    data: Any,
    out: Path,
    part: CollectionPart,
    *,
    device: str,
    engine: str,
    batch_size: int,
    workers: int | None,
    labels: bool,
) -> EmbeddedPart:
    """Embed one part of a collection into a folder below `out`; the same call goes on after a kill.

    Args:
        run: the encoder.
        data: the whole collection; only this part of it is read.
        out: a folder for all parts.
        part: which one.
        device: "auto", "cpu", "cuda" or "mps".
        engine: one of `engines.ENGINES`.
        batch_size: images encoded at a time.
        workers: CPU threads that read images; default: all cores.
        labels: whether to write labels too.

    Returns:
        What was done.

    Raises:
        NearfarError: another process does this part, the folder holds another job's part, or the run or the
            images cannot be used.
    """
    folder = out / part.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NearfarError(
            f"{folder} cannot be made ({error.strerror}); name a folder with --out."
        ) from error
    try:
        with locks.hold(folder / ".lock"):
            source = open_data(data, expected=run.preprocess.modality, labels=labels)
            how = {"device": engines.place(device, engine), "batch_size": batch_size}
            return _Work(run, source, folder, part, engine, workers or cores(), how).carry_out()
    except NearfarError:
        drop_unused(folder)
        raise
    except locks.Busy:
        raise NearfarError(
            f"another process is doing part {part.number}/{part.count} in {out}; wait for it, or do others."
        ) from None


def drop_unused(folder: Path) -> None:
    """Remove the lock of a folder of work, and the folder if nothing else is in it.

    Args:
        folder: nobody works in it any longer.
    """
    with suppress(OSError):  # what else is in the folder stays
        (folder / ".lock").unlink(missing_ok=True)
        folder.rmdir()


class _Work:
    """One part on its way into its folder."""

    def __init__(
        self,
        run: Run,
        source: Source,
        folder: Path,
        part: CollectionPart,
        engine: str,
        workers: int,
        how: dict[str, Any],
    ) -> None:
        self.source, self.folder, self.part = source, folder, part
        self.kind, self.how = run.preprocess.modality, {**how, "threads": workers}
        self.net = engines.network(run, how["device"], engine)
        self.reader = ImageReader(source, run.preprocess, THUMBNAIL, workers)
        self.paths = paths_of(source)
        self.job = {
            "part": part.number,
            "parts": part.count,
            "run": run.name,
            "encoder": fingerprint(run.encoder),
            "preprocess": to_json(run.preprocess),
            "engine": engine,
            "dim": run.encoder.dim,
            "labels": source.labels is not None,
            "provenance": run.provenance,
            "modality": self.kind,
        }

    def carry_out(self) -> EmbeddedPart:
        """Do the pieces that are missing, then say that the part is done."""
        import pyarrow.parquet as pq

        self._check()
        rows = self.part.rows(self.source.ids)
        pieces = [rows[low : low + CHUNK_IMAGES] for low in range(0, len(rows), CHUNK_IMAGES)]
        keys = [self._key(piece) for piece in pieces]
        left = [at for at, key in enumerate(keys) if piece_key(self.folder / piece_name(at)) != key]
        if len(left) < len(pieces):
            progress.say(f"{len(pieces) - len(left):,} of {len(pieces):,} pieces are done; resuming.")
        kept = {} if left else read_note(self.folder / DONE) or {}
        before = {name: kept[name] for name in (engines.COSINE,) if name in kept}
        if left:  # what follows changes the part
            (self.folder / DONE).unlink(missing_ok=True)
        with progress.Bar("embedding", len(rows), modality_of(self.source).noun) as bar:
            bar.done = len(rows) - sum(len(pieces[at]) for at in left)
            # All pieces but the last are whole chunks.
            wanted = [int(row) for at in left for row in pieces[at]]
            for at, seen in zip(left, self.reader.chunks(rows=wanted), strict=True):
                table = self._table(seen, keys[at])
                with atomic_write(self.folder / piece_name(at)) as file:
                    pq.write_table(table, file, compression="zstd", write_page_checksum=True)
                bar.advance(len(seen))
        counts = [
            pq.read_metadata(plain_path(self.folder / piece_name(at))).num_rows for at in range(len(pieces))
        ]
        note = {
            **self.job,
            **(engines.closeness(self.net) or before),
            "data": self.source.name,
            "images": len(self.source),
            "collection": collection_digest(self.source.ids),
            "pieces": keys,
            "vectors": sum(counts),
            "unusable": len(rows) - sum(counts),
        }
        with atomic_write(self.folder / DONE) as file:
            file.write(json.dumps(note, ensure_ascii=False).encode())
        encoded = sum(len(pieces[at]) for at in left)
        done = (len(rows), encoded, note["unusable"])
        one = modality_of(self.source).one
        return EmbeddedPart(self.folder, self.part.number, self.part.count, *done, one)

    def _check(self) -> None:
        """Refuse to go on in the folder of another job: its vectors may have taken days."""
        path, told = self.folder / JOB, json.dumps(self.job, ensure_ascii=False)
        found = read_note(path)
        if found is None:
            with atomic_write(path) as file:
                file.write(told.encode())
        elif found != json.loads(told):
            names = [name for name, value in json.loads(told).items() if found.get(name) != value]
            raise NearfarError(
                f"{self.folder} holds a part of another job (it differs in: {', '.join(names)}); "
                "name another folder with --out, or delete this one."
            )

    def _key(self, rows: Rows) -> str:
        """Name a piece by all that its vectors depend on: the encoder, its preprocessing, the images."""
        told = [self.job[name] for name in ("encoder", "preprocess", "engine")]
        digest = hashlib.sha256(json.dumps(told).encode())
        for row in rows.tolist():
            digest.update(f"{row}\0{self.source.ids[row]}\0{self.source.stamp(row)}\0".encode())
            if self.source.labels is not None:
                digest.update(f"{self.source.labels[row]}\0".encode())
        return digest.hexdigest()

    def _table(self, seen: Sequence[ReadImage], key: str) -> Any:
        """Encode a piece: what a store keeps of each image, its row in the collection, and its vector."""
        import pyarrow as pa

        good = [item for item in seen if item.example is not None]
        values = [item.example.value for item in good if item.example is not None]
        block = ragged_chunk([item.row for item in good], values, self.kind)
        width = self.job["dim"]
        vectors = np.empty((0, width), np.float32)
        if good:
            vectors = finite(features(self.net, block, self.reader.preprocess, **self.how))
        at = [item.row for item in good]
        columns: dict[str, Any] = {
            "row": pa.array(at, pa.int64()),
            "id": pa.array([self.source.ids[row] for row in at], pa.string()),
            "path": pa.array([self.paths[row] for row in at], pa.string()),
            "digest": pa.array([item.digest for item in good], pa.string()),
            "bytes": pa.array([item.size for item in good], pa.int64()),
        }
        if self.source.labels is not None:
            columns["label"] = pa.array([self.source.labels[row] for row in at], pa.string())
        for name, kind in self.reader.modality.columns.items():
            found = [item.example.columns[name] for item in good if item.example is not None]
            columns[name] = pa.array(found, schema.arrow_type(name, kind, self.reader.modality.columns))
        columns["thumbnail"] = pa.array([item.thumbnail for item in good], pa.binary())
        columns["vector"] = arrow_rows.fixed(vectors)
        bad = [[item.row, self.source.ids[item.row], item.bad] for item in seen if item.bad]
        facts = {"key": key, "rejected": json.dumps(bad, ensure_ascii=False)}
        return pa.table(columns).replace_schema_metadata(facts)


def piece_name(at: int) -> str:
    """Name the file of a piece, counted from 0."""
    return f"{at:08d}.parquet"


def piece_key(path: Path) -> str:
    """Read the key of a piece; "" where there is no whole file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return ((pq.read_metadata(plain_path(path)).metadata or {}).get(b"key") or b"").decode()
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        return ""


def read_note(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is none."""
    try:
        found = loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def collection_digest(ids: Sequence[str]) -> str:
    """Digest the names of a collection, in order."""
    digest = hashlib.sha256()
    for some in _slices(ids, 1 << 16):
        digest.update("".join(f"{name}\0" for name in some).encode())
    return digest.hexdigest()


def _slices(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (ids[low : low + size] for low in range(0, len(ids), size))
