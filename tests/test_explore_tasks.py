"""The four common tasks in a real browser: how many keys and clicks each takes, as docs/explore.md says."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import explored
import pytest
from page_browser import (  # noqa: F401
    NEEDS_BROWSER,
    Server,
    browser,
    press,
    tabs,
    title,
    until,
)

from nearfar.stores import VectorStore

pytestmark = [pytest.mark.long, pytest.mark.slow, NEEDS_BROWSER]
COUNT, COPIES, NAMES = 240, 74, ("cat", "dog", "owl")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A store of three kinds, half of it labelled, with wrong labels; and one row that has many copies."""
    pytest.importorskip("lancedb", reason="no LanceDB here: pip install 'nearfar[store]'")
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    labels = [NAMES[n % 3] if n % 2 else None for n in range(COUNT)]
    for n in range(1, 41, 2):
        labels[n] = NAMES[(n + 1) % 3]
    found = Server(with_copies(tmp_path, labels))
    yield found
    found.stop()


def with_copies(folder: Path, labels: list[str | None]) -> VectorStore:
    store = explored.plain(folder, COUNT, labels=labels)
    ids = store.ids()
    digests = store.rows(["digest"], ids=ids)["digest"].to_pylist()
    digests[-COPIES:] = [digests[0]] * COPIES  # the same bytes, as far as the store knows
    store.upsert(changed(store, ids, digests))
    return store


def changed(store: VectorStore, ids: list[str], digests: list[str]) -> Any:
    import pyarrow as pa

    table = store.rows(["path", "label", "site"], ids=ids)
    vectors = store.vectors(ids=ids)[1]
    return pa.table(
        {
            "id": ids,
            "vector": pa.array(list(vectors), pa.list_(pa.float32())),
            "thumbnail": store.thumbnails(ids),
            "digest": digests,
            **{name: table[name] for name in table.column_names},
        }
    )


class Hand:
    """Presses keys and clicks, and counts them."""

    def __init__(self, view: Any) -> None:
        self.view, self.count = view, 0

    def press(self, *keys: str) -> None:
        press(self.view, *keys)
        self.count += len(keys)

    def list(self, name: str, keys: int) -> None:
        """Go to a list by `]`, as fast as a hand does."""
        for _ in range(keys):
            self.press("]")
        self.view.wait_for_selector(f"#tab-{name}[aria-selected=true]")
        self.view.wait_for_selector("#list-part:not([aria-busy]) #cell-0")

    def done(self) -> int:
        count, self.count = self.count, 0
        return count


def test_keys_of_the_four_tasks(tabs: Callable[..., Any], server: Server, tmp_path: Path) -> None:
    view = tabs()
    hand = Hand(view)
    hand.list("label-errors", 5)
    before = server.labels("label_origin") if "label_origin" in server.store.columns else []
    assert before.count("accepted suggestion") == 0
    for place in range(20):
        hand.press("a" if place % 2 else "r")
    until(lambda: sum(one is not None for one in server.labels("label_origin")) == 20)
    assert hand.done() == 25
    view.click("#tab-all")
    title(view, f"{COUNT} images")
    view.focus("#grid")
    hand.list("suggestions", 6)
    unlabelled = server.labels().count(None)
    hand.press(*("1" for _ in range(50)))
    until(lambda: server.labels().count(None) == unlabelled - 50)
    assert hand.done() == 56
    view.click("#tab-all")
    title(view, f"{COUNT} images")
    view.focus("#grid")
    hand.list("duplicates", 4)
    hand.press("c")
    chosen = int(view.inner_text("#chosen-count").split()[0])
    assert chosen >= COPIES
    hand.press("x")
    if view.is_visible("#sure"):
        view.click("#sure-yes")
        hand.count += 1
    until(lambda: server.labels("set_aside").count(True) == chosen)
    assert hand.done() <= 10
    view.click("#tab-all")
    title(view, f"{COUNT - chosen} image")
    view.focus("#grid")
    hand.press("Shift+ArrowRight", "Shift+ArrowRight")
    with view.expect_download() as found:
        view.click("#export-chosen")
        hand.count += 1
    found.value.save_as(tmp_path / "selection.csv")
    with open(tmp_path / "selection.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and "vector" not in rows[0] and hand.done() == 3
