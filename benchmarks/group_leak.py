"""Turned copies of white blood cells: what held-out images say with copies on both sides, and with groups.

    python -m benchmarks.group_leak white/train.csv white/test.csv --out OUT

Each training image is written in four turns, mirrored or not, under names of their own, as some data sets
come; a list says which copies are one image. A linear classifier on a frozen encoder is fitted to four fifths
of the copies and asked about the others: divided by chance, with scikit-learn; and by `nearfar finetune`,
which finds such copies, without the list and with it (`--groups`). Test images are copies of nothing, so the
held-out accuracy should be near to theirs. Prints Markdown.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

import nearfar


def turned(listed: Path, test: Path, out: Path) -> tuple[Path, Path]:
    """Write the copies, a list of their labels and one of all groups, and give both lists."""
    out.mkdir(parents=True, exist_ok=True)
    labels, groups = out / "labels.csv", out / "groups.csv"
    with listed.open() as file, labels.open("w", newline="") as some, groups.open("w", newline="") as others:
        rows, write, tell = csv.DictReader(file), csv.writer(some), csv.writer(others)
        write.writerow(["path", "label"])
        tell.writerow(["path", "group"])
        for at, row in enumerate(rows):
            whole = Image.open(row["path"]).convert("RGB")
            for copy in range(8):
                path = out / f"{at:04d}-{copy}.png"
                image = ImageOps.mirror(whole) if copy > 3 else whole
                image.rotate(90 * (copy % 4), expand=True).save(path)
                write.writerow([path, row["label"]])
                tell.writerow([path, at])
        with test.open() as asked:
            for row in csv.DictReader(asked):
                tell.writerow([row["path"], row["path"]])
    return labels, groups


def spread(values: list[float]) -> str:
    """Write the mean, and the least and the greatest."""
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def row(said: str, held: list[float], test: list[float]) -> None:
    """Print a row of the table."""
    print(f"| {said} | {spread(held)} | {spread(test)} |", flush=True)


def by_chance(name: str, train: Path, test: Path, seeds: list[int]) -> tuple[list[float], list[float]]:
    """Fit logistic regression to four fifths of the copies: accuracies on the others and on test images."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    encoder, read = nearfar.load(name), {}
    for part, listed in (("train", train), ("test", test)):
        with listed.open() as file:
            rows = list(csv.DictReader(file))
        read[part] = encoder.encode([row["path"] for row in rows]), [row["label"] for row in rows]
    held, asked = [], []
    for seed in seeds:
        x, others, y, theirs = train_test_split(*read["train"], test_size=0.2, random_state=seed)
        fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(x, y)
        held.append(100 * fitted.score(others, theirs))
        asked.append(100 * fitted.score(*read["test"]))
    return held, asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--run", default="known@96", help="the frozen encoder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    words = parser.parse_args()
    labels, groups = turned(words.train, words.test, words.out / "copies")
    print("| held-out images | accuracy on them | accuracy on test images |\n|---|---|---|", flush=True)
    row(
        "a fifth of the copies by chance, scikit-learn",
        *by_chance(words.run, labels, words.test, words.seeds),
    )
    ways: dict[str, dict[str, Any]] = {
        "held out by `nearfar finetune`": {},
        "the same with `--groups`": {"groups": groups},
    }
    for at, (said, way) in enumerate(ways.items()):
        held, test = [], []
        for seed in words.seeds:
            out = words.out / f"{at}-{seed}"
            found = nearfar.finetune(
                words.run, train=labels, test=words.test, out=out, mode="linear", seed=seed, **way
            )
            held.append(100 * found.figures["held-out"]["fine-tuned"]["accuracy"])
            test.append(100 * found.figures["test"]["fine-tuned"]["accuracy"])
        row(said, held, test)


if __name__ == "__main__":
    main()
