"""Whether batches of P classes with K images each help: k-NN on images held out of training.

    python -m benchmarks.sampler cifar10/train --methods triplet supcon --per-class 0 4

DATA is a folder with a folder for each class. Of each class some images, drawn by name, are held out of
training and judged by their 20 nearest neighbours among the others. All runs have equally many steps, so
that what else the machine does changes nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SIDE = 32


def pictures(folder: Path, per_class: int, held: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read `per_class` images of each class to learn from and `held` others to test on."""
    from nearfar.core import rng

    parts: dict[str, tuple[list[np.ndarray], list[int]]] = {"train": ([], []), "test": ([], [])}
    for label, place in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        files = sorted(path for path in place.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        order = rng.permutation(rng.fold(0, "held out", place.name), len(files))[: per_class + held]
        for number, row in enumerate(order):
            images, labels = parts["test" if number < held else "train"]
            images.append(np.asarray(Image.open(files[row]).convert("RGB").resize((SIDE, SIDE))))
            labels.append(label)
    return {name: (np.stack(images), np.array(labels)) for name, (images, labels) in parts.items()}


def neighbours(run, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """Give the share of test images whose nearest training images vote for their class."""
    from nearfar.features.knn import knn_votes, top_k, unit

    x, y = (unit(torch.from_numpy(run.encode(part[0], batch_size=256))) for part in (train, test))
    similarity, index = top_k(y, x, 20)
    marks = torch.from_numpy(train[1])
    votes = knn_votes(similarity, marks[index], int(marks.max()) + 1, 0.1)
    return float((votes.argmax(1).numpy() == test[1]).mean())


def main() -> None:
    """Train each method with each K and each seed, and print one table."""
    import nearfar

    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("data", type=Path)
    asked.add_argument("--methods", nargs="+", default=["triplet", "supcon"])
    asked.add_argument("--per-class", nargs="+", type=int, default=[0, 4])
    asked.add_argument("--seeds", type=int, default=2)
    asked.add_argument("--steps", type=int, default=150)
    asked.add_argument("--batch-size", type=int, default=128)
    asked.add_argument("--train-per-class", type=int, default=2000)
    asked.add_argument("--test-per-class", type=int, default=200)
    given = asked.parse_args()
    parts = pictures(given.data, given.train_per_class, given.test_per_class)
    print(
        "| method | images of a class in a batch | k-NN, by seed | mean |",
        "|---|---|---|---|",
        sep="\n",
        flush=True,
    )
    for method in given.methods:
        for per_class in given.per_class:
            found = []
            for seed in range(given.seeds):
                with tempfile.TemporaryDirectory() as folder:
                    run = nearfar.pretrain(
                        parts["train"],
                        out=Path(folder) / "run",
                        method=method,
                        steps=given.steps,
                        batch_size=given.batch_size,
                        per_class=per_class,
                        seed=seed,
                        precision="float32",
                        health_checks=0,
                        workers=1,
                        **({} if method == "supcon" else {"pairs": "labels"}),
                    )
                    found.append(100 * neighbours(run, parts["train"], parts["test"]))
            some = f"{per_class} or more" if per_class else "as they come"
            each = ", ".join(f"{one:.1f} %" for one in found)
            print(f"| {method} | {some} | {each} | {np.mean(found):.1f} % |", flush=True)


if __name__ == "__main__":
    main()
