"""Measures what it costs to join the parts of a large collection into a store, and writes a line of scale.md.

    python -m benchmarks.scale_join --count 1000000

There are 64 parts in pieces of 1,024 rows, as `nearfar embed --part` writes them, but their rows are made:
paths of about 60 characters, vectors of 16 numbers, empty thumbnails. A fresh process joins them into a new
store, and then once more into the same store, where nothing is left to be written. With --at they are kept.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from .scale_start import made, name, resident

PARTS, ROWS, WIDTH = 64, 1024, 16


def run_at(folder: Path) -> Any:
    """Make a run of an untrained network, whose parts these are said to be."""
    from nearfar import models
    from nearfar.images.views import Preprocess
    from nearfar.training.run import export, load

    if not folder.exists():
        folder.mkdir(parents=True)
        net = models.encoder("resnet10_w16", size=16, seed=0)
        export(folder, net, Preprocess.of(16), {"method": "none"})
    return load(folder)


def parts(folder: Path, count: int) -> None:
    """Write the parts of a made collection."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    from nearfar.embedding.embed import embed
    from nearfar.embedding.part import CollectionPart
    from nearfar.embedding.parts import DONE, piece_name, read_note
    from nearfar.stores import arrow_rows

    drawn = folder / "drawn"
    drawn.mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(drawn / "a.png")
    one = CollectionPart(1, 1)
    embed(run_at(folder / "run"), drawn, part="1/1", out=folder / "one")
    table = pq.read_table(folder / "one" / one.folder / piece_name(0))
    note = read_note(folder / "one" / one.folder / DONE)
    assert note is not None
    places = [folder / "parts" / CollectionPart(k + 1, PARTS).folder for k in range(PARTS)]
    for place in places:
        place.mkdir(parents=True)
    held: list[list[int]] = [[] for _ in places]
    kept: list[list[np.ndarray]] = [[] for _ in places]
    keys: list[list[str]] = [[] for _ in places]
    totals = [0] * PARTS

    def write(k: int) -> None:
        rows, vectors = held[k], np.stack(kept[k])
        new = {
            "row": pa.array(rows, pa.int64()),
            "id": pa.array([name(row) for row in rows]),
            "path": pa.array([name(row) for row in rows]),
            "digest": pa.array([f"{row:064x}" for row in rows]),
            "thumbnail": pa.array([b""] * len(rows), pa.binary()),
            "vector": arrow_rows.fixed(vectors),
        }
        same = table.take(pa.array(np.zeros(len(rows), np.int64)))
        columns = {column: new.get(column, same[column]) for column in table.column_names}
        keys[k].append(f"{k}-{len(keys[k])}")
        facts = {"key": keys[k][-1], "rejected": "[]"}
        at = places[k] / piece_name(len(keys[k]) - 1)
        piece = pa.table(columns).replace_schema_metadata(facts)
        pq.write_table(piece, at, compression="zstd", write_page_checksum=True)
        totals[k] += len(rows)
        held[k], kept[k] = [], []

    owner = CollectionPart(1, PARTS)
    for vectors, rows in made(count, WIDTH):
        for row, vector in zip(rows, vectors, strict=True):
            k = owner.number_of(name(row)) - 1
            held[k].append(row)
            kept[k].append(vector)
            if len(held[k]) == ROWS:
                write(k)
    for k, place in enumerate(places):
        if held[k]:
            write(k)
        told = {"part": k + 1, "parts": PARTS, "dim": WIDTH, "images": count, "pieces": keys[k]}
        told |= {"vectors": totals[k], "unusable": 0}
        (place / DONE).write_text(json.dumps(note | told))


def join(folder: Path) -> None:
    """Join the parts in this process, twice, and print a line of the table."""
    from nearfar.embedding import joining

    run = run_at(folder / "run")
    before, cells = resident(), []
    for _ in range(2):
        clock = time.process_time()
        done = joining.join(run, folder / "parts", store=folder / "made.nf")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - before
        cells.append(f"{done.written:,} | {time.process_time() - clock:.0f} | {peak:.0f}")
    print(f"| {done.images:,} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["parts", "join"])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--at", type=Path)
    given = parser.parse_args()
    if given.what == "join":
        join(given.at)
        return
    with tempfile.TemporaryDirectory() as folder:
        at = given.at or Path(folder)
        parts(at, given.count)
        heads = "rows | written | CPU s | MB at most | written again | CPU s | MB at most"
        print(f"| {heads} |\n|{'---|' * 7}", flush=True)
        line = [sys.executable, "-m", "benchmarks.scale_join", "join", "--at", str(at)]
        subprocess.run(line, check=True)


if __name__ == "__main__":
    main()
