"""What the vector store costs, compared with FAISS and LanceDB used alone; and whether kills lose rows.

    python -m benchmarks.store search --vectors 100000 1000000 --out benchmarks/store.md
    python -m benchmarks.store kills --run runs/a --data photos/ --kills 20

Each contender works in a process of its own, whose peak memory is reported. Vectors are drawn: 32 directions
mixed, noise, and negative numbers cut off, as an encoder's last ReLU does. Queries are rows moved a little.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, K, QUERIES, PIECE = 256, 10, 500, 20_000
WHO = ("nearfar, exact", "nearfar, codes", "FAISS flat", "FAISS HNSW32", "LanceDB flat", "LanceDB HNSW_SQ")
Search = Callable[[np.ndarray], np.ndarray]


def pieces(count: int) -> Iterator[np.ndarray]:
    """Draw (count, WIDTH) float32, a piece at a time."""
    basis = np.random.default_rng(0).normal(size=(32, WIDTH)).astype(np.float32)
    for low in range(0, count, PIECE):
        draw, rows = np.random.default_rng([1, low]), min(PIECE, count - low)
        mixed = draw.normal(size=(rows, 32)).astype(np.float32) @ basis
        yield np.maximum(mixed + 0.3 * draw.normal(size=mixed.shape).astype(np.float32), 0)


def queries(count: int) -> np.ndarray:
    noise = np.random.default_rng(2).normal(size=(QUERIES, WIDTH)).astype(np.float32)
    return next(pieces(count))[:QUERIES] + 0.3 * noise


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def nearfar(folder: Path, count: int, exact: bool) -> Search:
    import pyarrow as pa

    from nearfar.stores import StoreInfo, open_store
    from nearfar.stores.arrow_rows import fixed

    store = open_store(folder / "s.nf", StoreInfo(WIDTH))
    for at, piece in enumerate(pieces(count)):
        ids = [f"{at * PIECE + row:08d}" for row in range(len(piece))]
        store.upsert(pa.table({"id": ids, "vector": fixed(piece)}))

    def search(x: np.ndarray) -> np.ndarray:
        return np.array(store.nearest(x, K, exact=exact)[0]).astype(np.int64)

    search(queries(count)[:1])  # makes the copy, and the codes
    return search


def faiss(count: int, exact: bool) -> Search:
    import faiss as library

    made = library.IndexFlatIP(WIDTH) if exact else library.IndexHNSWFlat(WIDTH, 32)
    for piece in pieces(count):
        made.add(unit(piece))
    if not exact:
        made.hnsw.efSearch = 64
    return lambda x: made.search(unit(x), K)[1]


def lancedb(folder: Path, count: int, exact: bool) -> Search:
    import lancedb as library
    import pyarrow as pa

    from nearfar.stores.arrow_rows import fixed

    db = library.connect(str(folder / "l"))
    table = None
    for at, piece in enumerate(pieces(count)):
        ids = np.arange(at * PIECE, at * PIECE + len(piece))
        rows = pa.table({"id": ids, "vector": fixed(piece)})
        table = db.create_table("t", rows) if table is None else (table.add(rows), table)[1]
    assert table is not None
    if not exact:
        how = {"index_type": "IVF_HNSW_SQ", "num_partitions": max(1, count // 250_000)}
        table.create_index(metric="cosine", vector_column_name="vector", **how)

    def search(x: np.ndarray) -> np.ndarray:
        found = [table.search(row).distance_type("cosine").limit(K).select(["id"]).to_arrow() for row in x]
        return np.array([line["id"].to_pylist() for line in found])

    return search


def one(who: str, count: int) -> dict[str, Any]:
    """Measure one contender, in this process."""
    with tempfile.TemporaryDirectory() as name:
        began, folder = time.perf_counter(), Path(name)
        exact = who.endswith(("exact", "flat"))
        make = {"nearfar": nearfar, "LanceDB": lancedb}.get(who.split()[0].rstrip(","))
        search = faiss(count, exact) if make is None else make(folder, count, exact)
        built, asked = time.perf_counter() - began, queries(count)
        search(asked[:2])
        began, single = time.perf_counter(), 0
        while time.perf_counter() - began < 3 and single < QUERIES:
            search(asked[single : single + 1])
            single += 1
        alone = single / (time.perf_counter() - began)
        began = time.perf_counter()
        found = search(asked)
        batch = QUERIES / (time.perf_counter() - began)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        truth = nearest(asked, count)
        hits = float(
            np.mean([len({*a} & {*b}) / K for a, b in zip(found.tolist(), truth.tolist(), strict=True)])
        )
        disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "build": built,
        "alone": alone,
        "batch_size": batch,
        "recall": hits,
        "memory": peak,
        "disk": disk / 2**20,
    }


def nearest(asked: np.ndarray, count: int) -> np.ndarray:
    """Find the true nearest by comparing all, a piece at a time."""
    scaled = unit(asked)
    best = np.full((len(asked), K), -np.inf, np.float32)
    rows = np.zeros((len(asked), K), np.int64)
    for at, piece in enumerate(pieces(count)):
        cosine = np.concatenate([best, scaled @ unit(piece).T], axis=1)
        places = np.arange(at * PIECE, at * PIECE + len(piece))
        named = np.concatenate([rows, np.broadcast_to(places, (len(asked), len(piece)))], axis=1)
        order = np.argsort(-cosine, axis=1)[:, :K]
        best, rows = np.take_along_axis(cosine, order, 1), np.take_along_axis(named, order, 1)
    return rows


def search(counts: list[int], out: Path | None) -> None:
    """Measure every contender at every size, and write a table."""
    from . import measure

    lines = [
        "# The vector store",
        "",
        f"{QUERIES} queries of {WIDTH} numbers, the {K} nearest by cosine, on: "
        f"{measure.machine()['machine']}. Build time counts drawing and inserting; memory is the process's "
        "greatest, with its libraries. "
        f"By `python -m benchmarks.store search --vectors {' '.join(map(str, counts))}`.",
        "",
        "| vectors | who | build, s | queries/s alone | in a batch | recall@10 | memory, MiB | disk, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for count in counts:
        for who in WHO:
            command = [sys.executable, "-m", "benchmarks.store", "one", "--who", who, "--vectors", str(count)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                lines.append(
                    f"| {count:,} | {who} | failed: {done.stderr.strip().splitlines()[-1][:80]} | | | | | |"
                )
            else:
                found = json.loads(done.stdout.splitlines()[-1])
                cells = [f"{found['build']:.0f}", f"{found['alone']:,.0f}", f"{found['batch']:,.0f}"]
                cells += [f"{found['recall']:.3f}", f"{found['memory']:,.0f}", f"{found['disk']:,.0f}"]
                lines.append(f"| {count:,} | {who} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    if out is not None:
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")


KILLED = """
import sys
from nearfar.embedding import fill, reader
reader.CHUNK_IMAGES = int(sys.argv[4])
put = fill._Job._put
def told(self, *given):
    put(self, *given)
    print("\\n".join(given[0]["id"]), flush=True)
fill._Job._put = told
import nearfar
nearfar.embed(sys.argv[1], sys.argv[2], store=sys.argv[3], threads=1)
"""


def kills(run: str, data: str, times: int) -> None:
    """Kill an embedding many times, at moments drawn, and look for every row it said it had committed."""
    from nearfar.data.sources import open_source
    from nearfar.stores import open_store

    draw, told = np.random.default_rng(0), set[str]()
    length = max(1, len(open_source(data)) // (8 * times))
    with tempfile.TemporaryDirectory() as name:
        store = str(Path(name) / "s.nf")
        for turn in range(times):
            words = [sys.executable, "-c", KILLED, run, data, store, str(length)]
            process = subprocess.Popen(words, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."})
            stop = len(told) + int(draw.integers(1, 4 * length + 1))
            assert process.stdout is not None
            for line in process.stdout:
                told.add(line.decode().rstrip("\n"))
                if len(told) >= stop:
                    break
            time.sleep(float(draw.uniform(0, 0.2)))  # so that a kill falls anywhere in what follows
            process.send_signal(signal.SIGKILL)
            told |= {line.decode() for line in process.communicate()[0].split(b"\n")[:-1]}
            lost = told - set(open_store(store).ids())
            print(f"kill {turn + 1}: {len(told):,} rows told of, {len(lost)} lost", flush=True)
            if lost:
                raise SystemExit(f"lost: {sorted(lost)[:5]}")
        subprocess.run([sys.executable, "-m", "nearfar", "embed", run, data, "--store", store], check=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["search", "one", "kills"])
    parser.add_argument("--vectors", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--who", choices=WHO, default=WHO[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--run", default="")
    parser.add_argument("--data", default="")
    parser.add_argument("--kills", type=int, default=20)
    given = parser.parse_args()
    if given.what == "search":
        search(given.vectors, given.out)
    elif given.what == "one":
        print(json.dumps(one(given.who, given.vectors[0])))
    else:
        kills(given.run, given.data, given.kills)


if __name__ == "__main__":
    main()
