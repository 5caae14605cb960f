"""How balanced a curated part of a skewed collection is, beside parts drawn at random and by one k-means.

    python -m benchmarks.curation runs/a cifar10/train --limit 500

Classes are made rarer one after the other, down to a hundredth of the first. What is told is the number of
equally frequent classes that would be as diverse: the exponential of the entropy of the classes' shares.
Labels are only read to count.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

import nearfar
from nearfar.analysis import curation
from nearfar.features.knn import unit


def effective(labels: np.ndarray) -> float:
    """Count the equally frequent classes that are as diverse."""
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def flat(x: np.ndarray, count: int, many: int, draws: np.random.Generator) -> np.ndarray:
    """Choose the same number of rows of each cluster of one k-means."""
    rows = unit(torch.from_numpy(x))
    inside = curation._nearest(rows, curation._kmeans(rows, many, draws)).numpy()
    wanted = curation.share(count, np.bincount(inside, minlength=many))
    return np.concatenate([draws.permutation(np.flatnonzero(inside == k))[:n] for k, n in enumerate(wanted)])


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    classes = sorted(folder for folder in Path(given.data).iterdir() if folder.is_dir())
    most = min(len(list(folder.iterdir())) for folder in classes)
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        file.write("path,label\n")
        for folder, size in zip(
            classes, np.geomspace(most, most / 100, len(classes)).astype(int), strict=True
        ):
            file.writelines(f"{image},{folder.name}\n" for image in sorted(folder.iterdir())[:size])
        file.flush()
        found = nearfar.embed(given.run, file.name, labels=True)
    labels, x = np.array(found.labels), found.vectors
    rows: dict[str, list[np.ndarray]] = {}
    for seed in range(given.seeds):
        draws = np.random.default_rng(seed)
        rows.setdefault("at random", []).append(draws.permutation(len(x))[: given.limit])
        for many in (len(classes), 10 * len(classes)):
            rows.setdefault(f"k-means, {many} clusters", []).append(flat(x, given.limit, many, draws))
        rows.setdefault("curate", []).append(curation.balanced(x, given.limit, seed).rows)
    told = f"{len(x):,} images, {len(classes)} classes, as diverse as {effective(labels):.1f}"
    print(f"{told}; {given.limit} chosen")
    print("| how | as diverse as, classes | of the rarest class |\n|---|---|---|")
    rare = labels == classes[-1].name
    for name, several in rows.items():
        values = [effective(labels[some]) for some in several]
        held = [int(rare[some].sum()) for some in several]
        spread = f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"
        print(f"| {name} | {spread} | {np.mean(held):.0f} of {rare.sum()} |")


if __name__ == "__main__":
    main()
