"""Every state of the page at three sizes, light and dark: nothing that axe finds, nothing beyond the edge.

With NEARFAR_SHOTS, a folder, a picture of each state is written there, to be looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import explored
import pytest
import small_sounds
import textures
from page_browser import NEEDS_BROWSER, NOISE, TOKEN, WAIT, Server, browser, ready  # noqa: F401
from page_states import SIZES, STATES, file_name
from small_texts import TINY, sentences

import nearfar
from nearfar.data import modalities
from nearfar.stores import open_store

pytestmark = [pytest.mark.long, pytest.mark.slow, NEEDS_BROWSER]
SHORT: dict[str, Any] = {"precision": "float32", "workers": 1, "device": "cpu", "health_checks": 0}

BEYOND = """() => [...document.querySelectorAll('body *')].filter(e => e.checkVisibility({checkOpacity: true})
    && !e.closest('#tabs, .bar, #legend, #chips, #examples, #facts, .acts, #map, #grid, #columns, #chosen')
    && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 200))"""


def pictures(folder: Path) -> Server:
    return Server(explored.make(folder).store)


def parts(folder: Path) -> Server:
    for number in range(22):
        textures.save(folder / "good" / f"{number:03d}.png", textures.texture(number))
    for number in range(14):
        textures.save(folder / "new" / f"{number:03d}.png", textures.texture(300 + number))
    for number in range(4):
        textures.save(folder / "new" / f"odd-{number}.png", textures.holed(200 + number)[0])
    how = {"encoder": "resnet10_w16", "batch_size": 8, "steps": 2, "image_size": 32, "workers": 1}
    made = nearfar.pretrain(folder / "good", out=folder / "run", device="cpu", **how)
    nearfar.embed(made, folder / "new", store=folder / "new.nf")
    bank = folder / "good.safetensors"
    nearfar.anomalies(folder / "new", normal=str(folder / "good"), parts=True, run=made, bank=bank, fpr=0.1)
    return Server(open_store(str(folder / "new.nf")), bank)


def sounds(folder: Path) -> Server:
    clips = small_sounds.folder(folder / "clips", each=4)
    (clips / "ee" / "twice.wav").write_bytes((clips / "ee" / "ee-130-1.wav").read_bytes())
    run = nearfar.pretrain(clips, out=folder / "run", rate=8000, **{**SHORT, "steps": 4, "batch_size": 16})
    nearfar.embed(run, clips, store=folder / "clips.nf", labels=True)
    return Server(open_store(str(folder / "clips.nf")))


def texts(folder: Path) -> Server:
    some, names = sentences(60)
    source = modalities.modality("text").open(some)
    run = nearfar.pretrain(source, out=folder / "run", **{**TINY, "method": "simcse", "health_checks": 0})
    nearfar.embed(run, (some, names), store=folder / "texts.nf", labels=True)
    return Server(open_store(str(folder / "texts.nf")))


MADE: dict[str, Callable[[Path], Server]] = {
    "pictures": pictures,
    "parts": parts,
    "sounds": sounds,
    "texts": texts,
}


@pytest.fixture(scope="module", params=MADE)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("lancedb", reason="no LanceDB here: pip install 'nearfar[store]'")
    with pytest.MonkeyPatch.context() as patch:  # what the page keeps goes with the test
        patch.setenv("NEARFAR_CACHE", str(tmp_path_factory.mktemp("cache")))
        server = MADE[request.param](tmp_path_factory.mktemp(request.param))
        yield request.param, server
        server.stop()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: str(size[0]))
def test_every_state(browser: Any, kind: Any, size: tuple[int, int], scheme: str) -> None:
    found = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python"
    )
    name, server = kind
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
    )
    view, said, faults = context.new_page(), [], {}
    view.set_default_timeout(WAIT)
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.goto(f"http://127.0.0.1:{server.port}/?token={TOKEN}")
    ready(view)
    for state in STATES[name](view, server):
        wrong = [
            (one["id"], node["html"][:200], node["failureSummary"][:300])
            for one in found.Axe().run(view).response["violations"]
            for node in one["nodes"]
        ]
        if wrong or (wrong := view.evaluate(BEYOND)):
            faults[state] = wrong
        if folder := os.environ.get("NEARFAR_SHOTS"):
            view.screenshot(path=Path(folder) / f"{file_name(name, state, size[0], scheme)}.png")
    context.close()
    expected = (*NOISE, "Failed to load resource", "ERR_CONNECTION")
    assert [text for text in said if not any(word in text for word in expected)] == []
    assert faults == {}
