"""Writes into a store in files: they cost the same however much is there, and are none the worse for it."""

from __future__ import annotations

import shutil
import signal
import time
from functools import partial
from pathlib import Path

import forkserver
import numpy as np
import pytest
from small_store import INFO, draw, table

from nearfar.core.errors import NearfarError
from nearfar.core.locks import hold
from nearfar.stores import VectorStore, open_store


def contents(store: VectorStore) -> dict[str, tuple[str | None, bytes]]:
    """Read all rows; an id that is there twice is no match for a dictionary's."""
    (ids, vectors), labels = store.vectors(), store.rows(["label"])["label"].to_pylist()
    assert len(set(ids)) == len(ids) == len(store)
    return {name: (label, row.tobytes()) for name, label, row in zip(ids, labels, vectors, strict=True)}


@pytest.mark.parametrize("kind", ["folder", "object store"])
def test_writes_by_several_leave_what_a_dictionary_holds(kind: str, tmp_path: Path) -> None:
    first = open_store(tmp_path / "s.nf" if kind == "folder" else "memory://s", INFO)
    # What is in memory is seen by those alone who made it.
    both = [first, open_store(tmp_path / "s.nf") if kind == "folder" else first]
    rng, wanted = np.random.default_rng(0), {}
    for turn in range(18):
        store = both[rng.integers(2)]
        ids = [f"{k:03d}" for k in rng.permutation(400)[: rng.integers(1, 60)]]
        vectors, named = draw(len(ids), seed=turn), turn % 3 > 0
        labels = {"label": [f"{turn} {name}" for name in ids]} if named else {}
        store.upsert(table(ids, vectors, **labels))
        for name, row in zip(ids, vectors, strict=True):
            kept = wanted.get(name, (None, b""))[0]
            wanted[name] = (f"{turn} {name}" if named else kept, row.tobytes())
        if turn % 5 == 4:
            gone = ids[: len(ids) // 2]
            both[rng.integers(2)].delete(gone)
            wanted = {name: row for name, row in wanted.items() if name not in gone}
        if turn == 8:
            store.compact()
        if turn == 15:
            store.delete(where="label like '%'")
            wanted = {name: row for name, row in wanted.items() if row[0] is None}
        assert contents(both[turn % 2]) == wanted
    assert len(wanted) > 20


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs Linux's count of bytes read")
def test_a_store_that_vanishes_is_told_in_a_sentence(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.nf", INFO)
    store.upsert(table(["a"]))
    shutil.rmtree(tmp_path / "s.nf")
    for work in (
        lambda: store.version,
        lambda: store.columns,
        lambda: len(store),
        store.ids,
        store.vectors,
        lambda: store.nearest(draw(1), 1),
        lambda: store.update("label", {"a": "x"}),
        lambda: store.upsert(table(["a"])),
        lambda: store.delete(["a"]),
        lambda: store.drop(["x"]),
        store.compact,
    ):
        with pytest.raises(NearfarError):
            work()
    with pytest.raises(NearfarError, match="s.nf is no longer there; bring it back"):
        store.ids()


def test_a_write_of_new_rows_does_not_read_the_old_ones(tmp_path: Path) -> None:
    def read_by(work) -> int:
        def count() -> int:
            return int(Path("/proc/self/io").read_text().split()[1])

        before = count()
        work()
        return count() - before

    def rows(start: int, count: int):
        return table([f"{k:08d}{k * 2654435761 % 2**128:0100x}" for k in range(start, start + count)])

    store, other = (open_store(tmp_path / "s.nf", INFO) for _ in range(2))
    store.upsert(rows(0, 30_000))
    ids = 30_000 * 20  # bytes, were they packed five times as tight as they are written
    assert read_by(lambda: store.upsert(rows(30_000, 100))) < ids / 4
    for writer, start in ((other, 40_000), (store, 50_000)):  # each has to learn them once
        assert read_by(partial(writer.upsert, rows(start, 100))) > ids
    for writer, start in ((store, 60_000), (other, 70_000), (store, 80_000)):  # rows of the other alone
        assert read_by(partial(writer.upsert, rows(start, 100))) < ids / 4
    assert len(store) == len(set(store.ids())) == 30_600
    assert store._known.read <= 30_600 and other._known.read <= 30_600


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
from small_store import INFO, draw, table
from nearfar.stores import open_store
store = open_store(sys.argv[1], INFO)
for turn in range(10_000):
    store.upsert(table([f"{turn} {k}" for k in range(50)], draw(50, seed=turn)))
    print(turn, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_kill_within_a_write_leaves_whole_writes_and_no_lock(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.nf", INFO)
    process = forkserver.start(KILLED, tmp_path / "s.nf", Path(__file__).parent)
    told = next(int(line) for line in process.stdout if int(line) == 5)
    time.sleep(0.013)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(store) % 50 == 0 and len(store) >= 50 * (told + 1)
    with hold(tmp_path / "s.nf" / "writing.lock"):  # or Busy
        pass
    store.upsert(table(["0 0", "new"], draw(2, seed=9)))
    assert len(contents(store)) % 50 == 1


def test_a_damaged_old_version_stops_no_label_and_is_told_when_compacting(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.nf", INFO)
    store.upsert(table(["a", "b"]))
    for label in "xyz":
        store.update("label", {"a": label})
    oldest = max((tmp_path / "s.nf" / "images.lance" / "_versions").glob("*.manifest"))  # they count down
    oldest.write_bytes(oldest.read_bytes()[:40])
    for number in range(12):
        store.update("label", {"b": f"{number}"})
    assert store.rows(["label"]).to_pydict() == {"label": ["z", "11"]}
    with pytest.raises(NearfarError, match="s.nf cannot be written: .*corrupt file"):
        store.compact()
