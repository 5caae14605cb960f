"""Fills a vector store with a collection: what is new or has changed is encoded, and nothing else.

Images are known by the content of their files. Each chunk is committed by itself, so that a crash loses one
at most, and the same call resumes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import progress
from ..core.config import to_json
from ..core.device import cores
from ..core.errors import NearfarError
from ..core.plain_path import from_home
from ..core.text import counted
from ..data.crops import CLASS, Crops
from ..data.modalities import modality_of
from ..data.open import open_data
from ..data.reading import Rejected, none_usable
from ..data.source import FileSource, file_of
from ..features.chunked import ragged_chunk
from ..features.extract import features, fingerprint, finite
from ..stores import arrow_rows, schema
from ..stores.base import THUMBNAIL, StoreInfo, Vectors, VectorStore
from ..stores.columns import ColumnList, read_columns
from ..stores.open import open_store
from ..training.run import Run, load
from . import engines
from .part import CollectionPart
from .reader import ImageReader, ReadImage, paths_of

Encode = Callable[[Sequence[ReadImage]], Vectors]
BEFORE = "data_"  # begins the name of the column with the label that the collection gave last
DATA_LABEL = f"{BEFORE}label"
SMALLEST, LARGEST = 16, 1024  # pixels of a thumbnail that may be asked for
PIECES = 20  # chunks written, from which on they are put together at the end


@dataclass(frozen=True)
class Filled:
    """What was done with a collection's images.

    Attributes:
        address: of the store.
        images: in the store now.
        encoded: that were new or had changed.
        known: whose content was there under another name, and was not encoded again.
        unchanged: that were there already.
        gone: ids in the store whose files are not there any more.
        pruned: whether those were deleted.
        relabelled: labels that followed a change in the collection.
        kept_labels: labels changed in the store since, which differ from the collection's and stay.
        rejected: images that cannot be used.
        one: the word for one of them, such as clip.
        label_column: the column of their labels.
    """

    address: str
    images: int
    encoded: int
    known: int
    unchanged: int
    gone: tuple[str, ...]
    pruned: bool
    relabelled: int
    kept_labels: int
    rejected: tuple[Rejected, ...]
    one: str = "image"
    label_column: str = "label"

    def to_json(self) -> dict[str, Any]:
        """Describe it in plain values."""
        names = ("address", "images", "encoded", "known", "unchanged", "relabelled", "kept_labels")
        plain = {name: getattr(self, name) for name in names}
        bad = [{"id": item.id, "reason": item.reason} for item in self.rejected]
        return {**plain, "gone": list(self.gone), "pruned": self.pruned, "rejected": bad}

    def __str__(self) -> str:
        """Say it in a few lines."""
        counts = f"{self.encoded:,} encoded, {self.known:,} known by content, {self.unchanged:,} unchanged"
        lines = [f"{self.address}: {counted(self.images, self.one)} ({counts})"]
        if self.relabelled:
            lines.append(f"{counted(self.relabelled, 'label')} changed with the collection")
        if self.kept_labels:
            lines.append(
                f"{counted(self.kept_labels, 'label')} changed in the store, unlike the collection's: kept; "
                f"the column {BEFORE}{self.label_column} holds the collection's"
            )
        if self.gone:
            what = "deleted" if self.pruned else "kept; --prune deletes them"
            lines.append(f"{len(self.gone):,} no longer there, such as {self.gone[0]}: {what}")
        if self.rejected:
            first = self.rejected[0]
            lines.append(f"{len(self.rejected):,} unusable, such as {first.id}: {first.reason}")
        return "\n".join(lines)


def fill(
    run: Run | str | Path,
    data: Any,
    address: str | Path,
    *,
    columns: str | Path | None = None,
    prune: bool = False,
    thumbnail: int | None = None,
    device: str = "auto",
    engine: str = "torch",
    batch_size: int = 256,
    workers: int | None = None,
    labels: bool = False,
    part: CollectionPart | None = None,
    first_chunk: int | None = None,
) -> Filled:
    """Bring a store up to date with a collection; it is made where there is none.

    Memory: 2,000 decoded images, and the names of all.

    Args:
        run: a run, or its folder.
        data: images, as `sources.open_source` takes them.
        address: the store's, as `open_store` takes it.
        columns: a list with further columns, as `read_columns` takes it.
        prune: whether to delete rows whose files are gone.
        thumbnail: pixels of the longer side of thumbnails, in a store that is made; None for `THUMBNAIL`.
        device: "auto", "cpu", "cuda" or "mps".
        engine: one of `engines.ENGINES`.
        batch_size: images encoded at a time.
        workers: CPU threads that read images; default: all cores.
        labels: whether to write labels too. A label that was changed in the store since is kept; the column
            `DATA_LABEL` holds what the collection says; of objects, `class` and `data_class`.
        part: the only part of the collection to read; rows of others are left alone.
        first_chunk: images of the first commit; each is then twice as large, up to the usual size, so that
            who reads the store meanwhile sees it grow. Default: the usual size from the start.

    Returns:
        What was done with the images.

    Raises:
        NearfarError: the run, the images or the list cannot be used, or the store is another encoder's.
    """
    if thumbnail is not None and not SMALLEST <= thumbnail <= LARGEST:
        raise NearfarError(f"--thumbnail is {thumbnail}; give {SMALLEST} to {LARGEST} pixels, such as 256.")
    run = load(run)
    where, workers = engines.place(device, engine), workers or cores()
    kind = run.preprocess.modality
    source = open_data(data, expected=kind, labels=labels)
    extra = None if columns is None else read_columns(columns)
    info = StoreInfo(
        run.encoder.dim,
        fingerprint(run.encoder),
        run.name,
        to_json(run.preprocess),
        thumbnail or THUMBNAIL,
        modality=kind,
        engine=engine,
    )
    for name in extra.columns if extra else ():
        schema.check_update(name, [], {}, info.fixed)
    fresh = "://" not in str(address) and not from_home(address).exists()
    store = open_store(address, info)
    if isinstance(source, Crops):
        schema.check_kinds({**dict.fromkeys(source.columns, "number"), CLASS: "text"}, store, instead="")
    if thumbnail is not None and store.info.thumbnail != thumbnail:
        raise NearfarError(
            f"{store.address} has thumbnails of {store.info.thumbnail} pixels; leave out --thumbnail, or "
            "name a new store."
        )
    net = engines.network(run, where, engine)

    def encode(seen: Sequence[ReadImage]) -> Vectors:
        values = [item.example.value for item in seen if item.example is not None]
        images = ragged_chunk([item.row for item in seen], values, kind)
        how: dict[str, Any] = {"device": where, "batch_size": batch_size, "threads": workers}
        return finite(features(net, images, run.preprocess, **how))

    job = _Job(ImageReader(source, run.preprocess, store.info.thumbnail, workers), store, encode)
    rows = range(len(source)) if part is None else part.rows(source.ids).tolist()
    with progress.Bar("embedding", len(rows), modality_of(source).noun) as bar:
        for chunk in job.reader.chunks(job.by_digest, rows, first_chunk):
            job.take(chunk)
            bar.advance(len(chunk))
    if len(job.bad) == len(source):
        if fresh and not len(store):  # an empty store would belong to this encoder
            shutil.rmtree(from_home(address))
        raise none_usable(source, job.bad[0].reason)
    done = job.finish(extra, prune)
    engines.note_closeness(store, engines.closeness(net))
    return done


class _Job:
    """One collection on its way into one store."""

    def __init__(self, reader: ImageReader, store: VectorStore, encode: Encode) -> None:
        self.reader, self.store, self.encode = reader, store, encode
        self.source = reader.source
        self.objects = isinstance(self.source, Crops)
        self.paths = paths_of(self.source)
        self.labels, self.given = self.source.label_column, BEFORE + self.source.label_column
        wanted = ["digest", "path", self.labels, self.given, *self.source.columns]
        known = store.rows(["id", *(name for name in wanted if name in store.columns)]).to_pydict()
        nothing = [None] * len(known["id"])
        self.digest, self.path, self.label, self.data_label, *numbers = (
            dict[str | None, Any](zip(known["id"], known.get(name, nothing), strict=True)) for name in wanted
        )
        self.numbers = dict(zip(self.source.columns, numbers, strict=True))
        self.by_digest = {digest: name for name, digest in self.digest.items() if digest}
        self.counts = {"encoded": 0, "known": 0, "unchanged": 0, "relabelled": 0, "kept_labels": 0}
        self.pieces, self.bad = 0, list[Rejected]()
        names = set(self.source.ids)
        self.shards = {_shard(name) for name in names}
        self.gone = {name: None for name in self.path if name not in names and self._lost(name)}
        for name, path in zip(self.source.ids, self.paths, strict=True):
            old = self.path.get(name)
            if path and old and old != path and _both_there(path, old):
                raise NearfarError(
                    f"{path} and {old} would both be {name!r} in {store.address}; give the folder above "
                    "both, or name another store."
                )

    def _lost(self, name: str) -> bool:
        """Tell whether a row that the collection lacks has lost its file; out of reach is not lost."""
        path = self.path[name]
        if isinstance(self.source, Crops) and self.source.lists(name):
            return True
        if not path:  # of shards that this call does not name, it knows nothing
            return not isinstance(self.source, FileSource) and _shard(name) in self.shards
        file = file_of(path)
        try:
            os.stat(file)
        except (FileNotFoundError, NotADirectoryError):
            # A link on the way may have led elsewhere when the path was written, where the file still is.
            folder = os.path.dirname(file)
            return os.path.realpath(folder) == os.path.normpath(folder)
        except (OSError, ValueError):
            return False
        return False

    def take(self, chunk: Sequence[ReadImage]) -> None:
        """Commit what is new in a chunk."""
        ids = self.source.ids
        self.bad += [Rejected(ids[seen.row], seen.bad) for seen in chunk if seen.bad]
        new = [seen for seen in chunk if seen.example is not None]
        there = [seen for seen in chunk if seen.example is None and not seen.bad]
        same = [seen for seen in there if self.digest.get(ids[seen.row]) == seen.digest]
        twins = [seen for seen in there if self.digest.get(ids[seen.row]) != seen.digest]
        if twins:
            olds = self.store.rows(ids=[self.by_digest[seen.digest] for seen in twins]).to_pylist()
            pairs = list(zip(twins, olds, strict=True))
            # A row may have got another content since: then there is nothing to copy.
            new += [self.reader.one(seen.row) for seen, old in pairs if old["digest"] != seen.digest]
            self._copy([pair for pair in pairs if pair[1]["digest"] == pair[0].digest])
        self._add([seen for seen in new if not seen.bad])
        self._keep(same)

    def _facts(self, seen: Sequence[ReadImage]) -> dict[str, list[Any]]:
        """Say of images what their files and the collection say."""
        return {
            **{name: [values[item.row] for item in seen] for name, values in self.source.columns.items()},
            "id": [self.source.ids[item.row] for item in seen],
            "path": [self.paths[item.row] for item in seen],
            "digest": [item.digest for item in seen],
            "bytes": [item.size for item in seen],
        }

    def _put(self, facts: dict[str, Any], vectors: Vectors) -> None:
        import pyarrow as pa

        own = {**dict.fromkeys((self.labels, self.given), "text"), **dict.fromkeys(self.numbers, "number")}
        kinds = {**own, **self.store.columns, "thumbnail": None}
        types = {
            name: schema.arrow_type(name, kind, self.store.info.fixed) if kind else pa.binary()
            for name, kind in kinds.items()
        }
        made = {name: pa.array(values, types[name]) for name, values in facts.items()}
        self.store.upsert(pa.table({**made, "vector": arrow_rows.fixed(vectors)}))
        self.pieces += 1

    def _add(self, seen: Sequence[ReadImage]) -> None:
        """Commit images that have to be encoded."""
        if not seen:
            return
        facts = self._facts(seen)
        for what in self.reader.modality.columns:
            facts[what] = [item.example and item.example.columns[what] for item in seen]
        facts["thumbnail"] = [item.thumbnail for item in seen]
        if self.source.labels is not None:
            ids = self.source.ids
            # Where the content changed, an object of the same id is another object.
            there = [None if self.objects else ids[item.row] for item in seen]
            facts[self.labels] = [
                self._label(item.row, self.label.get(name), self.data_label.get(name))
                for item, name in zip(seen, there, strict=True)
            ]
            facts[self.given] = [self.source.labels[item.row] for item in seen]
        self._put(facts, self.encode(seen))
        self.counts["encoded"] += len(seen)

    def _copy(self, pairs: Sequence[tuple[ReadImage, dict[str, Any]]]) -> None:
        """Commit images whose content is there under another name; labels and columns move with files."""
        if not pairs:
            return
        seen, olds = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        names = [old["id"] for old in olds]
        facts: dict[str, list[Any]] = {name: [old[name] for old in olds] for name in olds[0]}
        for name in facts:
            if name == "label" or name not in self.store.info.fixed:
                moves = [self.objects or old["id"] in self.gone for old in olds]
                facts[name] = [old[name] if move else None for old, move in zip(olds, moves, strict=True)]
        if self.source.labels is not None:
            nothing = [None] * len(seen)
            before = zip(seen, *(facts.get(name, nothing) for name in (self.labels, self.given)), strict=True)
            facts[self.labels] = [self._label(item.row, label, given) for item, label, given in before]
            facts[self.given] = [self.source.labels[item.row] for item in seen]
        facts |= {**self._facts(seen), "thumbnail": self.store.thumbnails(names)}
        self._put(facts, self.store.vectors(ids=names)[1])
        self.counts["known"] += len(seen)

    def _keep(self, seen: Sequence[ReadImage]) -> None:
        """Bring the path, the label and the collection's columns of unchanged images up to date."""
        for column, values in self.source.columns.items():
            own, ids = self.numbers[column], self.source.ids
            moved = {ids[item.row]: values[item.row] for item in seen}
            if moved := {name: value for name, value in moved.items() if own[name] != value}:
                self.store.update(column, moved)
        paths, labels, given = {}, {}, {}
        for item in seen:
            name, path = self.source.ids[item.row], self.paths[item.row]
            if path != self.path[name]:
                paths[name] = path
            if self.source.labels is None:
                continue
            label = self._label(item.row, self.label[name], self.data_label[name])
            if label != self.label[name]:
                labels[name] = label
            if self.source.labels[item.row] != self.data_label[name]:
                given[name] = self.source.labels[item.row]
        # Last what the collection gave: until it is written, the next call compares with the one before.
        for column, texts in (("path", paths), (self.labels, labels), (self.given, given)):
            if texts:
                self.store.update(column, texts)
        self.counts["unchanged"] += len(seen)

    def _label(self, row: int, label: str | None, given: str | None) -> str:
        """Give the label of a row: the collection's, unless the store's was changed since it gave `given`."""
        assert self.source.labels is not None
        new = self.source.labels[row]
        if label in (None, given, new):
            self.counts["relabelled"] += label is not None and label != new
            return new
        assert label is not None
        self.counts["kept_labels"] += 1
        return label

    def finish(self, extra: ColumnList | None, prune: bool) -> Filled:
        """Add columns, delete what is gone, put pieces together."""
        if extra is not None:
            extra.join(self.store)
        if prune and self.gone:
            self.store.delete(ids=list(self.gone))
        if self.pieces >= PIECES:
            self.store.compact(spare=True)
        return Filled(
            self.store.address,
            len(self.store),
            **self.counts,
            gone=tuple(self.gone),
            pruned=prune,
            rejected=tuple(self.bad),
            one="object" if self.objects else self.reader.modality.one,
            label_column=self.labels,
        )


def _shard(name: str) -> str:
    """Give the tar shard that an id begins with, or ""."""
    head, mark, _ = name.partition(".tar/")
    return head + mark if mark else ""


def _both_there(path: str, old: str) -> bool:
    """Tell whether two paths lead to two files."""
    try:
        return not os.path.samefile(file_of(path), file_of(old))
    except OSError:
        return False
