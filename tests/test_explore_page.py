"""The page in a real browser: every flow, by keyboard where there is a key; no error, no foreign request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import explored
import pytest
from page_browser import (  # noqa: F401
    NEEDS_BROWSER,
    TOKEN,
    WAIT,
    address,
    browser,
    focused,
    opened,
    served,
    there,
    title,
    until,
)
from pyarrow import parquet

from nearfar.stores import open_store

pytestmark = [pytest.mark.long, pytest.mark.slow, NEEDS_BROWSER]

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


def label_of(there: explored.Explored, name: str) -> str | None:
    return open_store(there.store.address).rows(["label"], ids=[name])["label"][0].as_py()


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


def test_what_the_last_evaluation_found_stands_below_the_map(opened: Any, there: explored.Explored) -> None:
    assert not opened().is_visible("#ranking")
    said = "k-NN: best on these images is <img src=x>, by 4.8 over raw pixels (2.9 to 6.7 points)"
    path = explored.evaluated(there.run, said, "linear: best on these images is the encoder")
    try:
        for width, scheme in ((1280, "light"), (700, "dark")):
            view = opened(width, 844, scheme)
            view.wait_for_selector("#ranking:not([hidden])")
            told = f"Evaluated on labelled/<b>test</b>. {said}. linear: best on these images is the encoder."
            assert view.inner_text("#ranking") == told
            assert view.evaluate("document.querySelectorAll('#ranking *').length") == 0
            assert view.evaluate(FAULTS)["beyond"] == []
            assert view.evaluate("document.getElementById('stage').offsetHeight") > 100
    finally:
        path.unlink()


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


IN_SIGHT = """place => { const cell = document.getElementById(`cell-${place}`)?.getBoundingClientRect(),
    grid = document.getElementById('grid').getBoundingClientRect();
    return Boolean(cell) && cell.bottom > grid.top + 1 && cell.top < grid.bottom - 1; }"""
FIRST_IN_SIGHT = """() => { const {top} = document.getElementById('grid').getBoundingClientRect();
    return [...document.querySelectorAll('.cell')].map(cell => [cell.getBoundingClientRect().top - top,
        Number(cell.dataset.place)]).filter(([at]) => at > -39).sort(([a], [b]) => a - b)[0]; }"""


def test_a_list_that_is_higher_than_an_element_can_be(opened: Any) -> None:
    view = opened(1280, 500)
    view.focus("#grid")
    # A browser cuts elements that are too high, as 1,000,000 lines are; here, half a list is.
    view.evaluate("document.getElementById('sheet').style.maxHeight = '3000px'")
    view.keyboard.press("g")
    assert view.evaluate("document.getElementById('sheet').offsetHeight") == 3000
    for key, place in (
        ("End", 149),
        ("Home", 0),
        ("ArrowDown", 1),
        ("End", 149),
        ("ArrowUp", 148),
        ("Home", 0),
    ):
        view.keyboard.press(key)
        view.wait_for_function(IN_SIGHT, arg=place)
    # The scroll bar reaches all of it.
    for share, place in ((1, 149), (0.5, 75), (0, 0), (0.5, 75)):
        view.evaluate(
            "share => { const grid = document.getElementById('grid');"
            "grid.scrollTop = share * (grid.scrollHeight - grid.clientHeight); }",
            share,
        )
        view.wait_for_function(IN_SIGHT, arg=place)
    # A wheel moves it by as much as any other list; no line is passed over, and it ends at its ends.
    view.mouse.move(*view.evaluate("(({x, y, width, height}) => [x + width / 2, y + height / 2])"
                                   "(document.getElementById('grid').getBoundingClientRect())"))  # fmt: skip
    before = view.evaluate(FIRST_IN_SIGHT)
    view.mouse.wheel(0, 80)
    view.wait_for_function(f"place => ({FIRST_IN_SIGHT})()[1] === place", arg=before[1] + 2)
    assert view.evaluate(FIRST_IN_SIGHT)[0] == pytest.approx(before[0], abs=1)
    for turns, place in ((-120, 0), (240, 149)):
        for _ in range(abs(turns)):
            view.mouse.wheel(0, 80 if turns > 0 else -80)
            if view.evaluate(IN_SIGHT, place):
                break
        view.wait_for_function(IN_SIGHT, arg=place)


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
    name, proposed = focused(view), view.inner_text("#cell-0 .caption").split("→ ")[1]
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
    # A condition holds before the list is made, and the list is made anew without it.
    for condition, count in (("id < '070.png'", "68 "), ("", "150 ")):
        view.fill("#condition", condition)
        view.press("#condition", "Enter")
        title(view, f"{count}images, most similar to your file")
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
    # Nor can a run without an encoder of texts be asked for words.
    view.evaluate("document.getElementById('by-words').hidden = false")
    view.fill("#words", "a ring")
    view.press("#words", "Enter")
    view.wait_for_function("document.getElementById('nothing').textContent.includes('no encoder of texts')")
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
