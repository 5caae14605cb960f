"""Measures what is made for more than one machine's worth of images, and writes the tables of scale.md.

    python -m benchmarks.scale kills --kills 20
    python -m benchmarks.scale search --vectors 100000 1000000
    python -m benchmarks.scale cells --vectors 100000 1000000
    python -m benchmarks.scale remote        (needs 'moto[server,s3]')

kills: workers that embed parts of a collection are killed at moments drawn, started again, and the join is
compared with the same collection embedded without a kill. Images are drawn.

search: ways to scan short codes of all vectors and to compare the best again exactly, on one core. Vectors
are drawn as in `store`; a way's line is that of the fewest candidates with a recall of .99. turbovec is
measured if it is installed.

remote: images read from a disk, from objects and from shards on moto's S3 on this machine, without the cache
of objects; and an encoder trained from a disk and from objects.

cells: planted copies among vectors, looked for in cells; the time to compare all is that of 200 of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np

from . import store

IMAGES, PARTS, AT_ONCE = 16_384, 4, 2


def draw_images(folder: Path, count: int) -> None:
    """Write small JPEG files, a thousand to a folder."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for k in range(count):
        place = folder / f"{k // 1000:04d}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = draw.integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC).save(place / f"{k:08d}.jpg")


def draw_run(folder: Path, name: str, size: int) -> None:
    """Write a run whose encoder has random weights: what is measured does not depend on them."""
    from nearfar import models
    from nearfar.images.views import Preprocess
    from nearfar.training.run import export

    folder.mkdir(parents=True, exist_ok=True)
    export(folder, models.encoder(name, size=size, seed=0), Preprocess.of(size), {"method": "none"})


def kills(times: int) -> None:
    """Kill workers of parts, start them again, and count what is lost or there twice."""
    draw, env = np.random.default_rng(0), {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        draw_images(root / "images", IMAGES)
        draw_run(root / "run", "resnet10_w16", 32)
        embed = [sys.executable, "-m", "nearfar", "embed", str(root / "run")]

        def start(part: int, out: str) -> subprocess.Popen[bytes]:
            words = [*embed, str(root / "images"), "--part", f"{part}/{PARTS}", "--out", str(root / out)]
            return subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def pieces() -> int:
            return len(list((root / "killed").glob("part-*/0*.parquet")))

        killed, turn = 0, 0
        while killed < times:
            order = [(turn * AT_ONCE + at) % PARTS + 1 for at in range(AT_ONCE)]
            workers = [start(part, "killed") for part in order]
            goal, turn = pieces() + int(draw.integers(0, 2)), turn + 1
            while pieces() < goal and any(worker.poll() is None for worker in workers):
                time.sleep(0.02)
            time.sleep(float(draw.uniform(0, 2)))  # so that a kill falls anywhere in what follows
            for worker in workers:
                killed += worker.poll() is None and killed < times
                worker.send_signal(signal.SIGKILL)
                worker.wait()
            left = list((root / "killed").glob("part-*/*.part"))
            print(f"{killed} killed, {pieces()} pieces done, {len(left)} files half written", flush=True)
        for out in ("killed", "whole"):
            for part in range(1, PARTS + 1):
                if start(part, out).wait():
                    raise SystemExit(f"part {part} of {out} failed")
            join = ["--join", str(root / out), "--out", str(root / f"{out}.npz")]
            subprocess.run([*embed, *join], env=env, check=True)
        with np.load(root / "killed.npz") as mine, np.load(root / "whole.npz") as whole:
            ids = mine["ids"].tolist()
            lost, twice = len({*whole["ids"].tolist()} - {*ids}), len(ids) - len({*ids})
            same = np.array_equal(mine["vectors"], whole["vectors"])
        print(
            f"{killed} workers killed: {lost} of {IMAGES:,} rows lost, {twice} there twice, "
            f"vectors {'equal to the bit' if same else 'DIFFERENT'}"
        )
        if lost or twice or not same:
            raise SystemExit(1)


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


def remote(count: int) -> None:
    """Read a collection from a disk and from moto's S3, and train on both; moto runs in its own process."""
    import socket
    import tarfile
    import urllib.request

    import boto3

    import nearfar
    from nearfar.data.sources import open_source
    from nearfar.features.chunked import CHUNK_IMAGES, read_chunks
    from nearfar.images.views import Preprocess

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = f"http://127.0.0.1:{port}"
    os.environ |= {"AWS_ENDPOINT": home, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "NEARFAR_REMOTE_CACHE": "0"}
    words = [sys.executable, "-c", f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            os.environ["NEARFAR_CACHE"] = str(root / "cache")
            draw_images(root / "images", count)
            paths = sorted((root / "images").rglob("*.jpg"))
            (root / "shards").mkdir()
            for number in range(4):
                with tarfile.open(root / "shards" / f"x-{number}.tar", "w") as tar:
                    for path in paths[number * len(paths) // 4 : (number + 1) * len(paths) // 4]:
                        tar.add(path, path.relative_to(root / "images").as_posix())
            while True:
                try:
                    urllib.request.urlopen(f"{home}/moto-api/").read(1)
                    break
                except OSError:
                    time.sleep(0.2)
            client = boto3.client("s3", endpoint_url=home, region_name="us-east-1")
            client.create_bucket(Bucket="bucket")
            for folder in ("images", "shards"):
                for path in sorted((root / folder).rglob("*.*")):
                    key = path.relative_to(root).as_posix()
                    client.put_object(Bucket="bucket", Key=key, Body=path.read_bytes())
            print("| read from | opened, s | images per CPU s | images/s |")
            print("|---|---|---|---|")
            places = {"a disk": str(root / "images"), "objects": "s3://bucket/images"}
            for what, data in {**places, "ranges of 4 shards": "s3://bucket/shards/*.tar"}.items():
                began = time.perf_counter()
                source = open_source(data)
                opened = time.perf_counter() - began
                began, clock = time.perf_counter(), time.process_time()
                starts = range(0, len(source), CHUNK_IMAGES)
                read = sum(map(len, read_chunks(source, starts, Preprocess.of(32), 2)))
                took, used = time.perf_counter() - began, time.process_time() - clock
                assert read == count
                print(f"| {what} | {opened:.1f} | {read / used:,.0f} | {read / took:,.0f} |", flush=True)
            tiny = {
                "steps": 5,
                "batch_size": 64,
                "image_size": 32,
                "encoder": "resnet10_w16",
                "device": "cpu",
            }
            made = []
            for what, data in places.items():
                nearfar.pretrain(data, out=root / what, **tiny)
                made.append((root / what / "encoder.safetensors").read_bytes())
            print(f"\nencoders after 5 steps: {'equal to the byte' if made[0] == made[1] else 'DIFFERENT'}")
    finally:
        server.kill()
        server.wait()


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


Find = Callable[[np.ndarray, int], np.ndarray]
Made = tuple[float, Find]  # bytes, and what finds candidates


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
    parser.add_argument("what", choices=["kills", "search", "cells", "remote"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--vectors", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--graphs-up-to", type=int, default=100_000, help="graphs of more take minutes")
    parser.add_argument("--images", type=int, default=2000)
    given = parser.parse_args()
    if given.what == "search":
        search(given.vectors, given.graphs_up_to)
    elif given.what == "remote":
        remote(given.images)
    elif given.what == "cells":
        cells(given.vectors)
    else:
        kills(given.kills)


if __name__ == "__main__":
    main()
