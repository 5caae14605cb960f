"""Images and words: drawn scenes with captions, trained by CLIP and SigLIP, and measured by `nearfar pairs`.

    python -m benchmarks.pairs run --method siglip --batch 64 --steps 1500   # a line of results
    python -m benchmarks.pairs table    # writes the table of pairs.md

A scene has one or two coloured forms: "a red ring", or "a red ring left of a blue star". Six of the thirty
pairs of a colour and a form never occur in training; the test scenes all have one of these, and a caption
each of its own. The classes are single forms of the held-out pairs, by "a red ring".
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import nearfar

ROOT = Path("/tmp/nearfar-pairs")
RESULTS = ROOT / "results.jsonl"
PAGE = Path(__file__).with_name("pairs.md")
COLOURS = {
    "red": (214, 48, 49),
    "green": (39, 174, 96),
    "blue": (52, 101, 220),
    "yellow": (241, 206, 40),
    "purple": (142, 68, 173),
    "white": (245, 245, 245),
}
FORMS = ("box", "ball", "ring", "star", "cross")
HELD = {
    ("red", "ring"),
    ("green", "star"),
    ("blue", "box"),
    ("yellow", "cross"),
    ("purple", "ball"),
    ("white", "ring"),
}
PLACES = ("left of", "right of", "above", "below")
SIDE, TRAIN, TEST = 48, 6000, 500
MORE = (1, 2, 3)  # further drawings of test scenes: the interval over 2,000 captions is half as wide
Form = tuple[str, str]


def _points(form: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    if form == "star":
        turns = [(math.pi * k / 5, r if k % 2 == 0 else 0.42 * r) for k in range(10)]
        return [(x + far * math.sin(turn), y - far * math.cos(turn)) for turn, far in turns]
    a, b = 0.34 * r, r
    corners = [
        (a, b),
        (a, a),
        (b, a),
        (b, -a),
        (a, -a),
        (a, -b),
        (-a, -b),
        (-a, -a),
        (-b, -a),
        (-b, a),
        (-a, a),
    ]
    return [(x + dx, y + dy) for dx, dy in [*corners, (-a, b)]]


def _draw(pen: ImageDraw.ImageDraw, form: Form, x: float, y: float, r: float) -> None:
    colour, box = COLOURS[form[0]], (x - r, y - r, x + r, y + r)
    if form[1] == "box":
        pen.rectangle(box, colour)
    elif form[1] == "ball":
        pen.ellipse(box, colour)
    elif form[1] == "ring":
        pen.ellipse(box, None, colour, max(2, round(0.4 * r)))
    else:
        pen.polygon(_points(form[1], x, y, r), colour)


def scene(draw: np.random.Generator, forms: list[Form], place: str) -> Image.Image:
    """Draw a scene on a plain ground, four times as large, and reduce it."""
    side = 4 * SIDE
    ground = tuple(int(v) for v in draw.integers(60, 150) + draw.integers(-12, 13, 3))
    image = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(image)
    if len(forms) == 1:
        r = side * draw.uniform(0.16, 0.3)
        x, y = draw.uniform(r, side - r, 2)
        _draw(pen, forms[0], x, y, r)
    else:
        first, second = draw.uniform(0.22, 0.3), draw.uniform(0.7, 0.78)
        first, second = (first, second) if place in ("left of", "above") else (second, first)
        for form, at in zip(forms, (first, second), strict=True):
            r, across = side * draw.uniform(0.13, 0.2), draw.uniform(0.25, 0.75)
            x, y = (at, across) if place in ("left of", "right of") else (across, at)
            _draw(pen, form, x * side, y * side, r)
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def caption(forms: list[Form], place: str) -> str:
    """Say what a scene holds."""
    told = [f"a {colour} {form}" for colour, form in forms]
    return told[0] if len(told) == 1 else f"{told[0]} {place} {told[1]}"


def data(seed: int = 0) -> Path:
    """Draw the collections, once: train/, test/ with captions, and classes/ by folders."""
    folder = ROOT / f"scenes-{seed}"
    if (folder / "done").exists():
        return folder
    draw = np.random.default_rng(seed)
    pairs = list(itertools.product(COLOURS, FORMS))
    seen = [pair for pair in pairs if pair not in HELD]
    for part, count in (("train", TRAIN), ("test", TEST)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        rows, told = ["path,caption"], set[str]()
        while len(rows) <= count:
            if part == "train":
                forms = [seen[at] for at in draw.integers(0, len(seen), 1 + int(draw.random() < 0.8))]
            else:
                forms = [sorted(HELD)[draw.integers(0, len(HELD))], pairs[draw.integers(0, len(pairs))]]
                forms = forms[:: 1 if draw.random() < 0.5 else -1]
            place = PLACES[draw.integers(0, 4)]
            text = caption(forms, place)
            if part == "test" and (text in told or forms[0] == forms[1]):
                continue
            told.add(text)
            name = f"{len(rows):05d}.png"
            scene(draw, forms, place).save(folder / part / name)
            rows.append(f"{name},{text}")
        (folder / part / "captions.csv").write_text("\n".join(rows) + "\n")
    for colour, form in sorted(HELD):
        place = folder / "classes" / f"{colour} {form}"
        place.mkdir(parents=True, exist_ok=True)
        for number in range(40):
            scene(draw, [(colour, form)], "").save(place / f"{number}.png")
    (folder / "done").touch()
    return folder


def run(method: str, batch: int, steps: int, seed: int) -> None:
    """Train and measure once."""
    place = data()
    out = ROOT / f"{method}-{batch}-{steps}-{seed}"
    made = nearfar.pretrain(
        place / "train", out=out, method=method, batch_size=batch, steps=steps, seed=seed, recipe="cpu",
        threads=1, workers=1, device="cpu", health_checks=2, image_size=SIDE,
    )  # fmt: skip
    found = nearfar.pairs(made, place / "test", classes=place / "classes", templates=("a {}",), seed=seed)
    print(found)
    others = [
        nearfar.pairs(made, data(more) / "test", seed=seed).to_json()["rows"]["encoder"] for more in MORE
    ]
    rows = [found.to_json()["rows"]["encoder"], *others]
    print("R@1 of", len(rows), "collections:", [[row["image"][0], row["text"][0]] for row in rows])
    line = {
        "method": method,
        "batch": batch,
        "steps": steps,
        "seed": seed,
        "seconds": made.log()[-1]["seconds"],
        "first": [float(np.mean([row[way][0] for row in rows])) for way in ("image", "text")],
    }
    with open(RESULTS, "a") as file:
        file.write(json.dumps({**line, **found.to_json()}) + "\n")


def table() -> None:
    """Write the tables of pairs.md between their marks."""
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    rows = [
        "| method | batch | steps | seed | image R@1 | R@10 | text R@1 | R@10 | names | linear | untrained |",
        "|---" * 11 + "|",
    ]
    for item in lines:
        own, classes = item["rows"]["encoder"], item["classes"]
        shares = [own["image"][0], own["image"][2], own["text"][0], own["text"][2]]
        shares += [classes["words"], classes["linear"], classes["untrained"]]
        told = [item["method"], item["batch"], item["steps"], item["seed"]]
        rows.append("| " + " | ".join([*map(str, told), *(f"{100 * share:.1f}" for share in shares)]) + " |")
    for name, what in (("untrained", "untrained encoders"), ("chance", "chance")):
        found = [item["rows"][name] for item in lines]
        mean = [np.mean([row[way][k] for row in found]) for way in ("image", "text") for k in (0, 2)]
        shown = " | ".join(f"{100 * share:.1f}" for share in mean)
        often = f"{100 * lines[0]['classes']['chance']:.1f}" if name == "chance" else ""
        rows.append(f"| {what} | | | | {shown} | {often} | | |")
    before, _, rest = PAGE.read_text().partition("<!-- table -->\n")
    after = rest.partition("<!-- end -->")[2]
    PAGE.write_text(before + "<!-- table -->\n" + "\n".join(rows) + "\n<!-- end -->" + after)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("data", "run", "table"))
    parser.add_argument("--method", default="siglip")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if asked.what == "data":
        print(data())
    elif asked.what == "run":
        run(asked.method, asked.batch, asked.steps, asked.seed)
    else:
        table()


if __name__ == "__main__":
    main()
