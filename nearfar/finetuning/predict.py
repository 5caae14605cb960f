"""`nearfar predict`: what a fine-tuned run says of each image of a collection, chunk by chunk."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import finetuning as tasks
from ..core import locks, progress
from ..core.cache_root import cache_root
from ..core.config import build, flag_of, settings_of, to_json
from ..core.device import cores, device_named
from ..core.errors import NearfarError, nearest
from ..core.text import counted, printable
from ..data.masks import MASK, MASK_DIGEST
from ..data.modalities import modality, modality_of
from ..data.open import open_data
from ..data.reading import Rejected, none_usable, write_rejected_beside
from ..data.source import FileSource, Source, files_of
from ..features.chunked import CHUNK_IMAGES, Chunk, read_chunks
from ..features.extract import fingerprint
from ..stores.base import VectorStore
from ..stores.cut_out import cut_out
from ..stores.open import open_store
from ..stores.schema import check_kinds
from ..training.run import Run
from . import prediction_files, sheet
from .class_answers import ClassAnswers
from .prediction_files import Part, Parts
from .task_types import Setup
from .tuned import Tuned, open_tuned


@dataclass(frozen=True)
class Predictions:
    """What was predicted.

    Attributes:
        path: the file written, if any.
        images: that were predicted.
        counts: value of the first column to how many rows have it.
        seconds: this call took to predict what was left.
        fresh: images that this call predicted; the others were there from a call that was cut short.
        rejected: images that cannot be used.
        notes: what a user has to know, a sentence each.
        noun: the word for several examples, such as clips.
    """

    path: Path | None
    images: int
    counts: Mapping[str, int]
    seconds: float
    fresh: int
    rejected: tuple[Rejected, ...] = ()
    notes: tuple[str, ...] = field(default=())
    noun: str = "images"

    def to_json(self) -> dict[str, Any]:
        """Describe it in plain values, without the rows."""
        bad = [{"id": item.id, "reason": item.reason} for item in self.rejected]
        names = ("images", "seconds", "fresh")
        plain = {name: getattr(self, name) for name in names}
        where = str(self.path) if self.path else None
        return {"path": where, **plain, "counts": dict(self.counts), "rejected": bad, "notes": [*self.notes]}

    def __str__(self) -> str:
        """Say it in a few lines."""
        pace = f", {self.fresh / self.seconds:,.0f} {self.noun}/s" if self.fresh and self.seconds else ""
        lines = [f"{self.path or 'predicted'}: {counted(self.images, self.noun[:-1])}{pace}"]
        told = [f"{count:,} {printable(name) or 'without a class'}" for name, count in self.counts.items()]
        lines += ["; ".join(told[:12]) + ("; ..." if len(told) > 12 else "")] if told else []
        if self.rejected:
            first = self.rejected[0]
            lines.append(f"{len(self.rejected):,} unusable, such as {first.id}: {first.reason}")
        return "\n".join([*lines, *self.notes])


def predict(
    run: Run | str | Path,
    data: Any = None,
    *,
    out: str | Path | None = None,
    store: str | Path | None = None,
    sheet: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 256,
    workers: int | None = None,
    **settings: Any,
) -> Predictions:
    """Predict images with a fine-tuned run. Run the same command again to resume an unfinished prediction.

    Example: nearfar predict runs/c photos/ --out predictions.csv

    Args:
        run: the folder of a run that nearfar finetune made.
        data: images; with --store, by default those of the store.
        out: a .csv, .json or .parquet file to write, a row an image with its class and the probability; of
            other tasks a row for each class or object. Masks are written into a folder beside it.
        store: a vector store that holds these images, whose columns are written, such as predicted.
        sheet: a .png file: some of the images with what is predicted of them.
        device: auto, cpu, cuda or mps.
        batch_size: number of images predicted at a time.
        workers: CPU threads that read images; if not given, all cores.
        **settings: those of the run's task, by name.

    Returns:
        How many images were predicted as what, and how fast.

    Raises:
        NearfarError: the run or the images cannot be used, or a file cannot be written.
    """
    for flag, value in (("--batch-size", batch_size), ("--workers", workers)):
        if value is not None and value < 1:
            raise NearfarError(f"{flag} is {value}; give 1 or more.")
    name = shlex.quote(run.name if isinstance(run, Run) else os.fspath(run))
    if out is None and store is None and sheet is None:
        raise NearfarError(
            "nothing is to be written; add --out FILE.csv, --store STORE or --sheet FILE.png, for example: "
            f"nearfar predict {name} photos/ --out predictions.csv"
        )
    path, picture = (Path(out) if out else None), (Path(sheet) if sheet else None)
    if path is not None:
        prediction_files.check_name(path)
    if picture is not None:
        _check_sheet(picture)
    opened = open_tuned(run)
    kind = modality_of(opened.run.preprocess)
    if picture is not None and not kind.pictures:
        raise NearfarError(f"--sheet shows images, and {opened.run.name} is for {kind.noun}; leave it out.")
    if isinstance(opened.task, ClassAnswers):
        opened.task.noun = kind.noun
    notes = opened.task.prepare(_predicting(opened, settings))
    kept = None if store is None else open_store(store)
    if data is None:
        if kept is None:
            raise NearfarError(
                f"no images are named; write nearfar predict {name} DATA --out predictions.csv"
            )
        source = _of_store(kept)
    else:
        source = open_data(data, expected=opened.run.preprocess.modality)
    if kept is not None:
        masks = dict.fromkeys((MASK, MASK_DIGEST), "text") if path is not None and opened.task.masks else {}
        check_kinds({**opened.task.store_kinds(), **masks}, kept, instead="")
        notes = (*notes, _check_store(kept, source))
    job = _Job(opened, source, path, kept, device_named(device), batch_size, workers or cores())
    return job.run(picture, notes, settings)


def _check_sheet(path: Path) -> None:
    sheet.check_name(path)


def _predicting(opened: Tuned, given: Mapping[str, Any]) -> Any:
    """Build the settings of the run's task; one of another task is refused."""
    own = tasks.task_settings(opened.task.name, "Predicting")
    names = {item.name for item in settings_of(own)}
    plain = {name: value for name, value in given.items() if value is not None}
    for name in plain:
        if name not in names:
            flag, known = flag_of(name), [flag_of(each) for each in names]
            what = nearest(flag, known) if known else "leave it out."
            raise NearfarError(
                f"{opened.run.name} is of --task {opened.task.name}, which has no {flag}; {what}"
            )
    return build(own, plain)


def _of_store(store: VectorStore) -> Source:
    """Take the images of a store, by their paths."""
    table = store.rows(["id", "path"])
    ids, paths = table.column("id").to_pylist(), files_of(table.column("path").to_pylist())
    there = [(name, path) for name, path in zip(ids, paths, strict=True) if path]
    if not there:
        raise NearfarError(
            f"{store.address} holds no paths of images; name the images: predict RUN DATA --store."
        )
    names, files = [name for name, _ in there], [path for _, path in there]
    return cut_out(store, names, FileSource(store.address, names, None, Path("/"), files), files)


def _check_store(store: VectorStore, source: Source) -> str:
    """Make sure that a store holds images of a collection, and say how many."""
    there = set(store.ids())
    count = sum(name in there for name in source.ids)
    if not count:
        raise NearfarError(
            f"{store.address} holds none of the images of {source.name}; embed them first: nearfar embed RUN "
            f"{shlex.quote(source.name)} --store {shlex.quote(store.address)}"
        )
    missing = len(source) - count
    return f"{store.address}: columns for {counted(count, modality(source.modality).one)}" + (
        f"; not in it: {missing:,}" if missing else ""
    )


@dataclass
class _Job:
    """One prediction of a collection."""

    opened: Tuned
    source: Source
    path: Path | None
    store: VectorStore | None
    device: torch.device
    batch_size: int
    workers: int
    _names: list[str] = field(default_factory=list)  # of files, one an image

    @property
    def beside(self) -> Path | None:
        """The folder of files of single images, such as masks; None where none are written."""
        task = self.opened.task
        return self.path.with_suffix("") if self.path and (task.masks or task.common_files()) else None

    def run(self, picture: Path | None, notes: tuple[str, ...], settings: Mapping[str, Any]) -> Predictions:
        """Predict what is left, and write what was asked for."""
        if self.beside is not None:
            prediction_files.check_folder(self.beside)
        self.opened.network.to(self.device)
        noun = modality(self.source.modality).noun
        found = Predictions(None, 0, {}, 0.0, 0, (), notes, noun)
        if self.path is not None or self.store is not None:
            found = self._all(notes, settings)
        if picture is not None:
            drawn = self._draw(picture)
            if self.path is None and self.store is None:
                found = replace(found, path=picture, images=drawn)
        return found

    def _all(self, notes: tuple[str, ...], settings: Mapping[str, Any]) -> Predictions:
        base = self.path or self._aside()
        folder = base.with_name(base.name + ".parts")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NearfarError(
                f"{folder.parent} cannot be written ({error.strerror}); choose another place with --out."
            ) from error
        try:
            with locks.hold(folder / ".lock"):
                made = self.beside is None or prediction_files.take_folder(self.beside)
                parts = Parts(folder, self._key(settings), anew=not made)
                found = self._work(parts, notes)
        except locks.Busy:
            raise NearfarError(
                f"another process is writing {base}; wait for it, or name another file."
            ) from None
        parts.clear()
        prediction_files.remove(folder)
        return found

    def _aside(self) -> Path:
        """Name a place for the parts of a store's columns, since no file of the user's stands beside them."""
        address = "" if self.store is None else self.store.address
        return cache_root() / "predictions" / hashlib.sha256(address.encode()).hexdigest()[:16]

    def _key(self, settings: Mapping[str, Any]) -> str:
        """Name a job by all that its rows depend on."""
        run, task = self.opened.run, self.opened.task
        digest = hashlib.sha256()
        facts = [fingerprint(self.opened.network), to_json(run.preprocess), task.card(), dict(settings)]
        facts += [list(task.also_read())]
        where = self.store.address if self.store else None
        layout = [item.name for item in fields(Part)]
        digest.update(json.dumps([*facts, where, CHUNK_IMAGES, layout], sort_keys=True, default=str).encode())
        for row, name in enumerate(self.source.ids):
            digest.update(f"{name}\0{self.source.stamp(row)}\0".encode())
        return digest.hexdigest()

    def _work(self, parts: Parts, notes: tuple[str, ...]) -> Predictions:
        starts = range(0, len(self.source), CHUNK_IMAGES)
        left = [low for low in starts if not parts.has(low)]
        if len(left) < len(starts):
            progress.say(f"{len(starts) - len(left):,} of {len(starts):,} chunks are done; resuming.")
        if self.store is not None:
            for low in sorted({*starts} - {*left}):  # the store may have been made anew since
                if values := parts.get(low).columns:
                    self.store.update_columns(values)
        fresh = sum(min(CHUNK_IMAGES, len(self.source) - low) for low in left)
        began = time.perf_counter()
        with progress.Bar("predicting", len(self.source), modality_of(self.source).noun) as bar:
            bar.done = len(self.source) - fresh
            chunks = read_chunks(self.source, left, self._reading(), self.workers)
            for low, chunk in zip(left, chunks, strict=True):
                parts.put(low, self._part(chunk))
                bar.advance(len(chunk) + len(chunk.bad))
        seconds = time.perf_counter() - began
        counts: Counter[str] = Counter()
        images, bad = 0, []
        for low in starts:
            part = parts.get(low)
            images += part.images
            bad += [Rejected(name, reason) for name, reason in part.bad]
            counts.update(str(row[1]) for row in part.rows)
        if not images:
            raise none_usable(self.source, bad[0].reason)
        if self.path is not None:
            task = self.opened.task
            columns, every = {"path": "text", **task.columns()}, (parts.get(low) for low in starts)
            prediction_files.write(self.path, columns, every, task.document)
            if self.beside is not None:
                prediction_files.put_named(self.beside, task.common_files())
            write_rejected_beside(self.path, bad)
        ordered = dict(counts.most_common())
        noun = modality(self.source.modality).noun
        return Predictions(self.path, images, ordered, seconds, fresh, tuple(bad), notes, noun)

    def _part(self, chunk: Chunk) -> Part:
        """Predict one chunk, and write its columns into the store."""
        task, ids = self.opened.task, self.source.ids
        answers = self._answers(chunk) if len(chunk) else []
        names = [ids[row] for row in chunk.kept.tolist()]
        rows = [
            [name, *row] for name, answer in zip(names, answers, strict=True) for row in task.rows(answer)
        ]
        values: dict[str, dict[str, Any]] = {}
        if (folder := self.beside) is not None:
            for row, answer in zip(chunk.kept.tolist(), answers, strict=True):
                if files := task.files(answer):
                    self._names = self._names or prediction_files.file_names(ids)
                    prediction_files.put_files(folder, self._names[row], files)
                    if task.masks:
                        ((ending, data),) = files.items()
                        place = os.path.realpath(folder / f"{self._names[row]}{ending}")
                        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
                        values.setdefault(MASK, {})[ids[row]] = place
                        values.setdefault(MASK_DIGEST, {})[ids[row]] = digest
        if self.store is not None and names:
            for name, answer in zip(names, answers, strict=True):
                for column, value in task.store_columns(answer).items():
                    values.setdefault(column, {})[name] = value
            self.store.update_columns(values)
        bad = [[ids[row], reason] for row, reason in chunk.bad]
        return Part(len(names), rows, bad, values if self.store is not None else {})

    def _reading(self) -> Any:
        """Say how images are decoded."""
        return self.opened.task.reading(self.opened.run.preprocess)

    def _answers(self, chunk: Chunk) -> Any:
        setup = Setup(self.opened.run.preprocess, self.device, self.workers)
        return self.opened.task.answers(self.opened.network, chunk, setup, batch_size=self.batch_size)

    def _draw(self, path: Path) -> int:
        """Draw some of the images, evenly spread, with what is said of them, and count them."""
        rows = np.unique(np.linspace(0, len(self.source) - 1, min(sheet.SHOWN, len(self.source))).astype(int))
        some = _Some(self.source, rows.tolist())
        tiles, bad = [], []
        for chunk in read_chunks(some, [0], self._reading(), self.workers):
            bad += [reason for _, reason in chunk.bad]
            answers = self._answers(chunk) if len(chunk) else []
            for at, (row, answer) in enumerate(zip(chunk.kept.tolist(), answers, strict=True)):
                pixels, caption = self.opened.task.draw(chunk.block.image(at).copy(), answer)
                tiles.append((pixels, caption, some.ids[row]))
        if not tiles:
            raise none_usable(some, bad[0])
        sheet.write(path, tiles)
        return len(tiles)


class _Some(Source):
    """Some images of a source."""

    def __init__(self, source: Source, rows: list[int]) -> None:
        super().__init__(source.name, [source.ids[row] for row in rows], None)
        object.__setattr__(self, "_of", (source, rows))

    @property
    def modality(self) -> str:
        """Name the kind of data."""
        return str(self.__dict__["_of"][0].modality)

    def read(self, index: int) -> Any:
        """Fetch one image."""
        source, rows = self.__dict__["_of"]
        return source.read(rows[index])

    def stamp(self, index: int) -> str:
        """Say cheaply what would change if the image did."""
        source, rows = self.__dict__["_of"]
        return str(source.stamp(rows[index]))
