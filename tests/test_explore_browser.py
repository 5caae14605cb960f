"""What must never break, in a real browser: no label is lost, and lists are ordered, kept and exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_browser import (  # noqa: F401
    COUNT,
    NEEDS_BROWSER,
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

pytestmark = [pytest.mark.slow, NEEDS_BROWSER]
OVERLAP = """ids => {
    const [one, two] = ids.map(id => document.getElementById(id).getBoundingClientRect());
    return one.right > two.left && two.right > one.left && one.bottom > two.top && two.bottom > one.top;
}"""


def test_no_label_is_lost(tabs: Callable[..., Any], server: Server) -> None:
    view = tabs()
    press(view, "Home")
    for name in ("zebra", "yak"):
        name_class(view, name)
    until(lambda: server.labels()[:2] == ["zebra", "yak"])
    server.stop()
    press(view, "1", "2")
    shows(view, "unsaved", "2 images not saved yet")
    view.wait_for_selector("#status.there")
    for place in ("labels", "about", "tabs", "legend"):  # what is told covers no button
        assert not view.evaluate(OVERLAP, ["status", place]), place
    server.start()
    until(lambda: server.labels()[:4] == ["zebra", "yak", "zebra", "yak"])
    view.wait_for_selector("#unsaved", state="hidden")
    shows(view, "status", "all changes are saved")
    view.reload()
    ready(view)
    keys = view.evaluate("[...document.querySelectorAll('.chip')].map(c => c.textContent)")
    assert keys == ["1zebra", "2yak"]
    press(view, "u")
    until(lambda: server.labels()[:4] == ["zebra", "yak", "zebra", None])
    press(view, "Control+a", "1")
    view.wait_for_selector("#sure[open]")
    assert f"{COUNT} images" in view.inner_text("#sure-title")
    press(view, "Enter")  # the safe answer has the focus
    view.wait_for_selector("#sure", state="hidden")
    assert server.labels()[4:] == [None] * (COUNT - 4)


FIRST = "text => document.getElementById('cell-0')?.getAttribute('aria-label').startsWith(text)"


def test_a_list_is_ordered_kept_and_exported(
    tabs: Callable[..., Any], server: Server, tmp_path: Path
) -> None:
    view = tabs()
    # The first line counts what there is to look at, and leads there.
    shows(view, "lines", "strange, no labels: begin here.")
    copies = int(view.inner_text("#lines").split()[0])
    view.click("#lines button:has-text('near-copies')")
    title(view, "duplicates in groups")
    keepers = view.locator(".cell:has(b:text-is('keep'))").count()
    assert copies == int(view.inner_text("#title").split()[0]) - keepers >= 3
    view.click("#tab-all")
    shows(view, "lines", f"{copies} near-copies")
    view.focus("#grid")
    press(view, "g")
    heads = view.evaluate("[...document.querySelectorAll('#columns button')].map(b => b.textContent)")
    assert heads[:3] == ["id", "label", "site"]
    # Once for up, once more for down; what is equal stays in its order.
    view.click("#columns button:has-text('site')")
    view.wait_for_function(FIRST, arg="002.png")  # <b>east</b>
    title(view, f"{COUNT} images, by site")
    view.click("#columns button:has-text('site')")
    view.wait_for_function(FIRST, arg="001.png")  # south
    assert "south" in view.inner_text("#cell-0")
    assert view.evaluate("document.querySelectorAll('.cell b').length") == 0  # names of strangers stay text
    # A condition holds in the table, and what is chosen there is chosen in the grid.
    view.focus("#grid")
    press(view, "/")
    view.keyboard.type("site = 'north'")
    press(view, "Enter")
    view.wait_for_function("document.getElementById('title').textContent.startsWith('50 images')")
    view.focus("#grid")
    press(view, "Shift+ArrowDown", "Shift+ArrowDown", "g")
    shows(view, "chosen-count", "3 chosen")
    assert view.locator(".cell[aria-selected=true]").count() == 3
    with view.expect_download() as found:
        view.click("#export-chosen")
    found.value.save_as(tmp_path / "selection.csv")
    lines = (tmp_path / "selection.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["id", "000.png", "003.png", "006.png"]
    press(view, "k")
    view.keyboard.type("three")
    press(view, "Enter")
    shows(view, "status", "Kept as three")
    # All of it is in the address; the selection is kept by the server.
    address = view.url.partition("#")[2]
    assert "order=-site" in address and "where=" in address
    view.evaluate("history.replaceState(null, '', location.pathname)")
    view.reload()
    ready(view)
    title(view, f"{COUNT} images")
    view.click("#tab-selected")
    view.click("#saved button:has-text('three')")
    title(view, "3 images, three")
