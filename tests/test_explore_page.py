"""The page in a real browser: every flow, by keyboard where there is a key; no error, no foreign request."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import explored
import pytest
from pyarrow import parquet

from nearfar.stores import open_store

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.long,
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium here: apt-get install -y --no-install-recommends chromium"
    ),
]
TOKEN = "a-token-that-is-known"
WAIT = 60_000  # milliseconds that a flow may take on a slow machine
# A driver of the graphics stack speaks here, not the page.
NOISE = ("GPU stall due to ReadPixels", "Automatic fallback to software WebGL")


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[explored.Explored]:
    pytest.importorskip("lancedb", reason="no LanceDB here: pip install 'nearfar[store]'")
    with pytest.MonkeyPatch.context() as patch:  # what the page keeps goes with the test
        patch.setenv("NEARFAR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield explored.make(tmp_path_factory.mktemp("explored"))


@contextmanager
def served(there: explored.Explored, column: str) -> Iterator[str]:
    """Serve the page as `nearfar explore` does."""
    uvicorn = pytest.importorskip("uvicorn", reason="no uvicorn here: pip install 'nearfar[explore]'")
    pytest.importorskip("fastapi", reason="no FastAPI here: pip install 'nearfar[explore]'")
    from nearfar.app.findings import Findings
    from nearfar.app.row_numbers import NumberedStore
    from nearfar.app.server import application

    rows = NumberedStore(open_store(there.store.address))
    door = socket.socket()
    door.bind(("127.0.0.1", 0))
    door.listen()  # who comes early waits
    app = application(rows, Findings(rows), TOKEN, {"localhost"}, column)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{door.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def address(there: explored.Explored) -> Iterator[str]:
    with served(there, "label") as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    driver = pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install playwright")
    with driver.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Open the page; at the end, nothing was wrong in any that was opened."""
    views, said, asked = [], [], []

    def work(width: int = 1280, height: int = 860, scheme: str = "light", **how: Any) -> Any:
        view = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme, **how)
        view.set_default_timeout(WAIT)
        view.on("console", lambda message: said.append(message.text))
        view.on("pageerror", lambda error: said.append(str(error)))
        view.on("dialog", lambda dialog: (said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        view.on("request", lambda request: asked.append(request.url))
        view.goto(f"{address}/?token={TOKEN}")
        view.wait_for_selector("body[data-ready]")
        views.append(view)
        return view

    yield work
    for view in views:
        view.close()
    assert [text for text in said if not any(noise in text for noise in NOISE)] == []
    assert [url for url in asked if not url.startswith((address, "blob:", "data:"))] == []


def until(what: Callable[[], bool]) -> None:
    """Wait for something outside of the browser."""
    end = time.monotonic() + WAIT / 1000
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def title(view: Any, text: str) -> None:
    view.wait_for_function("text => document.getElementById('title').textContent.includes(text)", arg=text)


def focused(view: Any) -> str:
    """Name the image in focus, once the page has heard its name from the server."""
    view.wait_for_function(
        """() => {
            const label = document.querySelector(".cell.focus")?.getAttribute("aria-label") ?? "";
            return label.split(", ")[0] === document.getElementById("which").textContent;
        }"""
    )
    return view.inner_text("#which")


PLACE = """row => { const map = document.getElementById('map'), {xaxis, yaxis} = map._fullLayout,
    box = map.getBoundingClientRect(), {x, y} = map.data[0];
    return [box.x + xaxis._offset + xaxis.l2p(x[row]), box.y + yaxis._offset + yaxis.l2p(y[row])]; }"""

SPREAD = "document.getElementById('map')._fullLayout.xaxis.range.reduce((low, high) => high - low)"


def at_rest(view: Any) -> None:
    """Wait until plotly has drawn what is in sight."""
    view.wait_for_function("document.getElementById('map').firstElementChild.style.transform === ''")


# Whenever the map is hidden or shown: which of both, and how many pixels the canvas above it holds by then.
WATCH = """() => { window.seen_ = [];
    const map = document.getElementById('map'), over = document.getElementById('over');
    let last = map.style.visibility;
    new MutationObserver(() => {
        if (map.style.visibility === last) return;
        const pen = new OffscreenCanvas(over.width, over.height).getContext('2d', {willReadFrequently: true});
        pen.drawImage(over, 0, 0);
        const {data} = pen.getImageData(0, 0, over.width, over.height);
        let count = 0;
        for (let at = 3; at < data.length; at += 4) count += data[at] > 0;
        seen_.push([last = map.style.visibility, count]);
    }).observe(map, {attributes: true}); }"""


def label_of(there: explored.Explored, name: str) -> str | None:
    return open_store(there.store.address).rows(["label"], ids=[name])["label"][0].as_py()


FAULTS = """() => ({
    beyond: [...document.querySelectorAll('body *')].filter(e => e.checkVisibility({checkOpacity: true})
        && !e.closest('#tabs, .bar, #legend, #chips, #examples, #facts, .acts, svg, #map')
        && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 100)),
    nameless: [...document.querySelectorAll('button, input, select, summary, a')].filter(
        e => e.checkVisibility()
            && !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length)
    ).map(e => e.outerHTML),
    scripts: [...document.scripts].filter(s => !s.src).length,
    address: location.href,
})"""


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light"), (700, "light")])
def test_it_fits_and_everything_has_a_name(opened: Any, address: str, width: int, scheme: str) -> None:
    view = opened(width, 844, scheme, reduced_motion="reduce")
    view.wait_for_function("document.querySelectorAll('#grid img[src]').length > 5")
    faults = view.evaluate(FAULTS)
    assert faults == {"beyond": [], "nameless": [], "scripts": 0, "address": f"{address}/"}
    painted = view.evaluate("getComputedStyle(document.body).backgroundColor")
    assert painted == ("rgb(18, 20, 22)" if scheme == "dark" else "rgb(250, 249, 246)")
    assert view.evaluate("getComputedStyle(document.getElementById('status')).transitionDuration") == "0s"


def test_names_of_strangers_stay_text(opened: Any, there: explored.Explored) -> None:
    view = opened()
    ids = there.store.ids()
    for name in explored.EVIL:
        row = ids.index(name)
        view.focus("#grid")
        view.keyboard.press("Home" if row < 75 else "End")
        for _ in range(min(row, 149 - row)):
            view.keyboard.press("ArrowRight" if row < 75 else "ArrowLeft")
        view.wait_for_function("name => document.getElementById('which').textContent === name", arg=name)
        if name == explored.EVIL[2]:
            assert "<b>east</b>" in view.inner_text("#facts")
    assert (
        view.evaluate("document.querySelectorAll('#about script, #grid script, img[onerror], dd b').length")
        == 0
    )


def test_the_grid_by_keyboard(opened: Any) -> None:
    view = opened()
    view.focus("#grid")
    first = focused(view)
    view.keyboard.press("ArrowRight")
    view.keyboard.press("ArrowDown")
    assert focused(view) != first
    view.keyboard.press("End")
    view.wait_for_selector("#cell-149.focus")
    assert view.get_attribute("#cell-149", "aria-posinset") == "150"
    assert view.evaluate("document.querySelectorAll('.cell').length") < 150  # only what is in sight exists
    view.keyboard.press("Home")
    assert focused(view) == first
    view.keyboard.press("Shift+ArrowRight")
    view.keyboard.press("Shift+ArrowRight")
    assert view.locator(".cell[aria-selected=true]").count() == 3
    view.keyboard.press("Enter")
    title(view, "3 images, chosen")
    view.keyboard.press("Escape")
    assert view.locator(".cell[aria-selected=true]").count() == 0
    view.keyboard.press("?")
    assert view.is_visible("#help")
    view.keyboard.press("Escape")
    assert not view.is_visible("#help")


def test_every_list_fills_the_grid(opened: Any) -> None:
    view = opened()
    for name, text in (
        ("anomalies", "most anomalous first"),
        ("duplicates", "duplicates in groups"),
        ("label-errors", "doubtful"),
        ("suggestions", "to label next"),
        ("clusters", "clusters"),
        ("all", "150 images"),
    ):
        view.click(f"#tab-{name}")
        title(view, text)
        assert view.get_attribute(f"#tab-{name}", "aria-selected") == "true"
        view.wait_for_selector("#cell-1 img[src]")
    view.keyboard.press("]")
    view.wait_for_selector("#tab-selected[aria-selected=true]")
    view.keyboard.press("[")
    view.wait_for_selector("#tab-all[aria-selected=true]")


def test_the_map(opened: Any, there: explored.Explored) -> None:
    view = opened()
    assert view.evaluate("document.getElementById('map').data[0].type") in ("scattergl", "scatter")
    assert view.evaluate("document.getElementById('map').data[0].x.length") == 150
    before = view.evaluate("document.getElementById('map')._fullLayout.xaxis.range.join()")
    view.focus("#grid")
    view.keyboard.press("i")
    view.wait_for_function(
        "before => document.getElementById('map')._fullLayout.xaxis.range.join() !== before", arg=before
    )
    view.keyboard.press("f")
    # The colours of the points follow the menu, and the legend says what they mean.
    for value, text in (
        ("/anomaly-score", "0."),
        ("/clusters", "cluster 1"),
        ("site", "<b>east</b>"),
        ("depth", "1"),
    ):
        view.select_option("#colour", value)
        view.wait_for_function(
            "text => document.getElementById('legend').textContent.includes(text)", arg=text
        )
    # A click on a point finds its neighbours.
    at = view.evaluate(PLACE, 40)
    view.mouse.move(*at)
    view.wait_for_selector("#tip:not([hidden]) img[src]")
    view.mouse.click(*at)
    title(view, "most similar first")
    # With the lasso in hand, a click on a point still finds its neighbours, also after the map was moved.
    view.mouse.move(at[0] + 200, at[1])
    view.mouse.down()
    view.mouse.move(at[0] + 205, at[1] + 5, steps=3)
    view.mouse.up()
    at_rest(view)
    view.focus("#grid")
    view.keyboard.press("[")
    view.wait_for_selector("#tab-similar[aria-selected=false]")
    view.keyboard.press("s")
    at = view.evaluate(PLACE, 40)
    view.mouse.move(*at)
    view.mouse.click(*at)
    view.wait_for_selector("#tab-similar[aria-selected=true]")
    # The lasso fills the list with what it holds.
    box = view.locator("#map").bounding_box()
    corners = [(0.02, 0.02), (0.98, 0.02), (0.98, 0.98), (0.02, 0.98), (0.02, 0.05)]
    view.mouse.move(box["x"] + 0.02 * box["width"], box["y"] + 0.02 * box["height"])
    view.mouse.down()
    for x, y in corners:
        view.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=5)
    view.mouse.up()
    title(view, "150 images, selected on the map")


def test_the_map_follows_the_hand(opened: Any) -> None:
    view = opened()
    told = view.inner_text("#title")
    start = view.evaluate(PLACE, 40)
    view.mouse.move(*start)
    view.mouse.down()
    view.mouse.move(start[0] + 60, start[1] - 40, steps=6)
    # In the move, what was drawn is shifted; at rest, it is drawn anew in the same place.
    box = view.locator("#map > :first-child").bounding_box()
    whole = view.locator("#map").bounding_box()
    assert (box["x"] - whole["x"], box["y"] - whole["y"]) == pytest.approx((60, -40), abs=0.5)
    at_rest(view)
    assert view.evaluate(PLACE, 40) == pytest.approx([start[0] + 60, start[1] - 40], abs=0.5)
    # The hand still holds it, and letting go is no click.
    view.mouse.move(start[0] + 90, start[1], steps=3)
    view.mouse.up()
    at_rest(view)
    assert view.evaluate(PLACE, 40) == pytest.approx([start[0] + 90, start[1]], abs=0.5)
    assert view.inner_text("#title") == told
    # The wheel zooms about the pointer; far from what was drawn, the points are painted until the map rests.
    view.keyboard.press("p")
    at_rest(view)
    spread = view.evaluate(SPREAD)
    view.evaluate(WATCH)
    view.mouse.move(start[0] + 90, start[1])
    view.mouse.wheel(0, -240)
    view.wait_for_function("seen_.length === 2")
    (hidden, moving), (shown, idle) = view.evaluate("seen_")
    assert (hidden, shown) == ("hidden", "") and moving > idle
    at_rest(view)
    assert view.evaluate(PLACE, 40) == pytest.approx([start[0] + 90, start[1]], abs=0.5)
    assert view.evaluate(SPREAD) == pytest.approx(spread / 1.616, rel=0.01)
    # A double click shows all again.
    view.mouse.dblclick(whole["x"] + 20, whole["y"] + whole["height"] - 20)
    view.wait_for_function(f"before => Math.abs({SPREAD} - before) < 1e-6 * before", arg=spread)


def test_the_map_under_fingers(opened: Any) -> None:
    view = opened(390, 780, has_touch=True, is_mobile=True, device_scale_factor=2)
    hands = view.context.new_cdp_session(view)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        hands.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    box = view.locator("#map").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    across = "document.getElementById('map')._fullLayout.xaxis.range"
    low, high = view.evaluate(across)
    # Two fingers that go apart zoom in, by as much as they do, about their middle.
    touch("touchStart", (x - 30, y))
    touch("touchStart", (x - 30, y), (x + 30, y))
    for apart in (40, 50, 60):
        touch("touchMove", (x - apart, y), (x + apart, y))
    touch("touchEnd")
    at_rest(view)
    view.wait_for_function(f"before => {across}[0] !== before", arg=low)
    near, far = view.evaluate(across)
    assert far - near == pytest.approx((high - low) / 2, rel=0.02)
    assert near + far == pytest.approx(low + high, abs=0.02 * (high - low))
    # One finger moves it, and the page stays where it is. Fingers in quick succession are no double click.
    before = view.evaluate(PLACE, 0)
    for _ in range(2):
        touch("touchStart", (x, y))
        for step in (10, 20, 30):
            touch("touchMove", (x + step, y))
        touch("touchEnd")
    touch("touchStart", (x - 30, y), (x + 30, y))
    touch("touchMove", (x - 45, y), (x + 45, y))
    touch("touchEnd")
    at_rest(view)
    view.wait_for_timeout(500)
    assert view.evaluate("scrollY") == 0
    assert view.evaluate(PLACE, 0)[0] == pytest.approx(x + 1.5 * (before[0] + 60 - x), abs=1)
    view.keyboard.press("f")
    # A tap finds what is most alike, and is no double click.
    view.wait_for_function(f"before => Math.abs({across}[0] - before) < 1e-9", arg=low)
    view.keyboard.press("i")
    view.wait_for_function(f"before => {across}[0] !== before", arg=low)
    zoomed = view.evaluate(across)
    spot = view.evaluate(
        """() => { const map = document.getElementById('map'), {xaxis, yaxis} = map._fullLayout,
        box = map.getBoundingClientRect(), {x, y} = map.data[0];
        for (let row = 0; row < x.length; row++) {
            const across = xaxis._offset + xaxis.l2p(x[row]), down = yaxis._offset + yaxis.l2p(y[row]);
            if (across > 30 && across < box.width - 30 && down > 30 && down < box.height - 30)
                return [box.x + across, box.y + down];
        } }"""
    )
    view.touchscreen.tap(*spot)
    title(view, "most similar first")
    assert view.evaluate(across) == zoomed


def test_labels_undo_and_another_hand(opened: Any, there: explored.Explored) -> None:
    view = opened()
    view.focus("#grid")
    view.keyboard.press("End")
    name = focused(view)
    first = label_of(there, name)
    view.keyboard.press("1")
    until(lambda: label_of(there, name) == "heart")
    view.keyboard.press("u")
    until(lambda: label_of(there, name) == first)
    view.keyboard.press("End")
    view.keyboard.press("l")
    view.keyboard.type("<i>new</i>")
    view.keyboard.press("Enter")
    until(lambda: label_of(there, name) == "<i>new</i>")
    view.wait_for_function(
        "[...document.querySelectorAll('.chip')].some(c => c.textContent.includes('<i>new</i>'))"
    )
    # Another hand labels: the page says so, and shows it.
    open_store(there.store.address).update("label", {name: "star"})
    view.wait_for_function(
        "document.getElementById('status').textContent.includes('Another hand changed 1 label')"
    )
    view.keyboard.press("End")
    assert "star" in view.inner_text("#facts")
    view.keyboard.press("0")
    until(lambda: label_of(there, name) is None)
    view.keyboard.press("u")
    until(lambda: label_of(there, name) == "star")
    open_store(there.store.address).update("label", {name: first})


def test_a_label_error_is_accepted_with_one_key(opened: Any, there: explored.Explored) -> None:
    view = opened()
    view.click("#tab-label-errors")
    title(view, "doubtful")
    view.focus("#grid")
    view.keyboard.press("Home")
    name, proposed = focused(view), view.inner_text("#cell-0 b").split(" → ")[1]
    before = label_of(there, name)
    view.keyboard.press("a")
    until(lambda: label_of(there, name) == proposed)
    view.keyboard.press("Control+z")
    until(lambda: label_of(there, name) == before)
    view.keyboard.press("Home")
    view.click(".accept")
    until(lambda: label_of(there, name) == proposed)
    view.keyboard.press("u")
    until(lambda: label_of(there, name) == before)


def test_search_by_image_by_examples_and_by_file(
    opened: Any, there: explored.Explored, tmp_path: Path
) -> None:
    view = opened()
    view.focus("#grid")
    view.keyboard.press("n")
    title(view, "most similar first")
    assert view.locator(".example.like").count() == 1
    view.keyboard.press("End")
    view.keyboard.press("-")
    view.wait_for_selector(".example.dislike")
    view.click(".example.dislike")
    view.wait_for_function("!document.querySelector('.example.dislike')")
    file = tmp_path / "070.png"
    file.write_bytes(explored.encoded(there.pixels[70], "PNG"))
    view.set_input_files("#file", str(file))
    title(view, "most similar to your file")
    view.wait_for_function("document.getElementById('which').textContent === '070.png'")
    # Dropped: an image is searched by; what is none is refused in words.
    drop = """([kind, bytes]) => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], '<b>.png', {type: kind}));
        for (const type of ['dragenter', 'dragover', 'drop'])
            document.body.dispatchEvent(
                new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true})); }"""
    view.click("#tab-all")
    title(view, "150 images")
    view.evaluate(drop, ["image/png", list(file.read_bytes())])
    title(view, "most similar to your file")


def test_a_file_that_is_no_image_is_refused_in_words(browser: Any, address: str, tmp_path: Path) -> None:
    view = browser.new_page()
    view.goto(f"{address}/?token={TOKEN}")
    view.wait_for_selector("body[data-ready]", timeout=WAIT)
    (tmp_path / "x.png").write_bytes(b"no image at all")
    view.set_input_files("#file", str(tmp_path / "x.png"))
    view.wait_for_function(
        "document.getElementById('status').textContent.includes('cannot be used as an image')"
    )
    view.close()


def test_a_condition_narrows_every_list(opened: Any) -> None:
    view = opened()
    view.focus("#grid")
    view.keyboard.press("/")
    view.keyboard.type("site = 'north'")
    view.keyboard.press("Enter")
    title(view, "50 images")
    view.click("#tab-anomalies")
    title(view, "50 images, most anomalous first")
    view.fill("#condition", "")
    view.press("#condition", "Enter")
    title(view, "150 images, most anomalous first")


def test_where_an_image_is_anomalous(opened: Any) -> None:
    view = opened()
    view.focus("#grid")
    view.keyboard.press("End")
    name = focused(view)
    view.keyboard.press("h")
    view.wait_for_selector("#heat-dialog[open]")
    assert view.inner_text("#heat-name") == name and name in view.get_attribute("#heat-map", "alt")
    view.wait_for_function("document.getElementById('heat-map').naturalWidth > 1")
    wide, high = view.evaluate("(({naturalWidth, naturalHeight}) => [naturalWidth, naturalHeight])"
                               "(document.getElementById('heat-map'))")  # fmt: skip
    assert wide >= 2 * high  # the image, and beside it where it is anomalous
    view.keyboard.press("Escape")
    view.wait_for_selector("#heat-dialog", state="hidden")


def test_labels_of_another_column(browser: Any, there: explored.Explored) -> None:
    with served(there, "kind") as address:
        view = browser.new_page()
        view.set_default_timeout(WAIT)
        view.goto(f"{address}/?token={TOKEN}")
        view.wait_for_selector("body[data-ready]")
        assert view.locator(".chip").count() == 0  # the column is not there yet
        view.focus("#grid")
        view.keyboard.press("End")
        name, before = focused(view), there.store.rows(["label"])["label"].to_pylist()
        view.keyboard.press("l")
        view.keyboard.type("odd")
        view.keyboard.press("Enter")
        until(lambda: "kind" in open_store(there.store.address).columns)
        store = open_store(there.store.address)
        until(lambda: store.rows(["kind"], ids=[name])["kind"][0].as_py() == "odd")
        assert store.rows(["label"])["label"].to_pylist() == before
        view.close()


def test_a_classifier_and_export(opened: Any, there: explored.Explored, tmp_path: Path) -> None:
    view = opened()
    view.click("#more summary")
    view.click("#train")
    title(view, "classes by the classifier")
    assert "95 % interval" in view.inner_text("#lines")
    view.click("#more summary")
    with view.expect_download() as found:
        view.click("text=Export all as CSV")
    found.value.save_as(tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text().count("\n") >= 151
    with view.expect_download() as found:
        view.click("text=Export all as Parquet")
    found.value.save_as(tmp_path / "x.parquet")
    table = parquet.read_table(tmp_path / "x.parquet")
    assert table.num_rows == 150 and {"id", "vector", "label"} <= set(table.column_names)


def test_without_the_token_there_is_nothing(browser: Any, address: str) -> None:
    view = browser.new_context().new_page()
    answer = view.goto(address)
    assert answer.status == 403 and "with its token" in view.inner_text("body")
    view.close()
