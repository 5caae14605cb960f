"""Distillation from the known encoder beside SimCLR of as many steps or minutes, and the teacher itself.

Prints a Markdown table; those that were measured are in benchmarks/known.md.

    python -m benchmarks.distillation photos/trash --teacher known --steps 200
    python -m benchmarks.distillation cifar10 --teacher known@160 --minutes 10 --seeds 3
    python -m benchmarks.distillation photos/trash --held-out --steps 100 --methods distill \
        --settings batch_size=128 image_size=32 cosine=1.0

Needs nearfar[known]. The teacher's own time is part of --minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import nearfar


def main() -> None:
    """Train, evaluate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="a folder with train/ and test/, in each a folder a class")
    parser.add_argument("--teacher", default="known", help="encoder to learn from")
    parser.add_argument("--steps", type=int, help="optimizer steps of each run")
    parser.add_argument("--minutes", type=float, help="minutes of each run, where no steps are given")
    parser.add_argument(
        "--settings", nargs="*", default=[], help="settings of training, as image_size=32; values are JSON"
    )
    parser.add_argument(
        "--held-out", action="store_true", help="test on the last fifth of each class of train/ by name"
    )
    parser.add_argument("--seeds", type=int, default=1, help="runs of each method")
    parser.add_argument("--methods", nargs="+", default=["simclr", "distill"], help="methods to train")
    given = parser.parse_args()
    how: dict[str, Any] = {"steps": given.steps, "minutes": None if given.steps else given.minutes}
    how |= {"health_checks": 0}
    how |= {name: json.loads(value) for name, _, value in (pair.partition("=") for pair in given.settings)}
    print("| encoder | k-NN | linear | CPU seconds |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        train, test = given.data / "train", given.data / "test"
        if given.held_out:
            train, test = _split(train, Path(folder) / "held-out")
        for method in given.methods:
            found: list[tuple[float, float, float]] = []
            for seed in range(given.seeds):
                own = {"teacher": given.teacher} if method == "distill" else {}
                out, began = Path(folder) / f"{method}-{seed}", time.process_time()
                nearfar.pretrain(train, out=out, method=method, seed=seed, **how, **own)
                seconds = time.process_time() - began
                found.append((*_accuracy(out, train, test), seconds))
            print(f"| {method} | {' | '.join(_middle(column) for column in zip(*found, strict=True))} |")
        knn, linear = _accuracy(given.teacher, train, test)
        print(f"| {given.teacher} | {knn:.1f} | {linear:.1f} | |")


def _split(train: Path, out: Path) -> tuple[Path, Path]:
    """Link the images of each class into two folders: those to learn from, and the last fifth by name."""
    for one in sorted(path for path in train.iterdir() if path.is_dir()):
        paths = sorted(one.iterdir())
        for number, path in enumerate(paths):
            folder = out / ("test" if number >= len(paths) * 4 // 5 else "train") / one.name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / path.name).symlink_to(path.resolve())
    return out / "train", out / "test"


def _accuracy(run: str | Path, train: Path, test: Path) -> tuple[float, float]:
    """Measure an encoder: k-NN and linear accuracy in per cent."""
    found = nearfar.evaluate(run, train=train, test=test, baselines=(), known="none")
    return 100 * found.knn["encoder"].accuracy, 100 * found.linear["encoder"].accuracy


def _middle(values: tuple[float, ...]) -> str:
    """Write the mean, and of several values the least and the greatest."""
    mean = f"{statistics.fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
