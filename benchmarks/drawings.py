"""Real images with titles: Debian's openclipart packages, learnt from and searched by other titles.

    apt-get download openclipart-png openclipart-svg && for each: dpkg-deb -x PACKAGE DIR
    python -m benchmarks.drawings DIR/usr/share/openclipart --out /tmp/drawings --method siglip --steps 700

A drawing's caption is the title in its SVG file. Titles of more than three drawings name a collection and are
left out, with their drawings. The drawings of a seventh of the titles are searched, the others learnt from;
no title is in both. The keyword baseline is BM25 of a title on names of files and folders.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import html
import json
import re
from collections import defaultdict
from pathlib import Path

from PIL import Image

import nearfar

MOST, SIDE, PIXELS = 3, 48, 20_000_000  # drawings of a title, at most; the side of a view; pixels, at most
TITLE = re.compile(rb"<dc:title>(.*?)</dc:title>", re.DOTALL)


def is_small(path: Path) -> bool:
    """Tell whether a PNG is there, and not huge, by its header."""
    head = path.read_bytes()[:24] if path.exists() else b""
    return len(head) == 24 and int.from_bytes(head[16:20]) * int.from_bytes(head[20:24]) <= PIXELS


def titles(folder: Path) -> dict[str, list[str]]:
    """Give the drawings of each title, by their paths without the ending."""
    found = defaultdict(list)
    for path in sorted((folder / "svg").rglob("*.svg")):
        told = TITLE.search(path.read_bytes())
        title = " ".join(html.unescape(told[1].decode("utf-8", "replace")).split()) if told else ""
        name = path.relative_to(folder / "svg").with_suffix("").as_posix()
        if title and is_small(folder / "png" / f"{name}.png"):
            found[title.lower()].append(name)
    return {title: names for title, names in found.items() if len(names) <= MOST}


def write(folder: Path, out: Path) -> dict[str, int]:
    """Write train/ and test/, each with a captions.csv and small drawings on white; count the drawings."""
    rows: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for title, names in titles(folder).items():
        part = "test" if hashlib.sha256(title.encode()).digest()[0] % 7 == 0 else "train"
        rows[part] += [(f"{name}.png", title) for name in names]
    for part, some in rows.items():
        for name, _ in some:
            place = out / part / name
            place.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(folder / "png" / name) as image:
                image = image.convert("RGBA")
                image.thumbnail((2 * SIDE, 2 * SIDE))
            white = Image.new("RGBA", image.size, "white")
            Image.alpha_composite(white, image).convert("RGB").save(place)
        with open(out / part / "captions.csv", "w", newline="") as file:
            csv.writer(file).writerows([("path", "caption"), *some])
    return {part: len(some) for part, some in rows.items()}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--method", default="siglip")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if not (given.out / "test" / "captions.csv").exists():
        print(write(given.folder, given.out), flush=True)
    how = {"recipe": "cpu", "batch_size": 64, "threads": 1, "workers": 1, "device": "cpu", "health_checks": 2}
    out = given.out / f"{given.method}-{given.seed}"
    made = nearfar.pretrain(
        given.out / "train",
        out=out,
        method=given.method,
        steps=given.steps,
        seed=given.seed,
        image_size=SIDE,
        **how,
    )
    found = nearfar.pairs(made, given.out / "test", seed=given.seed)
    print(found)
    print(json.dumps(found.to_json()))


if __name__ == "__main__":
    main()
