"""Puts the parts that `parts` wrote together, after checking that no image is missing or there twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core import progress
from ..core.errors import NearfarError
from ..core.plain_path import plain_path
from ..core.text import counted
from ..data.modalities import modality
from ..data.reading import Rejected, write_rejected_beside
from ..features import files
from ..features.extract import fingerprint
from ..stores.base import StoreInfo
from ..stores.known_ids import hashes
from ..stores.open import open_store
from ..training.run import Run
from . import engines
from .fill import DATA_LABEL
from .part import CollectionPart
from .parts import DONE, piece_key, piece_name, read_note

Flags = npt.NDArray[np.bool_]

TOGETHER, ROOM = 1 << 16, 1 << 27  # rows, and bytes, that are brought into a store at once
THERE = "there already"  # a column for a moment
SAME = ("parts", "encoder", "preprocess", "engine", "dim", "labels", "modality", "images", "collection")


@dataclass(frozen=True)
class JoinedParts:
    """What the parts of a collection gave together.

    Attributes:
        where: the file or the store.
        parts: how many there were.
        images: that have a vector.
        dim: numbers in a vector.
        written: rows written; a store has the others already.
        rejected: the images without a vector, each with its reason.
        one: the word for one of them.
    """

    where: str
    parts: int
    images: int
    dim: int
    written: int
    rejected: tuple[Rejected, ...]
    one: str = "image"

    def to_json(self) -> dict[str, Any]:
        """Describe it in plain values."""
        names = ("where", "parts", "images", "dim", "written")
        bad = [{"id": item.id, "reason": item.reason} for item in self.rejected]
        return {**{name: getattr(self, name) for name in names}, "rejected": bad}

    def __str__(self) -> str:
        """Say it in a line."""
        size = f"{counted(self.images, 'vector')} of {self.dim} numbers"
        bad = counted(len(self.rejected), self.one)
        return f"{self.where}: {size} from {counted(self.parts, 'part')} ({bad} unusable)"


def join(
    run: Run, folder: str | Path, *, out: Path | None = None, store: str | Path | None = None
) -> JoinedParts:
    """Check the parts in a folder, and write one file or store of them.

    Vectors in a file are in the collection's order, as if one process had embedded it. Memory: a Parquet file
    takes some pieces of each part; the other formats take all vectors.

    Args:
        run: the encoder that the parts must be of.
        folder: where the parts are.
        out: a .parquet, .npz or .npy file; None with a store.
        store: a store's address.

    Returns:
        What there was.

    Raises:
        NearfarError: a part is missing, unfinished, damaged or of another job, or an image is there twice or
            not at all.
    """
    found = _Parts(Path(folder))
    if found.first["encoder"] != fingerprint(run.encoder):
        raise NearfarError(
            f"the parts in {folder} are of another encoder ({found.first['run']}); name that run."
        )
    rejected = found.check()
    one = modality(found.first["modality"]).one
    if not found.vectors:
        images, first = counted(found.first["images"], one), rejected[0]
        raise NearfarError(f"of {images} none can be used ({first.id}: {first.reason}); replace them.")
    if store is not None:
        written, where = _into_store(found, store), str(store)
    else:
        assert out is not None
        written, where = _into_file(found, run, out), str(out)
        write_rejected_beside(out, rejected)
    return JoinedParts(where, len(found.notes), found.vectors, found.first["dim"], written, rejected, one)


class _Parts:
    """The parts in a folder."""

    def __init__(self, folder: Path) -> None:
        """Read what each part says of itself, and refuse what does not belong together."""
        if not folder.is_dir():
            raise NearfarError(f"there is no folder {folder}; give the --out of the parts.")
        self.folder = folder
        there = sorted(path for path in folder.glob("part-*-of-*") if path.is_dir())
        if not there:
            raise NearfarError(f"{folder} holds no parts; write them with nearfar embed RUN DATA --part 1/N.")
        counts = sorted({path.name.rpartition("-")[2] for path in there})
        if len(counts) > 1:
            raise NearfarError(f"{folder} holds parts of {' and of '.join(counts)}; keep one kind.")
        count = int(counts[0]) if counts[0].isdigit() else 0
        self.parts = [CollectionPart(number, count) for number in range(1, count + 1)]
        read = {part: read_note(folder / part.folder / DONE) for part in self.parts}
        self.notes = {part: note for part, note in read.items() if note is not None}
        missing = [part.number for part in self.parts if part not in self.notes]
        if missing or not self.notes:
            shown = ", ".join(f"{number}/{count}" for number in missing[:8])
            more = f" and {len(missing) - 8:,} more" if len(missing) > 8 else ""
            raise NearfarError(
                f"{folder} lacks {counted(len(missing), 'part')}: run --part {shown}{more} to the end."
            )
        self.first = self.notes[self.parts[0]]
        for part, note in self.notes.items():
            odd = [name for name in SAME if note.get(name) != self.first.get(name)]
            if odd:
                raise NearfarError(
                    f"parts 1 and {part.number} in {folder} differ in: {', '.join(odd)}; run one of them "
                    "again with the same run and the same images."
                )
        self.vectors = sum(int(note["vectors"]) for note in self.notes.values())

    def closeness(self) -> dict[str, float]:
        """Say how close the engine's vectors were to torch's, in the part where they were least so."""
        least = [note[engines.COSINE] for note in self.notes.values() if engines.COSINE in note]
        return {engines.COSINE: min(least)} if least else {}

    def _damaged(self, path: Path, what: str) -> NearfarError:
        part = CollectionPart(*map(int, path.parent.name.split("-")[1::2]))
        return NearfarError(
            f"{path} {what}; delete it and run --part {part.number}/{part.count} again, which makes it anew."
        )

    def pieces(self, part: CollectionPart, columns: list[str] | None) -> Iterator[Any]:
        """Read the pieces of a part, in order.

        Args:
            part: which.
            columns: those wanted; None for all.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        for at, key in enumerate(self.notes[part]["pieces"]):
            path = self.folder / part.folder / piece_name(at)
            if piece_key(path) != key:
                raise self._damaged(path, "is missing, or not the piece that its part speaks of")
            try:
                yield pq.read_table(
                    plain_path(path), columns=columns, page_checksum_verification=True, partitioning=None
                )
            except (OSError, pa.ArrowException) as error:
                raise self._damaged(path, f"is damaged ({str(error)[:100]})") from None

    def check(self) -> tuple[Rejected, ...]:
        """Make sure that each image of the collection is there once: with a vector, or rejected.

        Returns:
            The rejected images, in the collection's order.
        """
        seen = np.zeros(self.first["images"], bool)
        rejected: list[tuple[int, str, str]] = []
        with progress.Bar("checking", len(self.parts)) as bar:
            for part in self.parts:
                names: set[str] = set()  # equal ids are of one part
                for at, table in enumerate(self.pieces(part, ["row", "id"])):
                    bad = json.loads(table.schema.metadata[b"rejected"])
                    rejected += [(row, name, why) for row, name, why in bad]
                    rows = np.concatenate([table["row"].to_numpy(), [row for row, _, _ in bad]]).astype(
                        np.int64
                    )
                    mine = [*table["id"].to_pylist(), *(name for _, name, _ in bad)]
                    path = self.folder / part.folder / piece_name(at)
                    stranger = next((name for name in mine if not part.holds(name)), None)
                    if stranger is not None:
                        raise self._damaged(path, f"holds {stranger!r}, which belongs to another part")
                    if seen[rows].any() or names & {*mine}:
                        raise self._damaged(path, "holds images that another piece holds too")
                    seen[rows] = True
                    names |= {*mine}
                bar.advance(1)
        lost = int((~seen).sum())
        if lost:
            raise NearfarError(
                f"{lost:,} of the {len(seen):,} rows are in no part of {self.folder}, the first one at row "
                f"{int(np.argmin(seen)) + 1:,}; run the parts again with the images as they are now."
            )
        return tuple(Rejected(name, why) for _, name, why in sorted(rejected))

    def in_order(self) -> Iterator[Any]:
        """Give all vectors in the collection's order, in tables of `files.GROUP` rows."""
        import pyarrow as pa

        columns = ["row", "id", *(["label"] if self.first["labels"] else []), "vector"]
        readers = [self.pieces(part, columns) for part in self.parts]
        held: list[Any] = [next(reader, None) for reader in readers]
        ready: list[Any] = []
        for low in range(0, self.first["images"], files.GROUP):
            for at, reader in enumerate(readers):
                # The rows of a part ascend, so that what a window needs lies at the front.
                while held[at] is not None:
                    table = held[at]
                    inside = int(np.searchsorted(table["row"].to_numpy(), low + files.GROUP))
                    ready.append(table.slice(0, inside))
                    held[at] = table.slice(inside) if inside < len(table) else next(reader, None)
                    if inside < len(table):
                        break
            whole = pa.concat_tables(ready).sort_by("row") if ready else None
            # A window's rows all precede the next window's, so what is left over stays in order.
            while whole is not None and len(whole) >= files.GROUP:
                yield whole.slice(0, files.GROUP).drop_columns(["row"])
                whole = whole.slice(files.GROUP)
            ready = [] if whole is None else [whole]
        if ready and len(ready[0]):
            yield ready[0].drop_columns(["row"])


def _into_file(found: _Parts, run: Run, path: Path) -> int:
    """Write one file of all vectors."""
    facts = {
        "run": found.first["run"],
        "encoder": found.first["encoder"],
        "preprocess": found.first["preprocess"],
        "engine": found.first["engine"],
        **found.closeness(),
        "data": found.first["data"],
        "provenance": found.first["provenance"],
    }
    if path.suffix.lower() == ".parquet":
        files.write_parquet(path, found.in_order(), json.dumps(facts, ensure_ascii=False))
        return found.vectors
    tables = list(found.in_order())
    ids = [name for table in tables for name in table["id"].to_pylist()]
    labels = (
        [word for table in tables for word in table["label"].to_pylist()] if found.first["labels"] else None
    )
    width = found.first["dim"]
    flat = [table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, width) for table in tables]
    files.write_vectors(path, ids, np.concatenate(flat), labels, facts)
    return found.vectors


class _Known:
    """What a store has, as hashes of 64 bits: 16 bytes a row in place of two texts."""

    def __init__(self, rows: Any) -> None:
        """Take note of rows: a table with id and digest."""
        ids = hashes(rows["id"])
        order = np.argsort(ids)
        self.ids, self.digests = ids[order], hashes(rows["digest"])[order]

    def find(self, table: Any) -> tuple[Flags, Flags]:
        """Tell which rows of a table the store has, and which of these with the same content."""
        ids = hashes(table["id"])
        if not len(self.ids):
            return np.zeros(len(ids), bool), np.zeros(len(ids), bool)
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        there = self.ids[at] == ids
        return there, there & (self.digests[at] == hashes(table["digest"]))


def _into_store(found: _Parts, address: str | Path) -> int:
    """Bring a store up to date with the parts; rows whose content it has stay as they are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    first = found.first
    own = {"modality": first["modality"], "engine": first["engine"]}
    info = StoreInfo(first["dim"], first["encoder"], first["run"], first["preprocess"], **own)
    store = open_store(address, info)
    known = _Known(store.rows(["id", "digest"]))
    written = 0
    with progress.Bar("joining", found.vectors) as bar:
        for table in _written_together(found):
            there, same = known.find(table)
            kept = table.append_column(THERE, pa.array(there)).filter(pa.array(~same))
            olds = kept[THERE]
            kept = kept.drop_columns(["row", THERE])
            written += len(kept)
            bar.advance(len(table))
            if len(kept) and first["labels"]:  # a label that the store has is its owner's
                kept = kept.append_column(DATA_LABEL, kept["label"])
                for rows in (kept.filter(olds).drop_columns(["label"]), kept.filter(pc.invert(olds))):
                    if len(rows):
                        store.upsert(rows)
            elif len(kept):
                store.upsert(kept)
    engines.note_closeness(store, found.closeness() if written else {})
    if written:
        store.compact(spare=True)
    return written


def _written_together(found: _Parts) -> Iterator[Any]:
    """Give the pieces of all parts, several at a time: each time something is written costs by itself."""
    import pyarrow as pa

    held: list[Any] = []
    for part in found.parts:
        for table in found.pieces(part, None):
            held.append(table)
            if sum(map(len, held)) >= TOGETHER or sum(table.nbytes for table in held) >= ROOM:
                yield pa.concat_tables(held)
                held = []
    if held:
        yield pa.concat_tables(held)
