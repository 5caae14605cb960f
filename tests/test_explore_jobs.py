"""Long work of the page's server: done in a process of its own, followed, cancelled, and kept."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="no FastAPI here: pip install 'nearfar[explore]'")
pytest.importorskip("lancedb", reason="no LanceDB here: pip install 'nearfar[store]'")

import pyarrow as pa
from page_client import HOME, TOKEN, opened
from starlette.testclient import TestClient

from nearfar.app import jobs, server
from nearfar.app.findings import Findings
from nearfar.app.row_numbers import NumberedStore, StaleRows
from nearfar.core.errors import NearfarError
from nearfar.stores import StoreInfo, VectorStore, open_store

COUNT = 240
WAIT = 120  # seconds, on a slow machine


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VectorStore]:
    folder = tmp_path_factory.mktemp("jobs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEARFAR_CACHE", str(folder / "cache"))
        rng = np.random.default_rng(0)
        vectors = (
            rng.normal(size=(COUNT, 8)).astype(np.float32)
            + 3 * np.eye(8, dtype=np.float32)[np.arange(COUNT) % 3]
        )
        found = open_store(folder / "many.nf", StoreInfo(8))
        found.upsert(
            pa.table(
                {
                    "id": [f"{n:04d}.png" for n in range(COUNT)],
                    "vector": pa.array(list(vectors), pa.list_(pa.float32())),
                    "digest": [f"{n:032x}" for n in range(COUNT)],
                    "label": [("a", "b", "c")[n % 3] if n % 2 else None for n in range(COUNT)],
                }
            )
        )
        yield found


@pytest.fixture
def findings(store: VectorStore) -> Iterator[Findings]:
    found = Findings(NumberedStore(open_store(store.address)), address=str(store.address), at_once=0)
    yield found
    found.jobs.close()


@pytest.fixture
def client(findings: Findings) -> Iterator[TestClient]:
    app = server.application(findings.rows, findings, TOKEN, {"localhost"})
    with TestClient(app, base_url=HOME) as found:
        assert found.get(f"/?token={TOKEN}").status_code == 200
        yield found


def waited(client: TestClient, path: str, **how: Any) -> Any:
    """Ask until the work is finished."""
    end, job = time.monotonic() + WAIT, ""
    while time.monotonic() < end:
        address = f"{path}{'&' if '?' in path else '?'}job={job}"
        answer = client.request("POST" if how else "GET", address, **how)
        if answer.status_code != 202:
            return answer
        job = answer.json()["job"]
    pytest.fail(f"{path} took too long")


def test_a_map_is_shown_early_cancelled_and_laid_out(client: TestClient, findings: Findings) -> None:
    told = client.get("/api/map")
    assert told.status_code == 202 and told.json()["what"]
    job, end = told.json()["job"], time.monotonic() + WAIT
    assert client.get("/api/map").json()["job"] == job  # another page waits for the same work
    while not told.json()["early"]:
        assert time.monotonic() < end
        told = client.get("/api/map", params={"job": job})
    first = opened(client.get("/api/map/first", params={"job": job}).content)
    assert len(first["x"]) == COUNT and np.ptp(first["x"]) == 1
    work = next(iter(findings.jobs._jobs.values()))
    assert work._worker is not None
    process = work._worker._process
    assert process.poll() is None
    assert client.post("/api/cancel", json={"job": job}).json() == {"cancelled": True}
    assert process.poll() == -signal.SIGKILL  # it has really stopped
    # A page that waits for it does not start it again.
    assert client.get("/api/map", params={"job": job}).json() == {"cancelled": True}
    assert client.post("/api/cancel", json={"job": job}).json() == {"cancelled": False}
    assert client.get("/api/map/first", params={"job": job}).status_code == 404
    found = waited(client, "/api/map")
    assert found.status_code == 200 and len(opened(found.content)["x"]) == COUNT
    assert not np.array_equal(opened(found.content)["x"], first["x"])
    again = client.get("/api/map")
    assert again.status_code == 200 and again.content == found.content  # kept: no one waits for it twice


def test_a_map_is_of_the_images_that_are_there_when_it_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    made = open_store(tmp_path / "few.nf", StoreInfo(2))
    vectors = pa.array([[1.0, 0.0], [0.0, 1.0]], pa.list_(pa.float32()))
    made.upsert(pa.table({"id": ["a", "b"], "vector": vectors, "digest": ["0", "1"]}))
    rows = NumberedStore(open_store(made.address))
    found, go_on = Findings(rows, address=str(made.address), at_once=0), threading.Event()

    def slow() -> np.ndarray:
        there = rows.store.vectors()[1]
        go_on.wait(WAIT)
        return there

    with pytest.raises(jobs.Unfinished) as first:
        found.by_row("map", slow, wait=0.2)
    # As many images as before, but not the same: what is on its way is of other ones.
    made.upsert(pa.table({"id": ["0"], "vector": pa.array([[3.0, 4.0]], pa.list_(pa.float32()))}))
    made.delete(["b"])
    with pytest.raises(jobs.Unfinished) as second:
        found.by_row("map", slow, first.value.told["job"], wait=0.2)
    assert second.value.told["job"] != first.value.told["job"]
    go_on.set()
    key, places = found.by_row("map", slow, wait=WAIT)
    assert key == rows.key and places.tolist() == [[3, 4], [1, 0]]
    with pytest.raises(StaleRows):
        found.by_row("short", lambda: places[:1], wait=WAIT)
    found.jobs.close()


def test_a_process_finds_what_would_be_found_here(client: TestClient, findings: Findings) -> None:
    here = Findings(NumberedStore(findings.store))
    for name in ("label-errors", "suggestions"):
        answer = opened(waited(client, f"/api/list/{name}").content)
        own = here.listing(name, "label")
        assert [findings.rows.ids[row] for row in answer["rows"]] == list(own.ids)
        assert answer["head"]["lines"] == list(own.lines)
    answer = waited(client, "/api/train", json={"column": "label"})
    assert opened(answer.content)["head"]["facts"] == here.classifier("label")[1]
    # What is refused is refused in the same words.
    with pytest.raises(NearfarError) as refused:
        here.listing("anomalies", "label", "nonsense = 1")
    answer = waited(client, "/api/list/anomalies?where=nonsense = 1")
    assert answer.status_code == 400 and answer.json()["error"] == str(refused.value)


def test_what_depends_on_labels_is_made_once_a_version(
    findings: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def task(task: str, **arguments: Any) -> str:
        made.append(task)
        return f"result {len(made)}"

    monkeypatch.setattr(findings, "_task", task)
    one = findings.listing("suggestions", "label")
    assert findings.listing("suggestions", "label") is one and len(made) == 1
    assert findings.listing("suggestions", "label", accepted=True) is not one
    findings.store.update("label", {"0000.png": "b"})
    assert findings.listing("suggestions", "label") is not one and len(made) == 3


def test_a_process_that_is_killed_is_told_in_words(findings: Findings) -> None:
    begun = []

    def work() -> Any:
        begun.append(True)
        return findings.jobs.elsewhere("map", {})

    with pytest.raises(jobs.Unfinished):
        findings.jobs.ask("work", work, wait=0)
    job, end = findings.jobs._jobs["work"], time.monotonic() + WAIT
    while job._worker is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(job._worker._process.pid, signal.SIGKILL)
    with pytest.raises(NearfarError, match="has ended; the machine may have too little memory"):
        findings.jobs.ask("work", work, wait=WAIT)
    assert begun == [True]


def test_the_process_ends_with_the_program_that_started_it(tmp_path: Path) -> None:
    from nearfar.app.worker import Worker

    worker = Worker()
    assert worker._process.stdin is not None
    worker._process.stdin.close()
    assert worker._process.wait(WAIT) == 0
