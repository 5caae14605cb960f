"""Measures what many images cost before the first is read, and writes lines for the tables of scale.md.

    python -m benchmarks.scale_start paths --count 1000000
    python -m benchmarks.scale_start store --count 1000000
    python -m benchmarks.scale_start map --count 100000 --width 256
    python -m benchmarks.scale_start page --count 1000000

paths: a list of made paths of about 60 characters, which is opened as `nearfar pretrain` opens it, and the
holdout rows of it named. The memory is what a fresh process holds after more than before.

store: a store of made rows with vectors of 16 numbers, written 100,000 at a time; a fresh process then opens
it, counts, names all ids, names those of a condition, and reads 1,000 rows. With --at it is kept there.

map: such a store, whose vectors a fresh process reads all, and then lays out as a map and keeps the places.

page: `nearfar explore` on such a store, which is asked what it holds, and which 500 rows are most like one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np

PIECE = 100_000


def name(row: int) -> str:
    """Make the path of an image."""
    return f"collection/of/many/photographs/{row % 1000:04d}/image-{row:012d}.jpg"


def resident() -> float:
    """Count the MB of memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_paths(path: Path) -> None:
    """Open a list in this process, and print a line of the table."""
    from nearfar.data.dataset import holdout_rows
    from nearfar.data.open import open_data
    from nearfar.data.subset import subset_of

    before, clock = resident(), time.process_time()
    source = open_data(str(path), expected="images")
    train, _ = holdout_rows(len(source), 0.02, 0)
    kept = subset_of(source, train)
    took, after = time.process_time() - clock, resident()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"| {len(kept):,} of {len(source):,} | {took:.1f} | {after - before:.0f} | {peak - before:.0f} |")


def fill(folder: Path, count: int, width: int = 16) -> None:
    """Make a store, and say what that took."""
    import pyarrow as pa

    from nearfar.stores import StoreInfo, open_store

    store = open_store(folder, StoreInfo(width, "made", "made"))
    before, clocks = resident(), [time.process_time()]
    for vectors, rows in made(count, width):
        names = [name(row) for row in rows]
        columns = {
            "id": names,
            "path": names,
            "label": [str(row % 10) for row in rows],
            "digest": [f"{row:032x}" for row in rows],
            "bytes": [8000] * len(rows),
            "width": [256] * len(rows),
            "height": [224] * len(rows),
            "thumbnail": [b""] * len(rows),
        }
        vector = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), width)
        store.upsert(pa.table({**columns, "vector": vector}))
        clocks.append(time.process_time())
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - before
    tenth = max(1, len(clocks) // 10)
    first, last = clocks[tenth] - clocks[0], clocks[-1] - clocks[-1 - tenth]
    print(
        f"filled in {clocks[-1] - clocks[0]:.0f} CPU s, {size / count:.0f} bytes a row, {peak:.0f} MB at most"
    )
    print(f"the first tenth in {first:.1f} CPU s, the last in {last:.1f}", flush=True)


def made(count: int, width: int) -> Iterator[tuple[np.ndarray, range]]:
    """Draw vectors, a piece at a time."""
    numbers = np.random.default_rng(0)
    for start in range(0, count, PIECE):
        rows = range(start, min(start + PIECE, count))
        yield numbers.standard_normal((len(rows), width), dtype=np.float32), rows


def use(folder: Path) -> None:
    """Open a store in this process, and print a line of the table."""
    from nearfar.stores.open import open_store

    open_store(folder)  # imports
    before, marks = resident(), [time.process_time()]
    store = open_store(folder)
    count = len(store)
    marks.append(time.process_time())
    ids = store.ids()
    marks.append(time.process_time())
    some = store.ids("label = '3'")
    marks.append(time.process_time())
    rows = store.rows(ids=ids[:1000])
    marks.append(time.process_time())
    assert len(ids) == count and len(some) == count // 10 and len(rows) == min(1000, count)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - before
    print(f"| {count:,} |", " | ".join(f"{took:.2f}" for took in np.diff(marks)), f"| {peak:.0f} |")


def lay_out(folder: Path) -> None:
    """Read all vectors, and lay out a map of a store, in this process; print a line of the table."""
    from nearfar.analysis import projection
    from nearfar.queries.map import image_map
    from nearfar.stores.open import open_store

    projection.TSNE_LIMIT = 500  # of which the memory of a row does not depend
    projection.project(np.eye(64, dtype=np.float32))  # imports
    store = open_store(folder)
    peaks, count, before = [], len(store), resident()
    for what in (store.vectors, lambda: image_map(store)):
        what()
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - before)
    cells = " | ".join(f"{peak:.0f} MB, {peak * 1e6 / count:,.0f} bytes a row" for peak in peaks)
    print(f"| {count:,} | {store.info.dim} | {cells} |")


def page(folder: Path) -> None:
    """Serve the page of a store, and send it requests; print a line for each."""
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    words = [sys.executable, "-m", "nearfar", "explore", str(folder)]
    server = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address, token = server.stdout.readline().split(": ")[1].strip().split("?")
        key, ask = "", {"like": [12_345]}
        third = {**ask, "where": "label = '3'"}
        few = {**ask, "where": "id like '%777.jpg'"}
        for what, path, body in (
            ("rows numbered", "api/store", None),
            ("500 rows like one, for the first time", "api/search", ask),
            ("again", "api/search", ask),
            ("another", "api/search", {"like": [123_456]}),
            ("among a tenth of the rows", "api/search", third),
            ("again, among these", "api/search", third),
            ("among a thousandth", "api/search", few),
        ):
            data = None if body is None else json.dumps({**body, "key": key}).encode()
            head = {"content-type": "application/json"}
            asked = urllib.request.Request(f"{address}{path}?{token}", data, head)
            before, began = spent(server.pid), time.perf_counter()
            try:
                with urllib.request.urlopen(asked) as answer:
                    said = answer.read()
            except urllib.error.HTTPError as error:
                said = error.read()
                print(error.code, said.decode())
            took, clock = time.perf_counter() - began, spent(server.pid) - before
            key = key or json.loads(said)["key"]
            status = Path(f"/proc/{server.pid}/status").read_text()
            peak = int(status.split("VmHWM:")[1].split()[0]) / 1e3
            print(f"| {what} | {clock:.1f} | {took:.1f} | {peak:,.0f} |", flush=True)
    finally:
        server.terminate()
        server.wait()


def spent(process: int) -> float:
    """Count the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", choices=["paths", "store", "map", "page", "open_paths", "use", "lay_out", "ask"]
    )
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--at", type=Path)
    given = parser.parse_args()
    if given.what == "open_paths":
        open_paths(given.at)
    elif given.what == "use":
        use(given.at)
    elif given.what == "lay_out":
        lay_out(given.at)
    elif given.what == "ask":
        page(given.at)
    else:
        with tempfile.TemporaryDirectory() as folder:
            at = given.at or Path(folder, "list.txt" if given.what == "paths" else "made.nf")
            if given.what == "paths":
                first = Path(folder, name(0))  # a list of which no file is there would be refused
                first.parent.mkdir(parents=True)
                first.touch()
                with open(at, "w") as file:
                    file.writelines(name(row) + "\n" for row in range(given.count))
                print("| kept of all paths | CPU s | MB held | MB at most |\n|---|---|---|---|", flush=True)
            else:
                fill(at, given.count, given.width)
                heads = "rows | open and count | all ids | ids of a tenth | 1,000 rows | MB at most"
                heads = "rows | numbers | vectors read | map laid out" if given.what == "map" else heads
                heads = "asked for | CPU s | s | MB at most" if given.what == "page" else heads
                print(f"| {heads} |\n|{'---|' * (heads.count('|') + 1)}", flush=True)
            then = {"paths": "open_paths", "store": "use", "map": "lay_out", "page": "ask"}[given.what]
            line = [sys.executable, "-m", "benchmarks.scale_start", then, "--at", str(at)]
            subprocess.run(line, check=True)


if __name__ == "__main__":
    main()
