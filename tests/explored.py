"""A small store to explore: drawn pictures, encoded by a run of a few steps, some under strange names."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from nearfar import pretrain
from nearfar.core.config import to_json
from nearfar.demo import drawings
from nearfar.features.extract import fingerprint
from nearfar.stores import StoreInfo, VectorStore, open_store
from nearfar.training.run import Run

EVIL = (
    "<img src=x onerror=alert(1)>.png",
    '"><script>alert(2)</script>.png',
    "../../etc/passwd",
    "ünï'cødé\u202e.png",
)
FORMS = ("ring", "star", "heart")
EACH = 50


@dataclass(frozen=True)
class Explored:
    store: VectorStore
    run: Run
    pixels: np.ndarray
    labels: list[str | None]


def make(folder: Path) -> Explored:
    """150 pictures of three forms, 2 of them copies; two of three have a label, and 3 labels are wrong."""
    pixels = np.concatenate([drawings.draw(form, EACH, seed=0) for form in FORMS])
    pixels[1], pixels[60] = pixels[0], pixels[61]
    run = pretrain(
        pixels,
        out=folder / "run",
        batch_size=16,
        steps=4,
        encoder="resnet10_w16",
        image_size=24,
        workers=1,
        holdout=0,
    )
    vectors = run.encode(pixels)
    store = open_store(folder / "photos.nf", info(run))
    labels: list[str | None] = [None if n % 3 == 2 else FORMS[n // EACH] for n in range(len(pixels))]
    labels[0], labels[51], labels[102] = "star", "heart", "ring"
    thumbnails = [encoded(one) for one in pixels]
    files = [folder / f"{n}.jpg" for n in range(len(pixels))]
    for file, data in zip(files, thumbnails, strict=True):
        file.write_bytes(data)
    table = {
        "id": [*EVIL, *(f"{n:03d}.png" for n in range(len(EVIL), len(pixels)))],
        "vector": pa.array(list(vectors), pa.list_(pa.float32())),
        "thumbnail": thumbnails,
        "path": [str(file) for file in files],
        "label": pa.array(labels, pa.string()),
        "digest": [hashlib.blake2b(data, digest_size=16).hexdigest() for data in thumbnails],
        "width": [drawings.SIDE] * len(pixels),
        "height": [drawings.SIDE] * len(pixels),
        "site": [("north", "south", "<b>east</b>")[n % 3] for n in range(len(pixels))],
        "depth": [float(n) for n in range(len(pixels))],
    }
    store.upsert(pa.table(table))
    return Explored(store, run, pixels, labels)


def info(run: Run) -> StoreInfo:
    return StoreInfo(run.encoder.dim, fingerprint(run.encoder), str(run.path), to_json(run.preprocess))


def encoded(pixels: np.ndarray, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def plain(
    folder: Path,
    count: int = 120,
    classes: int = 3,
    labels: list[str | None] | None = None,
    modality: str = "images",
) -> VectorStore:
    """A store without a run: vectors about one centre a class, which overlap; the last three are copies."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, 8))
    vectors = (centres[np.arange(count) % classes] + 1.5 * rng.normal(size=(count, 8))).astype(np.float32)
    files = []
    vectors[-3:] = vectors[0]  # and so are the last three pictures
    for n in (*range(count - 3), 0, 0, 0):
        pixels = np.full((20, 30, 3), (40 * (n % classes), 100, n % 256), np.uint8)
        files.append(folder / f"{len(files):03d}.png")
        files[-1].write_bytes(encoded(pixels, "PNG"))
    data = [file.read_bytes() for file in files]
    store = open_store(folder / "plain.nf", StoreInfo(8, modality=modality))
    table = {
        "id": [f"{n:03d}.png" for n in range(count)],
        "vector": pa.array(list(vectors), pa.list_(pa.float32())),
        "thumbnail": [encoded(np.zeros((8, 12, 3), np.uint8)) for _ in range(count)],
        "path": [str(file) for file in files],
        "label": pa.array(labels or [None] * count, pa.string()),
        "digest": [hashlib.blake2b(one, digest_size=16).hexdigest() for one in data],
        "site": [("north", "south", "<b>east</b>")[n % 3] for n in range(count)],
    }
    store.upsert(pa.table(table))
    return store


def bare(folder: Path, count: int) -> VectorStore:
    """A store of many rows that says where they lie on the map: no files, no thumbnails worth a look."""
    around = np.linspace(0, 2 * np.pi, count, endpoint=False, dtype=np.float32)
    vectors = np.stack([np.cos(around), np.sin(around)], axis=1)
    store = open_store(folder / "bare.nf", StoreInfo(2))
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 2)
    table = {
        "id": [f"{n:07d}" for n in range(count)],
        "vector": flat.cast(pa.list_(pa.float32())),
        "thumbnail": [encoded(np.zeros((4, 4, 3), np.uint8))] * count,
        "label": ["a", "b"] * (count // 2) + ["a"] * (count % 2),
        "map_x": vectors[:, 0].astype(float),
        "map_y": vectors[:, 1].astype(float),
        "number": np.arange(count, dtype=float),
    }
    store.upsert(pa.table(table))
    return store


def evaluated(run: Run, *sentences: str, digest: str = "") -> Path:
    """Write an evaluation with such sentences of its ranking into the run's folder."""
    found = {
        "encoder": {"sha256": digest or fingerprint(run.encoder)},
        "data": {"train": "labelled/train", "test": "labelled/<b>test</b>"},
        "ranking": {"sentences": sentences},
    }
    path = run.folder / "evaluation.json"
    path.write_text(json.dumps(found))
    return path
