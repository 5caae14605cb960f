"""Anomalies, duplicates, clusters and the map over a real vector store, from Python and as commands."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import picture
from PIL import Image

import nearfar
from nearfar.app.findings import Findings
from nearfar.app.row_numbers import NumberedStore
from nearfar.cli.main import main
from nearfar.core.config import to_json
from nearfar.core.errors import NearfarError
from nearfar.features.extract import fingerprint
from nearfar.queries import QUERIES
from nearfar.queries.store_access import read_labels
from nearfar.stores import StoreInfo, VectorStore, open_store
from nearfar.training.run import Run

SMALL = {"encoder": "resnet10_w16", "batch_size": 16, "steps": 2, "image_size": 16, "device": "cpu"}
KINDS, EACH, ODD = 4, 30, 6


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return nearfar.pretrain(photos, out=tmp_path_factory.mktemp("runs") / "a", **SMALL)


def filled(run: Run, folder: Path, name: str, numbers: list[int], odd: int) -> VectorStore:
    """A store of stripes of four kinds and of some odd ones, with vectors in clouds that we choose."""
    draws = np.random.default_rng(len(numbers))
    middles = np.linalg.qr(draws.standard_normal((run.encoder.dim, KINDS + 1)))[0].T
    (folder / name).mkdir()
    rows: list[dict[str, object]] = []
    for at, number in enumerate(numbers):
        kind = number % KINDS if at < len(numbers) - odd else KINDS
        pixels = picture(number, 48, kind)
        path = folder / name / f"{at:03d}.png"
        # Odd ones have other bytes in another store.
        Image.fromarray(pixels).save(path, compress_level=(1 if name == "test" else 9) if at % 2 else 6)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        own = np.random.default_rng(number).standard_normal(run.encoder.dim)
        rows.append(
            {
                "id": path.name,
                "path": str(path),
                "label": f"kind {kind}" if kind < KINDS else "odd",
                "digest": hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest(),
                "bytes": path.stat().st_size,
                "width": 48 + at,
                "height": 48,
                "thumbnail": file.getvalue(),
                "vector": (middles[kind] + 0.04 * own).astype(np.float32).tolist(),
            }
        )
    schema = pa.list_(pa.float32(), run.encoder.dim)
    table = pa.Table.from_pylist(rows)
    table = table.set_column(table.column_names.index("vector"), "vector", table["vector"].cast(schema))
    info = StoreInfo(run.encoder.dim, fingerprint(run.encoder), str(run.path), to_json(run.preprocess))
    store = open_store(folder / f"{name}.nf", info)
    store.upsert(table)
    return store


@pytest.fixture
def store(run: Run, tmp_path: Path) -> VectorStore:
    """120 stripes and 6 odd ones; image 4 is there again as 120, under other bytes."""
    numbers = [*range(KINDS * EACH), 4, *range(1000, 1000 + ODD)]
    return filled(run, tmp_path, "photos", numbers, ODD)


def column(store: VectorStore, name: str) -> dict[str, object]:
    table = store.rows(["id", name])
    return dict(zip(table["id"].to_pylist(), table[name].to_pylist(), strict=True))


def test_anomalies_by_normal_images(store: VectorStore) -> None:
    found = nearfar.anomalies(
        store, normal="label != 'odd'", anomalous="label = 'odd'", fpr=0.1, save="anomaly_score", limit=50
    )
    assert set(found.columns["label"][:ODD]) == {"odd"} and found.columns["flagged"][:ODD] == [True] * ODD
    assert found.facts["auroc"]["value"] == 1.0 and found.facts["anomalous"] == ODD
    assert found.facts["flagged"] < ODD + 30 and "at most 10 % of new normal" in str(found)
    saved = column(store, "anomaly_score")
    assert [saved[one] for one in found.ids] == pytest.approx(found.columns["anomaly_score"])
    assert list(found.columns["anomaly_score"]) == sorted(found.columns["anomaly_score"], reverse=True)


def test_anomalies_without_knowing_what_is_normal_and_with_conditions(store: VectorStore) -> None:
    found = nearfar.anomalies(store.address, k=ODD + 1, anomalous="label = 'odd'", limit=ODD)
    assert set(found.columns["label"]) == {"odd"} and "flagged" not in found.columns
    some = nearfar.anomalies(store, where="label = 'kind 1'", normal="label = 'kind 2'", fpr=0.2, limit=200)
    assert len(some) == EACH and set(some.columns["label"]) == {"kind 1"} and all(some.columns["flagged"])
    with pytest.raises(NearfarError, match="meet both --normal and --anomalous"):
        nearfar.anomalies(store, normal="width > 0", anomalous="label = 'odd'")


def test_heat_maps_are_written_beside_each_other_on_one_scale(store: VectorStore, tmp_path: Path) -> None:
    folder = tmp_path / "heat"
    found = nearfar.anomalies(store, normal="label != 'odd'", limit=3, heat_maps=folder)
    files = sorted(folder.iterdir())
    assert [file.name[4:-4] for file in files] == list(found.ids) and str(folder) in found.lines[-1]
    sides = np.asarray(Image.open(files[0]))
    assert sides.shape == (256, 512, 3)
    left, right = sides[:, :256].astype(int), sides[:, 256:].astype(int)
    clear = right.max(2) - right.min(2) < 3  # grey: nothing anomalous there
    assert clear.any() and not clear.all()
    grey = left @ [0.299, 0.587, 0.114]
    assert np.abs(grey[clear] - right[clear].mean(1)).max() < 6
    Path(column(store, "path")[found.ids[1]]).unlink()  # type: ignore[arg-type]
    with pytest.raises(NearfarError, match="is not at .* heat maps need the images"):
        nearfar.anomalies(store, normal="label != 'odd'", limit=3, heat_maps=folder)


def test_duplicates_name_the_one_to_keep(store: VectorStore, tmp_path: Path) -> None:
    sheet = tmp_path / "copies.png"
    found = nearfar.duplicates(store, save="copy_of", out=sheet, where="label != 'odd'")
    assert found.ids == ("120.png", "004.png")  # 120 has more pixels
    assert found.columns["keep"] == [True, False] and found.columns["same"] == [False, True]
    saved = column(store, "copy_of")
    assert saved.pop("004.png") == "120.png" and set(saved.values()) == {None}
    assert Image.open(sheet).width > 2 * 96
    assert "1 of 121 images are copies" in str(found)


def test_leaks_between_two_stores(store: VectorStore, run: Run, tmp_path: Path) -> None:
    numbers = [500, 8, 501, 17, 502, 503]
    test = filled(run, tmp_path, "test", numbers, 0)
    # The clouds of the two stores differ; put the same vectors where the pictures are the same.
    ids, x = store.vectors(ids=["008.png", "017.png"])
    table = test.rows(ids=["001.png", "003.png"])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])
    test.upsert(pa.table({"id": table["id"], "vector": vectors}))
    found = nearfar.duplicates(test, against=store.address, save="leak", out=tmp_path / "leaks.png")
    assert {*zip(found.ids, found.columns["copy_of"], strict=True)} == {
        ("001.png", "008.png"),
        ("003.png", "017.png"),
    }
    assert found.columns["confirmed"] == [True, True] and found.columns["same"] == [False, False]
    assert column(test, "leak")["003.png"] == "017.png" and column(test, "leak")["000.png"] is None
    assert Image.open(tmp_path / "leaks.png").height > 2 * 96
    other = open_store(tmp_path / "other.nf", StoreInfo(run.encoder.dim, "another"))
    with pytest.raises(NearfarError, match="different encoders"):
        nearfar.duplicates(test, against=other)
    with pytest.raises(NearfarError, match="is the store itself"):
        nearfar.duplicates(test, against=f"{test.address}/")


@pytest.mark.parametrize("method", ["kmeans", "hdbscan"])
def test_clusters_are_listed_and_saved(store: VectorStore, method: str) -> None:
    found = nearfar.clusters(store, method=method, save="cluster", where="label != 'odd'")
    assert len(found.facts["clusters"]) == KINDS and len(found) == 10 * KINDS
    saved, labels = column(store, "cluster"), column(store, "label")
    pairs = {(saved[one], labels[one]) for one in saved if saved[one] is not None}
    assert len(pairs) == KINDS and {one for one in saved if labels[one] == "odd"} <= {
        one for one in saved if saved[one] is None
    }
    for one, cluster in zip(found.ids, found.columns["cluster"], strict=True):
        assert saved[one] == cluster
    assert ("4 clusters fit best" in str(found)) == (method == "kmeans")


def test_a_column_holds_the_clusters_of_one_clustering(store: VectorStore) -> None:
    store.update("set_aside", {"000.png": True})
    store.update("cluster", dict.fromkeys(store.ids(), 9.0) | {"001.png": None})  # of an earlier clustering
    where = "label = 'kind 2'"
    found = nearfar.clusters(store, n_clusters=2, save="cluster", where=where)
    kept, saved = {*store.ids(where)}, column(store, "cluster")
    assert {saved[one] for one in kept} == {1.0, 2.0}
    assert {saved[one] for one in {*saved} - kept} == {None}  # also what was set aside
    assert "The column cluster of 96 other images held what an earlier run wrote, and is emptied" in str(
        found
    )
    for name in ("cluster", "new"):  # nothing stands there now
        assert "emptied" not in str(nearfar.clusters(store, n_clusters=2, save=name, where=where))


def test_a_column_holds_one_balanced_part(store: VectorStore) -> None:
    nearfar.curate(store, limit=20, save="chosen")
    found = nearfar.curate(store, limit=5, save="chosen", where="label = 'kind 2'")
    kept, saved = {*store.ids("label = 'kind 2'")}, column(store, "chosen")
    assert {one for one, yes in saved.items() if yes} == {*found.ids}
    assert {saved[one] for one in {*saved} - kept} == {None} and "97 other images" in str(found)


def test_the_map_is_kept_in_the_store_and_drawn(store: VectorStore, tmp_path: Path) -> None:
    found = nearfar.image_map(store, out=tmp_path / "map.png")
    store.update("x", dict.fromkeys(store.ids(), 1000.0))  # the user's own
    x = column(store, "map_x")
    assert [x[one] for one in found.ids] == found.columns["map_x"] and len(x) == len(store)
    assert np.asarray(Image.open(tmp_path / "map.png")).std() > 5
    part = nearfar.image_map(store, where="label = 'odd'", out=tmp_path / "map.csv")
    again = column(store, "map_x")
    assert set(column(store, "x").values()) == {1000.0}
    # Places of two maps in one column would be shown as one map.
    assert {one for one in x if again[one] is not None} == {*part.ids} == {*store.ids("label = 'odd'")}
    assert "map_x and map_y of 121 other images" in str(part) and "emptied" not in str(found)
    assert (tmp_path / "map.csv").read_text().startswith("id,map_x,map_y\n")


def test_labels_in_a_column_called_as_one_of_the_list_are_refused(store: VectorStore) -> None:
    store.update("suggested", dict.fromkeys(store.ids(), "cat"))
    with pytest.raises(NearfarError, match="the list has a column 'suggested' of its own"):
        nearfar.label_errors(store, column="suggested")


def test_a_map_comes_whole_or_not_at_all(store: VectorStore) -> None:
    before = store.version
    nearfar.image_map(store)
    both = store.version
    nearfar.image_map(store, seed=1)
    assert both - before <= 2 and store.version == both + 1  # one commit, so that no half of a map is seen


def test_a_label_that_was_accepted_is_no_lack_of_images(store: VectorStore) -> None:
    store.update("label", dict.fromkeys(store.ids(), "cat"))
    store.update("label_origin", dict.fromkeys(store.ids(), "accepted suggestion"))
    with pytest.raises(NearfarError, match="each image has a label that was accepted from a classifier"):
        nearfar.suggest(store)
    with pytest.raises(NearfarError, match="each image that meets --where has a label that was accepted"):
        nearfar.suggest(store, where="width > 0")
    with pytest.raises(NearfarError, match="has no image that meets --where; change the condition"):
        nearfar.suggest(store, where="width > 10000")
    with pytest.raises(NearfarError, match="all labels in 'label' were accepted .*; count them too with"):
        nearfar.label_errors(store)


def test_a_list_that_names_an_image_twice_in_two_ways_is_refused(store: VectorStore, tmp_path: Path) -> None:
    one = store.ids()[0]
    (tmp_path / "a.csv").write_text(f"id,age\n{one},3\n{one.split('.')[0]},4\n")
    with pytest.raises(NearfarError, match="are both the image .*, and their rows differ; keep one"):
        nearfar.store(store.address, columns=tmp_path / "a.csv")
    assert "age" not in store.columns
    (tmp_path / "a.csv").write_text(f"id,age,site\n{one},3,\n{one.split('.')[0]},3,\n")
    nearfar.store(store.address, columns=tmp_path / "a.csv")
    assert column(store, "age")[one] == 3


def test_no_such_user_is_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["store", "~no-such-user/a.nf"], ["explore", "~no-such-user/a.nf"]):
        assert main(words) == 2
        assert "there is no vector store ~no-such-user/a.nf" in capsys.readouterr().err


def test_a_class_with_one_image_stops_no_other(store: VectorStore) -> None:
    ids = store.ids()
    store.update("label", {ids[0]: "lone", ids[1]: "-1", ids[2]: " null ", ids[3]: None, ids[4]: ""})
    found = nearfar.label_errors(store)
    assert found.facts["labels"] == len(ids) - 5 and found.facts["left_out"] == ["lone"]
    assert "only one image of each: lone" in str(found)
    listing, facts = Findings(NumberedStore(store)).classifier("label")
    assert facts["labels"] == len(ids) - 5 and facts["classes"] == KINDS + 1
    assert set(listing.ids) == {*ids[1:5]} and "lone" in listing.lines[0]


def test_numbers_as_labels_stay_apart(store: VectorStore) -> None:
    ids = store.ids()
    store.update("site", {name: 1_000_001.0 + at % 2 for at, name in enumerate(ids)} | {ids[0]: -1.0})
    labels, names = read_labels(store, "site", ids)
    assert names == ("1000001", "1000002") and labels[:3].tolist() == [-1, 1, 0]


def test_commands(store: VectorStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["anomalies", store.address, "--normal", "label != 'odd'", "--fpr", "0.1", "--json"],
        ["duplicates", store.address, "--min-similarity", "0.97", "--json"],
        ["clusters", store.address, "--method", "hdbscan", "--min-cluster-size", "5", "--json"],
        ["map", store.address, "--seed", "1", "--json"],
    ):
        assert main(words) == 0
        assert json.loads(capsys.readouterr().out)["rows"]
    for words, says in (
        (["anomalies", store.address, "--method", "kn"], "did you mean knn?"),
        (["anomalies", store.address, "--normal", "colour = 'x'"], "colour"),
        (
            ["duplicates", store.address, "--min-similarity", "2"],
            "is 2; give a number from 0 to 1",
        ),
        (["clusters", store.address, "--n-clusters", "500"], "127 vectors are too few for 500 clusters"),
        (["map", store.address, "--out", "map.svg"], "name a .csv, .json or .png file"),
    ):
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and says in err


def test_where_nothing_is_that_is_said(store: VectorStore) -> None:
    info = StoreInfo(store.info.dim, store.info.encoder)
    empty = open_store(f"{store.address}.empty.nf", info)
    for query in QUERIES:
        if query in ("search", "classes", "export"):
            continue
        function = getattr(nearfar, QUERIES[query])
        with pytest.raises(NearfarError, match="has no image that meets --where; change the condition"):
            function(store, where="width < 0")
        with pytest.raises(NearfarError, match="holds no images; add some: nearfar embed RUN DATA --store"):
            function(empty)
    found = nearfar.clusters(store, method="hdbscan", where="label = 'odd'")
    assert found.title == "no clusters" and "give a smaller --min-cluster-size" in str(found)
    assert "Clusterings" not in str(found)


def test_columns_are_dropped_and_one_of_another_kind_is_refused_before_the_work(
    store: VectorStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.update("mark", dict.fromkeys(store.ids(), "A"))
    monkeypatch.setattr(type(store), "vectors", None)  # nothing is read
    for words in (["clusters"], ["anomalies"], ["curate"], ["duplicates", "--save", "width"]):
        assert main([words[0], store.address, "--save", "mark", *words[1:]]) == 2
        says = "use another name" if "width" in words else f"first: nearfar store {store.address} --drop mark"
        assert says in capsys.readouterr().err
    monkeypatch.undo()
    told = ["store", store.address, "--drop", "mark"]
    assert main([*told, "--delete", "mark = 'A'"]) == 2 and "mark" in store.columns
    (tmp_path / "m.csv").write_text(f"id,mark\n{store.ids()[0]},2.5\n")
    assert main([*told, "--columns", str(tmp_path / "m.csv"), "--delete", "mark > 2"]) == 0
    assert "dropped mark" in capsys.readouterr().out and store.columns["mark"] == "number"
    assert main([*told, "id"]) == 2 and "mark" in store.columns


def test_copies_that_no_file_confirms_are_not_claimed(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(picture(number, 64, number % 4)).save(folder / f"{number}.png")
    Image.fromarray(picture(3, 64, 3)).save(folder / "again.jpg", quality=90)
    address = tmp_path / "pictures.nf"
    nearfar.embed(run, folder, store=address)
    found = nearfar.duplicates(address, min_similarity=0.7)
    assert set(found.ids) == {"3.png", "again.jpg"} and found.columns["confirmed"] == [True, True]
    assert found.facts["confirmed"] == 1 and "1 of 13 images are copies" in str(found)
    assert "pairs drawn at random" in str(found)
    (folder / "again.jpg").unlink()
    found = nearfar.duplicates(address, min_similarity=0.7)
    assert found.facts["confirmed"] == 0 and found.facts["spare"] == 1
    assert "0 of 13 images are copies, 0 of them byte for byte, in 0 groups" in str(found)
    assert "1 more image looks like" in str(found) and "or not opened here" in str(found)  # as on the page
    # A file with another content is not the image that the store knows.
    Image.fromarray(picture(3, 64, 3)).save(folder / "again.jpg", quality=50)
    assert nearfar.duplicates(address, min_similarity=0.7).facts["confirmed"] == 0


def test_a_list_of_anomalies_says_whether_the_encoder_can_tell_kinds_apart(store: VectorStore) -> None:
    found = nearfar.anomalies(store, limit=3)
    assert found.facts["planted"]["by"] == "labels" and not found.facts["planted"]["weak"]
    labels = np.random.default_rng(0).permutation(list(column(store, "label").values()))
    store.update("label", dict(zip(column(store, "label"), labels.tolist(), strict=True)))
    found = nearfar.anomalies(store, limit=3)
    assert found.facts["planted"]["weak"] is True and "too weak for odd images" in str(found)
