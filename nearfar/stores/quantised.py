"""Approximate search by short codes: all codes are compared, and the best again by their vectors.

Each pair of numbers of a vector becomes one of 16 codes (4 bits), which FAISS compares with a table in the
processor's registers ("FastScan"). Codes take a sixteenth of the vectors' memory and are made in seconds. How
many of the best are compared again is set by measured recall.

Source: Jegou, Douze and Schmid 2011, "Product quantization for nearest neighbor search"; Andre, Kermarrec and
Le Scouarnec 2015, "Cache locality is not enough: high-performance nearest neighbor search with product
quantization fast scan".
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
from ..core.errors import NearfarError
from ..core.text import counted
from .brute_force import SPAN, Cosines, Rows, best, weighed

BITS, NUMBERS = 4, 2  # of a code, and how many numbers it stands for
FEWEST = 16  # rows that codes can be fitted to
TRAINED_ON = 50_000  # rows that codes are fitted to
# Candidates for each neighbour wanted: the first that reaches RECALL is kept. Among ten million vectors of 64
# numbers, 100 are too few.
REFINEMENTS = (3, 10, 30, 100, 300, 1000)
RECALL, RECALL_SAMPLE, ASKED = 0.99, 256, 10  # of the ten nearest of a sample of rows


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError:
        raise NearfarError("an approximate index needs FAISS; type: pip install 'nearfar[store]'") from None
    return faiss


@dataclass(frozen=True)
class Codes:
    """The codes of a matrix's rows.

    `refine` is how many candidates a search gives for each neighbour wanted; `recall` the share of the ten
    nearest that are then among them.
    """

    index: Any
    refine: int = REFINEMENTS[0]
    recall: float = 0.0

    def search(self, queries: Cosines, k: int, mask: npt.NDArray[np.bool_] | None = None) -> Rows:
        """Find candidates for the nearest rows of each query.

        Args:
            queries: (q, d) unit rows.
            k: how many neighbours are wanted.
            mask: (n,) the rows that count; default all.

        Returns:
            (q, m) rows, in no order; -1 for none. If the rows that count are far from a query, there may be
            fewer than k.
        """
        share = 1.0 if mask is None else max(float(mask.mean()), 1e-3)
        many = min(self.index.ntotal, int(np.ceil(self.refine * k / share)))
        rows: Rows = self.index.search(_even(queries), many)[1]
        if mask is not None:
            rows = np.where((rows >= 0) & mask[rows], rows, -1)
        return rows


def _even(vectors: Cosines) -> Cosines:
    """Add a zero to vectors of an odd width, whose numbers could not be paired."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    return np.pad(vectors, ((0, 0), (0, 1))) if vectors.shape[1] % NUMBERS else vectors


def build(unit: Cosines, path: Path) -> Codes:
    """Make the codes of a matrix, write them to a file, and measure them.

    Args:
        unit: (n, d) unit rows, which may be mapped from a file; n at least `FEWEST`.
        path: of the file.

    Returns:
        The codes, their number of candidates chosen and their recall known.
    """
    faiss = _faiss()

    def make() -> Any:
        faiss.omp_set_num_threads(1)  # holds for this thread alone; several would not add in the same order
        width = unit.shape[1] + unit.shape[1] % NUMBERS
        made = faiss.IndexPQFastScan(width, width // NUMBERS, BITS, faiss.METRIC_INNER_PRODUCT)
        made.pq.cp.min_points_per_centroid = 1  # or it warns of collections that are small
        sample = np.sort(rng.permutation(rng.fold(0, "codes"), len(unit))[:TRAINED_ON])
        made.train(_even(unit[sample]))
        for low in range(0, len(unit), SPAN):
            made.add(_even(unit[low : low + SPAN]))
        with atomic_write(path) as file:
            faiss.write_index(made, faiss.PyCallbackIOWriter(file.write))
        return made

    progress.say(f"making a search index of {counted(len(unit), 'vector')}, once.")
    with ThreadPoolExecutor(1) as pool:
        made = measured(Codes(pool.submit(make).result()), unit)
    progress.say(f"the index finds {made.recall:.1%} of the {ASKED} nearest rows of a sample.")
    return made


def read(path: Path, refine: int, recall: float) -> Codes:
    """Read codes from their file.

    Raises:
        RuntimeError: it is missing or broken.
    """
    return Codes(_faiss().read_index(str(path)), refine, recall)


def measured(codes: Codes, unit: Cosines) -> Codes:
    """Choose the least number of candidates that holds enough of the nearest of a sample of rows.

    Args:
        codes: of `unit`.
        unit: (n, d) unit rows.

    Returns:
        The same, with both figures; a row itself, which is always found, is not counted.
    """
    sample = np.sort(rng.permutation(rng.fold(0, "recall"), len(unit))[:RECALL_SAMPLE])
    queries = np.array(unit[sample])
    k = min(ASKED + 1, len(unit))
    truth = best(queries, unit, k)[1]
    for refine in REFINEMENTS:
        codes = replace(codes, refine=refine)
        found = weighed(queries, unit, codes.search(queries, k), k)[1]
        hits = sum(
            len({*t} & {*f} - {s})
            for t, f, s in zip(truth.tolist(), found.tolist(), sample.tolist(), strict=True)
        )
        codes = replace(codes, recall=hits / max(1, (truth != sample[:, None]).sum()))
        if codes.recall >= RECALL:
            break
    return codes
