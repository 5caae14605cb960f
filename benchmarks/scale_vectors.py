"""Measures search and near copies among many vectors, and writes the tables of scale.md.

    python -m benchmarks.scale_vectors search --vectors 100000 1000000
    python -m benchmarks.scale_vectors cells --vectors 100000 1000000

search: ways to scan short codes of all vectors and to compare the best again exactly, on one core. Vectors
are drawn as in `store`; a way's line is that of the fewest candidates with a recall of .99. turbovec is
measured if it is installed.

cells: planted copies among vectors, looked for in cells; the time to compare all is that of 200 of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable

import numba
import numpy as np

from . import store

Find = Callable[[np.ndarray, int], np.ndarray]
Made = tuple[float, Find]  # bytes, and what finds candidates


def cells(counts: list[int]) -> None:
    """Look for planted copies in cells, and say what that costs."""
    import torch

    from nearfar.analysis.cells import near_rows
    from nearfar.features.knn import top_k

    print("| vectors | copies planted | found | other neighbours found | CPU s | all compared, CPU s |")
    print("|---|---|---|---|---|---|")
    for count in counts:
        x = torch.from_numpy(np.concatenate([store.unit(piece) for piece in store.pieces(count)]))
        planted = count // 100
        noise = torch.randn(planted, store.WIDTH, generator=torch.Generator().manual_seed(0))
        x = torch.cat([x, x[:planted] + 0.2 * noise / store.WIDTH**0.5])  # a cosine of about .98
        clock = time.process_time()
        found = near_rows(x, x, 10, exclude_self=True)
        took = time.process_time() - clock
        hits = np.mean([count + row in found[row] for row in range(planted)])
        asked, clock = torch.arange(planted, planted + 200), time.process_time()
        exact = top_k(x[asked], x, 11)[1].numpy()[:, 1:]
        all_took = (time.process_time() - clock) * len(x) / 200
        pairs = zip(exact.tolist(), found[asked.numpy()].tolist(), strict=True)
        others = np.mean([len({*a} & {*b}) / 10 for a, b in pairs])
        figures = f"{hits:.4f} | {others:.3f} | {took:,.0f} | {all_took:,.0f} (computed)"
        print(f"| {count:,} | {planted:,} | {figures} |", flush=True)


def search(counts: list[int], graphs_up_to: int) -> None:
    """Measure ways to search at each size, and print a table."""
    heads = ["vectors", "way", "build, CPU s", "bytes a vector", "candidates", "recall@10"]
    print("|", " | ".join([*heads, "alone, q/s", "in a batch, q/s"]), "|")
    print("|---|---|---|---|---|---|---|---|")
    for count in counts:
        x = np.empty((count, store.WIDTH), np.float32)
        for at, piece in enumerate(store.pieces(count)):
            x[at * store.PIECE : at * store.PIECE + len(piece)] = store.unit(piece)
        queries = store.unit(store.queries(count)).astype(np.float32)[:200]
        truth, clock = np.empty((0, 10), np.int64), time.process_time()
        for low in range(0, len(queries), 50):
            similarity = queries[low : low + 50] @ x.T
            truth = np.concatenate([truth, np.argpartition(-similarity, 10, axis=1)[:, :10]])
        batch = len(queries) / (time.process_time() - clock)
        clock = time.process_time()
        for query in queries[:5]:
            np.argpartition(-(x @ query), 10)
        alone = 5 / (time.process_time() - clock)
        print(
            f"| {count:,} | all compared | 0 | 1,024 | all | 1.000 | {alone:,.0f} | {batch:,.0f} |",
            flush=True,
        )
        for name, make in ways(count <= graphs_up_to).items():
            clock = time.process_time()
            size, find = make(x)
            built = time.process_time() - clock
            for many in (30, 100, 300, 1000):
                clock = time.process_time()
                found = [
                    again(x, query, rows) for query, rows in zip(queries, find(queries, many), strict=True)
                ]
                batch = len(queries) / (time.process_time() - clock)
                recall = np.mean([len({*a} & {*b}) / 10 for a, b in zip(truth.tolist(), found, strict=True)])
                if recall >= 0.99:
                    break
            clock = time.process_time()
            for query in queries[:40]:
                again(x, query, find(query[None], many)[0])
            alone = 40 / (time.process_time() - clock)
            cells = (
                f"{built:.1f} | {size / count:,.0f} | {many:,} | {recall:.3f} | {alone:,.0f} | {batch:,.0f}"
            )
            print(f"| {count:,} | {name} | {cells} |", flush=True)


def again(x: np.ndarray, query: np.ndarray, rows: np.ndarray) -> list[int]:
    """Compare candidates by their vectors."""
    rows = rows[rows >= 0]
    return rows[np.argsort(-(x[rows] @ query))[:10]].tolist()


def ways(graphs: bool) -> dict[str, Callable[[np.ndarray], Made]]:
    """Name what is compared: each makes its index."""
    import faiss

    faiss.omp_set_num_threads(1)
    rows = 50_000  # that codes are fitted to

    def by_faiss(text: str) -> Callable[[np.ndarray], Made]:
        def make(x: np.ndarray) -> Made:
            made = faiss.index_factory(x.shape[1], text, faiss.METRIC_INNER_PRODUCT)
            made.train(x[np.random.default_rng(0).permutation(len(x))[:rows]])
            made.add(x)
            if text.startswith("HNSW"):
                made.hnsw.efSearch = 128
            return faiss.serialize_index(made).nbytes, lambda q, many: made.search(q, many)[1]

        return make

    def by_turbovec(bits: int) -> Callable[[np.ndarray], Made]:
        def make(x: np.ndarray) -> Made:
            import turbovec

            made = turbovec.TurboQuantIndex(x.shape[1], bits)
            made.add(x)
            made.prepare()
            return len(made.to_bytes()), lambda q, many: made.search(q, many)[1].astype(np.int64)

        return make

    def by_bytes(x: np.ndarray) -> Made:
        scale = 127 / np.abs(x).max()
        small = np.round(x * scale).astype(np.int8)
        scan(small[:2], small[0].astype(np.int16), np.empty(2, np.int32))  # compiles

        def find(queries: np.ndarray, many: int) -> np.ndarray:
            found, out = [], np.empty(len(small), np.int32)
            for query in queries:
                scan(small, np.round(query * 127 / np.abs(query).max()).astype(np.int16), out)
                found.append(np.argpartition(-out, many)[:many])
            return np.array(found)

        return small.nbytes, find

    found = {
        "FAISS FastScan, 4 bits for 2 numbers": by_faiss("PQ128x4fs"),
        "FAISS FastScan, 4 bits for 4 numbers": by_faiss("PQ64x4fs"),
        "FAISS RaBitQ FastScan, 1 bit": by_faiss("RaBitQfs"),
        "8 bits, numba": by_bytes,
    }
    if importlib.util.find_spec("turbovec"):
        found |= {f"turbovec, {bits} bits": by_turbovec(bits) for bits in (4, 2)}
    if graphs:
        found["FAISS HNSW32"] = by_faiss("HNSW32")
    return found


@numba.njit(cache=False, fastmath=True)
def scan(small: np.ndarray, query: np.ndarray, out: np.ndarray) -> None:
    """Multiply each row of bytes with a query."""
    for row in range(small.shape[0]):
        total = np.int32(0)
        for at in range(small.shape[1]):
            total += np.int32(small[row, at]) * np.int32(query[at])
        out[row] = total


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["search", "cells"])
    parser.add_argument("--vectors", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--graphs-up-to", type=int, default=100_000, help="graphs of more take minutes")
    given = parser.parse_args()
    if given.what == "search":
        search(given.vectors, given.graphs_up_to)
    else:
        cells(given.vectors)


if __name__ == "__main__":
    main()
