"""The main job on photographs: encoders trained here beside what needs no training, on one collection.

    python -m benchmarks.photos trash/train --test trash/test --steps 915 --out OUT/trash
    python -m benchmarks.photos tiny32/train --labelled few.csv --test val.csv --steps 1951 --out OUT/tiny32
    python -m benchmarks.photos --table OUT/trash OUT/tiny32

Each training row sees the images without their labels (the supervised one with them) for as many steps as
take it as long as --steps take the default. Classifiers are fitted to all labels, and to ten of each class,
the mean of twenty draws; what is chosen is chosen on training images, and test images are read once a row.
A row and a seed are one file in --out: what is there is read, so that a run that was stopped goes on, and
--rows and --seeds share the work among processes. Prints Markdown, with the least and the greatest seed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .measure import Spread

TEN = 10  # labels a class
USUAL = {"recipe": "cpu", "precision": "bfloat16", "threads": 1, "workers": 1, "device": "cpu"}


@dataclass(frozen=True)
class Row:
    """A way to get an encoder: its title, and what `pretrain` gets; `steps` times as many as the default."""

    title: str
    settings: dict[str, Any] = field(default_factory=dict)
    steps: float = 1.0


TRAINED = {
    "default": Row("**the default**"),
    "change": Row("views that change colours (`--colour change`)", {"colour": "change"}),
    "keep": Row("views that keep colours (`--colour keep`)", {"colour": "keep"}),
    # A batch takes no longer; the teacher takes half a minute before, which the minutes leave out.
    "distilled": Row("distilled from the known encoder", {"method": "distill", "teacher": "known"}),
    # Its last two blocks, at its own size: 12 images/s of a core, so that it takes as long as the default.
    "adapted": Row("the known encoder adapted (`--weights known`)", {"weights": "known"}, steps=0.1093),
    # A batch takes longer: measured in ten minutes of one core on CIFAR-10, 1,499 steps beside 1,951.
    "supervised": Row("supervised, with all labels", {"method": "supervised"}, steps=0.768),
}
PLAIN = {
    "pixels": "raw pixels",
    "colours": "colour histogram",
    "patches": "k-means patches",
    "untrained": "untrained",
    "known": "known encoder, EfficientNet-Lite0",
}
TOGETHER = {
    "combined": "**known and the default together** (`nearfar combine`)",
    "control": "known and an untrained network together",
}
FIXED = ("pixels", "colours", "known")  # the same whatever the seed
ROWS = [*TRAINED, *PLAIN, *TOGETHER]
FIGURES = {"knn": "k-NN", "linear": "linear", "ten": "10 labels a class"}

Figures = dict[str, float]


def trained(name: str, data: Path, folder: Path, steps: int, seed: int) -> Any:
    """Train one row, or open what was trained."""
    import nearfar

    if (folder / "encoder.safetensors").exists():
        return nearfar.load(folder)
    row = TRAINED[name]
    settings: dict[str, Any] = {**USUAL, **row.settings}
    return nearfar.pretrain(data, out=folder, steps=round(row.steps * steps), seed=seed, **settings)


def together(name: str, default: Any, folder: Path, seed: int) -> Any:
    """Combine the known encoder with the default's, or with the same network untrained."""
    import nearfar
    from nearfar.data.labels import open_labelled
    from nearfar.evaluation import labelled_data
    from nearfar.features.probes import untrained
    from nearfar.training.run import Run

    if (folder / "encoder.json").exists():
        return nearfar.load(folder)
    other: Any = default
    if name == "control":
        how = default.preprocess
        images = labelled_data.read(open_labelled(default.config["data"]["path"], "images"), how)
        net: Any = untrained(default.encoder, images, how, seed, "cpu")
        other = Run(None, net, how, {"source": "untrained"}, {})
    return nearfar.combine("known", other, out=folder)


def measured(run: Any, labelled: Path, test: Path, names: Iterable[str], seed: int) -> dict[str, Figures]:
    """Measure an encoder ("encoder") or what needs no training, each with its own reading of the images."""
    from nearfar.data.labels import open_labelled
    from nearfar.evaluation import few_labels, labelled_data
    from nearfar.features.probes import FeatureProbe, encode_with, feature_sets, validation_split

    sources = [open_labelled(item, "images") for item in (labelled, test)]
    cpu = torch.device("cpu")
    found = {}
    for name in names:
        train = labelled_data.read(sources[0], run.preprocess)
        labels = labelled_data.class_numbers(train)
        held = validation_split(labels, train.classes, seed)
        if name == "encoder":
            encode, centred = encode_with(run.encoder, run.preprocess, cpu, 256), False
        else:
            encode, centred = feature_sets(run.encoder, run.preprocess, train, seed, cpu, 256)[name]()
        probe = FeatureProbe(encode, train, held, centred=centred)
        asked = labelled_data.read(sources[1], run.preprocess)
        truth = labelled_data.renumbered(asked, train.classes, sources[0].name)
        outputs = probe.predict(asked)
        counts = np.minimum(np.bincount(labels, minlength=len(train.classes)), TEN)
        ten = few_labels.Size(f"{TEN} a class", tuple(counts.tolist()))
        curves = few_labels.few_label_curves(probe, outputs, truth, seed, (ten,))
        found[name] = {
            "knn": float((outputs.knn == truth).mean()),
            "linear": float((outputs.linear == truth).mean()),
            "ten": curves["linear"][ten.labels].mean,
        }
    return found


def fill(words: argparse.Namespace) -> None:
    """Train and measure whatever is asked for and is not there."""
    import nearfar

    words.out.mkdir(parents=True, exist_ok=True)
    labelled = words.labelled or words.data
    for seed in words.seeds:
        # Views as the images ask for them are one of the two other rows: that one is not trained again.
        default, took = None, None
        if set(words.rows) - {"distilled", "adapted", "supervised", "known"}:
            default = trained("default", words.data, words.out / f"default-{seed}", words.steps, seed)
            took = json.loads((words.out / f"default-{seed}" / "config.json").read_text())["views"]["colour"]
        for name in [name for name in words.rows if name in TRAINED and name != took]:
            file = words.out / f"{name}-{seed}.json"
            if file.exists():
                continue
            run = trained(name, words.data, words.out / f"{name}-{seed}", words.steps, seed)
            last = run.log()[-1]
            found = measured(run, labelled, words.test, ["encoder"], seed)["encoder"]
            found |= {"passes": last["epoch"], "pace": last["images_per_second"]}
            found |= {"minutes": last["seconds"] / 60, "steps": last["step"]}
            write(file, {**found, "colour": took} if name == "default" else found)
        for name in [name for name in words.rows if name in PLAIN or name in TOGETHER]:
            file = words.out / f"{name}-{seed}.json"
            if file.exists() or (seed and name in FIXED):
                continue
            if name in TOGETHER:
                run = together(name, default, words.out / f"{name}-{seed}", seed)
                own = measured(run, labelled, words.test, ["encoder"], seed)["encoder"]
            elif name == "known":
                own = measured(nearfar.load("known"), labelled, words.test, ["encoder"], seed)["encoder"]
            else:
                own = measured(default, labelled, words.test, [name], seed)[name]
            write(file, own)


def write(file: Path, found: dict[str, Any]) -> None:
    """Write a row's figures, whole or not at all."""
    half = file.with_suffix(".half")
    half.write_text(json.dumps(found))
    half.replace(file)
    print(file, found, flush=True)


def cell(values: list[float], scale: float = 100.0, digits: int = 1) -> str:
    """Write a figure: its mean, and its least and greatest if there are several."""
    if not values:
        return "-"
    spread = Spread.of(scale * value for value in values)
    mean = scale * sum(values) / len(values)
    if len(values) == 1 or not digits:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({spread.low:.{digits}f} to {spread.high:.{digits}f})"


def table(folder: Path) -> str:
    """Write one collection's rows as Markdown, the default first and what needs no training last."""
    heads = [*FIGURES.values(), "minutes", "passes", "images/s", "seeds"]
    lines = [f"| {folder.name} | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name, title in {**{name: row.title for name, row in TRAINED.items()}, **PLAIN, **TOGETHER}.items():
        rows = [json.loads(file.read_text()) for file in sorted(folder.glob(f"{name}-[0-9]*.json"))]
        if not rows:
            continue
        if name == "default":
            title += f" (`--colour {rows[0]['colour']}`, by the images)"
        cells = [cell([row[key] for row in rows]) for key in FIGURES]
        for key, digits in (("minutes", 1), ("passes", 1), ("pace", 0)):
            held = [row[key] for row in rows if key in row]
            cells.append(f"{sum(held) / len(held):,.{digits}f}" if held else "-")
        lines.append(f"| {title} | {' | '.join(cells)} | {len(rows)} |")
    return "\n".join(lines)


def main() -> None:
    """Fill in one collection's rows and print them, or print those of several."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path, help="images to train on, a folder a class")
    parser.add_argument("--labelled", type=Path, help="images to fit the classifiers to (default: DATA)")
    parser.add_argument("--test", type=Path)
    parser.add_argument("--steps", type=int, default=915)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--out", type=Path, default=Path("runs/photos"))
    parser.add_argument("--table", nargs="+", type=Path, metavar="OUT")
    words = parser.parse_args()
    if words.table is None:
        if words.data is None or words.test is None:
            sys.exit("give DATA and --test, or --table.")
        fill(words)
    for folder in words.table or [words.out]:
        print(table(folder), end="\n\n")


if __name__ == "__main__":
    main()
