"""Search, label errors, classes and suggestions over a real vector store, from Python and as commands."""

from __future__ import annotations

import csv
import importlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import nearfar
from nearfar.cli.main import main
from nearfar.core.config import to_json
from nearfar.core.errors import NearfarError
from nearfar.features.extract import fingerprint
from nearfar.queries import QUERIES
from nearfar.stores import StoreInfo, VectorStore, open_store
from nearfar.training.run import Run

SMALL = {"encoder": "resnet10_w16", "batch_size": 16, "steps": 2, "image_size": 16, "device": "cpu"}
COLOURS = {"blue": (60, 60, 200), "green": (60, 200, 60), "red": (200, 60, 60), "yellow": (200, 200, 60)}


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders train/ and test/ of four colours, which an encoder tells apart that has hardly learnt."""
    root = tmp_path_factory.mktemp("coloured")
    draw = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 12)):
        for name, colour in COLOURS.items():
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = colour + draw.normal(0, 20, 3) + draw.normal(0, 20, (16, 16, 3))
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(root / part / name / f"{number:03d}.png")
    return root


@pytest.fixture(scope="module")
def run(coloured: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return nearfar.pretrain(coloured / "train", out=tmp_path_factory.mktemp("runs") / "a", **SMALL)


@pytest.fixture
def store(run: Run, coloured: Path, tmp_path: Path) -> VectorStore:
    """160 pictures of four colours, ids such as blue/003.png, three of them with a wrong label."""
    root = coloured / "train"
    ids = [str(path.relative_to(root)) for path in sorted(root.rglob("*.png"))]
    labels = [name.split("/")[0] for name in ids]
    for row, wrong in ((3, "red"), (50, "yellow"), (130, "green")):
        labels[row] = wrong
    vectors = run.encode([root / name for name in ids])
    info = StoreInfo(run.encoder.dim, fingerprint(run.encoder), str(run.path), to_json(run.preprocess))
    place = open_store(tmp_path / "photos.nf", info)
    thumbnails = []
    for name in ids:
        file = io.BytesIO()
        Image.open(root / name).save(file, "JPEG")
        thumbnails.append(file.getvalue())
    columns = {
        "id": ids,
        "path": ids,
        "label": labels,
        "site": ["A", "B"] * 80,
        "thumbnail": pa.array(thumbnails, pa.binary()),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
    }
    place.upsert(pa.table(columns))
    return place


def cosines(store: VectorStore, one: str) -> dict[str, float]:
    ids, x = store.vectors()
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return dict(zip(ids, x @ x[ids.index(one)], strict=True))


# Search


def test_search_by_id_is_the_order_of_cosines(store: VectorStore) -> None:
    expected = cosines(store, "green/005.png")
    del expected["green/005.png"]
    found = nearfar.search(store, id="green/005.png", limit=7)
    order = sorted(expected, key=lambda one: -expected[one])[:7]
    assert found.ids == tuple(order)
    np.testing.assert_allclose(found.columns["similarity"], [expected[one] for one in order], atol=1e-5)
    assert found.columns["label"][0] == "green"


def test_search_by_file_finds_the_file(store: VectorStore, coloured: Path) -> None:
    file = coloured / "train" / "red" / "010.png"
    for found in (
        nearfar.search(store.address, image=file, limit=3),
        nearfar.search(store, like=[str(file)], limit=3),
    ):
        assert found.ids[0] == "red/010.png" and found.columns["similarity"][0] == pytest.approx(1, abs=1e-5)


def test_search_heeds_conditions_and_leaves_examples_out(store: VectorStore) -> None:
    liked = ["blue/000.png", "blue/002.png"]
    found = nearfar.search(store, like=liked, where="site = 'B'", limit=200)
    assert len(found) == 80 and not {*found.ids} & {*liked}
    assert len(nearfar.search(store, like=liked, where="site = 'A'", limit=200)) == 78
    turned = nearfar.search(store, like=liked, dislike=["green/001.png"], limit=200)
    before = nearfar.search(store, like=liked, limit=200)
    assert turned.ids != tuple(name for name in before.ids if name != "green/001.png")
    assert "green/001.png" not in turned.ids and len(turned) == 157


def test_one_name_stands_for_a_list_of_one(store: VectorStore, tmp_path: Path) -> None:
    """A text is a list of its letters, which would be taken for names, or in a store of texts for texts."""
    one, other = "blue/000.png", "green/001.png"
    found = nearfar.search(store, like=one, dislike=other, limit=9)
    assert found.ids == nearfar.search(store, like=[one], dislike=[other], limit=9).ids
    for work in (
        lambda: nearfar.store(store.address, drop="nothing"),
        lambda: nearfar.compare(tmp_path, methods="nothing", out=tmp_path / "c"),
        lambda: nearfar.classes(store, names=tmp_path / "n.txt", templates="nothing"),
    ):
        with pytest.raises(NearfarError, match="'nothing'"):
            work()


def test_search_says_what_is_wrong(store: VectorStore, tmp_path: Path) -> None:
    for how, says in (
        ({}, "needs an example; give --image FILE, --id ID or --like ID"),
        ({"dislike": ["blue/000.png"]}, "needs an example"),
        ({"id": "it's.png"}, f'no image "it\'s.png"; list its ids: nearfar store {store.address} --export'),
        ({"like": ["nowhere.png"]}, "'nowhere.png' is neither an id of"),
        ({"id": "blue/000.png", "limit": 0}, "--limit is 0"),
        ({"id": "blue/000.png", "where": "sight = 'A'"}, "site"),
        ({"id": "blue/000.png", "out": tmp_path / "x.txt"}, "name a .csv, .json or .png file"),
    ):
        with pytest.raises(NearfarError, match=says):
            nearfar.search(store, **how)
    with pytest.raises(NearfarError, match="no vector store is named"):
        nearfar.search("", id="a")


def test_files_need_the_very_run(store: VectorStore, run: Run, coloured: Path, tmp_path: Path) -> None:
    file = coloured / "train" / "red" / "010.png"
    moved = tmp_path / "moved"
    shutil.copytree(run.path, moved)
    place = open_store(store.address)
    place.info = StoreInfo(**{**place.info.to_json(), "run": str(tmp_path / "gone")})
    with pytest.raises(NearfarError, match="give its folder with --run"):
        nearfar.search(place, image=file)
    assert nearfar.search(place, image=file, run=moved).ids[0] == "red/010.png"
    other = nearfar.pretrain(coloured / "train", out=tmp_path / "other", **SMALL, seed=1)
    with pytest.raises(NearfarError, match="is not the run that made"):
        nearfar.search(place, image=file, run=other)


# Labels


def test_wrong_labels_come_first(store: VectorStore) -> None:
    found = nearfar.label_errors(store, limit=10)
    assert {"blue/003.png", "green/010.png", "yellow/010.png"} <= {*found.ids[:6]}
    at = found.ids.index("blue/003.png")
    assert found.columns["label"][at] == "red" and found.columns["suggested"][at] == "blue"
    assert len(found) == 10 and found.facts["labels"] == 160
    text = str(found)
    assert (
        "labels, most doubtful first" in text
        and f"bout {found.facts['estimate']} of 160 labels are wrong" in text
    )


def test_images_without_a_label_are_left_out(store: VectorStore, coloured: Path) -> None:
    store.update("kind", {f"{('blue', 'red')[n % 2]}/{n:03d}.png": f"k{n % 2}" for n in range(40)})
    found = nearfar.label_errors(store, column="kind")
    assert found.facts["labels"] == 40 and "kind" in found.columns
    with pytest.raises(NearfarError, match="no column 'kinds'; did you mean kind"):
        nearfar.label_errors(store, column="kinds")
    store.update("kind", dict.fromkeys(store.ids()))
    with pytest.raises(NearfarError, match="has a label in 'kind'; name another"):
        nearfar.label_errors(store, column="kind")
    for ask in (nearfar.suggest, lambda *a, **b: nearfar.classes(*a, examples=coloured / "test", **b)):
        with pytest.raises(NearfarError, match="no image that meets --where"):
            ask(store, where="site = 'C'")


def test_classes_by_example_are_saved(store: VectorStore, coloured: Path, tmp_path: Path) -> None:
    for kind in ("blue", "red"):
        (tmp_path / "examples" / kind).mkdir(parents=True)
        for number in range(12):
            name = f"{kind}/{number:03d}.png"
            shutil.copy(coloured / "test" / name, tmp_path / "examples" / name)
    for propagate in (False, True):
        found = nearfar.classes(store, examples=tmp_path / "examples", save="kind", propagate=propagate)
        assert len(found) == 160 and found.facts["threshold"] is not None
        ids = store.ids("kind is not null")
        kinds = store.rows(["kind"], ids=ids).column("kind").to_pylist()
        own = [kind for name, kind in zip(ids, kinds, strict=True) if name.startswith(kind)]
        assert len(own) > 60 and found.facts["counts"][""] == 160 - len(ids) > 20
    assert "unclassified" in str(found)
    turns = [[*dict.fromkeys(found.columns["class"][low : low + 10])] for low in (0, 10, 20, 30)]
    assert turns == [["blue"], ["red"], [None], ["blue"]]
    similarity = np.array(found.columns["similarity"])
    assert (np.diff(similarity[:10]) <= 0).all() and similarity[9] >= similarity[30]
    every = nearfar.classes(store, examples=tmp_path / "examples", reject=0)
    assert every.facts["counts"][""] == 0 and None not in every.columns["class"]


def test_suggestions_follow_the_labels(store: VectorStore) -> None:
    store.update("kind", {"blue/000.png": "a"})
    found = nearfar.suggest(store, column="kind", limit=8)
    assert len(found) == 8 and "blue/000.png" not in found.ids and found.facts["method"] == "typical"
    assert found.columns["rank"] == list(range(1, 9)) and "1 of 160 images have a label" in str(found)
    ids = store.ids()
    store.update("kind", {name: name.split("/")[0] for name in ids if int(name[-7:-4]) < 30})
    assert nearfar.suggest(store, column="kind", limit=8).facts["method"] == "margin"
    with pytest.raises(NearfarError, match="nothing to suggest"):
        nearfar.suggest(store)


# Commands


def test_the_commands_print_and_write(
    store: VectorStore, coloured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(coloured / "test" / "green" / "003.png")
    assert main(["search", store.address, "--image", file, "--limit", "3"]) == 0
    assert capsys.readouterr().out.count("green") >= 3
    out = str(tmp_path / "like.csv")
    words = ["--like", "blue/000.png", file, "--dislike", "yellow/000.png", "--where", "site = 'A'"]
    assert main(["search", store.address, *words, "--out", out, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    with open(out, encoding="utf-8", newline="") as rows:
        assert [row["id"] for row in csv.DictReader(rows)] == [row["id"] for row in told["rows"]]
    assert told["likes"] == ["blue/000.png", file] and len(told["rows"]) == 20
    sheet = tmp_path / "doubtful.png"
    assert main(["label-errors", store.address, "--limit", "12", "--out", str(sheet)]) == 0
    assert Image.open(sheet).size[0] > 500
    examples = str(coloured / "test")
    assert main(["classes", store.address, "--examples", examples, "--propagate", "--save", "kind"]) == 0
    assert "red" in capsys.readouterr().out and store.columns["kind"] == "text"
    assert main(["suggest", store.address, "--column", "site", "--limit", "5"]) == 2
    assert "nothing to suggest" in capsys.readouterr().err
    assert main(["suggest", store.address, "--method", "margin", "--column", "kinds"]) == 2
    assert "kinds" in capsys.readouterr().err


# What each command has to be told beside its store; a new entry of QUERIES gets its line.
NEEDED = {
    "search": ["--id", "blue/000.png"],
    "suggest": ["--column", "kind"],
    "classes": ["--examples", "{test}"],
    "export": ["--to", "csv", "--out", "{out}.csv"],
}


@pytest.mark.parametrize("command", QUERIES)
def test_every_entry_of_the_table_is_a_command_and_a_function(
    command: str, store: VectorStore, coloured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"nearfar.queries.{command.replace('-', '_')}")
    assert getattr(nearfar, QUERIES[command]) is getattr(module, QUERIES[command])
    store.update("kind", {"blue/000.png": "a"})
    needed = [word.format(test=coloured / "test", out=tmp_path / "out") for word in NEEDED.get(command, [])]
    assert main([command, store.address, *needed, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == len(store) if command == "export" else "rows" in told and told["title"]
    wrong = ["--to", "x"] if command == "export" else ["--where", "no = 1"]
    assert main([command, store.address, *needed, *wrong]) == 2
    err = capsys.readouterr().err
    assert err.startswith("nearfar: ") and err.count("\n") == 1
    pages = [Path(nearfar.__file__).parent.parent / "docs" / f"{page}.md" for page in ("uses", "explore")]
    assert any(f"$ nearfar {command} " in page.read_text(encoding="utf-8") for page in pages)
