"""Images at addresses: the same collection as on disk, whatever goes wrong on the way."""

import io
import json
import tarfile

import moto_server
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from object_server import serving
from PIL import Image

import nearfar
from nearfar import models
from nearfar.cli.main import main
from nearfar.core import progress
from nearfar.core.errors import BadImage, NearfarError
from nearfar.data import cache, object_cache, object_store
from nearfar.data.identity_labels import gallery_of, open_identities
from nearfar.data.object_store import Bucket
from nearfar.data.sources import open_source
from nearfar.embedding.embed import embed
from nearfar.images.views import Preprocess
from nearfar.training.run import export, load

pytest.importorskip("obstore")
SECRET = "never-to-be-seen-4711"
TINY = {
    "steps": 2,
    "batch_size": 8,
    "image_size": 16,
    "encoder": "resnet10_w16",
    "holdout": 0.0,
    "device": "cpu",
    "precision": "float32",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty-four pictures in two classes, a bad one, and a file that is none."""
    root = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for k in range(24):
        place = root / ("round" if k % 2 else "square") / "é x"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (16 + k % 5, 20, 3), np.uint8)).save(place / f"{k:02d} +#.png")
    (root / "round" / "é x" / "words.jpg").write_bytes(b"no picture at all")
    (root / "round" / "notes.txt").write_text("x")
    (root / ".hidden").mkdir()
    Image.new("RGB", (9, 9)).save(root / ".hidden" / "a.png")
    return root


@pytest.fixture(scope="session")
def moto(tmp_path_factory):
    """S3, as moto serves it."""
    pytest.importorskip("moto")
    with moto_server.serving(tmp_path_factory.mktemp("moto")) as made:
        yield made


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """Point clients to a server."""

    def point(server):
        for name, value in {
            "AWS_ENDPOINT": server.address,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "GOOGLE_BASE_URL": server.address,  # its XML interface is S3's
            "GOOGLE_ALLOW_HTTP": "true",
            "GOOGLE_BEARER_TOKEN": SECRET,
            "NEARFAR_CACHE": str(tmp_path / "cache"),
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(object_store, "_CLIENTS", {})
        monkeypatch.setattr(object_store, "GIVEN_UP", 5.0)
        return server

    return point


@pytest.fixture
def server(settings):
    """A played server: its requests fail when they are told to."""
    with serving() as made:
        yield settings(made)


@pytest.fixture
def s3(settings, moto):
    """An empty bucket of moto's."""
    moto.empty()
    return settings(moto)


@pytest.fixture
def scheme(request):
    return request.param


@pytest.fixture
def objects(request, scheme):
    """Moto's S3, or what plays Google's."""
    return request.getfixturevalue("s3" if scheme == "s3" else "server")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    export(path, models.encoder("resnet10_w16", size=16, seed=3), Preprocess.of(16), {"method": "none"})
    return load(path)


def same(remote, local):
    assert list(remote.ids) == list(local.ids) and remote.labels == local.labels
    assert list(remote.masks) == list(local.masks)
    for row in range(len(local)):
        data = local.read(row)
        assert remote.read(row) == (data if isinstance(data, bytes) else data.read_bytes())


BOTH = pytest.mark.parametrize("scheme", ["s3", "gs"], indirect=True)


@BOTH
def test_a_folder_is_the_same_as_on_disk(objects, folder, scheme):
    objects.upload(folder, "bucket/photos")
    for address in (f"{scheme}://bucket/photos", f"{scheme}://bucket/photos/"):
        remote, local = open_source(address, labels=True), open_source(folder, labels=True)
        same(remote, local)
        assert remote.others == local.others and remote.name == f"{scheme}://bucket/photos"
    stamps = [remote.stamp(row) for row in range(len(remote))]
    assert len({*stamps}) == len(stamps)
    first = f"bucket/photos/{remote.ids[0]}"
    objects.put(first, objects.get(first) + b"x")
    again = open_source(f"{scheme}://bucket/photos")
    assert objects.asked["bucket"] >= 3 * 4, "listings have pages"
    assert [again.stamp(row) == stamps[row] for row in range(len(again))] == [False] + [True] * 24
    assert again.read(0) != remote.read(0)


def test_queries_of_a_bucket_are_no_part_of_a_gallery(s3, folder):
    local, where = open_source(folder), ("query/rex/a.png", "gallery/rex/a.png", "gallery/tom/b.png")
    for row, name in enumerate(where):
        s3.put(f"bucket/{name}", local.read(row).read_bytes())
    kept = gallery_of(open_identities("s3://bucket"))
    assert list(kept.source.ids) == [*where[1:]] and kept.identities == ("rex", "tom")
    assert [kept.source.read(row) for row in (0, 1)] == [local.read(row).read_bytes() for row in (1, 2)]


def test_vectors_and_a_trained_encoder_are_the_same_as_from_disk(s3, folder, run, tmp_path):
    s3.upload(folder, "bucket")
    embed(run, folder, out=tmp_path / "local.npz", labels=True)
    embed(run, "s3://bucket", out=tmp_path / "remote.npz", labels=True)
    with np.load(tmp_path / "local.npz") as a, np.load(tmp_path / "remote.npz") as b:
        assert all(np.array_equal(a[name], b[name]) for name in ("ids", "vectors", "labels"))
    files = [tmp_path / f"{name}.npz.rejected.csv" for name in ("local", "remote")]
    assert files[0].read_bytes() == files[1].read_bytes()
    for name, data, keep in (
        ("local", folder, True),
        ("remote", "s3://bucket", True),
        ("local streamed", folder, False),
        ("remote streamed", "s3://bucket/", False),
    ):
        nearfar.pretrain(data, out=tmp_path / name, cache=keep, max_bad=0.2, **TINY)
    for kind in ("", " streamed"):
        a, b = (
            (tmp_path / f"{name}{kind}" / "encoder.safetensors").read_bytes() for name in ("local", "remote")
        )
        assert a == b and len(a) > 1000
    asked = {path: count for path, count in s3.asked.items() if path.endswith(".png")}
    assert len(asked) == 24 and max(asked.values()) == 1, "what was fetched once is in the cache"
    for path in (*(tmp_path / "remote").rglob("*"), *(tmp_path / "remote streamed").rglob("*")):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()


def test_the_cache_on_disk_is_that_of_local_files_and_its_size_is_said_first(s3, folder, tmp_path, capsys):
    s3.upload(folder, "bucket")
    how = {"short_side": 16, "max_pixels": 10**6, "max_bad": 0.2, "threads": 2}
    whole = cache.load(open_source(folder), **how)
    progress.show(True)
    try:
        kept = cache.load(open_source("s3://bucket"), **how, folder=tmp_path / "decoded", memory=0)
    finally:
        progress.show(False)
    said = capsys.readouterr().err
    assert "decoding 25 images, about 0.00 GB, into" in said
    assert len(kept) == 24 and all(np.array_equal(kept[row], whole[row]) for row in range(24))


def shards(folder, where, count=3):
    where.mkdir()
    source = open_source(folder, labels=True)
    for number in range(count):
        with tarfile.open(where / f"x-{number:03d}.tar", "w") as tar:
            for row in range(number, len(source), count):
                data = source.read(row).read_bytes()
                for name, content in (
                    (f"{row:03d}.png", data),
                    (f"{row:03d}.cls", source.labels[row].encode()),
                ):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    ("scheme", "pattern"),
    [
        ("s3", "s3://bucket/in/*.tar"),
        ("s3", "s3://bucket/in/x-{000..002}.tar"),
        ("gs", "gs://bucket/in/*.tar"),
        ("http", ""),
    ],
    indirect=["scheme"],
)
def test_shards_are_the_same_as_on_disk(objects, folder, tmp_path, pattern):
    shards(folder, tmp_path / "in")
    objects.upload(tmp_path, "bucket")
    address = pattern or objects.url("bucket/in/x-") + "{000..002}.tar"
    local = open_source(str(tmp_path / "in" / "*.tar"), labels=True)
    same(open_source(address, labels=True), local)
    before = objects.asked["bucket/in/x-000.tar"]
    again = open_source(address, labels=True)
    assert list(again.ids) == list(local.ids)
    assert objects.asked["bucket/in/x-000.tar"] - before <= 1, "the list of a shard's members is kept"


def test_lists_hold_paths_or_addresses(server, folder, tmp_path):
    server.upload(folder, "bucket/photos")
    names = [name for name in open_source(folder).ids if name.endswith(".png")]
    rows = "\n".join(f"{name},{'ab'[at % 2]}" for at, name in enumerate(names))
    server.objects["bucket/photos/list.csv"] = f"path,label\n{rows}\n".encode()
    elsewhere = rows.replace("\n", "\n./../photos/")
    server.objects["bucket/lists/list.csv"] = f"path,label\n../photos/{elsewhere}\n".encode()
    found = open_source("s3://bucket/lists/list.csv", labels=True)
    assert found.ids[0] == f"../photos/{names[0]}" and found.read(1) == (folder / names[1]).read_bytes()
    for address in (
        "s3://bucket/photos/list.csv",
        "gs://bucket/photos/list.csv",
        server.url("bucket/photos/list.csv"),
    ):
        found = open_source(address, labels=True)
        assert list(found.ids) == names and found.labels[:3] == ("a", "b", "a")
        assert found.read(3) == (folder / names[3]).read_bytes()
        assert found.stamp(3) != found.stamp(4) and found.stamp(3) == found.stamp(3)
    (tmp_path / "own.txt").write_text("".join(f"s3://bucket/photos/{name}\n" for name in names), "utf-8")
    found = open_source(tmp_path / "own.txt")
    assert found.read(5) == (folder / names[5]).read_bytes()


@BOTH
def test_faults_are_repeated_and_lost_objects_named(server, folder, run, tmp_path, scheme):
    server.upload(folder, "bucket")
    source = open_source(f"{scheme}://bucket")
    names = [name for name in source.ids if name.endswith(".png")]
    server.faults[f"bucket/{names[0]}"] = [503, 500]
    server.lost.add(f"bucket/{names[1]}")
    server.faults[f"bucket/{names[2]}"] = [403] * 50
    found = embed(run, f"{scheme}://bucket", out=tmp_path / "v.npz")
    assert names[0] in found.ids and server.asked[f"bucket/{names[0]}"] == 3
    reasons = {item.id: item.reason for item in found.rejected}
    assert reasons[names[1]] == "unreadable: no such object"
    assert reasons[names[2]] == "unreadable: permission denied"
    server.faults[f"bucket/{names[3]}"] = [503] * 500
    with pytest.raises(BadImage, match=r"unreadable: (the server answers|no answer)"):
        Bucket(scheme, "bucket").read(names[3])


def test_a_lost_object_is_named_and_one_part_of_a_shard_asked_for(s3, folder, run, tmp_path):
    shards(folder, tmp_path / "in", count=1)
    s3.upload(folder, "bucket/photos")
    s3.upload(tmp_path / "in", "bucket/in")
    source = open_source("s3://bucket/photos")
    gone = next(name for name in source.ids if name.endswith(".png"))
    s3.delete(f"bucket/photos/{gone}")
    with pytest.raises(BadImage, match="unreadable: no such object"):
        source.read([*source.ids].index(gone))
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"s3://bucket/photos/{name}\n" for name in source.ids), "utf-8")
    found = embed(run, listed, out=tmp_path / "v.npz")
    assert {item.reason for item in found.rejected if item.id.endswith(gone)} == {
        "unreadable: no such object"
    }
    assert len(found.ids) == 23
    part = open_source("s3://bucket/in/*.tar")
    local = open_source(str(tmp_path / "in" / "*.tar"))
    asked = s3.asked["bucket/in/x-000.tar"]
    assert part.read(7) == local.read(7) and s3.asked["bucket/in/x-000.tar"] == asked + 1


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("s3://", "names no bucket"),
        (f"s3://key:{SECRET}@bucket/x", "holds credentials"),
        (f"https://host/list.csv?X-Amz-Signature={SECRET}", "holds credentials"),
        ("s3://bucket/nothing", "there is no image in s3://bucket/nothing"),
        ("s3://bucket/nothing/*.tar", "no object matches"),
        ("s3://bucket/nothing.csv", "no such object"),
        ("s3://another/photos", "s3://another"),
        ("http://127.0.0.1:1/photos", "web servers list nothing"),
        ("ftp://host/photos", "is an address of a kind that is not read"),
    ],
)
def test_mistakes_are_one_sentence_without_a_secret(s3, address, says, capsys, tmp_path):
    assert main(["embed", "--out", str(tmp_path / "v.npz"), str(tmp_path), address]) == 2
    assert main(["check", address]) == 2
    error = capsys.readouterr().err
    assert says in error and SECRET not in error and "Traceback" not in error


@BOTH
def test_a_refused_listing_says_what_to_set(server, capsys, scheme, monkeypatch):
    server.faults["bucket"] = [403] * 50
    assert main(["check", f"{scheme}://bucket"]) == 2
    error = capsys.readouterr().err
    needed = {"s3": "AWS_ACCESS_KEY_ID", "gs": "GOOGLE_APPLICATION_CREDENTIALS"}[scheme]
    assert "permission denied" in error and needed in error and SECRET not in error
    allow = {"s3": "AWS_ALLOW_HTTP", "gs": "GOOGLE_ALLOW_HTTP"}[scheme]
    monkeypatch.delenv(allow)
    object_store._CLIENTS.clear()
    assert main(["check", f"{scheme}://bucket"]) == 2
    error = capsys.readouterr().err
    assert "http://, which encrypts nothing" in error and f"set {allow}=true" in error


def test_google_s_service_account_is_read_and_never_told(server, folder, capsys, monkeypatch, tmp_path):
    server.upload(folder, "bucket")
    monkeypatch.delenv("GOOGLE_BASE_URL")
    monkeypatch.delenv("GOOGLE_BEARER_TOKEN")
    key = {"gcs_base_url": server.address, "disable_oauth": True, "client_email": "", "private_key": SECRET}
    (tmp_path / "key.json").write_text(json.dumps(key | {"private_key_id": ""}))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "key.json"))
    same(open_source("gs://bucket", labels=True), open_source(folder, labels=True))
    for text in ("", json.dumps(key | {"private_key_id": "", "disable_oauth": False})):  # no key at all
        (tmp_path / "key.json").write_text(text)
        object_store._CLIENTS.clear()
        assert main(["check", "gs://bucket"]) == 2
        error = capsys.readouterr().err
        assert "the credentials cannot be read" in error and SECRET not in error
        assert "set GOOGLE_APPLICATION_CREDENTIALS" in error


def test_the_cache_keeps_to_its_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(object_cache, "FOLDERS", 1)
    cache = object_cache.ObjectCache(tmp_path, 1000)
    cache._path = lambda name: tmp_path / "aa" / name
    for k in range(50):
        cache.put(f"{k:02d}", bytes(100))
    kept = sorted(path.name for path in (tmp_path / "aa").iterdir())
    assert 800 <= 100 * len(kept) <= 1000 and "49" in kept and "00" not in kept
    assert cache.get("49") == bytes(100) and cache.get("00") is None
    cache.put("large", bytes(2000))
    assert cache.get("large") is None
    none = object_cache.ObjectCache(tmp_path / "none", 0)
    none.put("a", b"x")
    assert none.get("a") is None and not (tmp_path / "none").exists()
    monkeypatch.setenv("NEARFAR_REMOTE_CACHE", "much")
    with pytest.raises(NearfarError, match="give a number of GB"):
        object_cache.object_cache()


def test_rows_of_parquet_and_lance_are_the_same_as_on_disk(server, s3, folder, tmp_path):
    source = open_source(folder, labels=True)
    images = [path.read_bytes() for path in (source.read(row) for row in range(len(source)))]
    table = pa.table({"image": pa.array(images, pa.binary()), "label": list(source.labels)})
    (tmp_path / "in").mkdir()
    for number in range(2):
        parquet.write_table(table[number::2], tmp_path / "in" / f"x-{number}.parquet", row_group_size=5)
    for where in (server, s3):
        where.upload(tmp_path / "in", "bucket/in")
    local = open_source(str(tmp_path / "in" / "*.parquet"), labels=True)
    for address in ("s3://bucket/in/*.parquet", server.url("bucket/in/x-") + "{0..1}.parquet"):
        same(open_source(address, labels=True), local)
    one = open_source("s3://bucket/in/x-1.parquet")
    assert one.read(3) == local.read(16)
    before = s3.asked["bucket/in/x-1.parquet"]
    assert open_source("s3://bucket/in/*.parquet").read(14) == local.read(14)
    assert s3.asked["bucket/in/x-1.parquet"] == before, "footers and groups of rows are in the cache"
    lancedb = pytest.importorskip("lancedb")
    lancedb.connect(str(tmp_path)).create_table("set", table)
    s3.upload(tmp_path / "set.lance", "bucket/set.lance")
    same(open_source("s3://bucket/set.lance", labels=True), open_source(tmp_path / "set.lance", labels=True))


def test_a_data_set_on_the_hub_is_read_where_it_is(server, folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("huggingface_hub")
    above = "datasets/org/name/resolve/main"
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    shards(folder, tmp_path / "in")
    with serving() as storage:  # where the hub keeps its files
        for where in (server, storage):
            where.upload(folder, f"{above}/photos")
            where.upload(tmp_path / "in", f"{above}/in")
        server.elsewhere = storage
        same(open_source("hf://datasets/org/name/photos", labels=True), open_source(folder, labels=True))
        local = open_source(str(tmp_path / "in" / "*.tar"), labels=True)
        same(open_source("hf://datasets/org/name/in/x-{000..002}.tar", labels=True), local)
        same(open_source("hf://datasets/org/name/in/*.tar", labels=True), local)
        assert f"Bearer {SECRET}" in server.tokens and storage.tokens == {None}, (
            "the token stays with the hub"
        )
    assert main(["check", "hf://datasets/org"]) == 2
    assert "names no data set; write hf://datasets/org/name/folder/" in capsys.readouterr().err
    server.faults["api/datasets/org/name/tree/main"] = [401] * 9
    assert main(["check", "hf://datasets/org/name"]) == 2
    error = capsys.readouterr().err
    assert "permission denied" in error and "set HF_TOKEN" in error and SECRET not in error
