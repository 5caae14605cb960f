"""Decoded once: what is stored is what the files hold, the bad ones are named, and a kill costs nothing."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import time
from pathlib import Path

import bad_files
import forkserver
import numpy as np
import pytest
from PIL import Image

from nearfar.core import progress
from nearfar.core.errors import NearfarError
from nearfar.data import cache, disk_cache, inspection
from nearfar.data.dataset import ImageDataset, Subset, duplicates
from nearfar.data.ledger import ReadConfig
from nearfar.data.reading import write_rejected
from nearfar.data.sources import open_source
from nearfar.images import decode

MAX = bad_files.MAX_PIXELS
USUAL = {"short_side": 24, "max_pixels": MAX, "max_bad": 0.1, "threads": 3}


def write(folder: Path, count: int, *, side: int = 0) -> Path:
    """Noisy PNG files of differing sizes, so that a mix-up shows."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(3)
    for number in range(count):
        height, width = (side, side) if side else draw.integers(8, 40, 2)
        noise = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number:04d}.png", compress_level=1)
    return folder


def same_as_files(store: ImageDataset, folder: Path, **options: int) -> None:
    for row, name in enumerate(store.ids):
        assert np.array_equal(store[row], decode.decode(folder / name, max_pixels=MAX, short_side=24))


def test_a_thousand_good_files_and_every_kind_of_bad_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", 1000)
    good = sorted(os.listdir(folder))
    bad = bad_files.write(folder)
    source = open_source(folder)
    store = cache.load(source, **USUAL, folder=tmp_path)
    assert len(bad) >= 30 and [item.id for item in store.rejected] == bad and store.ids == good
    assert store.resident and not (tmp_path / "decoded").exists()
    same_as_files(store, folder)
    write_rejected(tmp_path / "rejected.csv", store.rejected)
    with open(tmp_path / "rejected.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["id", "reason"] and [row[0] for row in rows[1:]] == bad and all(row[1] for row in rows)
    seen = inspection.inspect(source, max_pixels=MAX, threads=3)
    assert (seen.count, seen.usable) == (1000 + len(bad), 1000) and seen.rejected == store.rejected
    mapped = cache.load(source, **USUAL, folder=tmp_path, memory=0)
    assert not mapped.resident and mapped.rejected == store.rejected
    assert mapped.fingerprint == store.fingerprint and np.array_equal(mapped.digests, store.digests)
    same_as_files(mapped, folder)


def test_gather_shares_the_buffer_and_keeps_the_order(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", 30)
    store = cache.load(open_source(folder), **USUAL)
    rows = np.array([7, 3, 3, 29])
    block = store.gather(rows)
    assert block.pixels is store.pixels and len(block) == 4 and not block.pixels.flags.writeable
    for at, row in enumerate(rows):
        assert np.array_equal(block.image(at), store[row])
    assert np.array_equal(store[-1], store[29]) and store.nbytes == store.pixels.size
    assert block.offset.dtype == np.int64 and block.height.dtype == block.width.dtype == np.int32
    with pytest.raises(IndexError):
        store[30]


@pytest.mark.parametrize("threads", [1, 7])
def test_threads_do_not_matter(tmp_path: Path, threads: int) -> None:
    folder = write(tmp_path / "photos", 100)
    one = cache.load(open_source(folder), **USUAL)
    other = cache.load(open_source(folder), **USUAL | {"threads": threads})
    assert one.fingerprint == other.fingerprint and one.ids == other.ids
    assert all(np.array_equal(one[row], other[row]) for row in range(100))


def test_a_caches_name_is_its_stamps_row_by_row(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "photos", 9))
    how = f"1:{decode.DECODERS}:24:1000000"  # another name would decode everything anew
    mark = hashlib.blake2b(how.encode(), digest_size=16)
    for row, name in enumerate(source.ids):
        mark.update(f"\0{name}\0{source.stamp(row)}".encode())
    assert ReadConfig(source, 24, 1_000_000, 0.0, 1).name() == mark.hexdigest()


def test_the_fingerprint_follows_content_and_ids(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", 5)
    first = cache.load(open_source(folder), **USUAL)
    os.utime(folder / "0001.png", (1, 1))
    assert cache.load(open_source(folder), **USUAL).fingerprint == first.fingerprint
    os.rename(folder / "0001.png", folder / "0001b.png")
    renamed = cache.load(open_source(folder), **USUAL).fingerprint
    (folder / "0001b.png").write_bytes((folder / "0002.png").read_bytes())
    store = cache.load(open_source(folder), **USUAL)
    assert len({first.fingerprint, renamed, store.fingerprint}) == 3
    assert duplicates(store) == [(1, 2)] and duplicates(first) == []


def test_too_many_bad_ones_stop_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", 8)
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(b"<html>")
    for options in ({}, {"memory": 0, "folder": tmp_path}):
        with pytest.raises(
            NearfarError, match=r"of 10 images .* --max-bad 0.1 .*not an image.*nearfar check"
        ):
            cache.load(open_source(folder), **USUAL, **options)
        assert len(cache.load(open_source(folder), **USUAL | {"max_bad": 0.2}, **options)) == 8
    with pytest.raises(NearfarError, match="--max-bad"):  # made with a larger share, held to ours
        cache.load(open_source(folder), **USUAL, memory=0, folder=tmp_path)
    for number in range(8):
        (folder / f"{number:04d}.png").unlink()
    with pytest.raises(NearfarError, match=r"no usable image \(a.jpg: not an image\)"):
        cache.load(open_source(folder), **USUAL | {"max_bad": 1.0})


def test_labels_follow_the_good_rows(tmp_path: Path) -> None:
    for label in ("10", "9"):
        write(tmp_path / "photos" / label, 3)
    (tmp_path / "photos" / "10" / "0001.png").write_bytes(b"")
    store = cache.load(open_source(tmp_path / "photos", labels=True), **USUAL | {"max_bad": 0.5})
    assert (
        store.classes == ("9", "10") and store.labels is not None and store.labels.tolist() == [1, 1, 0, 0, 0]
    )


def test_arrays_are_used_where_they_lie() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 30, 3), dtype=np.uint8)
    store = cache.load(open_source(pixels), **USUAL)
    assert np.shares_memory(store.pixels, pixels) and pixels.flags.writeable
    assert all(np.array_equal(store[row], pixels[row]) for row in range(20))
    small = cache.load(open_source(pixels), **USUAL | {"short_side": 12})
    assert small[3].shape == (12, 15, 3) and small.fingerprint == store.fingerprint
    with pytest.raises(NearfarError, match="over the limit of 100 pixels"):
        cache.load(open_source(pixels), **USUAL | {"max_pixels": 100})


def test_a_sample_that_misleads_ends_on_disk(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", 300, side=4)
    for number in range(10, 300, 2):  # larger than the sample of headers is likely to promise
        Image.new("RGB", (24, 24)).save(folder / f"{number:04d}.png")
    source = open_source(folder)
    store = cache.load(source, **USUAL, folder=tmp_path, memory=20_000 + 300 * 48)
    assert not store.resident and len(store) == 300
    same_as_files(store, folder)


def test_a_second_load_decodes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "photos", 40)
    progress.show(True)
    try:
        first = cache.load(open_source(folder), **USUAL, folder=tmp_path, memory=0)
        assert "decoding 40 images, about 0.00 GB, into" in capsys.readouterr().err
        again = cache.load(open_source(folder), **USUAL, folder=tmp_path, memory=0)
        assert capsys.readouterr().err == ""
        write(folder, 1, side=9)
        changed = cache.load(open_source(folder), **USUAL, folder=tmp_path, memory=0)
        assert "decoding" in capsys.readouterr().err
    finally:
        progress.show(False)
    assert first.fingerprint == again.fingerprint != changed.fingerprint
    assert len(list((tmp_path / "decoded").iterdir())) == 2
    held = sorted(path.name for path in next((tmp_path / "decoded").iterdir()).iterdir())
    assert held == ["index.npz", "lock", "pixels.bin"]


DECODER = """
import sys
from pathlib import Path
from nearfar.data import cache, disk_cache
from nearfar.data.sources import open_source
disk_cache._FLUSH_SECONDS = 0.0
cache.load(open_source(sys.argv[1]), short_side=24, max_pixels=10**6, max_bad=.1, threads=2,
    memory=0, folder=Path(sys.argv[2]))
"""


def decoder(folder: Path, root: Path) -> forkserver.Process:
    return forkserver.start(DECODER, folder, root)


def test_killed_with_9_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "photos", 300)
    for name in ("0100.png", "0250.png"):
        (folder / name).write_bytes(b"broken")
    big = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    Image.fromarray(big).save(tmp_path / "big.png", compress_level=1)
    for number in range(150, 300, 2):  # slow ones, so that the kill falls in the midst
        if number != 250:
            (folder / f"{number:04d}.png").unlink()
            os.link(tmp_path / "big.png", folder / f"{number:04d}.png")
    whole = cache.load(open_source(folder), **USUAL)
    process = decoder(folder, tmp_path)
    journal: list[Path] = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        journal = list((tmp_path / "decoded").glob("*/journal.bin"))
        if journal and journal[0].stat().st_size > 50 * 40:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = journal[0].stat().st_size // 40
    assert 50 < kept < 298 and not (journal[0].parent / "index.npz").exists()
    with open(journal[0], "ab") as file:
        file.write(b"torn record")
    progress.show(True)
    try:
        resumed = cache.load(open_source(folder), **USUAL, folder=tmp_path, memory=0)
    finally:
        progress.show(False)
    assert f"{kept:,} are done already" in capsys.readouterr().err
    assert resumed.fingerprint == whole.fingerprint and resumed.rejected == whole.rejected
    assert all(np.array_equal(resumed[row], whole[row]) for row in range(len(whole)))


def test_two_processes_at_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", 300)
    both = [decoder(folder, tmp_path) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert len(list((tmp_path / "decoded").iterdir())) == 1
    same_as_files(cache.load(open_source(folder), **USUAL, folder=tmp_path, memory=0), folder)


def test_a_full_disk_is_refused_before_and_survived_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "photos", 30)
    config = cache.ReadConfig(open_source(folder), 24, MAX, 0.1, 2)
    with pytest.raises(
        NearfarError, match=r"needs 1,000,000,000.0 GB more .* GB are free; set NEARFAR_CACHE"
    ):
        disk_cache.open_or_make(config, tmp_path, 10**18)
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(NearfarError, match="is full; free some space and run the same command again"):
            cache.load(open_source(folder), **USUAL, folder=tmp_path, memory=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    same_as_files(cache.load(open_source(folder), **USUAL, folder=tmp_path, memory=0), folder)


def test_without_a_cache_bad_rows_have_substitutes_by_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", 40)
    for name in ("0005.png", "0017.png"):
        (folder / name).write_bytes(b"")
    source = open_source(folder)
    stores = [cache.load(source, **USUAL, decode_once=False) for _ in range(2)]
    everything = stores[0].gather(np.arange(40))
    backwards = [stores[1].gather(np.array([row])) for row in reversed(range(40))][::-1]
    for row in range(40):
        assert np.array_equal(everything.image(row), backwards[row].image(0))
    wanted = cache.load(source, **USUAL)
    assert np.array_equal(stores[0][6], wanted[5]) and len(stores[0]) == 40
    for store in stores:
        assert [(item.id, item.reason) for item in store.rejected] == [
            ("0005.png", "empty file"),
            ("0017.png", "empty file"),
        ]
    for number in range(20, 30):
        (folder / f"{number:04d}.png").unlink()
    with pytest.raises(NearfarError, match="--max-bad"):
        stores[0].gather(np.arange(40))


def test_a_substitute_is_of_the_class_and_of_the_part_that_is_read(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        for value in range(12):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGB", (8, 8), (100 * number + value, 0, 0)).save(tmp_path / name / f"{value:02d}.png")
    bad = [0, 3, 14, 20]
    source = open_source(tmp_path, labels=True)
    for row in bad:
        Path(tmp_path / source.ids[row]).write_bytes(b"")
    store = cache.load(source, **{**USUAL, "max_bad": 1.0}, decode_once=False)
    found = store.gather(np.array(bad))
    assert [int(found.image(at)[0, 0, 0]) // 100 for at in range(4)] == [0, 0, 1, 1]
    rows = np.array([0, 1, 2, 3, 12, 14, 15])  # of which the others must not be seen
    part = Subset(store, rows).gather(np.flatnonzero(np.isin(rows, bad)))
    seen = [int(part.image(at)[0, 0, 0]) for at in range(3)]
    assert {*seen[:2]} <= {1, 2} and seen[2] in (100, 103)
    alone = Subset(store, np.array([0, 12])).gather(np.array([0]))  # no other one of its class
    assert int(alone.image(0)[0, 0, 0]) == 100


def test_inspection(tmp_path: Path) -> None:
    write(tmp_path / "photos" / "a", 3, side=10)
    Image.new("L", (30, 20)).save(tmp_path / "photos" / "b.jpg")
    (tmp_path / "photos" / "a" / "copy.png").write_bytes(
        (tmp_path / "photos" / "a" / "0001.png").read_bytes()
    )
    (tmp_path / "photos" / "bad.gif").write_bytes(b"GIF")
    seen = inspection.inspect(open_source(tmp_path / "photos"), max_pixels=MAX, threads=2)
    assert (seen.count, seen.usable, len(seen.rejected)) == (6, 5, 1)
    assert seen.formats == {"PNG": 4, "JPEG": 1} and seen.modes == {"RGB": 4, "L": 1}
    assert seen.short == inspection.Sides(10, 10, 20) and seen.long == inspection.Sides(10, 10, 30)
    assert seen.duplicates == (("a/0001.png", "a/copy.png"),) and seen.labels is None
    labels = inspection.inspect(open_source(tmp_path / "photos" / ".." / "photos"), max_pixels=MAX, threads=1)
    assert labels.bytes == sum(p.stat().st_size for p in (tmp_path / "photos").rglob("*.*")) - 3
    pixels = np.zeros((3, 8, 9, 3), np.uint8)
    arrays = inspection.inspect(open_source((pixels, [1, 1, 2]), labels=True), max_pixels=MAX, threads=1)
    assert arrays.formats == {"array": 3} and arrays.labels == {"1": 2, "2": 1}
    assert arrays.duplicates == (("0", "1", "2"),)
    assert json.loads(json.dumps(seen.to_json()))["short"] == {"least": 10, "median": 10, "greatest": 20}
    text = str(seen)
    assert "6 images, 5 usable" in text and "bad.gif: " in text and "a/0001.png = a/copy.png" in text


def test_images_that_someone_still_holds_are_not_read_again(tmp_path, monkeypatch):
    for number in range(6):
        Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    how = {"short_side": None, "max_pixels": 10**6, "max_bad": 0.1, "threads": 1}
    first = cache.load(open_source(tmp_path), **how)
    assert cache.load(open_source(tmp_path), **how) is first
    assert cache.load(open_source(tmp_path), **{**how, "short_side": 4}) is not first
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(tmp_path / "0.png")
    os.utime(tmp_path / "0.png", ns=(1, 1))
    changed = cache.load(open_source(tmp_path), **how)
    assert changed is not first and changed.fingerprint != first.fingerprint


@pytest.mark.parametrize("memory", [None, 0], ids=["in memory", "on disk"])
def test_a_subset_is_a_data_set_of_its_own(tmp_path: Path, memory: int | None) -> None:
    folder = write(tmp_path / "photos", 24)
    names = sorted(os.listdir(folder))
    for number, name in enumerate(names):
        (folder / "xyz"[number % 3]).mkdir(exist_ok=True)
        (folder / name).rename(folder / "xyz"[number % 3] / name)
    whole = cache.load(open_source(folder, labels=True), **USUAL, folder=tmp_path, memory=memory)
    rows = np.array([7, 3, 19, 2])
    part = Subset(whole, rows)
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"{folder / whole.ids[row]}\n" for row in rows))
    alone = cache.load(open_source(listing), **USUAL)
    assert len(part) == 4 and len(part.ids) == 4
    assert [Path(name).name for name in part.ids] == [Path(name).name for name in alone.ids]
    assert [part.classes[number] for number in part.labels] == [Path(name).parts[0] for name in part.ids]
    for name in ("heights", "widths", "digests"):
        assert np.array_equal(getattr(part, name), getattr(alone, name)), name
    assert all(np.array_equal(part[row], alone[row]) for row in range(4))
    assert part.resident == whole.resident == (memory is None)
    inner = Subset(part, np.array([2, 0]))
    assert inner.ids == [part.ids[2], part.ids[0]] and np.array_equal(inner[1], alone[0])
    assert part.fingerprint == Subset(whole, rows).fingerprint != whole.fingerprint != inner.fingerprint
    assert Subset(whole, np.arange(len(whole))).fingerprint == whole.fingerprint
    assert not hasattr(part, "pixels")


def test_a_subset_of_files_says_what_it_cannot_know(tmp_path: Path) -> None:
    folder = write(tmp_path, 5)
    part = Subset(cache.load(open_source(folder), **USUAL, decode_once=False), np.array([4, 1]))
    assert part.ids == ["0004.png", "0001.png"] and part.labels is None and not part.resident
    assert np.array_equal(part[0], part.dataset[4]) and np.array_equal(part[1], part.dataset[1])
    assert part.fingerprint != Subset(part.dataset, np.array([1, 4])).fingerprint
    with pytest.raises(NearfarError, match="leave out --no-cache"):
        part.heights  # noqa: B018
