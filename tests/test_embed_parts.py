"""A collection embedded in parts, by several processes: together they are what one process writes."""

import shutil
import signal
import sys
import time
from importlib.util import find_spec

import forkserver
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nearfar import models
from nearfar.core import locks
from nearfar.core.errors import NearfarError
from nearfar.embedding import joining
from nearfar.embedding.embed import embed
from nearfar.embedding.on_ray import PartsWorker
from nearfar.embedding.part import CollectionPart
from nearfar.features import files
from nearfar.images.views import Preprocess
from nearfar.stores import open_store
from nearfar.training.run import export, load

PARTS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty pictures in two classes, and two bad files."""
    root = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for k in range(40):
        place = root / ("round" if k % 2 else "square")
        place.mkdir(exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (16, 16 + k % 7, 3), np.uint8)).save(place / f"é {k:02d}.png")
    (root / "round" / "empty.png").write_bytes(b"")
    (root / "square" / "words.jpg").write_bytes(b"no picture at all")
    return root


def _run(path, seed):
    path.mkdir(exist_ok=True)
    export(path, models.encoder("resnet10_w16", size=16, seed=seed), Preprocess.of(16), {"method": "none"})
    return load(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return _run(tmp_path_factory.mktemp("run"), 3)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Pieces of four images."""
    for name in ("nearfar.embedding.parts", "nearfar.embedding.reader"):
        monkeypatch.setattr(sys.modules[name], "CHUNK_IMAGES", 4)


@pytest.fixture
def parts(run, folder, tmp_path):
    """All parts, done."""
    for number in range(1, PARTS + 1):
        embed(run, folder, part=f"{number}/{PARTS}", out=tmp_path / "parts", labels=True)
    return tmp_path / "parts"


def test_each_image_belongs_to_one_part_whatever_else_there_is():
    names = [f"a/{k}.jpg" for k in range(2000)]
    rows = [CollectionPart(number, 7).rows(names) for number in range(1, 8)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(2000))
    assert min(map(len, rows)) > 200
    assert names[rows[2][0]] in [names[row] for row in CollectionPart(3, 7).rows(names)]
    assert CollectionPart.read(" 3/64 ") == CollectionPart(3, 64)
    for text in ("0/4", "5/4", "3", "1/0", "-1/2", "a/b"):
        with pytest.raises(NearfarError, match="1/64 to 64/64"):
            CollectionPart.read(text)


@pytest.mark.parametrize("group", [8192, 16])
@pytest.mark.parametrize("suffix", ["parquet", "npz", "npy"])
def test_parts_joined_are_the_file_of_one_process(run, folder, parts, tmp_path, suffix, group, monkeypatch):
    monkeypatch.setattr(files, "GROUP", group)
    embed(run, folder, out=tmp_path / f"whole.{suffix}", labels=True)
    done = embed(run, join=parts, out=tmp_path / f"joined.{suffix}")
    assert (done.images, done.parts, len(done.rejected)) == (40, PARTS, 2)
    # Batches of other images: the vectors are the same but for rounding, so compare what they hold.
    a, b = ({} if suffix == "npy" else None for _ in range(2))
    if suffix == "parquet":
        a, b = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("whole", "joined"))
        assert a.drop_columns(["vector"]).equals(b.drop_columns(["vector"]))
        assert a.schema.metadata == b.schema.metadata
        x, y = (np.array(table["vector"].to_pylist(), np.float32) for table in (a, b))
    elif suffix == "npz":
        a, b = (np.load(tmp_path / f"{name}.npz") for name in ("whole", "joined"))
        assert a["ids"].tolist() == b["ids"].tolist() and a["labels"].tolist() == b["labels"].tolist()
        x, y = a["vectors"], b["vectors"]
    else:
        x, y = (np.load(tmp_path / f"{name}.npy") for name in ("whole", "joined"))
        assert (tmp_path / "whole.ids.txt").read_bytes() == (tmp_path / "joined.ids.txt").read_bytes()
    assert np.allclose(x, y, atol=1e-6)
    names = [tmp_path / f"{name}.{suffix}.rejected.csv" for name in ("whole", "joined")]
    assert names[0].read_bytes() == names[1].read_bytes()


@pytest.mark.parametrize("together", [joining.TOGETHER, 7])
def test_parts_fill_a_store_with_all_that_it_keeps(run, folder, parts, tmp_path, together, monkeypatch):
    monkeypatch.setattr(joining, "TOGETHER", together)
    embed(run, folder, store=tmp_path / "whole.nf", labels=True)
    done = embed(run, join=parts, store=tmp_path / "joined.nf")
    whole, joined = open_store(tmp_path / "whole.nf"), open_store(tmp_path / "joined.nf")
    assert done.written == 40 and whole.rows().equals(joined.rows())
    assert whole.thumbnails(whole.ids()) == joined.thumbnails(joined.ids())
    assert np.allclose(whole.vectors()[1], joined.vectors()[1], atol=1e-6)
    # What its owner changed stays, and nothing is written twice.
    name = joined.ids()[0]
    joined.update("label", {name: "mine"})
    assert embed(run, join=parts, store=tmp_path / "joined.nf").written == 0
    assert open_store(tmp_path / "joined.nf").rows(ids=[name])["label"].to_pylist() == ["mine"]
    joined.delete(ids=[name])
    assert embed(run, join=parts, store=tmp_path / "joined.nf").written == 1
    assert embed(run, folder, store=tmp_path / "joined.nf", labels=True).encoded == 0


def test_parts_go_straight_into_one_store(run, folder, tmp_path):
    counts = [embed(run, folder, store=tmp_path / "s.nf", part=f"{k}/2").encoded for k in (1, 2)]
    assert sum(counts) == 40 and min(counts) > 0 and len(open_store(tmp_path / "s.nf")) == 40
    with pytest.raises(NearfarError, match="--prune looks at all images"):
        embed(run, folder, store=tmp_path / "s.nf", part="1/2", prune=True)


def _spoilt(parts, how):
    """Damage a copy of the parts in one way."""
    copy = parts.with_name(f"{parts.name} {how}")
    shutil.copytree(parts, copy)
    first, second = copy / "part-1-of-3", copy / "part-2-of-3"
    piece = sorted(first.glob("*.parquet"))[0]
    if how == "a part is missing":
        shutil.rmtree(second)
    elif how == "a part is not done":
        (second / "part.json").unlink()
    elif how == "a piece is missing":
        piece.unlink()
    elif how == "a piece is cut":
        piece.write_bytes(piece.read_bytes()[:-40])
    elif how == "a byte is wrong":
        data = bytearray(piece.read_bytes())
        data[60] ^= 255  # in the first column's page
        piece.write_bytes(data)
    elif how == "a part is there twice":
        for path in second.glob("*"):
            path.unlink()
        for path in first.glob("*"):
            shutil.copy(path, second)
    elif how == "a piece is of another part":
        shutil.copy(sorted(second.glob("*.parquet"))[0], piece)
    elif how == "parts of two numbers":
        (copy / "part-1-of-4").mkdir()
    return copy


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("a part is missing", "lacks 1 part: run --part 2/3"),
        ("a part is not done", "lacks 1 part: run --part 2/3"),
        ("a piece is missing", "is missing"),
        ("a piece is cut", "is missing, or not the piece"),
        ("a byte is wrong", "is damaged"),
        ("a part is there twice", "part 1/3 again|belongs to another part|part 2/3 again"),
        ("a piece is of another part", "not the piece"),
        ("parts of two numbers", "parts of 3 and of 4"),
    ],
)
def test_a_join_refuses_what_is_not_whole(run, parts, tmp_path, how, says):
    with pytest.raises(NearfarError, match=says):
        embed(run, join=_spoilt(parts, how), out=tmp_path / "v.npz")
    assert not (tmp_path / "v.npz").exists()


def test_parts_of_different_jobs_are_not_mixed(run, folder, parts, tmp_path):
    other = _run(tmp_path / "other", 4)
    with pytest.raises(NearfarError, match="another job .*encoder"):
        embed(other, folder, part="1/3", out=parts, labels=True)
    with pytest.raises(NearfarError, match="another encoder"):
        embed(other, join=parts, out=tmp_path / "v.npz")
    more = tmp_path / "more"
    shutil.copytree(folder, more)
    shutil.copy(more / "round" / "é 01.png", more / "round" / "new.png")
    embed(run, more, part="2/3", out=parts, labels=True)  # of a collection that has grown
    with pytest.raises(NearfarError, match="parts 1 and 2 .* differ in: images, collection"):
        embed(run, join=parts, out=tmp_path / "v.npz")
    with pytest.raises(NearfarError, match="holds no parts"):
        embed(run, join=folder, out=tmp_path / "v.npz")
    with pytest.raises(NearfarError, match="--out is a folder"):
        embed(run, folder, part="1/3", out=tmp_path / "v.npz")
    with pytest.raises(NearfarError, match="reads no images"):
        embed(run, folder, join=parts, out=tmp_path / "v.npz")
    with locks.hold(parts / "part-1-of-3" / ".lock"), pytest.raises(NearfarError, match="another process"):
        embed(run, folder, part="1/3", out=parts, labels=True)


def test_only_pieces_whose_images_changed_are_done_again(run, folder, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(folder, mine)
    first = embed(run, mine, part="1/3", out=tmp_path / "parts")
    assert first.encoded == first.images > 8
    assert embed(run, mine, part="1/3", out=tmp_path / "parts").encoded == 0
    names = pq.read_table(first.folder / "00000001.parquet")["id"].to_pylist()
    Image.new("RGB", (20, 20)).save(mine / names[0])
    assert embed(run, mine, part="1/3", out=tmp_path / "parts").encoded == 4


KILLED = """
import sys, time
import nearfar.embedding.embed
from nearfar.embedding import parts, reader
parts.CHUNK_IMAGES = reader.CHUNK_IMAGES = 4
keep = parts.atomic_write
def write(path):
    time.sleep(0.15)
    return keep(path)
parts.atomic_write = write
nearfar.embed(sys.argv[1], sys.argv[2], part=sys.argv[3], out=sys.argv[4], labels=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_killed_workers_lose_and_double_nothing(run, folder, parts, tmp_path):
    out, killed = tmp_path / "broken", 0
    for turn in range(2):
        folders = [out / f"part-{number}-of-3" for number in (1, 2)]
        before = sum(len(list(place.glob("0*.parquet"))) for place in folders)
        workers = [
            forkserver.start(KILLED, run.path, folder, f"{number}/3", out, env={"OMP_NUM_THREADS": "1"})
            for number in (1, 2)
        ]
        until = time.monotonic() + 60
        while time.monotonic() < until and any(worker.poll() is None for worker in workers):
            if sum(len(list(place.glob("0*.parquet"))) for place in folders) > before + turn % 2:
                break
            time.sleep(0.01)
        for worker in workers:
            killed += worker.poll() is None
            worker.send_signal(signal.SIGKILL)
            worker.wait()
    assert killed >= 2
    for number in (1, 2, 3):
        embed(run, folder, part=f"{number}/3", out=out, labels=True)
    for name, place in (("broken", out), ("whole", parts)):
        embed(run, join=place, out=tmp_path / f"{name}.npz")
    assert (tmp_path / "broken.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_a_worker_of_rays_does_the_parts_that_its_batch_numbers(run, folder, tmp_path):
    how = {"device": "cpu", "engine": "torch", "batch_size": 8, "workers": 1, "labels": False}
    worker = PartsWorker(str(run.path), str(folder), str(tmp_path), PARTS, how)
    done = worker({"part": np.array([3, 1])})
    again = worker({"part": np.array([2, 3])})
    assert done["part"] == [3, 1] and again["part"] == [2, 3] and again["encoded"][1] == 0
    assert sum(done["images"]) + again["images"][0] == 42
    joined = embed(run, join=tmp_path, out=tmp_path / "all.npy")
    assert np.allclose(np.load(joined.where), embed(run, folder).vectors, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"on": "spark", "out": "parts"}, "write --on ray"),
        ({"parts": 3, "out": "parts"}, "--parts is for --on ray"),
        ({"on": "ray", "part": "1/2", "out": "parts"}, "leave --part"),
        ({"on": "ray", "store": "a.nf"}, "leave --part, --join and --store out"),
        ({"on": "ray", "out": "a.npy"}, "--out is a folder"),
        ({"on": "ray"}, "--out is a folder"),
        ({"on": "ray", "out": "parts", "parts": 0}, "--parts is 0"),
    ],
)
def test_what_ray_cannot_do_is_refused(run, folder, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NearfarError, match=message):
        embed(run, folder, **words)
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_it_is_named(run, folder, tmp_path):
    with pytest.raises(NearfarError, match=r"pip install 'nearfar\[ray\]'"):
        embed(run, folder, on="ray", out=tmp_path / "parts")


@pytest.mark.long
@pytest.mark.skipif(find_spec("ray") is None, reason="needs nearfar[ray]")
def test_ray_embeds_all_parts(run, folder, tmp_path):
    done = embed(run, folder, on="ray", parts=PARTS, out=tmp_path / "parts")
    assert (done.parts, done.images, done.unusable) == (PARTS, 42, 2)
    joined = embed(run, join=tmp_path / "parts", out=tmp_path / "all.npy")
    assert np.allclose(np.load(joined.where), embed(run, folder).vectors, atol=1e-6)
