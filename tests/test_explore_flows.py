"""The page past its first drawing: tabs left, pages reloaded, two tabs, a server that goes and comes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import explored
import pytest
from page_browser import (  # noqa: F401
    COUNT,
    NEEDS_BROWSER,
    TOKEN,
    WAIT,
    Server,
    browser,
    name_class,
    press,
    ready,
    server,
    shows,
    tabs,
    title,
    until,
)

pytestmark = [pytest.mark.long, pytest.mark.slow, NEEDS_BROWSER]


def test_labels_through_reload_two_tabs_and_a_server_that_is_gone(
    tabs: Callable[..., Any], server: Server
) -> None:
    view = tabs()
    # A class keeps its key, also where its name comes first in the alphabet.
    press(view, "Home")
    for name in ("zebra", "yak"):
        name_class(view, name)
    until(lambda: server.labels()[:2] == ["zebra", "yak"])
    other = tabs()
    other.bring_to_front()
    press(other, "End")
    name_class(other, "ant")
    until(lambda: server.labels()[-1] == "ant")
    view.bring_to_front()
    shows(view, "chips", "ant")
    other.close()
    view.reload()
    ready(view)
    keys = view.evaluate("[...document.querySelectorAll('.chip')].map(c => c.textContent)")
    assert keys == ["1zebra", "2yak", "3ant"]
    press(view, "Home", "ArrowRight", "ArrowRight", "1", "3")
    until(lambda: server.labels()[2:4] == ["zebra", "ant"])
    # Undo after a reload, in the tab that made the change.
    view.reload()
    ready(view)
    press(view, "u")
    until(lambda: server.labels()[2:4] == ["zebra", None])
    # A whole store is not labelled by two keys: the number is asked about first.
    press(view, "Control+a")
    shows(view, "chosen-count", "150 chosen")
    press(view, "1")
    view.wait_for_selector("#sure[open]")
    assert "150 images" in view.inner_text("#sure-title") and "2 labels" in view.inner_text("#sure-text")
    press(view, "Enter")  # the safe answer has the focus
    view.wait_for_selector("#sure", state="hidden")
    press(view, "1")
    view.click("#sure-yes")
    until(lambda: set(server.labels()) == {"zebra"})
    press(view, "u")
    until(lambda: server.labels()[:4] == ["zebra", "yak", "zebra", None])
    # The server goes: labels are kept, said to be unsaved, and sent when it is back, also after a reload.
    view.focus("#grid")
    server.stop()
    press(view, "End", "ArrowLeft", "ArrowLeft", "2")
    shows(view, "unsaved", "1 image not saved yet")
    told = view.inner_text("#status")
    assert "kept in this browser" in told or "not saved yet" in told
    view.wait_for_selector(".cell.unsaved")
    press(view, "2", "u")
    shows(view, "status", "not saved yet")
    assert server.labels()[COUNT - 3] is None
    server.start()
    until(lambda: server.labels()[COUNT - 3 :] == ["yak", None, "ant"])
    view.wait_for_selector("#unsaved", state="hidden")
    assert server.labels("label_origin")[COUNT - 3] == "hand"
    server.stop()
    press(view, "End", "1")
    shows(view, "unsaved", "1 image")
    view.evaluate("sessionStorage.kept = 'yes'")
    server.start()
    view.goto(f"http://127.0.0.1:{server.port}/")
    until(lambda: server.labels()[-1] == "zebra")
    # Classes beyond the ninth have keys too, and thirty have a colour of their own.
    ready(view)
    ids = server.store.ids()
    server.store.update("label", {ids[n]: f"class {n:02d}" for n in range(40, 72)})
    view.reload()
    ready(view)
    # The legend has grown: the map has made room, and nothing of it is cut off.
    view.wait_for_function(
        """() => {
            const [map, drawn, legend] = ["#map", "#map .main-svg", "#legend"].map(
                one => document.querySelector(one).getBoundingClientRect());
            return Math.abs(map.height - drawn.height) < 2 && drawn.bottom <= legend.top + 1;
        }"""
    )
    chips = "[...document.querySelectorAll('.chip')].map(c => [c.querySelector('kbd')?.textContent, "
    found = view.evaluate(chips + "c.querySelector('.dot').style.background])")
    # The third class has no image any more, so it is not shown, and its key goes to no other.
    assert [key for key, _ in found] == [*"12456789", *(f".{slot}" for slot in range(10, 36))]
    assert len({colour for _, colour in found[:29]}) == 29 and len({colour for _, colour in found[29:]}) == 1
    press(view, "End", "ArrowLeft", ".", "1", "2")
    until(lambda: server.labels()[COUNT - 2] == "class 48")


def test_lists_past_the_first_look(tabs: Callable[..., Any], server: Server) -> None:
    view = tabs()
    # From end to end of the tabs by keyboard, though there are no labels: no list is a dead end.
    seen = []
    for key in ["["] + 9 * ["]"]:
        press(view, key)
        view.wait_for_selector("#list-part:not([aria-busy])")
        seen.append(view.evaluate("document.querySelector('#tabs [aria-selected=true]').id"))
        if not view.locator(".cell").count():
            assert len(view.inner_text("#nothing")) > 30, seen[-1]
            assert view.get_attribute("#grid", "role") == "group"
    known = view.evaluate("[...document.querySelectorAll('#tabs button')].map(tab => tab.id)")
    assert seen == ["tab-classifier", *known]
    # An empty list after a full one leaves no picture behind.
    view.click("#tab-all")
    view.wait_for_selector("#cell-1 img[src]")
    view.click("#tab-label-errors")
    view.wait_for_function("!document.querySelector('.cell')")
    shows(view, "nothing", "at least two classes")
    # An empty list of duplicates offers nothing to choose.
    view.click("#tab-all")
    view.fill("#condition", "id = '001.png'")
    view.press("#condition", "Enter")
    title(view, "1 image")
    view.click("#tab-duplicates")
    shows(view, "nothing", "No two images are nearly the same.")
    assert view.inner_text("#title") == "0 images" and not view.is_visible("#chosen")
    view.click("#nothing button")
    title(view, "duplicates in groups")
    # A lasso's selection is there again after another list, and after a reload.
    view.click("#tab-all")
    press(view, "s")
    box = view.locator("#map").bounding_box()
    view.mouse.move(box["x"] + 0.02 * box["width"], box["y"] + 0.02 * box["height"])
    view.mouse.down()
    for x, y in ((0.98, 0.02), (0.98, 0.98), (0.02, 0.98), (0.02, 0.05)):
        view.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=5)
    view.mouse.up()
    title(view, "150 images, selected on the map")
    for _ in range(2):
        view.click("#tab-all")
        title(view, "150 images")
        view.wait_for_function("!document.getElementById('title').textContent.includes('selected')")
        view.click("#tab-selected")
        title(view, "150 images, selected")
    view.reload()
    ready(view)
    title(view, "150 images, selected")
    # The address holds the list and the condition, and the back button goes back.
    view.click("#facets summary")
    view.click("#facet-list button:has-text('south')")
    title(view, "50 images, selected")
    press(view, "Escape")
    view.click("#tab-anomalies")
    title(view, "50 images, most anomalous first")
    assert "list=anomalies" in view.url and "site" in view.url
    again = tabs(view.url.partition("/#")[2] and "#" + view.url.partition("/#")[2])
    title(again, "50 images, most anomalous first")
    again.close()
    view.go_back()
    title(view, "50 images, selected")
    view.go_back()
    title(view, "150 images, selected")
    assert view.input_value("#condition") == ""


def test_a_photo_in_full_and_images_set_aside(
    tabs: Callable[..., Any], server: Server, tmp_path: Path
) -> None:
    view = tabs()
    press(view, "v")
    view.wait_for_function("document.querySelector('#photo-one img').naturalWidth === 30")
    assert view.inner_text("#photo-path") == str(tmp_path / "000.png")
    view.wait_for_function("document.querySelectorAll('#photo-near img[src]').length === 8")
    press(view, "+")
    assert "scale(1.5)" in view.evaluate("document.querySelector('#photo-one img').style.transform")
    press(view, "ArrowRight")
    view.wait_for_function("document.getElementById('photo-path').textContent.endsWith('001.png')")
    view.click("#photo-near button")
    view.wait_for_function("document.querySelector('#photo-two img').naturalWidth === 30")
    press(view, "y")  # a store without a run cannot say why
    view.wait_for_function("document.getElementById('photo-reason').textContent.includes('run')")
    assert view.get_attribute("#photo-why", "aria-pressed") == "false"
    press(view, "Escape")
    view.wait_for_selector("#photo", state="hidden")
    # All copies but one of each group, set aside with a few keys; undo brings them back.
    view.click("#tab-duplicates")
    title(view, "duplicates in groups")
    view.focus("#grid")
    press(view, "c")
    shows(view, "chosen-count", "chosen")
    count = int(view.inner_text("#chosen-count").split()[0])
    assert 3 <= count < COUNT
    press(view, "x")
    if count > 100:
        view.click("#sure-yes")
    until(lambda: server.labels("set_aside").count(True) == count)
    view.click("#tab-all")
    title(view, f"{COUNT - count} image")
    with view.expect_download() as found:
        view.focus("#grid")
        press(view, " ")
        view.click("#export-chosen")
    found.value.save_as(tmp_path / "selection.csv")
    assert (tmp_path / "selection.csv").read_text().count("\n") == 2
    view.reload()
    ready(view)
    title(view, f"{COUNT - count} image")
    press(view, "u")
    until(lambda: True not in server.labels("set_aside"))
    assert view.inner_text("#chosen-count") == "1 chosen"  # the address has kept it
    press(view, "Escape")
    # By touch, a long press chooses, and then every tap does.
    touch = """id => document.getElementById(id).dispatchEvent(
        new PointerEvent("pointerdown", {pointerType: "touch", bubbles: true}))"""
    view.evaluate(touch, "cell-1")
    shows(view, "chosen-count", "1 chosen")
    view.evaluate("document.getElementById('cell-1').click()")  # the finger is lifted
    for place in ("cell-2", "cell-3"):
        view.evaluate(touch, place)
        view.evaluate("id => document.getElementById(id).click()", place)
    shows(view, "chosen-count", "3 chosen")


def test_what_the_first_line_says_stays_true(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    server = Server(explored.plain(tmp_path, 4))  # all the same, and too few to count what is strange
    view = browser.new_page()
    view.set_default_timeout(WAIT)
    view.goto(f"http://127.0.0.1:{server.port}/?token={TOKEN}")
    ready(view)
    shows(view, "lines", "No image has a label yet")
    name_class(view, "cat")
    view.wait_for_function("document.getElementById('lines').textContent === ''")
    view.select_option("#order", "id")
    title(view, "by id")
    assert view.inner_text("#lines") == ""
    view.close()
    server.stop()


def test_filters_of_any_label(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    names = [*(f"class {n:02d}" for n in range(12)), "salt and pepper", "it's", "w" * 200]
    server = Server(explored.plain(tmp_path, 30, labels=[names[n // 2] for n in range(30)]))
    view = browser.new_page()
    view.set_default_timeout(WAIT)
    view.goto(f"http://127.0.0.1:{server.port}/?token={TOKEN}")
    ready(view)

    def pick(name: str, condition: str, count: int) -> None:
        view.click(f'#facet-list button:has(span:text-is("{name}"))')
        title(view, f"{count} image")
        assert view.input_value("#condition") == condition
        on = str(f"'{name}'".replace("it's", "it''s") in condition).lower()
        view.wait_for_selector(f'#facet-list button[aria-pressed={on}]:has(span:text-is("{name}"))')

    view.click("#facets summary")
    view.click("#facet-list button:has-text('3 more')")
    # The count of a long name is in sight.
    far = "([one, all]) => one.getBoundingClientRect().right <= all.getBoundingClientRect().right"
    long = view.query_selector(f'#facet-list button:has(span:text-is("{"w" * 200}")) small')
    assert view.evaluate(far, [long, view.query_selector("#facet-list")])
    salt = "label = 'salt and pepper'"
    pick("salt and pepper", salt, 2)
    pick("north", f"{salt} and site = 'north'", 1)
    pick("salt and pepper", "site = 'north'", 10)
    pick("north", "", 30)
    pick("it's", "label = 'it''s'", 2)
    # What was typed keeps its meaning.
    view.fill("#condition", "label = 'class 00' or label = 'class 01'")
    view.press("#condition", "Enter")
    title(view, "4 images")
    pick("north", "(label = 'class 00' or label = 'class 01') and site = 'north'", 2)
    pick("north", "(label = 'class 00' or label = 'class 01')", 4)
    view.close()
    server.stop()


def test_many_images_are_changed_at_once_and_back(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    server = Server(explored.bare(tmp_path, 100_001))
    view = browser.new_page()
    view.set_default_timeout(WAIT)
    view.goto(f"http://127.0.0.1:{server.port}/?token={TOKEN}")
    ready(view)
    press(view, "0")
    until(lambda: server.labels()[0] is None)
    for key in ("1", "x", "t"):  # more than a request takes
        press(view, "Control+a", key)
        shows(view, "status", "At most 100,000 images are changed at once")
        view.evaluate("document.getElementById('status').textContent = ''")
        assert not view.is_visible("dialog[open]")
    view.fill("#condition", "number < 6000")
    view.press("#condition", "Enter")
    title(view, "6,000 images")
    view.focus("#grid")
    press(view, "Control+a", "x")
    view.click("#sure-yes")
    until(lambda: server.labels("set_aside").count(True) == 6000)
    view.reload()
    ready(view)
    press(view, "u")  # and no label given before
    until(lambda: True not in server.labels("set_aside"))
    assert server.labels()[0] is None
    view.close()
    server.stop()


def test_clips_are_called_clips(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    server = Server(explored.plain(tmp_path, COUNT, modality="sound"))
    view = browser.new_page()
    view.set_default_timeout(WAIT)
    view.goto(f"http://127.0.0.1:{server.port}/?token={TOKEN}")
    ready(view)
    assert view.inner_text("#count") == f"{COUNT} clips"
    title(view, f"{COUNT} clips")
    words = """() => {
        const names = [...document.querySelectorAll("*")].flatMap(
            e => ["aria-label", "title", "placeholder"].map(name => e.getAttribute(name) ?? ""));
        return [document.body.textContent, ...names].flatMap(
            text => text.match(/.{0,50}\\bimages?\\b.{0,50}/gi) ?? []);
    }"""
    told = [view.evaluate(words)]
    for name in ("selected", "similar", "duplicates", "label-errors", "classifier"):
        view.click(f"#tab-{name}")
        view.wait_for_selector("#list-part:not([aria-busy])")
        told.append(view.evaluate(words))
    view.click("#tab-all")
    view.focus("#grid")
    press(view, "Control+a", "x")
    view.wait_for_selector("#sure[open]")
    assert f"Set aside {COUNT} clips?" in view.inner_text("#sure-title")
    told.append(view.evaluate(words))
    assert [texts for texts in told if texts] == []
    view.close()
    server.stop()


def test_long_work_is_shown_and_cancelled(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lancedb", reason="no LanceDB here: pip install 'nearfar[store]'")
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    store = explored.plain(tmp_path, COUNT)
    server = Server(store, address=str(store.address), at_once=0)
    view = browser.new_page()
    view.set_default_timeout(4 * WAIT)  # a process has to start
    view.goto(f"http://127.0.0.1:{server.port}/?token={TOKEN}")
    view.wait_for_selector("#waiting .meter")
    view.wait_for_selector("#cell-5 img[src]")  # the page is of use meanwhile
    view.wait_for_selector("body[data-ready]")
    view.click("#tab-duplicates")
    view.wait_for_selector("#list-work .meter")
    view.click("#list-work button")
    shows(view, "nothing", "This list was cancelled.")
    view.click("#nothing button")
    title(view, "duplicates in groups")
    view.wait_for_function("document.getElementById('waiting').hidden")
    assert view.locator(".meter").count() == 0
    view.close()
    server.stop()
