"""Writes heat maps of a vector store's images into a folder, from the images' own files."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from ..analysis.heatmaps import overlay, remember
from ..core import rng
from ..core.atomic import atomic_write
from ..core.device import cores
from ..core.errors import NearfarError
from ..data.in_memory import open_in_memory
from ..data.source import files_of
from ..features.chunked import Chunk, read_chunks
from ..features.extract import features
from ..stores import VectorStore
from ..stores.cut_out import cut_out
from ..training.run import Run
from .store_access import delete_row

NORMAL, MAPPED = 200, 100  # images that are remembered, and images that get a map, at most
LEAST = 256  # pixels of a map's side: small ones are enlarged


def heat(store: VectorStore, run: Run, normal: Sequence[str], ids: list[str], folder: Path, seed: int) -> str:
    """Write heat maps of some images, all on one scale: clear is normal, yellow the most anomalous.

    Args:
        store: knows where the images' files are.
        run: the run that made it.
        normal: ids of normal images; `NORMAL` of them are used.
        ids: whose maps are wanted; the first `MAPPED` get one.
        folder: where they go, as PNG files, numbered in the order of `ids`.
        seed: random seed.

    Returns:
        A sentence about what was done.

    Raises:
        NearfarError: files are no longer there, or the encoder has no feature maps.
    """
    asked = ids[:MAPPED]
    spare = sorted({*normal} - {*asked})
    if not spare:
        raise NearfarError("no images are left to compare with; list fewer with --limit.")
    drawn = rng.permutation(rng.fold(seed, "heat maps"), len(spare))[:NORMAL]
    memory = remember(run.encoder, run.preprocess, _read(store, run, [spare[row] for row in drawn]), seed)
    images = _read(store, run, asked)
    maps = memory.maps(images)
    size = run.preprocess.size
    pixels = features(nn.Flatten(), images, run.preprocess).reshape(-1, 3, size, size)
    low, high = np.quantile(maps, [0.75, 0.995]).tolist()  # most places are as good as normal
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NearfarError(f"{folder} cannot be written ({error.strerror}); name another folder.") from error
    for number, (one, image, found) in enumerate(zip(asked, pixels, maps, strict=True), start=1):
        picture = np.rint(image.transpose(1, 2, 0).clip(0, 1) * 255).astype(np.uint8)
        shown = Image.fromarray(np.concatenate([picture, overlay(picture, found, low, high)], axis=1))
        scale = -(-LEAST // size)
        file = io.BytesIO()
        shown.resize((shown.width * scale, shown.height * scale), Image.Resampling.NEAREST).save(file, "PNG")
        name = re.sub(r"[^\w.-]+", "_", one)[-80:]
        with atomic_write(folder / f"{number:03d}-{name}.png") as out:
            out.write(file.getvalue())
    return (
        f"{folder} holds {len(asked):,} heat maps on one scale: clear is normal, yellow the most anomalous."
    )


def _read(store: VectorStore, run: Run, ids: list[str]) -> Chunk:
    """Decode some images from their files."""
    paths = files_of(store.rows(["path"], ids=ids).column("path").to_pylist())
    for one, path in zip(ids, paths, strict=True):
        if not path or not Path(path).is_file():
            raise NearfarError(
                f"the file of {one!r} is not at {path or 'any known place'}; heat maps need the images: put "
                "them back, or embed them again where they are now."
            )
    # Two hundred images at most: one chunk.
    source = cut_out(store, ids, open_in_memory(paths, None), paths)
    (found,) = read_chunks(source, [0], run.preprocess, cores())
    for row, reason in found.bad:
        raise NearfarError(f"{paths[row]} cannot be read ({reason}); {delete_row(store, ids[row])}.")
    return found
