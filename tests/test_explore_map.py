"""The map in a real browser: under a mouse, a wheel and fingers."""

from __future__ import annotations

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

pytestmark = [pytest.mark.long, pytest.mark.slow, NEEDS_BROWSER]

PLACE = """row => { const map = document.getElementById('map'), {xaxis, yaxis} = map._fullLayout,
    box = map.getBoundingClientRect(), {x, y} = map.data[0];
    return [box.x + xaxis._offset + xaxis.l2p(x[row]), box.y + yaxis._offset + yaxis.l2p(y[row])]; }"""

# The place of the map that is farthest from all points.
EMPTY = """() => { const map = document.getElementById('map'), {xaxis, yaxis} = map._fullLayout,
    box = map.getBoundingClientRect(), {x, y} = map.data[0], places = [];
    for (let at = 0; at < 900; at++) {
        const left = (at % 30 + 1) * box.width / 32, top = (Math.floor(at / 30) + 1) * box.height / 32;
        const near = Math.min(...[...x].map((value, row) => Math.hypot(
            xaxis._offset + xaxis.l2p(value) - left, yaxis._offset + yaxis.l2p(y[row]) - top)));
        places.push([near, left, top]);
    }
    const [, left, top] = places.sort(([a], [b]) => b - a)[0];
    return [box.x + left, box.y + top]; }"""

SHIFTED = """([across, down]) => { const map = document.getElementById('map'),
    [drawn, all] = [map.firstElementChild, map].map(one => one.getBoundingClientRect());
    return Math.abs(drawn.x - all.x - across) < 0.5 && Math.abs(drawn.y - all.y - down) < 0.5; }"""

SPREAD = "document.getElementById('map')._fullLayout.xaxis.range.reduce((low, high) => high - low)"

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


def at_rest(view: Any) -> None:
    """Wait until plotly has drawn what is in sight."""
    view.wait_for_function("document.getElementById('map').firstElementChild.style.transform === ''")


@pytest.mark.parametrize("many", [False, True], ids=["drawn by plotly", "painted by the page"])
def test_the_map(opened: Any, there: explored.Explored, many: bool) -> None:
    view = opened(many=many)
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


def test_the_map_is_shown_before_plotly_is_read(browser: Any, address: str) -> None:
    view, held, said = browser.new_page(), [], []
    view.set_default_timeout(WAIT)
    view.on("pageerror", lambda error: said.append(str(error)))
    view.route("**/static/plotly.js", lambda route: held.append(route))
    view.goto(f"{address}/?token={TOKEN}")
    view.wait_for_selector("#stage[data-points=painted]")
    view.wait_for_selector("#cell-5 img[src]")
    count = """() => {
        const over = document.getElementById('over');
        const {data} = over.getContext('2d').getImageData(0, 0, over.width, over.height);
        return data.filter((value, at) => at % 4 === 3 && value > 0).length; }"""
    view.focus("#grid")
    view.keyboard.press("p")  # points alone
    assert view.evaluate(count) > 150 * 9
    for key in ("i", "f", "s", "m", "ArrowRight"):  # what plotly does has to wait, and nothing breaks
        view.keyboard.press(key)
    view.select_option("#colour", "site")
    view.wait_for_function("document.getElementById('legend').textContent.includes('<b>east</b>')")
    held[0].continue_()
    view.wait_for_selector("#stage[data-points=plotted]")
    view.wait_for_selector("body[data-ready]")
    x, shown = view.evaluate(
        "(({data, _fullLayout}) => [[...data[0].x], _fullLayout.xaxis.range])(document.getElementById('map'))"
    )
    assert shown[0] < min(x) < max(x) < shown[1]
    assert said == []
    view.close()


@pytest.mark.parametrize("many", [False, True], ids=["drawn by plotly", "painted by the page"])
def test_the_map_follows_the_hand(opened: Any, many: bool) -> None:
    view = opened(many=many)
    told = view.inner_text("#title")
    start = view.evaluate(PLACE, 40)
    view.mouse.move(*start)
    view.mouse.down()
    view.mouse.move(start[0] + 60, start[1] - 40, steps=6)
    # In the move, what was drawn is shifted; at rest, it is drawn anew in the same place.
    view.wait_for_function(SHIFTED, arg=[60, -40])
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
    if not many:
        view.wait_for_function("seen_.length === 2")
        (hidden, moving), (shown, idle) = view.evaluate("seen_")
        assert (hidden, shown) == ("hidden", "") and moving > idle
    view.wait_for_function(f"before => {SPREAD} !== before", arg=spread)
    at_rest(view)
    # A wheel turns at a whole pixel, and the point may be one pixel away.
    assert view.evaluate(PLACE, 40) == pytest.approx([start[0] + 90, start[1]], abs=0.7)
    assert view.evaluate(SPREAD) == pytest.approx(spread / 1.616, rel=0.01)
    # A double click shows all again, to the hundredth of a pixel that plotly gives; on a point, its first
    # click would look for neighbours.
    view.mouse.dblclick(*view.evaluate(EMPTY))
    view.wait_for_function(f"before => Math.abs({SPREAD} - before) < 1e-4 * before", arg=spread)


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
