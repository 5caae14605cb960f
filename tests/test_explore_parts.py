"""The page with a bank of normal images: the list, the maps, what is called normal; and in a browser."""

from __future__ import annotations

import io
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("fastapi", reason="no FastAPI here: pip install 'nearfar[explore]'")
pytest.importorskip("lancedb", reason="no LanceDB here: pip install 'nearfar[store]'")

from page_browser import CHROMIUM, NOISE, WAIT, focused
from PIL import Image
from starlette.testclient import TestClient
from test_explore_server import opened
from textures import HIGH, WIDE, holed, save, texture

import nearfar
from nearfar.app import server
from nearfar.app.findings import Findings
from nearfar.app.parts import AnomalousParts
from nearfar.app.row_numbers import NumberedStore
from nearfar.core.errors import NearfarError
from nearfar.stores import open_store
from nearfar.training.run import Run

TOKEN = "a-token-that-is-known"
GOOD, ODD = 14, 4


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    root = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:  # what the page keeps goes with the test
        patch.setenv("NEARFAR_CACHE", str(tmp_path_factory.mktemp("cache")))
        for number in range(22):
            save(root / "good" / f"{number:03d}.png", texture(number))
        for number in range(GOOD):
            save(root / "new" / f"{number:03d}.png", texture(300 + number))
        for number in range(ODD):
            save(root / "new" / f"odd-{number}.png", holed(200 + number)[0])
        how: dict[str, Any] = {"encoder": "resnet10_w16", "batch_size": 8, "steps": 2, "image_size": 32}
        made = nearfar.pretrain(root / "good", out=root / "run", device="cpu", **how)
        nearfar.embed(made, root / "new", store=root / "new.nf")
        bank = root / "good.safetensors"
        nearfar.anomalies(root / "new", normal=str(root / "good"), parts=True, run=made, bank=bank, fpr=0.1)
        yield made


def parts_of(run: Run, folder: Path) -> tuple[NumberedStore, Findings, AnomalousParts]:
    """The store with a copy of the bank, which a test may change."""
    root = run.folder.parent
    for name in ("good.safetensors", "good.json"):
        shutil.copy(root / name, folder / name)
    rows = NumberedStore(open_store(str(root / "new.nf")))
    findings = Findings(rows)
    return rows, findings, AnomalousParts(rows, findings, folder / "good.safetensors")


@pytest.fixture
def client(run: Run, tmp_path: Path) -> Iterator[TestClient]:
    rows, findings, parts = parts_of(run, tmp_path)
    app = server.application(rows, findings, TOKEN, {"localhost"}, parts=parts)
    with TestClient(app, base_url="http://localhost:8000") as client:
        assert client.get(f"/?token={TOKEN}").status_code == 200
        yield client


def test_the_list_has_the_command_s_scores(client: TestClient, run: Run) -> None:
    assert client.get("/api/store").json()["parts"] is True
    found = opened(client.get("/api/parts").content)
    head, ids = found["head"], open_store(str(run.folder.parent / "new.nf")).ids()
    names = [ids[row] for row in found["rows"]]
    assert len(names) == GOOD + ODD and all(name.startswith("odd") for name in names[:ODD])
    root = run.folder.parent
    same = nearfar.anomalies(root / "new", parts=True, run=run, bank=root / "good.safetensors", fpr=0.1)
    assert sorted(names) == sorted(same.ids)
    assert np.allclose(found["scores"], same.columns["anomaly_score"], rtol=1e-5)
    assert len(head["held"]) == 9 and head["inside"] == 13 and head["threshold"] is None  # of 5 %


def test_a_map_covers_the_photo_in_full(client: TestClient) -> None:
    found = opened(client.get("/api/parts").content)
    key, row = found["head"]["key"], int(found["rows"][0])
    drawn = np.asarray(Image.open(io.BytesIO(client.get(f"/api/parts/{row}?key={key}").content)), np.int64)
    assert drawn.shape == (HIGH, WIDE, 3)
    x1, y1, x2, y2 = holed(200 + int(open_id(client, row, key)[4]))[1]
    colour = drawn.max(2) - drawn.min(2)  # what is normal is grey
    outside = np.ones((HIGH, WIDE), bool)
    outside[max(0, y1 - 8) : y2 + 8, max(0, x1 - 8) : x2 + 8] = False
    assert colour[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].mean() > 3 * colour[outside].mean() + 10
    assert client.get(f"/api/parts/999?key={key}").status_code == 409


def open_id(client: TestClient, row: int, key: str) -> str:
    return str(opened(client.get(f"/api/cells?at={row}&key={key}").content)["head"]["rows"][0]["id"])


def test_this_is_normal_adds_to_the_bank(client: TestClient, tmp_path: Path) -> None:
    before = opened(client.get("/api/parts").content)
    key, row = before["head"]["key"], int(before["rows"][0])
    asked = {"key": key, "rows": [row], "above": float(before["scores"][ODD])}
    after = opened(client.post("/api/normal", json=asked).content)
    assert after["head"]["added"] == 1 and after["head"]["inside"] == 14 and row not in after["rows"]
    assert after["head"]["unscored"] == 1 and len(after["scores"]) == GOOD + ODD - 1
    assert json.loads((tmp_path / "good.json").read_text())["normal"] == 14
    assert json.loads((tmp_path / "good.before.json").read_text())["normal"] == 13
    assert (tmp_path / "good.before.safetensors").exists()
    # The other holes are less strange now, the rest is as it was.
    old = dict(zip(before["rows"].tolist(), before["scores"].tolist(), strict=True))
    new = dict(zip(after["rows"].tolist(), after["scores"].tolist(), strict=True))
    assert any(new[one] < 0.999 * old[one] for one in before["rows"][1:ODD].tolist())
    assert all(new[one] == old[one] for one in before["rows"][ODD:].tolist())
    again = opened(client.get("/api/parts").content)
    assert again["scores"].tolist() == after["scores"].tolist()
    assert client.post("/api/normal", json={**asked, "above": "x"}).status_code == 422
    assert opened(client.post("/api/normal", json=asked).content)["head"]["added"] == 0


def test_all_images_are_listed_so_that_a_condition_finds_those_far_down(run: Run, tmp_path: Path) -> None:
    store = open_store(str(run.folder.parent / "new.nf"))
    many = open_store(tmp_path / "many.nf", store.info)
    vectors = pa.array([store.vectors()[1][0]] * 540, pa.list_(pa.float32(), store.info.dim))
    many.upsert(pa.table({"id": [f"{at:03d}" for at in range(540)], "vector": vectors}))
    rows = NumberedStore(many)
    parts = AnomalousParts(rows, Findings(rows), run.folder.parent / "good.safetensors")
    known = np.random.default_rng(0).random(540, np.float32)
    parts.findings.kept.array("parts", lambda: known, also=parts._stamp)
    _, order, scores = parts.listing()
    assert order.tolist() == np.argsort(-known, kind="stable").tolist() and len(scores) == 540


def test_what_does_not_fit_is_refused(run: Run, tmp_path: Path) -> None:
    rows, findings, _ = parts_of(run, tmp_path)
    with pytest.raises(NearfarError, match="there is no bank"):
        AnomalousParts(rows, findings, tmp_path / "none.safetensors")
    card = json.loads((tmp_path / "good.json").read_text())
    card["encoder"]["sha256"] = "0" * 64
    (tmp_path / "good.json").write_text(json.dumps(card))
    with pytest.raises(NearfarError, match="another encoder"):
        AnomalousParts(rows, findings, tmp_path / "good.safetensors")


def test_a_file_that_has_changed_is_not_read(run: Run, tmp_path: Path) -> None:
    rows, _, parts = parts_of(run, tmp_path)
    name = "000.png"
    path = Path(rows.store.rows(["path"], ids=[name])["path"][0].as_py())
    kept = path.read_bytes()
    try:
        save(path, texture(999))
        with pytest.raises(NearfarError, match="not the file that was embedded"):
            parts.map(name)
        with pytest.raises(NearfarError, match="not the file that was embedded"):
            parts.add([name], 0.0)
    finally:
        path.write_bytes(kept)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_slides_the_threshold_and_takes_normal_images(run: Run, tmp_path: Path) -> None:
    uvicorn = pytest.importorskip("uvicorn", reason="no uvicorn here: pip install 'nearfar[explore]'")
    driver = pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install playwright")
    rows, findings, parts = parts_of(run, tmp_path)
    door = socket.socket()
    door.bind(("127.0.0.1", 0))
    door.listen()
    app = server.application(rows, findings, TOKEN, {"localhost"}, parts=parts)
    service = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
    thread = threading.Thread(target=service.run, kwargs={"sockets": [door]}, daemon=True)
    thread.start()
    said: list[str] = []
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1280, "height": 860})
        view.set_default_timeout(WAIT)
        view.on("console", lambda message: said.append(message.text))
        view.on("pageerror", lambda error: said.append(str(error)))
        view.goto(f"http://127.0.0.1:{door.getsockname()[1]}/?token={TOKEN}")
        view.wait_for_selector("body[data-ready]")
        assert not view.is_visible("#threshold")
        view.click("#tab-parts")
        view.wait_for_selector("#threshold", state="visible")
        view.wait_for_function("/of 18 flagged/.test(document.getElementById('level-says').textContent)")
        view.fill("#level", "0")  # at the lowest score all but one are flagged
        view.wait_for_function("document.getElementById('title').textContent.startsWith('17 images')")
        assert "17 images of 18 flagged (94.4 %)" in view.inner_text("#level-says")
        assert "held-out normal images" in view.inner_text("#level-says")
        view.focus("#grid")
        worst = focused(view)
        assert worst.startswith("odd")
        view.keyboard.press("v")
        view.wait_for_selector("#photo[open]")
        assert view.get_attribute("#photo-parts", "aria-pressed") == "true"
        view.wait_for_function(
            f"(({{naturalWidth}}) => naturalWidth === {WIDE})(document.querySelector('#photo-one img'))"
        )
        view.wait_for_function(
            "document.querySelector('#photo-one figcaption').textContent.includes('yellow')"
        )
        view.keyboard.press("h")
        assert view.get_attribute("#photo-parts", "aria-pressed") == "false"
        view.keyboard.press("b")
        view.wait_for_function("/of 17 flagged/.test(document.getElementById('level-says').textContent)")
        view.keyboard.press("Escape")
        view.wait_for_selector("#photo", state="hidden")
        assert focused(view) != worst
        view.click("#tab-all")
        view.wait_for_selector("#threshold", state="hidden")
        browser.close()
    service.should_exit = True
    thread.join(20)
    assert [text for text in said if not any(noise in text for noise in NOISE)] == []
    assert json.loads((tmp_path / "good.json").read_text())["normal"] == 14
