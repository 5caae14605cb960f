"""Every method for images, by its recipe for CPUs, in equally many minutes of one core: a table by family.

    python -m benchmarks.family run simclr 0 cifar10/train --minutes 2 --labelled cifar10/train \\
        --test cifar10/test --out runs/family --rows rows.jsonl
    python -m benchmarks.family table rows.jsonl --plot methods.png

What `nearfar compare --minutes 2` does, one run a process, so that each core may have its own. k-NN and
linear are measured as `evaluate` does, but without its search for near-copies. Seeds after the first take as
many steps as the first did, so that what else the machine does then changes nothing. BEiT learns from a
tokenizer (dvae, the same seed) that was trained before it for as many minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

HOW = {"recipe": "cpu", "device": "cpu", "precision": "bfloat16", "threads": 1, "workers": 1}
FAMILIES = {
    "labels": ("supervised", "supcon"),
    "contrastive": ("simclr", "moco", "mocov3", "nnclr", "triplet", "drlim", "csi"),
    "no negatives": ("byol", "simsiam", "barlow_twins", "vicreg", "dino", "ibot", "lejepa"),
    "prototypes": ("swav",),
    "memory bank": ("npid", "pirl"),
    "predictive": ("deep_infomax", "cpc_images", "ijepa"),
    "masked": ("mae", "simmim", "beit"),
    "generative": ("dae", "vae", "dvae", "bigan"),
    "pretext": ("rotnet", "jigsaw", "relative_position"),
}
METHODS = tuple(name for names in FAMILIES.values() for name in names)
TOKENIZER = {"beit": "dvae"}  # which is trained first
INKS = ["#000000", "#0072b2", "#009e73", "#56b4e9", "#e69f00", "#cc79a7", "#d55e00", "#8a6d1c", "#777777"]
COLOURS = dict(zip(FAMILIES, INKS, strict=True))


def run(given: argparse.Namespace) -> None:
    """Train one method with one seed, measure it, and add a line to the rows."""
    import nearfar

    name, seed = given.method, given.seed
    more = {"teacher": str(given.out / f"{TOKENIZER[name]}-{seed}")} if name in TOKENIZER else {}
    found = [json.loads(line) for line in given.rows.read_text().splitlines()] if given.rows.exists() else []
    steps = [row["steps"] for row in found if row["method"] == name]
    length = {"steps": steps[0]} if steps else {"minutes": given.minutes}
    if given.epochs or given.steps:
        length = {"epochs": given.epochs} if given.epochs else {"steps": given.steps}
    made = nearfar.pretrain(
        given.data, method=name, out=given.out / f"{name}-{seed}", seed=seed, **length, **HOW, **more
    )
    knn, linear = accuracies(made, given.labelled, given.test, seed)
    log = made.log()[-1]
    row = {
        "method": name,
        "seed": seed,
        "timed": "minutes" in length,
        "knn": 100 * knn,
        "linear": 100 * linear,
        "encoder": made.encoder.name,
        "steps": log["step"],
        "epochs": log["epoch"],
        "images_per_second": log["images_per_second"],
        "peak_mib": log["peak_mib"],
    }
    with given.rows.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(row, flush=True)


def accuracies(made: Any, labelled: Path, test: Path, seed: int) -> tuple[float, float]:
    """Fit on the labelled images, choosing on a part of them, and open the test images once."""
    from nearfar.data.labels import open_labelled
    from nearfar.evaluation import labelled_data
    from nearfar.features.probes import FeatureProbe, encode_with, validation_split

    encode = encode_with(made.encoder, made.preprocess, torch.device("cpu"), 256)
    dataset = labelled_data.read(open_labelled(labelled, "images"), made.preprocess)
    validation = validation_split(labelled_data.class_numbers(dataset), dataset.classes, seed)
    probe = FeatureProbe(encode, dataset, validation, centred=False)
    asked = labelled_data.read(open_labelled(test, "images"), made.preprocess)
    truth = labelled_data.renumbered(asked, dataset.classes, str(labelled))
    found = probe.predict(asked)
    return float((found.knn == truth).mean()), float((found.linear == truth).mean())


def rows_of(path: Path) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Give family, method and its seeds, family by family, the best k-NN of each first."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for family, names in FAMILIES.items():
        found = {name: [row for row in rows if row["method"] == name] for name in names}
        for name in sorted(names, key=lambda name: -mean(found[name], "knn")):
            if found[name]:
                yield family, name, found[name]


def mean(rows: list[dict[str, Any]], key: str) -> float:
    """Give the mean over seeds, 0 for none."""
    return float(np.mean([row[key] for row in rows])) if rows else 0.0


def percents(rows: list[dict[str, Any]], key: str) -> str:
    """Write the mean over seeds and, in brackets, the least and the greatest."""
    values = [row[key] for row in rows]
    spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{np.mean(values):.1f} %{spread}"


def table(given: argparse.Namespace) -> None:
    """Print the table, and draw the plot."""
    listed = list(rows_of(given.rows))
    clock = any(row["timed"] for _, _, rows in listed for row in rows)  # else the core was shared
    heads = ["family", "method", "encoder", "seeds", "k-NN", "linear"]
    heads += [*(["images/s"] if clock else []), "epochs", "peak MiB"]
    print(f"| {' | '.join(heads)} |")
    print("|---" * len(heads) + "|")
    for family, name, rows in listed:
        timed = [f"{row['images_per_second']:,.0f}" for row in rows if row["timed"]]
        figures = [percents(rows, "knn"), percents(rows, "linear"), *([timed[0] if timed else "-"] * clock)]
        figures += [f"{mean(rows, 'epochs'):.1f}", f"{mean(rows, 'peak_mib'):,.0f}"]
        print(f"| {family} | {name} | {rows[0]['encoder']} | {len(rows)} | {' | '.join(figures)} |")
    if given.plot:
        plot(given)


def plot(given: argparse.Namespace) -> None:
    """Draw a line a method, family below family: a dot for k-NN, a ring for linear; baselines as lines."""
    from matplotlib.figure import Figure

    listed = list(rows_of(given.rows))
    figure = Figure(figsize=(8, 0.24 * len(listed) + 1.6), layout="constrained")
    axes = figure.subplots()
    for place, (family, _, rows) in enumerate(listed):
        for key, inside in (("knn", COLOURS[family]), ("linear", "white")):
            values = [row[key] for row in rows]
            ends = [[np.mean(values) - min(values)], [max(values) - np.mean(values)]]
            ink = COLOURS[family]
            axes.errorbar(np.mean(values), place, xerr=ends, fmt="o", ms=6, color=ink, mfc=inside, lw=1)
        if not place or listed[place - 1][0] != family:
            axes.axhline(place - 0.5, color="#e5e5e5", lw=0.8)
            axes.annotate(family, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=9,
                          color=COLOURS[family])  # fmt: skip
    for words in given.baseline or ():
        name, knn, linear = words.split(":")
        for value, style in ((float(knn), "-"), (float(linear), ":")):
            axes.axvline(value, color="#999999", lw=1, ls=style)
            axes.annotate(
                name,
                (value, -0.7),
                rotation=90,
                annotation_clip=False,
                fontsize=7,
                color="#666666",
                ha="right",
                va="bottom",
            )
    axes.set_yticks(range(len(listed)), [name for _, name, _ in listed], fontsize=9)
    axes.set_ylim(len(listed) - 0.5, -0.5)
    axes.set_xlabel("accuracy, %: a dot for k-NN, a ring for linear; a line and a dotted one for a baseline")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(given.plot, dpi=150)


def main() -> None:
    """Read what is asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked = parser.add_subparsers(required=True)
    one = asked.add_parser("run")
    one.add_argument("method", choices=METHODS)
    one.add_argument("seed", type=int)
    one.add_argument("data", type=Path)
    for name in ("--labelled", "--test", "--out", "--rows"):
        one.add_argument(name, type=Path, required=True)
    one.add_argument("--minutes", type=float, default=2.0)
    one.add_argument("--epochs", type=int, help="instead of minutes")
    one.add_argument("--steps", type=int, help="instead of minutes")
    one.set_defaults(do=run)
    one = asked.add_parser("table")
    one.add_argument("rows", type=Path)
    one.add_argument("--plot", type=Path)
    one.add_argument("--baseline", action="append", help="NAME:KNN:LINEAR, for the plot")
    one.set_defaults(do=table)
    given = parser.parse_args()
    given.do(given)


if __name__ == "__main__":
    main()
