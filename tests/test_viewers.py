"""Exports for other viewers: what each reads is there, in its format, row by row."""

from __future__ import annotations

import csv
import io
import json
import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytest.importorskip("lancedb", reason="no LanceDB here: pip install 'nearfar[store]'")

from conftest import picture

from nearfar.cli.main import main
from nearfar.core.atomic import atomic_write
from nearfar.core.errors import NearfarError
from nearfar.queries.export import export
from nearfar.stores import StoreInfo, VectorStore, open_store

COUNT = 30


def jpeg(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(number, 20, number % 4)).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def store(tmp_path: Path) -> VectorStore:
    """Thirty rows, one of them with a name that would break a table, and a third without labels."""
    made = open_store(tmp_path / "photos.nf", StoreInfo(dim=8))
    x = np.random.default_rng(0).normal(size=(COUNT, 8)).astype(np.float32)
    ids = [f"{number:02d}.png" for number in range(COUNT)]
    ids[3] = 'a\tb\n"c", <d>.png'
    table = {
        "id": ids,
        "vector": pa.array(list(x), pa.list_(pa.float32())),
        "thumbnail": [jpeg(number) for number in range(COUNT)],
        "label": pa.array([None if n % 3 == 0 else f"kind {n % 2}" for n in range(COUNT)], pa.string()),
        "age": [float(number) for number in range(COUNT)],
    }
    made.upsert(pa.table(table))
    return made


def test_atlas_has_places_thumbnails_and_the_true_neighbours(store: VectorStore, tmp_path: Path) -> None:
    made = export(store, to="atlas", out=tmp_path / "a.parquet")
    table = pq.read_table(made.path)
    ids, x = store.vectors()
    assert table["id"].to_pylist() == ids and made.images == COUNT
    assert [row["bytes"] for row in table["image"].to_pylist()] == store.thumbnails(ids)
    assert np.isfinite(np.stack([table["map_x"].to_numpy(), table["map_y"].to_numpy()])).all()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -9)
    for row, near in enumerate(table["neighbors"].to_pylist()):
        best = np.argsort(-cosine[row])[:15]
        assert near["ids"] == best.tolist()
        assert np.allclose(near["distances"], 1 - cosine[row, best], atol=1e-5)
    store.update("map_x", dict.fromkeys(ids, 0.25))
    store.update("map_y", dict.fromkeys(ids, 0.5))
    again = pq.read_table(export(store, to="atlas", out=tmp_path / "b.parquet").path)
    assert set(again["map_x"].to_pylist()) == {0.25} and set(again["map_y"].to_pylist()) == {0.5}


def test_atlas_leaves_columns_of_the_same_names_alone(
    store: VectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("image", "row", "neighbors"):
        store.update(name, dict.fromkeys(store.ids(), "mine"))
    for name in ("map_x", "map_y"):
        store.update(name, dict.fromkeys(store.ids(), "here"))  # no coordinates
    made = export(store, to="atlas", out=tmp_path / "a b.parquet")
    table = pq.read_table(made.path)
    assert set(table["image"].to_pylist()) == {"mine"} and len(table["image_"][0].as_py()["bytes"]) > 100
    assert table["map_x"].to_numpy().std() > 0 and table["row_"].to_pylist() == [*range(COUNT)]
    assert made.open_with.endswith("a b.parquet' --x map_x --y map_y --neighbors neighbors_ --image image_")
    monkeypatch.chdir(store.address)
    assert export(".", to="csv").path == Path(store.address).with_name("photos-csv.csv")


def test_tensorboard_reads_its_folder(store: VectorStore, tmp_path: Path) -> None:
    plugin = "tensorboard.plugins.projector.projector_config_pb2"
    projector = pytest.importorskip(plugin, reason="no TensorBoard here")
    from google.protobuf import text_format

    made = export(store, to="tensorboard", out=tmp_path / "a board")
    folder = made.path
    assert made.open_with == f"tensorboard --logdir '{folder}'"
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(), projector.ProjectorConfig())
    (found,) = config.embeddings
    ids, x = store.vectors()
    assert np.allclose(np.loadtxt(folder / found.tensor_path, delimiter="\t"), x, rtol=1e-5)
    head, *lines = (folder / found.metadata_path).read_text().rstrip("\n").split("\n")
    assert len(lines) == COUNT and all(line.count("\t") == head.count("\t") for line in lines)
    label = head.split("\t").index("label")
    assert [line.split("\t")[label] or None for line in lines] == store.rows(["label"])["label"].to_pylist()
    sheet = np.asarray(Image.open(folder / found.sprite.image_path), np.int16)
    side, across = found.sprite.single_image_dim[0], 6
    assert sheet.shape == (across * side, across * side, 3)
    own = Image.open(io.BytesIO(store.thumbnails([ids[8]])[0])).resize((side, side))
    part = sheet[side : 2 * side, 2 * side : 3 * side]
    assert np.abs(part - np.asarray(own, np.int16)).max() == 0


def test_fiftyone_finds_pictures_and_labels(store: VectorStore, tmp_path: Path) -> None:
    folder = export(store, to="fiftyone", out=tmp_path / "one").path
    ids, x = store.vectors()
    labels = json.loads((folder / "labels.json").read_text())["labels"]
    assert list(labels.values()) == store.rows(["label"])["label"].to_pylist()
    names = {row["number"]: row["id"] for row in csv.DictReader(open(folder / "ids.csv", newline=""))}
    assert list(names) == list(labels) and list(names.values()) == ids
    pictures = [(folder / "data" / f"{number}.jpg").read_bytes() for number in labels]
    assert pictures == store.thumbnails(ids)
    assert np.array_equal(np.load(folder / "vectors.npy", allow_pickle=False), x)


def test_tables_and_the_command_line(
    store: VectorStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", store.address, "--to", "csv"]) == 0
    path = tmp_path / "photos-csv.csv"
    assert capsys.readouterr().out.startswith(f"{path}: 30 images")
    rows = list(csv.DictReader(open(path, newline="")))
    assert [row["id"] for row in rows] == store.ids()
    assert main(["export", store.address, "--to", "parquet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(tmp_path / "photos-parquet.parquet")


def test_wrong_names_are_refused(store: VectorStore, tmp_path: Path) -> None:
    with pytest.raises(NearfarError, match="did you mean tensorboard"):
        export(store, to="tensorbord")
    with pytest.raises(NearfarError, match=r"does not end in \.parquet"):
        export(store, to="atlas", out=tmp_path / "a.csv")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(NearfarError, match="already exists"):
        export(store, to="fiftyone", out=tmp_path / "full")
    with pytest.raises(NearfarError, match="holds nothing"):
        export(open_store(tmp_path / "none.nf", StoreInfo(dim=8)), to="csv")


@pytest.mark.parametrize("to", ["tensorboard", "fiftyone"])
@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_leaves_nothing_and_is_named_by_the_folder_asked_for(
    store: VectorStore, tmp_path: Path, to: str, there: bool
) -> None:
    """A limit on the size of files stands for the disk."""
    place = tmp_path / "new"
    if there:
        place.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, before[1]))
    try:
        with pytest.raises(
            NearfarError, match=r"the disk of \S+ is too full for (\S+/)?new; free some space"
        ):
            export(store, to=to, out=place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert place.exists() == there and not list(tmp_path.glob(".new*")) + list(place.glob("*"))


def test_numpy_tells_of_a_full_disk_without_a_number(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with (
            pytest.raises(NearfarError, match="too full for x.npy"),
            atomic_write(tmp_path / "x.npy") as file,
        ):
            np.save(file, np.zeros((100, 1000)), allow_pickle=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
