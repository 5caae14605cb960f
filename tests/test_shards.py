"""Images in tar files: their names, their labels, and files that are no shards."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

import pytest
from small_sources import add, png, red, refuses

from nearfar.data.shards import expand
from nearfar.data.sources import open_source


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for shard in range(3):
        with tarfile.open(tmp_path / f"s-{shard:03d}.tar", "w") as tar:
            for item in range(4):
                add(tar, f"d/{shard}{item}.png", png(10 * shard + item))
                if item % 2:
                    add(tar, f"d/{shard}{item}.json", json.dumps({"label": item}).encode())
                else:
                    add(tar, f"d/{shard}{item}.cls", b"even\n")
            add(tar, "../../escape.png" if shard == 2 else "note.txt", png(99))
            add(tar, "link.png", b"", tarfile.SYMTYPE)
    return tmp_path


def test_shards(shards: Path) -> None:
    for pattern in ("s-*.tar", "s-{000..002}.tar"):
        source = open_source(str(shards / pattern))
        assert len(source) == 13 and source.ids[5] == "s-001.tar/d/11.png"
        assert source.ids[12] == "s-002.tar/../../escape.png"
        assert [red(source, i) for i in (0, 5, 11, 12)] == [0, 11, 23, 99]
    assert open_source(shards / "s-001.tar", labels=True).labels == ("even", "1", "even", "3")
    refuses(shards / "s-002.tar", "no label for '../../escape.png'", labels=True)
    assert not (shards.parent.parent / "escape.png").exists()
    assert expand("a{8..10}/b{0..1}") == ["a8/b0", "a8/b1", "a9/b0", "a9/b1", "a10/b0", "a10/b1"]


def test_points_in_names_keep_labels_apart(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        for item in range(9):
            add(tar, f"v1.0_{item}.png", png(item))
            add(tar, f"v1.0_{item}.cls", str(item % 3).encode())
        add(tar, "a.img.png", png(20))
        add(tar, "a.cls", b"whole")
        add(tar, "d.1/b.png", png(21))
        add(tar, "d.1/b.json", b'{"label": 17000000000000000001}')
        link = tarfile.TarInfo("c.png")
        link.type, link.linkname = tarfile.LNKTYPE, "a.img.png"
        tar.addfile(link)
        add(tar, "c.cls", b"link")
    source = open_source(tmp_path / "p.tar", labels=True)
    assert source.labels == (*"012012012", "whole", "17000000000000000001", "link")
    assert [red(source, at) for at in (8, 9, 10, 11)] == [8, 20, 21, 20]
    with tarfile.open(tmp_path / "deep.tar", "w") as tar:
        add(tar, "a.png", png(1))
        add(tar, "a.json", b"[" * 100_000)
    refuses(tmp_path / "deep.tar", "no label for 'a.png'", labels=True)
    with tarfile.open(tmp_path / "q.tar", "w") as tar:
        add(tar, "a.png", png(1))
        add(tar, "a.cls", b"one")
        add(tar, "a.b.png", png(2))
    refuses(tmp_path / "q.tar", "no label for 'a.b.png'", labels=True)  # a.cls is another image's


def test_capital_endings_in_shards_and_compressed_ones(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(2):
            add(tar, f"S{number}.PNG", png(number))
            add(tar, f"S{number}.CLS", str(number).encode())
    assert open_source(tmp_path / "a.tar", labels=True).labels == ("0", "1")
    (tmp_path / "z.tar").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    refuses(tmp_path / "z.tar", "it is compressed: unpack it")


def test_of_a_name_that_comes_again_the_last_counts(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in [
            *(("1.png", png(3)), ("1.cls", b"cat"), ("2.png", png(4)), ("2.cls", b"dog")),
            *(("1.png", png(5)), ("1.cls", b"cow")),  # as tar --append adds a newer file
        ]:
            add(tar, name, content)
    source = open_source(tmp_path / "a.tar", labels=True)
    assert list(source.ids) == ["a.tar/1.png", "a.tar/2.png"] and source.labels == ("cow", "dog")
    assert [red(source, row) for row in range(2)] == [5, 4]


def test_shards_that_are_none(shards: Path) -> None:
    whole = (shards / "s-000.tar").read_bytes()
    (shards / "cut.tar").write_bytes(whole[:700])
    (shards / "junk.tar").write_bytes(b"x" * 2000)
    with tarfile.open(shards / "bare.tar", "w") as tar:
        add(tar, "readme.txt", b"hello")
    refuses(shards / "cut.tar", "cannot be read")
    refuses(shards / "junk.tar", "cannot be read")
    refuses(shards / "bare.tar", "there is no image in")
    refuses(str(shards / "t-*.tar"), "no file matches")
    refuses(str(shards / "s-{5..2}.tar"), "counts from 5 to 2")
    (shards / "a.png").write_bytes(png(1))
    refuses(str(shards / "*"), "is not a .tar shard")
