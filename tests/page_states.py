"""Every state of the page in which a person may find it: brought about one after another, in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from page_browser import Server, press, shows, title

SIZES = ((1440, 900), (820, 1180), (390, 844))


def idle(view: Any) -> None:
    """Wait until the list is there, and its pictures."""
    view.wait_for_selector("#list-part:not([aria-busy])")
    view.wait_for_function(
        "[...document.querySelectorAll('.frame img')].every(one => one.hasAttribute('src'))"
        " && !document.querySelector('.meter')"
    )


def listed(view: Any, name: str) -> str:
    view.click(f"#tab-{name}")
    view.wait_for_selector(f"#tab-{name}[aria-selected=true]")
    idle(view)
    view.focus("#grid")
    return name


def closed(view: Any, name: str) -> None:
    press(view, "Escape")
    view.wait_for_selector(f"#{name}", state="hidden")
    view.focus("#grid")


def in_full(view: Any) -> None:
    press(view, "v")
    view.wait_for_selector("#photo[open]")
    view.wait_for_function("document.querySelectorAll('#photo-near img[src]').length > 0")
    view.wait_for_function("/\\S/.test(document.getElementById('photo-path').textContent)")


def of_pictures(view: Any, server: Server) -> Iterator[str]:
    """Go through the states of a store of images with a run; the store is left as it was."""
    idle(view)
    yield "all"
    press(view, "g")
    yield "table"
    press(view, "g", "Shift+ArrowRight", "Shift+ArrowRight")
    shows(view, "chosen-count", "3 chosen")
    yield "chosen"
    for key, name in (("t", "tag-dialog"), ("k", "save-dialog")):
        press(view, key)
        view.wait_for_selector(f"#{name}[open]")
        yield name
        closed(view, name)
    press(view, "k")
    view.keyboard.type("three odd ones, under a name that is as long as names may be")
    press(view, "Enter")
    shows(view, "status", "Kept as")
    listed(view, "selected")
    yield "kept-selections"
    view.focus("#grid")
    listed(view, "all")
    press(view, "n")
    title(view, "most similar first")
    press(view, "End", "-")
    view.wait_for_selector(".example.dislike img[src]")
    idle(view)
    yield "similar"
    for name in ("anomalies", "label-errors", "suggestions", "clusters"):
        yield listed(view, name)
    listed(view, "duplicates")
    press(view, "c")
    shows(view, "chosen-count", "chosen")
    yield "duplicates"
    in_full(view)
    view.wait_for_selector("#photo-two:not([hidden]) img[src]")
    yield "in-full-beside-another"
    press(view, "y")
    view.wait_for_selector("#photo-why[aria-pressed=true]")
    view.wait_for_function("!/finding|^$/.test(document.getElementById('photo-reason').textContent)")
    yield "why-near"
    closed(view, "photo")
    press(view, "Escape")
    listed(view, "all")
    in_full(view)
    yield "in-full"
    closed(view, "photo")
    press(view, "h")
    view.wait_for_selector("#heat-dialog[open]")
    yield "heat"
    closed(view, "heat-dialog")
    press(view, "?")
    yield "help"
    closed(view, "help")
    press(view, "Control+a", "1")
    view.wait_for_selector("#sure[open]")
    yield "asked"
    closed(view, "sure")
    press(view, "Escape", "l")
    view.keyboard.type("a new one")
    yield "a-label-typed"
    view.fill("#new-label", "")
    for name in ("facets", "more"):
        view.click(f"#{name} summary")
        view.wait_for_selector(f"#{name}[open] .menu button")
        yield f"menu-{name}"
        if name == "more":
            view.click("#train")
            title(view, "classes by the classifier")
            idle(view)
            yield "classifier"
        press(view, "Escape")
    listed(view, "all")
    for value, text in (("depth", "148"), ("/clusters", "cluster 1"), ("", "ring")):
        view.select_option("#colour", value)
        shows(view, "legend", text)
        if value:
            yield f"coloured-by-{value}"
    view.fill("#condition", "depth > 1000")
    view.press("#condition", "Enter")
    title(view, "0 images")
    yield "nothing-meets-the-condition"
    view.click("#nothing button")
    title(view, "150 images")
    view.focus("#grid")
    server.stop()
    press(view, "End", "1", "2")
    shows(view, "unsaved", "not saved yet")
    yield "server-away"
    press(view, "u", "u")
    server.start()
    view.wait_for_selector("#unsaved", state="hidden")
    shows(view, "status", "The server is back")
    yield "server-back"


def of_parts(view: Any, server: Server) -> Iterator[str]:
    """Go through the list of anomalous parts; nothing is put into the bank."""
    listed(view, "parts")
    view.wait_for_selector("#threshold", state="visible")
    yield "parts"
    view.fill("#level", "1000")
    view.wait_for_function("/: 0 images/.test(document.getElementById('level-says').textContent)")
    idle(view)
    yield "parts-none-flagged"
    view.fill("#level", "100")
    view.wait_for_function("!/^0/.test(document.getElementById('title').textContent)")
    idle(view)
    view.focus("#grid")
    in_full(view)
    view.wait_for_function("document.querySelector('#photo-one figcaption').textContent.includes('yellow')")
    yield "parts-in-full"
    press(view, "h")
    view.wait_for_selector("#photo-parts[aria-pressed=false]")
    yield "parts-in-full-plain"
    closed(view, "photo")


def played(view: Any, audio: str) -> None:
    """Wait until a clip can be played, where it is one."""
    if "clip" in view.inner_text("#count"):
        view.wait_for_function("id => document.getElementById(id).readyState > 0", arg=audio)


def of_others(view: Any, server: Server) -> Iterator[str]:
    """Go through the states in which clips and texts look unlike images."""
    idle(view)
    yield "all"
    press(view, "g")
    idle(view)
    yield "table"
    for name in ("facets", "more"):
        view.click(f"#{name} summary")
        view.wait_for_selector(f"#{name}[open] .menu button")
        yield f"menu-{name}"
        press(view, "Escape")
    press(view, "g", "n")
    title(view, "most similar first")
    idle(view)
    yield "similar"
    for name in ("anomalies", "duplicates", "label-errors", "clusters"):
        yield listed(view, name)
    listed(view, "all")
    in_full(view)
    played(view, "photo-audio")
    yield "in-full"
    view.click("#photo-near button")
    view.wait_for_selector("#photo-two:not([hidden])")
    played(view, "photo-audio-two")
    yield "in-full-beside-another"
    closed(view, "photo")
    if view.is_visible("#by-words"):
        view.fill("#words", "the ship and the harbour")
        view.press("#words", "Enter")
        view.wait_for_function("document.getElementById('lines').textContent.includes('harbour')")
        idle(view)
        yield "by-words"


STATES = {"pictures": of_pictures, "parts": of_parts, "sounds": of_others, "texts": of_others}


def file_name(*words: object) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", "-".join(map(str, words)).lower())
