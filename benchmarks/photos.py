"""The main job on photographs: the default views beside views that change colours and views that keep them.

    python -m benchmarks.photos /data/trash /data/flowers --minutes 10 --seeds 3 --out runs/photos

Each folder holds train and test, with a folder a class. Every row is trained on the images of train without
their labels, for the same time (--minutes) or the same number of steps (--steps, whose figures do not depend
on what else the machine does), and evaluated by `nearfar.evaluate`: everything is chosen on training images,
and test images are read once. Prints Markdown, with the least and the greatest over the seeds. What is there
already is read, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .measure import Spread

VIEWS: dict[str, dict[str, Any]] = {
    "default: the images decide (`--colour auto`)": {},
    "colours changed in every image (`--colour change`)": {"colour": "change"},
    "colours kept in every fourth image (`--colour change --keep-colour`)": {
        "colour": "change",
        "keep_colour": True,
    },
    "colours kept in every image (`--colour keep`)": {"colour": "keep"},
}
BASELINES = {
    "pixels": "pixels",
    "colours": "colour histogram",
    "patches": "k-means patches",
    "untrained": "untrained",
    "scratch": "supervised from scratch",
    "known": "EfficientNet-Lite0, ImageNet weights",
}
FIGURES = ("knn", "linear")

Figures = dict[str, dict[str, float]]  # row -> figure -> value


def measured(data: Path, out: Path, seed: int, length: dict[str, float]) -> Figures:
    """Train and evaluate every row of one folder with one seed."""
    import nearfar

    found: Figures = {}
    for number, (name, views) in enumerate(VIEWS.items()):
        run = nearfar.pretrain(data / "train", out=out / f"{number}-{seed}", seed=seed, **length, **views)
        baselines = ("pixels", "colours", "patches", "untrained", "scratch") if not number else ()
        scores = nearfar.evaluate(
            run, train=data / "train", test=data / "test", seed=seed, baselines=baselines
        )
        last = run.log()[-1]
        kinds = {key: getattr(scores, key) for key in FIGURES}
        found[name] = {key: kind["encoder"].accuracy for key, kind in kinds.items()}
        found[name] |= {"epochs": last["epoch"], "pace": last["images_per_second"]}
        for key, title in BASELINES.items():
            held = {figure: kind[key].accuracy for figure, kind in kinds.items() if key in kind}
            if held:
                found[title] = held
    return found


def cell(values: list[float], scale: float = 100.0, digits: int = 1) -> str:
    """Write a figure: its middle, and its least and greatest if they differ."""
    if not values:
        return "-"
    spread = Spread.of([scale * value for value in values])
    text = f"{spread.middle:.{digits}f}"
    return text if len(values) == 1 else f"{text} ({spread.low:.{digits}f} to {spread.high:.{digits}f})"


def table(data: Path, seeds: list[Figures]) -> str:
    """Write one folder's rows as Markdown."""
    names = dict.fromkeys(name for figures in seeds for name in figures)
    lines = [f"## {data.name}", "", "| | k-NN | linear | passes | images/s |", "|---|---|---|---|---|"]
    for name in [*BASELINES.values(), *VIEWS]:
        if name not in names:
            continue
        rows = [figures[name] for figures in seeds if name in figures]
        cells = [cell([row[key] for row in rows if key in row]) for key in FIGURES]
        cells += [cell([row[key] for row in rows if key in row], 1.0, 0) for key in ("epochs", "pace")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure every folder with every seed, and print the tables as they come."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/photos"))
    words = parser.parse_args()
    length = {"steps": words.steps} if words.steps else {"minutes": words.minutes}
    for data in words.data:
        found = []
        for seed in range(words.seeds):
            out = words.out / data.name
            file = out / f"{seed}.json"
            if not file.exists():
                made = measured(data, out, seed, length)
                file.write_text(json.dumps(made, indent=1))
            found.append(json.loads(file.read_text()))
        print(table(data, found), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
