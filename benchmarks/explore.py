"""Times the page to explore: how soon it answers, at the first start and the second, and its memory.

    python -m benchmarks.explore --rows 60000 --store sixty.nf --cache kept

The store holds random vectors around 20 centres and small thumbnails; it is made where there is none. Times
on the wall depend on what else the machine does, so processor time of server and worker is given too.
"""

from __future__ import annotations

import argparse
import hashlib
import http.cookiejar
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

CENTRES, PICTURES, PART = 20, 200, 50_000
PARTS = ("server", "workers", "browser")


def fill(address: str, rows: int, dim: int) -> None:
    """Make the store."""
    import pyarrow as pa
    from PIL import Image

    from nearfar.stores import StoreInfo, open_store

    draws = np.random.default_rng(0)
    centres = draws.normal(size=(CENTRES, dim)).astype(np.float32)
    store, files = open_store(address, StoreInfo(dim)), []
    for _ in range(PICTURES):
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[:], pixels[8:24, 8:24] = draws.integers(0, 255, (2, 3))
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG")
        files.append(file.getvalue())
    for first in range(0, rows, PART):
        numbers = np.arange(first, min(first + PART, rows))
        kinds = draws.integers(0, CENTRES, len(numbers))
        vectors = centres[kinds] + draws.normal(size=(len(numbers), dim)).astype(np.float32)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim)
        digests = [hashlib.blake2b(str(n).encode(), digest_size=16).hexdigest() for n in numbers.tolist()]
        known = zip(numbers.tolist(), kinds.tolist(), strict=True)
        table = {
            "id": [f"{n:07d}.jpg" for n in numbers.tolist()],
            "vector": flat.cast(pa.list_(pa.float32())),
            "thumbnail": [files[n % PICTURES] for n in numbers.tolist()],
            "label": pa.array([f"class {kind}" if n % 3 == 0 else None for n, kind in known], pa.string()),
            "digest": digests,
        }
        store.upsert(pa.table(table))


class Page:
    """The page's server, asked as a browser asks it."""

    def __init__(self, store: str) -> None:
        """Start it."""
        self.began = time.monotonic()
        words = [sys.executable, "-m", "nearfar", "explore", store]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        found = re.search(r"http\S+", self.process.stdout.readline())
        assert found is not None
        self.address, self.base = found[0], found[0].split("?")[0]
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._door = urllib.request.build_opener(cookies)
        self.get(found[0].removeprefix(self.base))
        self.key = json.loads(self.get("api/store"))["key"]

    def get(self, path: str, body: Any = None) -> bytes:
        """Ask until long work is finished."""
        while True:
            data = None if body is None else json.dumps(body).encode()
            asked = urllib.request.Request(self.base + path, data, {"content-type": "application/json"})
            with self._door.open(asked) as answer:
                if answer.status != 202:
                    return bytes(answer.read())

    def until_first_points(self) -> float:
        """Wait until places can be drawn, and give the seconds since the start."""
        while True:
            with self._door.open(self.base + "api/map") as answer:
                if answer.status != 202 or json.loads(answer.read())["early"]:
                    return time.monotonic() - self.began

    def used(self) -> tuple[float, float, float]:
        """Give MiB of the server and of its worker at their peaks, and the processor seconds of both."""
        me = self.process.pid
        children = Path(f"/proc/{me}/task/{me}/children").read_text().split()
        for task in Path(f"/proc/{me}/task").iterdir():
            with suppress(OSError):  # a thread that has ended
                children += (task / "children").read_text().split()
        peaks, seconds = [], 0.0
        for number in (me, *{*children}):
            status = Path(f"/proc/{number}/status").read_text()
            peaks.append(int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024)  # type: ignore[index]
            times = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
            seconds += sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
        return peaks[0], max(peaks[1:], default=0.0), seconds

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()


def spent(number: int) -> float:
    """Sum the processor seconds of a process and of those that it has started."""
    used, place = 0.0, Path(f"/proc/{number}")
    with suppress(OSError):  # one that has ended
        times = (place / "stat").read_text().rsplit(")", 1)[1].split()[11:15]
        used = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
        for task in (place / "task").iterdir():
            used += sum(map(spent, map(int, (task / "children").read_text().split())))
    return used


def below(number: int) -> list[int]:
    """List a process and those that it has started."""
    found = [number]
    with suppress(OSError):  # one that has ended
        for task in Path(f"/proc/{number}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += below(int(child))
    return found


class Memory:
    """Watches how many MiB server, workers and browser use at most; what is shared counts once."""

    def __init__(self, server: int) -> None:
        """Begin to look, every other second: to count the pages of gigabytes takes a while."""
        self.server, self.most = server, [0.0, 0.0, 0.0]
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            own = below(self.server)
            rest = [number for number in below(os.getpid())[1:] if number not in own]
            now = [sum(map(held, some)) for some in (own[:1], own[1:], rest)]
            self.most = [max(pair) for pair in zip(self.most, now, strict=True)]
            time.sleep(2)


def held(number: int) -> float:
    """Give the MiB of a process, of what it shares its part; 0 for one that has ended."""
    with suppress(OSError):
        told = Path(f"/proc/{number}/smaps_rollup").read_text()
        return int(re.search(r"Pss:\s+(\d+)", told)[1]) / 1024  # type: ignore[index]
    return 0.0


def draw(page: Page, chromium: str, rows: int) -> None:
    """Open the page in Chromium, and print what browser and server use up until the map is drawn."""
    from playwright.sync_api import sync_playwright

    memory = Memory(page.process.pid)

    def used() -> tuple[float, float]:
        server = spent(page.process.pid)
        return spent(os.getpid()) - server - time.process_time(), server

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1440, "height": 900})
        view.set_default_timeout(3_000_000)
        began, at = used()[0], 0.0

        def told(what: str) -> None:
            mine, server = used()
            wall = view.evaluate("performance.now()") / 1000 - at
            kept = ", ".join(f"{name} {some:,.0f}" for name, some in zip(PARTS, memory.most, strict=True))
            print(
                f"{what}: {wall:.1f} s, processor: browser {mine - began:.1f} s, server {server:.1f} s; "
                f"MiB at most: {kept}",
                flush=True,
            )

        def step(what: str, work: Callable[[], Any], there: str) -> None:
            nonlocal began, at
            at, began, before = view.evaluate("performance.now()") / 1000, used()[0], used()[1]
            work()
            view.wait_for_function(there)
            mine, server = used()[0] - began, used()[1] - before
            wall = view.evaluate("performance.now()") / 1000 - at
            print(f"{what}: {wall:.1f} s, processor: browser {mine:.1f} s, server {server:.1f} s", flush=True)

        view.goto(page.address, wait_until="commit")
        stages = {
            "first points": "#stage[data-points]",
            "first pictures": "#cell-5 img[src]",
            "drawn by plotly": "body[data-ready]",
        }
        while stages:  # in the order in which they come
            view.wait_for_function(
                "all => all.some(one => document.querySelector(one))", arg=[*stages.values()], polling=100
            )  # at every frame, asking would cost more than what is asked about
            for what in [what for what, where in stages.items() if view.query_selector(where)]:
                del stages[what]
                told(what)
        view.wait_for_function("document.getElementById('waiting').hidden", polling=500)
        view.wait_for_timeout(3000)  # the pictures on the map come when it rests
        told("laid out, and at rest")
        last, press = rows - 1, view.keyboard.press
        title = "document.getElementById('title').textContent"
        step("the end of the list", lambda: press("End"), seen(last))
        step("its beginning", lambda: press("Home"), seen(0))
        step("as a table", lambda: press("g"), seen(0))
        step("the end of the table", lambda: press("End"), seen(last))
        press("Home")
        step(
            "ordered by the label",
            lambda: view.select_option("#order", "label"),
            f"{title}.includes('by label') && {seen(0)}",
        )
        view.select_option("#order", "")
        view.focus("#grid")
        press("g")
        step(
            "a condition",
            lambda: (view.fill("#condition", "label = 'class 3'"), view.press("#condition", "Enter")),
            f"!{title}.startsWith('{rows:,}') && {seen(0)}",
        )
        view.fill("#condition", "")
        view.press("#condition", "Enter")
        view.wait_for_function(f"{title}.startsWith('{rows:,}') && {seen(0)}")
        view.focus("#grid")
        view.evaluate("performance.clearResourceTimings()")  # a browser keeps the first 250
        step(
            "one label",
            lambda: press("1"),
            "performance.getEntriesByType('resource').some(({name}) => name.endsWith('api/labels'))",
        )
        step(
            "zoomed in",
            lambda: press("i"),
            "document.getElementById('map')._fullLayout.xaxis.range.reduce((a, b) => b - a) < 0.7",
        )
        view.wait_for_timeout(3000)
        told("in all")
        browser.close()


def seen(place: int) -> str:
    """Ask whether the picture of a place of the list is in sight."""
    in_sight = "cell && cell.getBoundingClientRect().top < innerHeight && !!cell.querySelector('img[src]')"
    return f"(cell => {in_sight})(document.getElementById('cell-{place}'))"


def main() -> None:
    """Measure one start: the first, if the cache is empty, or a later one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--store", required=True)
    parser.add_argument("--cache", required=True, help="empty for a first start; the same again for a second")
    parser.add_argument("--lists", nargs="*", default=[])
    parser.add_argument("--no-map", action="store_true", help="do not wait for the map")
    parser.add_argument("--draw", metavar="CHROMIUM", help="only open the page in this browser")
    asked = parser.parse_args()
    if not Path(asked.store).exists():
        fill(asked.store, asked.rows, asked.dim)
    os.environ["NEARFAR_CACHE"] = asked.cache
    page = Page(asked.store)
    if asked.draw:
        draw(page, asked.draw, asked.rows)
        return page.close()
    before = page.used()[2]
    print(
        f"serves after {time.monotonic() - page.began:.1f} s, processor {before:.1f} s",
        flush=True,
    )
    print(f"first points after {page.until_first_points():.1f} s", flush=True)
    some = [str(row) for row in range(0, asked.rows, max(1, asked.rows // 120))][:120]
    steps: dict[str, tuple[str, Any]] = {
        "map": ("api/map", None),
        "120 thumbnails": (f"api/cells?at={','.join(some)}&key={page.key}", None),
        "all labels": ("api/column/label", None),
        "ranks by a column": ("api/order/label", None),
        "a condition": ("api/where?where=label%20%3D%20%27class%203%27", None),
        "the first search by an image": ("api/search", {"key": page.key, "like": [7]}),
        "the next search": ("api/search", {"key": page.key, "like": [8]}),
        **{f"list {name}": (f"api/list/{name}", None) for name in asked.lists},
    }
    if asked.no_map:
        del steps["map"]
    for name, (path, body) in steps.items():
        began, used = time.monotonic(), page.used()[2]
        page.get(path, body)
        spent = page.used()[2] - used
        print(f"{name}: {time.monotonic() - began:.2f} s, processor {spent:.2f} s", flush=True)
    server, worker, _ = page.used()
    print(f"memory at its peak: server {server:,.0f} MiB, worker {worker:,.0f} MiB", flush=True)
    page.close()


if __name__ == "__main__":
    main()
