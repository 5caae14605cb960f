"""Makes the vectors for CSI's anomaly score, from a store's images and the parts that a run has kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..core.device import cores
from ..core.errors import NearfarError, fitting
from ..data.in_memory import open_in_memory
from ..data.source import files_of
from ..features.chunked import CHUNK_IMAGES, read_chunks
from ..features.extract import features
from ..models.every_scale import as_trained
from ..stores import VectorStore
from ..stores.cut_out import cut_out
from ..training.run import Run
from .store_access import delete_row

CSI = "csi"


def turned_vectors(store: VectorStore, run: Run, ids: list[str]) -> npt.NDArray[np.float32]:
    """Encode images of a store in four turns.

    Args:
        store: knows where the images' files are.
        run: the run that made it, of method csi.
        ids: of the images.

    Returns:
        (n, d), as `methods.csi.TurnedVectors` makes them.

    Raises:
        NearfarError: the run is of another method, or files are no longer there.
    """
    if not {"g", "turn"} <= {*run.parts}:
        raise NearfarError(
            f"--method csi needs an encoder that nearfar pretrain --method csi has trained, and {run.name} "
            "is none; leave --method out."
        )
    from ..methods.csi import TurnedVectors

    table = store.rows(["id", "path"], ids=ids)
    where = dict(zip(table["id"].to_pylist(), files_of(table["path"].to_pylist()), strict=True))
    for one in ids:
        if not where[one] or not Path(where[one]).is_file():
            raise NearfarError(
                f"the file of {one!r} is not at {where[one] or 'any known place'}; --method csi needs the "
                "images: put them back, or embed them again where they are now."
            )
    paths = [where[one] for one in ids]
    source = cut_out(store, ids, open_in_memory(paths, None), paths)
    with fitting(f"head of {run.name}"):
        net = TurnedVectors(as_trained(run.encoder), run.part("g"), run.part("turn"))
    made = []
    for chunk in read_chunks(source, range(0, len(ids), CHUNK_IMAGES), run.preprocess, cores()):
        for row, reason in chunk.bad:
            raise NearfarError(f"{where[ids[row]]} cannot be read ({reason}); {delete_row(store, ids[row])}.")
        made.append(features(net, chunk, run.preprocess))
    return np.concatenate(made)
