"""How smoothly the page's map moves with many images: milliseconds from frame to frame, in a real browser.

    python -m benchmarks.explore_map --images 100000

A store of drawn pictures is served on loopback and opened in Chromium (`--chromium` names another). The map
is dragged and zoomed for some seconds; a frame is what the browser paints. Once the map rests, all points are
drawn again: that has a line of its own. Where there is no GPU, Chromium draws WebGL on the CPU, and says so:
then this is the slowest that anyone sees.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, PIECE = 16, 20_000
LIST_LIMIT = """() => { window.frames_ = []; let last = performance.now();
const each = (now) => { window.frames_.push(now - last); last = now; requestAnimationFrame(each); };
requestAnimationFrame(each); }"""
WHO = """() => { const gl = document.createElement('canvas').getContext('webgl');
const more = gl && gl.getExtension('WEBGL_debug_renderer_info');
return gl ? gl.getParameter(more ? more.UNMASKED_RENDERER_WEBGL : gl.RENDERER) : 'no WebGL'; }"""


def fill(folder: Path, count: int) -> Any:
    """Make a store of so many images in twenty clouds, with coordinates."""
    import pyarrow as pa
    from PIL import Image

    from nearfar.demo import drawings
    from nearfar.stores import StoreInfo, open_store
    from nearfar.stores.arrow_rows import fixed

    pictures = []
    for one in drawings.draw("star", 64, seed=0):
        buffer = io.BytesIO()
        Image.fromarray(one).save(buffer, "JPEG")
        pictures.append(buffer.getvalue())
    store, draw = open_store(folder / "many.nf", StoreInfo(WIDTH)), np.random.default_rng(0)
    centres = draw.normal(size=(20, WIDTH))
    for low in range(0, count, PIECE):
        rows = range(low, min(low + PIECE, count))
        cloud = draw.integers(20, size=len(rows))
        x = (centres[cloud] + 0.3 * draw.normal(size=(len(rows), WIDTH))).astype(np.float32)
        store.upsert(
            pa.table(
                {
                    "id": [f"{row:07d}" for row in rows],
                    "vector": fixed(x),
                    "thumbnail": [pictures[row % 64] for row in rows],
                    "label": [f"cloud {number}" for number in cloud],
                    "map_x": x[:, 0].astype(float),
                    "map_y": x[:, 1].astype(float),
                }
            )
        )
    return store


@contextmanager
def served(address: str) -> Iterator[str]:
    """Run `nearfar explore`, and give the address that it prints."""
    command = [sys.executable, "-m", "nearfar", "explore", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


REST = 1500  # milliseconds until the map certainly rests


def told(view: Any, what: str) -> None:
    """Print the frames since the last time, then those in which the map comes to rest."""
    line(view, what)
    view.wait_for_timeout(REST)
    line(view, f"{what}: coming to rest")


def line(view: Any, what: str) -> None:
    """Print the frames since the last time."""
    frames = np.array(view.evaluate("() => window.frames_.splice(0)")[1:])
    if len(frames):
        middle, slow, worst = np.percentile(frames, [50, 95, 100])
        print(f"| {what} | {len(frames)} | {middle:.0f} | {slow:.0f} | {worst:.0f} |", flush=True)


def measure(view: Any) -> None:
    """Drag the map, and zoom into it and out again."""
    box = view.locator("#map").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    print("| what | frames | middle, ms | slowest twentieth, ms | slowest, ms |\n|---|---|---|---|---|")
    view.evaluate(LIST_LIMIT)
    view.mouse.move(x, y)
    view.mouse.down()
    for step in range(120):
        view.mouse.move(x + 150 * np.sin(step / 10), y + 100 * np.cos(step / 10))
        view.wait_for_timeout(16)
    told(view, "drag")
    view.mouse.up()
    for way, what in ((-1, "zoom in"), (1, "zoom out")):
        for _ in range(30):
            view.mouse.wheel(0, 60 * way)
            view.wait_for_timeout(30)
        told(view, what)


def main() -> None:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    parser.add_argument("--picture", type=Path, help="where a picture of the page goes")
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        store = fill(Path(name), given.images)
        browser = driver.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        with served(store.address) as address:
            view = browser.new_page(viewport={"width": 1280, "height": 860})
            view.set_default_timeout(300_000)
            view.goto(address)
            view.wait_for_selector("body[data-ready]")
            view.wait_for_function("document.getElementById('map').data?.[0].x.length > 0")
            print(f"{given.images:,} images, 1280 x 860, drawn by: {view.evaluate(WHO)}\n")
            measure(view)
            if given.picture:
                view.screenshot(path=given.picture)
        browser.close()


if __name__ == "__main__":
    main()
