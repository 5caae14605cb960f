"""Near copies: how many planted ones are found, and how many others are called copies, by kind of image.

    python -m benchmarks.duplicates [--images 40] [--kind drawings] [--photos FOLDER ...] \\
        [--boards NORMAL DEFECT BOXES]

Drawings of one style, products on white, pages of text and boards of one design are drawn here; FOLDER
holds photographs. Each kind is a collection of its own, without an encoder: all features are equal, so only
the coarse structure says what to compare. Copies of half of the images are planted among all: exact, resized,
saved again, mirrored, cropped, and several of these at once. A pair that was not planted is false.

Boards come in pairs that differ in one defect. NORMAL and DEFECT are folders of images of the same names,
BOXES one of text files with `x1 y1 x2 y2 kind` on each line: one defect is pasted into the board without any.

For natural copies, the pairs that ciFAIR's authors found between CIFAR-10's test and training images (Barz
and Denzler 2020, "Do we train on test data?"; judgment 1 is a near-copy):

    python -m benchmarks.duplicates --cifair duplicates_cifar10.csv --labels CIFAR-10_human.pt --cifar cifar10

The images lie in a folder a class, in their original order within each class. A test image's place within its
class is known only to about one in ten of its number: the images within `WINDOW` places are compared with the
training image, and a pair counts as found if one of them is called its copy.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.label_errors import in_original_order
from nearfar.analysis import planted
from nearfar.analysis.copy_threshold import calibrate
from nearfar.analysis.duplicates import Collection, duplicate_pairs
from nearfar.demo import drawings

WINDOW = 45  # three standard deviations of how many of i images drawn from ten classes are of one
Picture = npt.NDArray[np.uint8]
WAYS = {"exact": lambda x, draw: x.copy(), **planted.WAYS}


def styled(count: int, draw: np.random.Generator) -> list[Picture]:
    """Draw the demo's forms, 48 px."""
    each = -(-count // len(drawings.FORMS))
    made = np.concatenate([drawings.draw(form, each, 0, "duplicates") for form in drawings.FORMS])
    return list(made[draw.permutation(len(made))[:count]])


def products(count: int, draw: np.random.Generator) -> list[Picture]:
    """Draw things on white: one to three boxes of other sizes, places and colours, with lines on them."""
    made = []
    for _ in range(count):
        picture = np.full((224, 224, 3), 255, np.uint8)
        for _ in range(int(draw.integers(1, 4))):
            top, left, high, wide = draw.integers([40, 40, 25, 25], [120, 120, 90, 90])
            picture[top : top + high, left : left + wide] = draw.integers(0, 200, 3)
            for line in draw.integers(top, top + high, int(draw.integers(0, 5))):
                picture[line : line + 3, left : left + wide] = draw.integers(0, 255, 3)
        made.append(picture)
    return made


def pages(count: int, draw: np.random.Generator) -> list[Picture]:
    """Draw pages of text: the same thirty lines, other words on them."""
    made = []
    for _ in range(count):
        page = np.full((320, 224, 3), 255, np.uint8)
        for line in range(12, 310, 10):
            at = 20
            while at < 190:
                word = int(draw.integers(4, 22))
                page[line : line + 5, at : min(at + word, 204)] = draw.integers(0, 90)
                at += word + 4
        made.append(page)
    return made


def boards(count: int, draw: np.random.Generator) -> list[Picture]:
    """Draw one design with a gap somewhere else in each, so near the middle that no crop loses it."""
    design = np.zeros((256, 256, 3), np.uint8)
    for _ in range(24):
        at, low, high = int(draw.integers(5, 245)), *np.sort(draw.integers(5, 250, 2))
        design[at : at + 7, low:high] = 255
        design[low:high, at : at + 7] = 255
    tracks = np.argwhere(design[60:-60, 60:-60, 0] == 255) + 60
    made = []
    for row, column in tracks[draw.choice(len(tracks), count, replace=False)]:
        board = design.copy()
        board[row - 5 : row + 6, column - 5 : column + 6] = 0
        made.append(board)
    return made


def read(path: Path) -> Picture:
    """Read an image."""
    return np.asarray(Image.open(path).convert("RGB"))


def photos(folder: Path) -> Callable[[int, np.random.Generator], list[Picture]]:
    """Take photographs of a folder at random."""

    def some(count: int, draw: np.random.Generator) -> list[Picture]:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
        return [read(files[at]) for at in draw.permutation(len(files))[:count]]

    return some


def real_boards(
    normal: Path, defect: Path, boxes: Path
) -> Callable[[int, np.random.Generator], list[Picture]]:
    """Take boards without a defect, each beside itself with one."""

    def some(count: int, draw: np.random.Generator) -> list[Picture]:
        files = sorted(normal.iterdir())
        made = []
        for at in draw.permutation(len(files))[: count // 2]:
            whole, other = read(files[at]), read(defect / files[at].name)
            lines = (boxes / f"{files[at].stem}.txt").read_text().splitlines()
            boxes_there = [list(map(int, line.split()[:4])) for line in lines]
            # The one nearest to the middle: no crop loses it.
            left, top, right, low = min(
                boxes_there, key=lambda box: max(abs(box[0] + box[2] - 640), abs(box[1] + box[3] - 640))
            )
            one = whole.copy()
            one[top:low, left:right] = other[top:low, left:right]
            made += [whole, one]
        return made

    return some


def held(pictures: list[Picture]) -> Collection:
    """Make a collection whose features know nothing."""
    x = np.ones((len(pictures), 2), np.float32)
    return Collection(x, [""] * len(pictures), lambda rows: [pictures[row] for row in rows])


def measure(
    pictures: list[Picture], draw: np.random.Generator
) -> tuple[dict[str, tuple[int, int]], int, float]:
    """Plant copies and look for them.

    Returns:
        Found and planted for each way; pairs that were not planted; the threshold.
    """
    names = list(WAYS)
    chosen = draw.permutation(len(pictures))[: len(pictures) // 2]
    copies = [
        WAYS[names[k % len(names)]](pictures[row], draw.random(3).astype(np.float32))
        for k, row in enumerate(chosen)
    ]
    images = held([*pictures, *copies])
    level = calibrate(images).min_similarity
    found = duplicate_pairs(images, min_similarity=level)
    pairs = {*zip(found.a.tolist(), found.b.tolist(), strict=True)}
    wanted = {(int(row), len(pictures) + k): names[k % len(names)] for k, row in enumerate(chosen)}
    counts = {
        name: (
            sum(pair in pairs for pair, way in wanted.items() if way == name),
            sum(way == name for way in wanted.values()),
        )
        for name in names
    }
    return counts, len(pairs - wanted.keys()), level


def cifair(pairs: Path, labels: Path, folder: Path) -> None:
    """Count the natural near-copies that are found, and other images called copies of the same ones."""
    order = np.argsort(in_original_order(labels)["clean_label"], kind="stable")
    row = np.empty_like(order)
    row[order] = np.arange(len(order))
    train, test = (sorted((folder / part).rglob("*.jpg")) for part in ("train", "test"))
    assert (len(train), len(test)) == (50_000, 10_000)
    with open(pairs, encoding="utf-8", newline="") as file:
        known = [one for one in csv.DictReader(file) if int(one["Judgment"]) == 1]
    mine, theirs = [], []
    for number, one in enumerate(known):
        at = int(row[int(one["TrainID"])])
        middle = round(int(one["TestID"]) / 10)
        near = range(max(0, middle - WINDOW), min(1000, middle + WINDOW + 1))
        mine += [1000 * (at // 5000) + k for k in near]
        theirs += [number] * len(near)
    first = held([read(test[at]) for at in sorted(set(mine))])
    second = held([read(train[int(row[int(one["TrainID"])])]) for one in known])
    place = {at: k for k, at in enumerate(sorted(set(mine)))}
    a, b = np.array([place[at] for at in mine]), np.array(theirs)
    found = first.similarity(second, a, b)
    for level in (calibrate(second).min_similarity, 0.5, 0.4):
        hits = len(np.unique(b[found >= level]))
        more = int((found >= level).sum()) - hits
        rest = len(a) - len(known)
        print(f"at {level:.2f}: {hits} of {len(known)} pairs are found, and {more} of {rest:,} others")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, nargs="*", default=[])
    parser.add_argument("--boards", type=Path, nargs=3)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--kind", default="", help="the first letters of the only kinds to measure")
    for flag in ("--cifair", "--labels", "--cifar"):
        parser.add_argument(flag, type=Path)
    words = parser.parse_args()
    if words.cifair:
        cifair(words.cifair, words.labels, words.cifar)
        return
    kinds = {
        "drawings, 48 px": styled,
        "products on white": products,
        "pages of text": pages,
        "boards, one gap": boards,
    }
    kinds |= {f"photographs, {folder.parent.name}": photos(folder) for folder in words.photos}
    if words.boards:
        kinds["real boards, one defect"] = real_boards(*words.boards)
    ways = " | ".join(WAYS)
    print(f"| kind | images | threshold | {ways} | copies found | others called copies | s |")
    print("|---" * (6 + len(WAYS)) + "|")
    for name, make in kinds.items():
        if not name.startswith(words.kind):
            continue
        began, draw = time.monotonic(), np.random.default_rng(0)
        pictures = make(words.images, draw)
        counts, false, level = measure(pictures, draw)
        found, of = (sum(pair[side] for pair in counts.values()) for side in (0, 1))
        cells = " | ".join(f"{a} of {b}" for a, b in counts.values())
        print(
            f"| {name} | {len(pictures)} | {level:.2f} | {cells} | {100 * found / of:.1f} % | {false} | "
            f"{time.monotonic() - began:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
