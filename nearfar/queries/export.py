"""`nearfar export`: an encoder for other tools, or a vector store for other viewers or as a table.

- onnx, torch, timm, transformers, sentence-transformers, openvino: an encoder, by `nearfar.exports`.

- atlas: one Parquet file for Embedding Atlas, with places, thumbnails and nearest neighbours.
- tensorboard: a folder for TensorBoard's projector: vectors, what is known of them, a sheet of thumbnails.
- fiftyone: a folder that FiftyOne loads as FiftyOneImageClassificationDataset, and the vectors.
- csv, parquet: as `nearfar store --export` writes them.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..analysis.projection import project
from ..core.atomic import atomic_write, check_place, whole_folder
from ..core.entries import entries
from ..core.errors import NearfarError, nearest
from ..core.plain_path import from_home
from ..core.text import counted, spreadsheet_cell
from ..features.knn import top_k
from ..images.thumbnails import checked, thumbnail
from ..stores import VectorStore
from ..stores.import_export import export as write_table
from ..training.run import is_run
from .store_access import MAP_COLUMNS, kept_places, open_for_query

if TYPE_CHECKING:
    from ..exports import ExportedEncoder

# As `exports` has them, which is heavy.
ENCODERS = ("onnx", "torch", "timm", "transformers", "sentence-transformers", "openvino")
SUFFIXES = {"atlas": ".parquet", "csv": ".csv", "parquet": ".parquet", "tensorboard": "", "fiftyone": ""}
ATLAS_NEIGHBOURS = 15  # of each image, for Embedding Atlas
SPRITES = 8192  # pixels of a side of TensorBoard's sheet, at most: what WebGL takes
CHUNK = 2000  # rows read at a time


@dataclass(frozen=True)
class Exported:
    """What was written, and how to open it."""

    path: Path
    images: int
    open_with: str
    one: str = "image"  # the word for one of them

    def to_json(self) -> dict[str, Any]:
        """Describe it in plain values."""
        return {"path": str(self.path), "images": self.images, "open_with": self.open_with}

    def __str__(self) -> str:
        """Say what was written, and how to open it."""
        return f"{self.path}: {counted(self.images, self.one)}" + (
            f"\nnext: {self.open_with}" if self.open_with else ""
        )


def export(
    what: Any, *, to: str, bank: str | Path | None = None, out: str | Path | None = None
) -> Exported | ExportedEncoder:
    """Write an encoder, or a vector store, as files for another tool, and say how to open them.

    Example: nearfar export runs/a --to onnx

    Args:
        what: for the first six formats a run or the name of a known encoder; else a vector store.
        to: onnx, torch (torch.export), timm, transformers, sentence-transformers or openvino, which get an
            encoder; atlas (Embedding Atlas), tensorboard, fiftyone, csv or parquet, which get a store.
        bank: with onnx, a .safetensors file that nearfar anomalies --parts has made with this encoder: the
            graph then gives scores and maps of anomalous parts.
        out: the file or folder; if not given, named after what is exported and the format.

    Returns:
        Where it is, and what opens it.

    Raises:
        NearfarError: there is no such format, it is for the other kind of thing, the store is empty, the
            other tool is missing, or the place cannot be written.
    """
    if bank is not None and to != "onnx":
        raise NearfarError(f"--bank is for --to onnx, and not for --to {to}.")
    if to in ENCODERS:
        from ..exports import export_encoder

        if hasattr(what, "address") or str(what).endswith(".nf"):
            raise NearfarError(
                f"{what} is a vector store, and --to {to} gets an encoder; name its run, or use --to "
                f"{' or '.join(SUFFIXES)}."
            )
        if bank is not None:
            from ..exports.parts_onnx import export_parts

            found: ExportedEncoder = export_parts(what, bank, out)
            return found
        return export_encoder(what, to=to, out=out)
    if to not in SUFFIXES:
        raise NearfarError(f"--to {to!r} is not a format; {nearest(to, [*ENCODERS, *SUFFIXES])}")
    if isinstance(what, (str, Path)) and is_run(what):
        raise NearfarError(
            f"{what} is a run, and --to {to} gets a vector store; name one, or use --to "
            f"{' or '.join(ENCODERS)}."
        )
    if out is not None:
        _check_place(Path(out), to)  # before a folder of images is embedded
    opened = open_for_query(what)
    if not len(opened):
        raise NearfarError(f"{opened.address} holds nothing; fill it with nearfar embed --store.")
    path = Path(out) if out is not None else _beside(opened.address, to)
    _check_place(path, to)
    if to in ("csv", "parquet"):
        return Exported(path, write_table(opened, path), "", opened.info.one)
    if not SUFFIXES[to]:
        with whole_folder(path) as made:
            words = {"tensorboard": _tensorboard, "fiftyone": _fiftyone}[to](opened, made)
        words = words.replace("{folder}", shlex.quote(str(path)))
        return Exported(path, len(opened), words, opened.info.one)
    return _atlas(opened, path)


def _check_place(path: Path, to: str) -> None:
    """Refuse a place that a store cannot be written to, before the work."""
    if not SUFFIXES[to]:
        if path.exists() and (not path.is_dir() or entries(path)):
            raise NearfarError(f"--out {path} already exists; name a new folder.")
        return
    if path.suffix.lower() != SUFFIXES[to]:
        raise NearfarError(f"--out {path} does not end in {SUFFIXES[to]}; --to {to} needs that.")
    check_place(path)


def _beside(address: str, to: str) -> Path:
    """Name what is written after the store, and put it where the store is, or here if that is no folder."""
    if "://" in address:
        return Path(f"{address.rstrip('/').rsplit('/', 1)[-1].split('?')[0]}-{to}{SUFFIXES[to]}")
    folder = from_home(address)
    folder = folder if folder.name not in ("", "..") else folder.resolve()
    return folder.with_name(f"{folder.stem}-{to}{SUFFIXES[to]}")


def _atlas(store: VectorStore, path: Path) -> Exported:
    """Write one Parquet file: coordinates, neighbours by row number, and thumbnails as image bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    ids, x = store.vectors()
    table = store.rows(ids=ids)
    table = table.select([name for name in table.column_names if name not in MAP_COLUMNS])
    rows = torch.from_numpy(x)
    near, who = top_k(rows, rows, min(ATLAS_NEIGHBOURS, max(1, len(ids) - 1)), exclude_self=len(ids) > 1)
    neighbours = [
        {"ids": mine, "distances": far}
        for mine, far in zip(who.tolist(), (1 - near).clamp(min=0).tolist(), strict=True)
    ]
    kept = kept_places(store, ids)
    places = project(x) if kept is None else kept
    pictures = [
        {"bytes": checked(data)}
        for low in range(0, len(ids), CHUNK)
        for data in store.thumbnails(ids[low : low + CHUNK])
    ]
    called = {}
    for name, values in (
        ("row", pa.array(range(len(ids)))),
        (MAP_COLUMNS[0], pa.array(places[:, 0], pa.float32())),
        (MAP_COLUMNS[1], pa.array(places[:, 1], pa.float32())),
        ("neighbors", pa.array(neighbours)),
        ("image", pa.array(pictures)),
    ):
        called[name] = name
        while called[name].lower() in map(str.lower, table.column_names):  # a column of the owner's own
            called[name] += "_"
        table = table.append_column(called[name], values)
    with atomic_write(path, folders=True) as file:
        pq.write_table(table, file)
    words = shlex.join(["embedding-atlas", str(path), "--x", called["map_x"], "--y", called["map_y"]])
    words += f" --neighbors {called['neighbors']} --image {called['image']}"
    return Exported(path, len(ids), words, store.info.one)


def _tensorboard(store: VectorStore, folder: Path) -> str:
    """Write what TensorBoard's projector reads; its configuration comes last. Gives what opens it."""
    ids, x = store.vectors()
    names = [name for name in store.columns if name not in ("digest", *MAP_COLUMNS)]
    table = store.rows(names, ids=ids).to_pylist()
    with atomic_write(folder / "vectors.tsv") as file:
        np.savetxt(file, x, fmt="%.6g", delimiter="\t")
    lines = ["\t".join(names), *("\t".join(_cell(row[name]) for name in names) for row in table)]
    with atomic_write(folder / "metadata.tsv") as file:
        file.write("\n".join(lines).encode(errors="replace") + b"\n")
    across = math.ceil(math.sqrt(len(ids)))
    side = max(1, min(64, SPRITES // across))
    sheet = Image.new("RGB", (across * side, across * side), "white")
    for low in range(0, len(ids), CHUNK):
        for at, data in enumerate(store.thumbnails(ids[low : low + CHUNK]), start=low):
            if (pixels := thumbnail(data)) is not None:
                picture = Image.fromarray(pixels).resize((side, side))
                sheet.paste(picture, (at % across * side, at // across * side))
    with atomic_write(folder / "sprite.png") as file:
        sheet.save(file, "PNG")
    config = (
        'embeddings {\n  tensor_name: "nearfar"\n  tensor_path: "vectors.tsv"\n'
        '  metadata_path: "metadata.tsv"\n  sprite {\n    image_path: "sprite.png"\n'
        f"    single_image_dim: {side}\n    single_image_dim: {side}\n  }}\n}}\n"
    )
    with atomic_write(folder / "projector_config.pbtxt") as file:
        file.write(config.encode())
    return "tensorboard --logdir {folder}"


def _cell(value: Any) -> str:
    """Write a value in a line of tab-separated ones; tabs and line ends become spaces."""
    text = "" if value is None else f"{value:.17g}" if isinstance(value, float) else str(value)
    return spreadsheet_cell(" ".join(text.split()))


def _fiftyone(store: VectorStore, folder: Path) -> str:
    """Write thumbnails under numbers, labels by number, and vectors and ids in order. Gives what opens it."""
    ids, x = store.vectors()
    labels = store.rows(["label"], ids=ids)["label"].to_pylist()
    (folder / "data").mkdir(exist_ok=True)
    numbers = [f"{at:07d}" for at in range(len(ids))]
    for low in range(0, len(ids), CHUNK):
        for at, data in enumerate(store.thumbnails(ids[low : low + CHUNK]), start=low):
            (folder / "data" / f"{numbers[at]}.jpg").write_bytes(checked(data))
    with atomic_write(folder / "vectors.npy") as file:
        np.save(file, x, allow_pickle=False)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["number", "id"])
    rows.writerows(zip(numbers, map(spreadsheet_cell, ids), strict=True))
    with atomic_write(folder / "ids.csv") as file:
        file.write(text.getvalue().encode(errors="replace"))
    with atomic_write(folder / "labels.json") as file:  # the last: what FiftyOne reads first
        file.write(json.dumps({"labels": dict(zip(numbers, labels, strict=True))}).encode())
    kind = "fiftyone.types.FiftyOneImageClassificationDataset"
    return f"fiftyone datasets create --name nearfar --dataset-dir {{folder}} --type {kind}"
