"""Measures search and near copies among many vectors, and writes the tables of scale.md.

    python -m benchmarks.scale_vectors search --vectors 100000 1000000
    python -m benchmarks.scale_vectors search --vectors 10000000 --width 64 --ways 2.numbers LanceDB
    python -m benchmarks.scale_vectors cells --vectors 100000 1000000

search: ways to scan short codes of all vectors, or of those in some cells (LanceDB's IVF_RQ, whose vectors
lie on disk), and to compare the best again exactly, on one core. Vectors are drawn as in `store`; the line of
a way is that of the fewest candidates with a recall of .99. turbovec is measured if it is installed.

cells: planted copies among vectors, looked for in cells; the time to compare all is that of 200 of them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numba
import numpy as np

from . import store

Find = Callable[[np.ndarray, int], Sequence[np.ndarray]]
Made = tuple[float, Find]  # bytes, and what finds candidates
Make = Callable[[np.ndarray, contextlib.ExitStack], Made]
QUERIES, BLOCK = 200, 100_000  # rows compared at a time


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


def search(counts: list[int], graphs_up_to: int, wanted: list[str]) -> None:
    """Measure ways to search at each size, and print a table."""
    heads = ["vectors", "way", "build, CPU s", "bytes a vector", "candidates", "recall@10"]
    print("|", " | ".join([*heads, "alone, q/s", "in a batch, q/s"]), "|")
    print("|---|---|---|---|---|---|---|---|")
    for count in counts:
        folder = tempfile.TemporaryDirectory()
        shape = (count, store.WIDTH)
        x = np.lib.format.open_memmap(Path(folder.name, "x.npy"), "w+", np.float32, shape)  # as a store's
        for at, piece in enumerate(store.pieces(count)):
            x[at * store.PIECE : at * store.PIECE + len(piece)] = store.unit(piece)
        queries = store.unit(store.queries(count)).astype(np.float32)[:QUERIES]
        clock = time.process_time()
        truth = nearest(x, queries)
        batch = len(queries) / (time.process_time() - clock)
        clock = time.process_time()
        for query in queries[:5]:
            np.argpartition(-(x @ query), 10)
        alone = 5 / (time.process_time() - clock)
        full = f"{4 * store.WIDTH:,} | all | 1.000 | {alone:,.1f} | {batch:,.1f}"
        print(f"| {count:,} | all compared | 0 | {full} |", flush=True)
        for name, make in ways(count <= graphs_up_to).items():
            if wanted and not any(re.search(word, name) for word in wanted):
                continue
            with contextlib.ExitStack() as stack:
                line = measured(x, queries, truth, make, stack)
            print(f"| {count:,} | {name} | {line} |", flush=True)
        folder.cleanup()


def nearest(x: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Find the ten rows most similar to each query, a block of rows at a time."""
    best = np.empty((len(queries), 0), np.float32)
    rows = np.empty((len(queries), 0), np.int64)
    for low in range(0, len(x), BLOCK):
        similarity = queries @ x[low : low + BLOCK].T
        at = np.argpartition(-similarity, 10, axis=1)[:, :10]
        best = np.concatenate([best, np.take_along_axis(similarity, at, 1)], 1)
        rows = np.concatenate([rows, low + at], 1)
        order = np.argsort(-best, axis=1)[:, :10]
        best, rows = np.take_along_axis(best, order, 1), np.take_along_axis(rows, order, 1)
    return rows


def measured(
    x: np.ndarray, queries: np.ndarray, truth: np.ndarray, make: Make, stack: contextlib.ExitStack
) -> str:
    """Measure one way; give the cells of its line."""
    clock = time.process_time()
    size, find = make(x, stack)
    built = time.process_time() - clock
    for many in (30, 100, 300, 1000, 3000, 10_000):
        clock = time.process_time()
        found = [again(x, query, rows) for query, rows in zip(queries, find(queries, many), strict=True)]
        batch = len(queries) / (time.process_time() - clock)
        recall = np.mean([len({*a} & {*b}) / 10 for a, b in zip(truth.tolist(), found, strict=True)])
        if recall >= 0.99:
            break
    clock = time.process_time()
    for query in queries[:40]:
        again(x, query, find(query[None], many)[0])
    alone = 40 / (time.process_time() - clock)
    return f"{built:.1f} | {size / len(x):,.0f} | {many:,} | {recall:.3f} | {alone:,.0f} | {batch:,.0f}"


def again(x: np.ndarray, query: np.ndarray, rows: np.ndarray) -> list[int]:
    """Compare candidates by their vectors."""
    rows = rows[rows >= 0]
    return rows[np.argsort(-(x[rows] @ query))[:10]].tolist()


def ways(graphs: bool) -> dict[str, Make]:
    """Name what is compared: each makes its index."""
    import faiss

    faiss.omp_set_num_threads(1)
    rows = 50_000  # that codes are fitted to

    def by_faiss(text: str) -> Make:
        def make(x: np.ndarray, _: contextlib.ExitStack) -> Made:
            made = faiss.index_factory(x.shape[1], text, faiss.METRIC_INNER_PRODUCT)
            made.train(x[np.random.default_rng(0).permutation(len(x))[:rows]])
            made.add(x)
            if text.startswith("HNSW"):
                made.hnsw.efSearch = 128
            return faiss.serialize_index(made).nbytes, lambda q, many: made.search(q, many)[1]

        return make

    def by_turbovec(bits: int) -> Make:
        def make(x: np.ndarray, _: contextlib.ExitStack) -> Made:
            import turbovec

            made = turbovec.TurboQuantIndex(x.shape[1], bits)
            made.add(x)
            made.prepare()
            return len(made.to_bytes()), lambda q, many: made.search(q, many)[1].astype(np.int64)

        return make

    def by_lancedb(share: float) -> Make:
        return lambda x, stack: lancedb(x, share, Path(stack.enter_context(tempfile.TemporaryDirectory())))

    def by_bytes(x: np.ndarray, _: contextlib.ExitStack) -> Made:
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
        "FAISS FastScan, 4 bits for 2 numbers": by_faiss(f"PQ{store.WIDTH // 2}x4fs"),
        "FAISS FastScan, 4 bits for 4 numbers": by_faiss(f"PQ{store.WIDTH // 4}x4fs"),
        "FAISS RaBitQ FastScan, 1 bit": by_faiss("RaBitQfs"),
        "8 bits, numba": by_bytes,
        "LanceDB IVF_RQ, 1 bit, 1 cell in 20": by_lancedb(0.05),
        "LanceDB IVF_RQ, 1 bit, 1 cell in 5": by_lancedb(0.2),
        "LanceDB IVF_RQ, 1 bit, all cells": by_lancedb(1.0),
    }
    if importlib.util.find_spec("turbovec"):
        found |= {f"turbovec, {bits} bits": by_turbovec(bits) for bits in (4, 2)}
    if graphs:
        found["FAISS HNSW32"] = by_faiss("HNSW32")
    return found


def lancedb(x: np.ndarray, share: float, folder: Path) -> Made:
    """Write vectors into a table on disk, and its codes in cells; a search looks at a share of the cells."""
    import lancedb as library
    import pyarrow as pa
    from lancedb.index import IvfRq

    from nearfar.stores.arrow_rows import fixed

    def batches():
        for low in range(0, len(x), store.PIECE):
            ids, vectors = pa.array(range(low, min(low + store.PIECE, len(x)))), x[low : low + store.PIECE]
            yield pa.record_batch({"id": ids, "vector": fixed(vectors)})

    schema = pa.schema({"id": pa.int64(), "vector": pa.list_(pa.float32(), x.shape[1])})
    table = library.connect(str(folder)).create_table(
        "t", pa.RecordBatchReader.from_batches(schema, batches())
    )
    cells = max(20, round(len(x) / 8192))
    table.create_index("vector", config=IvfRq("cosine", num_partitions=cells))
    size = sum(
        file.stat().st_size for file in folder.rglob("*") if file.is_file() and "_indices" in file.parts
    )
    probes = max(1, round(share * cells))

    def find(queries: np.ndarray, many: int) -> list[np.ndarray]:
        found = []
        for query in queries:
            asked = table.search(query).distance_type("cosine").nprobes(probes).refine_factor(many // 10)
            found.append(asked.limit(10).select(["id", "_distance"]).to_arrow()["id"].to_numpy())
        return found

    return size, find


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
    parser.add_argument("--width", type=int, default=store.WIDTH, help="numbers of a vector")
    parser.add_argument("--ways", nargs="+", default=[], help="only those whose names these patterns match")
    given = parser.parse_args()
    store.WIDTH = given.width
    if given.what == "search":
        search(given.vectors, given.graphs_up_to, given.ways)
    else:
        cells(given.vectors)


if __name__ == "__main__":
    main()
