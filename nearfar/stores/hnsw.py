"""Approximate search by HNSW graphs (FAISS): built reproducibly, with a search effort set by measured recall.

The vectors are cut into parts with a graph each. A graph that one thread builds is the same each time, and
parts are built side by side; graphs built by many threads vary.

Source: Malkov and Yashunin 2018, "Efficient and robust approximate nearest neighbor search using hierarchical
navigable small world graphs".
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core import progress, rng
from ..core.atomic import atomic_write
from ..core.device import cores
from ..core.errors import NearfarError
from .brute_force import Cosines, Rows, best, weighed

PART = 250_000  # rows under one graph, at most
LINKS, CARE = 32, 80  # HNSW's M, and the candidates weighed while it is built
EFFORTS = (32, 64, 128, 256, 512)  # candidates weighed in a search: the first that reaches RECALL is kept
RECALL, RECALL_SAMPLE, ASKED = 0.99, 256, 10  # of the ten nearest of a sample of rows


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError:
        raise NearfarError("an approximate index needs FAISS; type: pip install 'nearfar[store]'") from None
    return faiss


@dataclass(frozen=True)
class Graphs:
    """HNSW over the parts of a matrix: part p holds the rows from `starts[p]` on.

    `effort` is the candidates that a search weighs; `recall` the share of the ten nearest it then finds.
    """

    parts: tuple[Any, ...]
    starts: tuple[int, ...]
    effort: int = EFFORTS[0]
    recall: float = 0.0

    def search(self, queries: Cosines, k: int, mask: npt.NDArray[np.bool_] | None = None) -> Rows:
        """Find rows near each query.

        Args:
            queries: (q, d) unit rows.
            k: how many.
            mask: (n,) the rows that count; default all.

        Returns:
            (q, parts * k) rows, in no order; -1 where a part found fewer.
        """
        faiss = _faiss()
        found = []
        for part, low in zip(self.parts, self.starts, strict=True):
            effort, sel = max(self.effort, k), None
            if mask is not None:
                mine = mask[low : low + part.ntotal]
                sel = faiss.IDSelectorBitmap(np.packbits(mine, bitorder="little"))
                # Rows that do not count are walked over all the same, and must not use up the effort.
                effort = min(part.ntotal, int(effort / max(mine.mean(), 1e-3)))
            how = faiss.SearchParametersHNSW(efSearch=effort, sel=sel)
            rows = part.search(queries, k, params=how)[1]
            found.append(np.where(rows >= 0, rows + low, -1))
        return np.concatenate(found, axis=1)


def build(unit: Cosines, stem: Path) -> Graphs:
    """Build the graphs over a matrix, write each to its file, and measure them.

    Args:
        unit: (n, d) unit rows.
        stem: the files are named STEM.0.faiss, STEM.1.faiss, ...

    Returns:
        The graphs, their effort chosen and their recall known.
    """
    faiss = _faiss()
    count = -(-len(unit) // PART)
    starts = tuple(len(unit) * part // count for part in range(count))

    def one(part: int) -> Any:
        faiss.omp_set_num_threads(1)  # holds for this thread alone
        made = faiss.IndexHNSWFlat(unit.shape[1], LINKS)
        made.hnsw.efConstruction = CARE
        made.add(np.ascontiguousarray(unit[starts[part] : (*starts, len(unit))[part + 1]]))
        with atomic_write(_file(stem, part)) as file:
            faiss.write_index(made, faiss.PyCallbackIOWriter(file.write))
        return made

    progress.say(f"building a search index over {len(unit):,} vectors, once; this takes minutes.")
    with ThreadPoolExecutor(min(count, cores())) as pool:
        made = measured(Graphs(tuple(pool.map(one, range(count))), starts), unit)
    progress.say(f"the index finds {made.recall:.1%} of the {ASKED} nearest rows of a sample.")
    return made


def _file(stem: Path, part: int) -> Path:
    return stem.with_name(f"{stem.name}.{part}.faiss")


def read(stem: Path, starts: list[int], effort: int, recall: float) -> Graphs:
    """Read graphs from their files.

    Raises:
        RuntimeError: a file is missing or broken.
    """
    faiss = _faiss()
    parts = tuple(faiss.read_index(str(_file(stem, part))) for part in range(len(starts)))
    return Graphs(parts, tuple(starts), effort, recall)


def measured(graphs: Graphs, unit: Cosines) -> Graphs:
    """Choose the least effort that finds enough of the nearest of a sample of rows.

    Args:
        graphs: over `unit`.
        unit: (n, d) unit rows.

    Returns:
        The same, with effort and recall; a row itself, which is always found, is not counted.
    """
    sample = np.sort(rng.permutation(rng.fold(0, "recall"), len(unit))[:RECALL_SAMPLE])
    queries = np.array(unit[sample])
    k = min(ASKED + 1, len(unit))
    truth = best(queries, unit, k)[1]
    for effort in EFFORTS:
        graphs = replace(graphs, effort=effort)
        found = weighed(queries, unit, graphs.search(queries, k), k)[1]
        hits = sum(
            len({*t} & {*f} - {s})
            for t, f, s in zip(truth.tolist(), found.tolist(), sample.tolist(), strict=True)
        )
        graphs = replace(graphs, recall=hits / max(1, (truth != sample[:, None]).sum()))
        if graphs.recall >= RECALL:
            break
    return graphs
