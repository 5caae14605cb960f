"""The page's server: what each request gives."""

from __future__ import annotations

import csv
import io
import itertools
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="no FastAPI here: pip install 'nearfar[explore]'")
pytest.importorskip("lancedb", reason="no LanceDB here: pip install 'nearfar[store]'")

import explored
import pyarrow.parquet as pq
from page_client import HOME, TOKEN, asked, client, opened, stranger, there  # noqa: F401
from PIL import Image
from starlette.testclient import TestClient

from nearfar.app import server, why
from nearfar.app.filling import Filling
from nearfar.app.findings import Findings
from nearfar.app.frames import frame
from nearfar.app.row_numbers import NumberedStore
from nearfar.cli.main import main
from nearfar.core.errors import NearfarError
from nearfar.data.open import open_data
from nearfar.embedding.reader import ImageReader
from nearfar.features.knn import unit
from nearfar.queries.image_folder import ImageFolder, image_folder
from nearfar.stores import open_store


def test_frames_come_back() -> None:
    arrays = {
        "a": np.arange(3, dtype=np.float32),
        "b": np.arange(5, dtype=np.uint8),
        "c": np.zeros(0, np.int32),
    }
    found = opened(frame({"ü": [1, None]}, **arrays))
    assert found["head"] == {"ü": [1, None]}
    assert all((found[name] == values).all() for name, values in arrays.items())


def test_what_the_last_evaluation_found(client: TestClient, there: explored.Explored) -> None:
    nothing = {"test": "", "sentences": []}
    assert client.get("/api/ranking").json() == nothing
    said = "k-NN: best on these images is the encoder"
    path = explored.evaluated(there.run, said)
    try:
        assert client.get("/api/ranking").json() == {"test": "labelled/<b>test</b>", "sentences": [said]}
        explored.evaluated(there.run, said, digest="0" * 64)  # of an encoder that was here before
        assert client.get("/api/ranking").json() == nothing
        for damaged in ("[", '{"ranking": {"sentences": [1]}}', '{"encoder": {}, "data": {}}'):
            path.write_text(damaged)
            assert client.get("/api/ranking").json() == nothing
    finally:
        path.unlink()


def test_store_columns_and_conditions(client: TestClient, there: explored.Explored) -> None:
    facts = asked(client, "/api/store")
    assert facts["name"] == "photos.nf" and facts["count"] == 150
    assert facts["columns"]["site"] == "text" and facts["columns"]["depth"] == "number"
    ids = there.store.ids()
    by_id = dict(zip([*explored.EVIL, *(f"{n:03d}.png" for n in range(4, 150))], range(150), strict=True))
    found = asked(client, "/api/column/label")
    names = found["head"]["names"]
    assert names == sorted(explored.FORMS)
    words = [names[code] if code >= 0 else None for code in found["values"]]
    assert words == [there.labels[by_id[name]] for name in ids]
    assert asked(client, "/api/column/depth")["values"].tolist() == [by_id[name] for name in ids]
    rows = asked(client, "/api/where?where=site = 'north' and depth < 30")["rows"]
    assert sorted(by_id[ids[row]] for row in rows) == list(range(0, 30, 3))
    assert client.get("/api/where?where=drop table").status_code == 400
    assert "site" in client.get("/api/where?where=sight = 'a'").json()["error"]


def test_thumbnails_and_rows(client: TestClient, there: explored.Explored) -> None:
    key, ids = asked(client, "/api/store")["key"], there.store.ids()
    wanted = [149, 3, 77]
    found = asked(client, f"/api/cells?at={','.join(map(str, wanted))}&key={key}")
    assert [row["id"] for row in found["head"]["rows"]] == [ids[row] for row in wanted]
    ends = np.cumsum([0, *found["sizes"]])
    parts = [found["bytes"][a:b].tobytes() for a, b in zip(ends, ends[1:], strict=False)]
    assert parts == there.store.thumbnails([ids[row] for row in wanted])


def test_why_two_images_are_near(client: TestClient, there: explored.Explored) -> None:
    facts, ids = asked(client, "/api/store"), there.store.ids()
    rows = [ids.index(name) for name in ("010.png", "011.png")]
    address = f"/api/why/{rows[0]}/{rows[1]}?key={facts['key']}"
    found = asked(client, address)
    head, ends = found["head"], np.cumsum([0, *found["sizes"]])
    vectors = unit(torch.from_numpy(there.store.vectors(ids=ids)[1]))
    names = there.store.rows(["path"], ids=[ids[row] for row in rows])["path"].to_pylist()
    files = [
        np.asarray(Image.open(name)) for name in names
    ]  # JPEG files, which differ a little from the pixels
    pair = unit(unit(torch.from_numpy(there.run.encode(np.stack(files)))) - vectors.mean(0))
    assert head["similarity"] == pytest.approx(float(pair[0] @ pair[1]), abs=0.02)
    assert -1 < head["margin"] < 1 and head["better"] in (0, 1, 2)
    for low, high in itertools.pairwise(ends):
        with Image.open(io.BytesIO(found["bytes"][low:high].tobytes())) as image:
            assert image.format == "JPEG" and image.size == (384, 384) and np.asarray(image).std() > 5
    assert len(ends) == 3 and asked(client, address)["head"] == head
    path = Path(there.store.rows(["path"], ids=["011.png"]).to_pylist()[0]["path"])
    kept = path.read_bytes()
    try:
        path.write_bytes(kept[:-1] + b"x")
        assert "is not the file that was embedded" in client.get(address).json()["error"]
    finally:
        path.write_bytes(kept)
    assert client.get(f"/api/why/{rows[0]}/900?key={facts['key']}").status_code in (400, 409)
    there.run.path.rename(there.run.path.with_name("away"))
    try:
        findings = Findings(NumberedStore(open_store(there.store.address)))
        with pytest.raises(NearfarError, match="the run that made .* is no longer in"):
            why.near(findings, ["010.png", "011.png"])
    finally:
        there.run.path.with_name("away").rename(there.run.path)


def test_every_list(client: TestClient, there: explored.Explored) -> None:
    ids = there.store.ids()
    for name in ("anomalies", "duplicates", "label-errors", "suggestions", "clusters"):
        found = asked(client, f"/api/list/{name}")
        assert found["head"]["title"] and len(found["rows"]) > 1, name
        assert all(len(values) == len(found["rows"]) for values in found["head"]["columns"].values())
        listed = [ids[row] for row in found["rows"]]
        if name == "duplicates":
            assert {*explored.EVIL[:2]} <= {*listed} and {"060.png", "061.png"} <= {*listed}
        if name == "suggestions":
            labels = there.store.rows(["label"], ids=listed)["label"].to_pylist()
            assert set(labels) == {None}
    assert client.get("/api/list/nothing").status_code == 404
    scores = asked(client, "/api/anomaly-score")["values"]
    first = asked(client, "/api/list/anomalies")["rows"]
    assert scores[first[0]] == scores.max() and len(scores) == 150
    assert len(asked(client, "/api/clusters")["values"]) == 150
    places = asked(client, "/api/map")
    assert len(places["x"]) == len(places["y"]) == 150 and np.isfinite(places["x"]).all()


def test_search_by_image_and_by_file(client: TestClient, there: explored.Explored) -> None:
    key, ids = asked(client, "/api/store")["key"], there.store.ids()
    row = ids.index("070.png")
    found = asked(client, "/api/search", json={"key": key, "like": [row]})
    _, x = there.store.vectors()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert found["rows"][0] == row
    cosines = unit @ unit[row]
    assert np.allclose(found["head"]["columns"]["similarity"], cosines[found["rows"]], atol=1e-5)
    assert (np.diff(found["head"]["columns"]["similarity"]) <= 1e-6).all()
    data = explored.encoded(there.pixels[70], "PNG")
    nearest = asked(client, "/api/search/file", content=data)
    assert nearest["rows"][0] == row and nearest["head"]["columns"]["similarity"][0] > 0.999
    away = asked(client, "/api/search", json={"key": key, "like": [row], "dislike": [int(found["rows"][1])]})
    assert away["rows"].tolist() != found["rows"].tolist()


def test_what_holds_no_labels_takes_none(
    there: explored.Explored, capsys: pytest.CaptureFixture[str]
) -> None:
    for column in ("depth", "digest"):
        assert main(["explore", there.store.address, "--column", column]) == 2
        assert f"the column {column} does not hold text labels" in capsys.readouterr().err
    assert main(["explore", there.store.address, "--column", "my kind"]) == 2
    assert "cannot be named 'my kind'" in capsys.readouterr().err


def test_labels_are_saved_and_other_hands_told(tmp_path: Path, there: explored.Explored) -> None:
    store = open_store(tmp_path / "own.nf", explored.info(there.run))
    store.upsert(there.store.rows().append_column("vector", _vectors(there)))
    rows = NumberedStore(store)
    app = server.application(rows, Findings(rows), TOKEN, {"localhost"})
    with TestClient(app, base_url=HOME) as client:
        client.get(f"/?token={TOKEN}")
        facts = asked(client, "/api/store")
        change = {"key": facts["key"], "column": "label", "rows": [5, 6]}
        was = [store.rows(["label"], ids=[rows.ids[row]])["label"][0].as_py() for row in (5, 6)]
        told = asked(
            client,
            "/api/labels",
            json={**change, "version": facts["version"], "before": was, "after": ["new", None]},
        )
        assert told["replaced"] == []
        assert store.rows(["label"], ids=rows.ids[5:7])["label"].to_pylist() == ["new", None]
        known = asked(client, "/api/version")["version"]
        # Another hand writes through a store of its own; ours wins, and hears of it.
        open_store(store.address).update("label", {rows.ids[5]: "theirs"})
        told = asked(
            client,
            "/api/labels",
            json={**change, "version": known, "before": ["new", None], "after": ["mine", "mine"]},
        )
        assert told["replaced"] == [[5, "theirs"]] and told["version"] != store.version
        assert store.rows(["label"], ids=rows.ids[5:7])["label"].to_pylist() == ["mine", "mine"]
        other = {**change, "version": 0, "before": [None, None], "after": ["a", "b"], "column": "kind"}
        asked(client, "/api/labels", json=other)
        assert store.columns["kind"] == "text"
        for column in ("id", "vector", "path", "depth", "bad name", "drop"):
            answer = client.post("/api/labels", json={**other, "column": column})
            assert answer.status_code == (200 if column == "drop" else 400), column
        # Rows that come or go make old numbers void.
        open_store(store.address).delete(ids=[rows.ids[0]])
        assert client.post("/api/labels", json=other).status_code == 409
        assert client.get(f"/api/cells?at=1&key={facts['key']}").status_code == 409


def _vectors(there: explored.Explored) -> Any:
    import pyarrow as pa

    return pa.array(list(there.store.vectors()[1]), pa.list_(pa.float32()))


def test_a_classifier_and_its_held_out_accuracy(client: TestClient, there: explored.Explored) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = asked(client, "/api/train", json={"column": "label"})
    facts = found["head"]["facts"]
    assert facts["labels"] == 100 and facts["classes"] == 3
    assert facts["low"] <= facts["accuracy"] <= facts["high"] <= 1
    ids, x = there.store.vectors()
    labels = np.array(there.store.rows(["label"])["label"].to_pylist(), object)
    known = np.array([label is not None for label in labels])
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    rival = make_pipeline(StandardScaler(), LogisticRegression(C=1, max_iter=2000))
    expected = cross_val_score(rival, x[known], labels[known].astype(str), cv=folds).mean()
    assert abs(facts["accuracy"] - expected) < 0.12
    assert sorted(found["rows"].tolist()) == np.flatnonzero(~known).tolist()
    assert set(found["head"]["columns"]["class"]) <= {*explored.FORMS}
    assert client.post("/api/train", json={"column": "id"}).status_code == 400


def test_a_heat_map_is_a_picture_drawn_anew(client: TestClient, there: explored.Explored) -> None:
    key, ids = asked(client, "/api/store")["key"], there.store.ids()
    row = ids.index("070.png")
    answer = client.get(f"/api/heat/{row}?key={key}")
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.width == 2 * picture.height
    # What a store names and is no image does not leave the machine.
    kept = there.store.rows(["path"], ids=["070.png"])["path"][0].as_py()
    open_store(there.store.address).update("path", {"070.png": "/etc/passwd"})
    refused = client.get(f"/api/heat/{row}?key={key}")
    assert refused.status_code == 400 and "root:" not in refused.text
    open_store(there.store.address).update("path", {"070.png": kept})


def test_export(client: TestClient, there: explored.Explored, tmp_path: Path) -> None:
    answer = client.get("/api/export/csv")
    assert "attachment" in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["id"] for row in rows] == there.store.ids()
    (tmp_path / "x.parquet").write_bytes(client.get("/api/export/parquet").content)
    table = pq.read_table(tmp_path / "x.parquet")
    assert table["id"].to_pylist() == there.store.ids()
    assert np.array_equal(np.stack(table["vector"].to_pylist()), there.store.vectors()[1])
    assert client.get("/api/export/pickle").status_code == 404


def test_columns_give_an_order(client: TestClient, there: explored.Explored) -> None:
    rank = asked(client, "/api/order/depth")["rank"]
    assert (np.argsort(rank) == np.argsort(there.store.rows(["depth"])["depth"].to_numpy())).all()
    rank, labels = asked(client, "/api/order/label")["rank"], there.store.rows(["label"])["label"].to_pylist()
    names = sorted({label for label in labels if label is not None})
    assert rank.tolist() == [-1 if label is None else 1 + names.index(label) for label in labels]
    assert client.get("/api/order/nowhere").status_code == 400


def test_selections_are_kept_by_the_names_of_images(client: TestClient) -> None:
    key = asked(client, "/api/store")["key"]
    kept = {"key": key, "name": "odd <b>ones</b>", "rows": [3, 1, 4]}
    assert asked(client, "/api/selections", json=kept) == {"names": {kept["name"]: 3}}
    # A name may be "..", which as a part of an address a browser would take for a step up.
    for name in (str(kept["name"]), "..", ".", "a/../b", "?x=1&y"):
        asked(client, "/api/selections", json={**kept, "name": name})
        assert asked(client, f"/api/selection?name={quote(name, safe='')}")["rows"].tolist() == [3, 1, 4]
        asked(client, "/api/selections", json={**kept, "name": name, "rows": []})
    assert asked(client, "/api/selection?name=nothing")["rows"].tolist() == []
    asked(client, "/api/selections", json=kept)
    assert client.post("/api/selections", json={**kept, "key": "old"}).status_code == 409
    assert asked(client, "/api/selections", json={**kept, "rows": []}) == {"names": {}}


@dataclass(frozen=True)
class Halted(ImageFolder):
    """A folder of which a part is embedded, and the rest when the gate is opened."""

    gate: threading.Event = field(default_factory=threading.Event)

    def fill(self, first_chunk: int | None = None) -> str | Path:
        super().fill(first_chunk)
        assert self.gate.wait(60)
        return super().fill(first_chunk)


def test_points_arrive_while_a_folder_is_embedded(there: explored.Explored, tmp_path: Path) -> None:
    def drawn(numbers: range) -> None:
        for n in numbers:
            (tmp_path / "photos" / f"{n:02d}.jpg").write_bytes(explored.encoded(there.pixels[n]))

    (tmp_path / "photos").mkdir()
    drawn(range(16))
    found = image_folder(tmp_path / "photos", there.run)
    assert found is not None and found.count == 16 and image_folder(there.store.address) is None
    for n in range(8, 16):
        (tmp_path / "photos" / f"{n:02d}.jpg").unlink()
    folder = Halted(**vars(found))
    filling = Filling(folder)
    rows = NumberedStore(filling.opened())
    app = server.application(rows, Findings(rows, filling=filling), TOKEN, {"localhost"})
    with TestClient(app, base_url=HOME) as client:
        client.get(f"/?token={TOKEN}")
        first = asked(client, "/api/version")
        assert first["filling"] == asked(client, "/api/store")["filling"] == {"done": 8, "total": 16}
        assert asked(client, "/api/map")["x"].shape == (8,)
        drawn(range(8, 16))
        folder.gate.set()
        for _ in range(600):
            now = asked(client, "/api/version")
            if now["filling"] is None:
                break
            time.sleep(0.1)
        assert now["key"] != first["key"] and asked(client, "/api/map")["x"].shape == (16,)
    # The first commit is small, so that it is there soon.
    reader = ImageReader(open_data(tmp_path / "photos"), there.run.preprocess, 96, 1)
    assert [len(chunk) for chunk in reader.chunks(first=4)] == [4, 8, 4]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "0.jpg").write_bytes(b"no image")
    with pytest.raises(NearfarError, match="of 1 image of .* none can be used"):
        Filling(ImageFolder("bad", tmp_path / "bad", tmp_path / "bad.nf", 1, there.run)).opened()
