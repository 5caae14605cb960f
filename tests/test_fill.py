"""Filling a store: by content, stretch by stretch, and none the worse for kills and second writers."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import forkserver
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from servers import server  # noqa: F401

from nearfar import embed, models
from nearfar.app.originals import content
from nearfar.cli.main import main
from nearfar.core.errors import NearfarError
from nearfar.embedding import fill as fill_file
from nearfar.embedding import reader
from nearfar.images.views import Preprocess
from nearfar.stores import open_store
from nearfar.training.run import export, load

PREPROCESS = Preprocess.of(16)
NAMES = itertools.count()


def picture(path: Path, seed: int, width: int = 20, height: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    net = models.encoder("resnet10_w16", size=16, seed=3)
    with torch.no_grad():
        net(torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    export(path, net, PREPROCESS, {"method": "none"})
    return load(path)


@pytest.fixture
def photos(tmp_path):
    """Thirty pictures of two classes, and a broken one."""
    for k in range(30):
        picture(tmp_path / "photos" / ("round" if k % 2 else "square") / f"é {k:02d}.png", k, 20 + k, 130 - k)
    (tmp_path / "photos" / "round" / "empty.png").write_bytes(b"")
    return tmp_path / "photos"


@pytest.fixture(params=["lance", "postgres"])
def address(request, tmp_path):
    if request.param == "lance":
        return str(tmp_path / "photos.nf")
    return f"{request.getfixturevalue('server')}&table=f{next(NAMES)}"


def agrees(store, run, photos):
    """Whether a store's vectors are those of `embed` without one, to rounding."""
    plain = embed(run, photos)
    found = store.vectors(ids=plain.ids)[1]
    return store.ids() == sorted(plain.ids) and np.allclose(found, plain.vectors, atol=1e-5)


def test_a_store_is_filled(run, photos, address):
    done = embed(run, photos, store=address, labels=True)
    assert (done.images, done.encoded, done.unchanged, done.gone) == (30, 30, 0, ())
    assert [item.id for item in done.rejected] == ["round/empty.png"] and json.dumps(done.to_json())
    store = open_store(address)
    assert agrees(store, run, photos)
    assert store.info.preprocess["size"] == 16 and store.info.run == str(run.path)
    row = store.rows(ids=["round/é 05.png"]).to_pylist()[0]
    file = photos / "round" / "é 05.png"
    assert (row["label"], row["width"], row["height"]) == ("round", 25, 125)
    assert (row["path"], row["bytes"]) == (str(file), file.stat().st_size)
    small = Image.open(io.BytesIO(store.thumbnails([row["id"]])[0]))
    assert small.format == "JPEG" and small.size == (19, 96)


def test_only_what_is_new_or_has_changed_is_encoded(run, photos, address, tmp_path, monkeypatch):
    embed(run, photos, store=address, labels=True)
    store = open_store(address)
    store.update("label", {"round/é 01.png": "by hand"})
    store.update("site", {"round/é 01.png": "A", "square/é 02.png": "B"})
    encoded = []
    features = fill_file.features
    monkeypatch.setattr(
        fill_file, "features", lambda net, s, *a, **k: encoded.append(len(s)) or features(net, s, *a, **k)
    )
    done = embed(run, photos, store=address, labels=True)
    assert (done.encoded, done.known, done.unchanged) == (0, 0, 30) and not encoded
    (photos / "round" / "é 01.png").rename(photos / "moved.png")
    shutil.copy(photos / "square" / "é 02.png", photos / "copy.png")
    picture(photos / "square" / "é 02.png", 99)
    one, other = photos / "round" / "é 03.png", photos / "round" / "é 05.png"
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    done = embed(run, photos, store=address)
    assert (done.images, done.encoded, done.known, done.unchanged) == (32, 1, 4, 26) and encoded == [1]
    assert done.gone == ("round/é 01.png",) and "kept" in str(done)
    assert embed(run, photos, store=address, prune=True).images == 31
    assert agrees(store, run, photos)
    rows = store.rows(["id", "label", "site"], ids=["moved.png", "copy.png", "square/é 02.png"]).to_pylist()
    assert rows == [
        {"id": "moved.png", "label": "by hand", "site": "A"},
        {"id": "copy.png", "label": None, "site": None},
        {"id": "square/é 02.png", "label": "square", "site": "B"},
    ]


def test_a_corrected_label_reaches_the_store(run, photos, address, tmp_path):
    embed(run, photos, store=address, labels=True)
    store = open_store(address)
    store.update("label", {"round/é 01.png": "by hand"})
    (photos / "square" / "é 02.png").rename(photos / "round" / "mended.png")
    (photos / "round" / "é 01.png").rename(photos / "square" / "é 01.png")
    done = embed(run, photos, store=address, labels=True, prune=True)
    assert (done.images, done.known, done.relabelled, done.kept_labels) == (30, 2, 1, 1)
    assert "1 label changed" in str(done) and "kept" in str(done)
    rows = store.rows(["label", "data_label"], ids=["round/mended.png", "square/é 01.png"]).to_pylist()
    assert rows == [
        {"label": "round", "data_label": "round"},
        {"label": "by hand", "data_label": "square"},
    ]
    names = sorted(path.name for path in (photos / "round").glob("é*.png"))

    def embed_list(first: str):
        lines = [f"photos/round/{name},{first if not at else 'round'}" for at, name in enumerate(names)]
        (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]), encoding="utf-8")
        other = f"{address}2"
        return embed(run, tmp_path / "list.csv", store=other, labels=True), open_store(other)

    assert embed_list("wrong")[1].ids("label = 'wrong'") == [f"photos/round/{names[0]}"]
    done, listed = embed_list("round")
    assert (done.encoded, done.unchanged, done.relabelled) == (0, len(names), 1)
    assert listed.ids("label = 'wrong'") == [] and len(listed.ids("label = 'round'")) == len(names)
    assert embed_list("round")[0].relabelled == 0


def test_a_row_that_changed_before_it_was_copied_is_not_copied(run, photos, address, monkeypatch):
    embed(run, photos, store=address)
    monkeypatch.setattr(reader, "CHUNK_IMAGES", 1)
    (photos / "square" / "é 28.png").rename(photos / "zz.png")  # read after its old name has other content
    picture(photos / "square" / "é 28.png", 77)
    done = embed(run, photos, store=address)
    assert (done.encoded, done.known) == (2, 0) and agrees(open_store(address), run, photos)


def test_a_collection_may_move_but_not_be_mistaken_for_another(run, photos, address, tmp_path):
    embed(run, photos, store=address)
    shutil.copytree(photos, tmp_path / "other")
    store = open_store(address)
    before = store.version
    with pytest.raises(NearfarError, match="would both be 'round/é 01.png'"):
        embed(run, tmp_path / "other", store=address)
    assert store.version == before
    (tmp_path / "link").symlink_to(photos, target_is_directory=True)
    assert embed(run, tmp_path / "link", store=address).unchanged == 30
    shutil.rmtree(photos)
    done = embed(run, tmp_path / "other", store=address)
    assert (done.encoded, done.unchanged, done.gone) == (0, 30, ())
    path = store.rows(["path"], ids=["round/é 01.png"])["path"].to_pylist()
    assert path == [str(tmp_path / "other" / "round" / "é 01.png")]


def test_columns_are_joined_by_id_or_path(run, photos, address, tmp_path):
    (tmp_path / "sites.csv").write_text(
        "path,site,age,code,sure\nround/é 01.png,A,3,007,true\n"
        "photos/square/é 02.png,it's,-1.5e1,1,\nnone.png,C,,,false\n",
        encoding="utf-8",
    )
    embed(run, photos, store=address, columns=tmp_path / "sites.csv")
    store = open_store(address)
    kinds = {"site": "text", "age": "number", "code": "text", "sure": "flag"}
    assert {name: store.columns[name] for name in kinds} == kinds
    assert store.rows(
        list(kinds), ids=["round/é 01.png", "square/é 02.png", "round/é 03.png"]
    ).to_pylist() == [
        {"site": "A", "age": 3.0, "code": "007", "sure": True},
        {"site": "it's", "age": -15.0, "code": "1", "sure": None},
        {"site": None, "age": None, "code": None, "sure": None},
    ]
    assert store.ids("site = 'it''s' and age < 0") == ["square/é 02.png"]
    for text, says in (
        ("x,site\na,b\n", "begins with the column 'x'; put ids or paths first"),
        ("a.png,b\n", "no heading: its first line names a.png; write a line such as id,site"),
        ("id,site\nnope,b\n", "names no row"),
        ("id,bytes\nround/é 01.png,3\n", "cannot be set"),
        ("id,Patient No\nround/é 01.png,3\n", "such as Patient_No"),
        ("id,age\nround/é 01.png,old\n", "holds a number"),
        ("id,a,a\nround/é 01.png,1,2\n", "two columns"),
        ("id,a\nround/é 01.png,1\nround/é 01.png,2\n", "line 3: round/é 01.png has two rows that differ"),
        ("id,a\nround/é 01.png\n", "line 2: 1 value, not 2"),
    ):
        (tmp_path / "bad.csv").write_text(text, encoding="utf-8")
        with pytest.raises(NearfarError, match=says):
            embed(run, photos, store=address, columns=tmp_path / "bad.csv")


def test_ids_of_many_digits_stay_exact(run, photos, address, tmp_path):
    ids = [f"{kind}/é {k:02d}.png" for k, kind in enumerate(["square", "round"] * 15)]
    rows = [f" {name} ,{202401170930120000 * 100 + k}, {k} " for k, name in enumerate(ids)]
    (tmp_path / "c.csv").write_text("\n".join(["id,patient,age", *rows]), encoding="utf-8")
    embed(run, photos, store=address, columns=tmp_path / "c.csv")
    store = open_store(address)
    assert (store.columns["patient"], store.columns["age"]) == ("text", "number")
    assert len(set(store.rows(["patient"])["patient"].to_pylist())) == 30
    assert store.ids("patient = '20240117093012000007'") == [ids[7]]
    with pytest.raises(NearfarError, match="would round 9007199254740993"):
        store.update("age", {ids[0]: 2**53 + 1})
    with pytest.raises(NearfarError, match="too long to be held exactly"):
        store.ids("age = 9007199254740993")
    (tmp_path / "d.csv").write_text(f"id,age\n{ids[0]},9007199254740993\n", encoding="utf-8")
    with pytest.raises(NearfarError, match="would round 9007199254740993"):
        embed(run, photos, store=address, columns=tmp_path / "d.csv")
    table = pa.table(
        {
            "id": ids[:2],
            "scan": pa.array([2**60, 2**60 + 1]),
            "vector": pa.array(list(store.vectors(ids=ids[:2])[1]), pa.list_(pa.float32())),
        }
    )
    store.upsert(table)
    assert store.ids(f"scan = '{2**60 + 1}'") == [ids[1]]


def test_prune_deletes_no_row_whose_file_exists(run, tmp_path):
    for k in range(3):
        picture(tmp_path / "a" / f"{k}.png", k)
        picture(tmp_path / "b" / f"{k + 3}.png", k + 3)
    odd = os.fsdecode(b"caf\xe9.png")  # as a zip of an old Windows leaves it
    (tmp_path / "a" / "0.png").rename(tmp_path / "a" / odd)
    for folder in ("a", "b"):
        with tarfile.open(tmp_path / f"{folder}.tar", "w") as tar:
            for file in sorted((tmp_path / folder).iterdir()):
                tar.add(file, "x" + file.name[-5:])
    address = tmp_path / "s.nf"
    embed(run, tmp_path / "a", store=address)
    done = embed(run, tmp_path / "b", store=address, prune=True)
    assert done.gone == () and done.images == 6
    store = open_store(address)
    assert content(store, "caf\\xe9.png") == (tmp_path / "a" / odd).read_bytes()
    (tmp_path / "a" / odd).unlink()
    assert embed(run, tmp_path / "b", store=address, prune=True).gone == ("caf\\xe9.png",)
    shards = tmp_path / "t.nf"
    embed(run, str(tmp_path / "a.tar"), store=shards)
    done = embed(run, str(tmp_path / "b.tar"), store=shards, prune=True)
    assert done.gone == () and done.images == 6


def test_prune_keeps_rows_of_a_link_that_leads_elsewhere_now(run, tmp_path):
    for k in range(3):
        picture(tmp_path / "a" / f"{k}.png", k)
        picture(tmp_path / "b" / f"{k + 3}.png", k + 3)
    link, address = tmp_path / "link", tmp_path / "s.nf"
    link.symlink_to(tmp_path / "a")
    (tmp_path / "sites.csv").write_text("path,site\nlink/0.png,A\n")
    embed(run, link, store=address, columns=tmp_path / "sites.csv")
    store = open_store(address)
    assert store.ids("site = 'A'") == ["0.png"]
    link.unlink()
    link.symlink_to(tmp_path / "b")
    done = embed(run, link, store=address, prune=True)
    assert done.gone == () and done.images == 6
    assert content(store, "0.png") == (tmp_path / "a" / "0.png").read_bytes()
    # Older stores have paths with links in them: what is behind one now says nothing.
    store.update("path", {"1.png": str(link / "1.png")})
    assert embed(run, link, store=address, prune=True).gone == ()
    (tmp_path / "a" / "0.png").unlink()
    assert embed(run, link, store=address, prune=True).gone == ("0.png",)


def test_arrays_and_another_encoder(run, address, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    assert embed(run, pixels, store=address).encoded == 12
    pixels[3] = 0
    done = embed(run, pixels[:10], store=address, prune=True)
    assert (done.encoded, done.unchanged, done.gone) == (1, 9, ("10", "11"))
    net = models.encoder("resnet10_w16", size=16, seed=4)
    (tmp_path / "b").mkdir()
    export(tmp_path / "b", net, PREPROCESS, {"method": "none"})
    with pytest.raises(NearfarError, match="another encoder"):
        embed(tmp_path / "b", pixels, store=address)
    assert len(open_store(address)) == 10


KILLED = """
import sys, time
from nearfar.embedding import fill, reader
reader.CHUNK_IMAGES = 2
put = fill._Job._put
def slow(self, *given):
    put(self, *given)
    print("\\n".join(given[0]["id"]), flush=True)
    time.sleep(0.05)
fill._Job._put = slow
import nearfar
nearfar.embed(sys.argv[1], sys.argv[2], store=sys.argv[3], workers=1)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_kill_loses_no_row_that_was_committed(run, photos, address):
    told: set[str] = set()
    for rows in (4, 12):
        process = forkserver.start(KILLED, run.path, photos, address)
        until = time.monotonic() + 120
        for line in process.stdout:
            told.add(line.rstrip("\n"))
            if len(told) >= rows or time.monotonic() > until:
                break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert told <= set(open_store(address).ids()) and len(told) >= rows
    done = embed(run, photos, store=address)
    assert done.unchanged >= len(told) and done.unchanged + done.encoded == done.images == 30
    assert agrees(open_store(address), run, photos)


@pytest.mark.slow
def test_two_that_fill_one_store_at_once_both_succeed(run, photos, address):
    both = [forkserver.start(KILLED, run.path, photos, address, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    store = open_store(address)
    assert len(store) == 30 and agrees(store, run, photos)


def test_mistakes_are_named(run, photos, tmp_path):
    with pytest.raises(NearfarError, match="exclude each other"):
        embed(run, photos, out=tmp_path / "v.npz", store=tmp_path / "s.nf")
    with pytest.raises(NearfarError, match="need a store"):
        embed(run, photos, prune=True)
    with pytest.raises(NearfarError, match="is not a vector store"):
        embed(run, photos, store=photos)
    with pytest.raises(NearfarError, match="no folder|here"):
        embed(run, tmp_path / "nothing", store=tmp_path / "s.nf")
    assert not (tmp_path / "s.nf").exists()
    only = tmp_path / "only"
    only.mkdir()
    (only / "a.png").write_bytes(b"")
    with pytest.raises(NearfarError, match=r"of 1 image .* none .*empty file.*nearfar check"):
        embed(run, only, store=tmp_path / "s.nf")
    assert not (tmp_path / "s.nf").exists()


def test_the_command_line(run, photos, tmp_path, capsys):
    store = str(tmp_path / "photos.nf")
    assert main(["embed", str(run.path), str(photos), "--store", store, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["encoded"] == 30
    assert main(["store", store, "--delete", "id like 'round/%'", "--compact"]) == 0
    assert "deleted 15 images\ncompacted\n" in capsys.readouterr().out
    assert main(["store", store, "--delete", "rounds"]) == 2
    assert "there is no column 'rounds'" in capsys.readouterr().err
    assert main(["store", str(tmp_path / "no store.nf")]) == 2
    assert f"nearfar embed RUN DATA --store '{tmp_path / 'no store.nf'}'" in capsys.readouterr().err


def test_a_path_through_a_link_and_back_opens_the_file(tmp_path):
    from nearfar.data.source import FileSource
    from nearfar.embedding.reader import paths_of

    (tmp_path / "real" / "deep" / "sub").mkdir(parents=True)
    (tmp_path / "real" / "deep" / "a.png").write_bytes(b"a")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep" / "sub")
    (tmp_path / "b.png").write_bytes(b"b")
    names = ["../a.png", "../sub/../a.png"]
    for path in paths_of(FileSource("list", names, None, tmp_path / "link", names)):
        assert path is not None and ".." not in path and open(path, "rb").read() == b"a"
    (tmp_path / "a.png").write_bytes(b"another, where the words alone would lead")
    assert open(paths_of(FileSource("list", names, None, tmp_path / "link", names))[0], "rb").read() == b"a"
    plain = ["real/../b.png", "b.png"]
    assert paths_of(FileSource("list", plain, None, tmp_path, plain)) == [str(tmp_path / "b.png")] * 2


def test_thumbnails_are_as_large_as_asked(run, photos, tmp_path):
    address = tmp_path / "large.nf"
    embed(run, photos, store=address, thumbnail=120)
    sizes = {
        max(Image.open(io.BytesIO(data)).size) for data in open_store(address).thumbnails(["square/é 00.png"])
    }
    assert sizes == {120}  # of 130 pixels
    embed(run, photos, store=address)  # it keeps its size
    for size, words in ((96, "has thumbnails of 120 pixels"), (9, "give 16 to 1024 pixels")):
        with pytest.raises(NearfarError, match=words):
            embed(run, photos, store=address, thumbnail=size)
    with pytest.raises(NearfarError, match="need a store"):
        embed(run, photos, thumbnail=120)
