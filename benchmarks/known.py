"""What the known encoder gives on labelled photographs, beside raw pixels and the same network untrained.

Of each class, the first images by name are taken, so that the run takes minutes. Prints a Markdown table;
that of the photographs of waste is in benchmarks/known.md.

    python -m benchmarks.known photos/trash --train 100 --test 50

Needs nearfar[known].
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import nearfar
from nearfar.core.text import percent

BASELINES = ("pixels", "colours", "untrained")


def subset(folder: Path, out: Path, count: int) -> Path:
    """Link the first `count` images of each class into a new folder."""
    for one in sorted(path for path in folder.iterdir() if path.is_dir()):
        (out / one.name).mkdir(parents=True)
        for path in sorted(one.iterdir())[:count]:
            (out / one.name / path.name).symlink_to(path.resolve())
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", type=Path, help="a folder with train/ and test/, in each a folder a class")
    parser.add_argument("--train", type=int, default=100, help="training images of each class")
    parser.add_argument("--test", type=int, default=50, help="test images of each class")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        train = subset(given.photos / "train", Path(folder) / "train", given.train)
        test = subset(given.photos / "test", Path(folder) / "test", given.test)
        began = time.process_time()
        found = nearfar.evaluate("known", train=train, test=test, baselines=BASELINES)
        seconds = time.process_time() - began
    count = found.images
    print(f"{count['train']:,} training and {count['test']:,} test images of {given.photos.name},")
    print(f"{len(found.classes)} classes; {seconds:,.0f} s of CPU time on {os.cpu_count()} cores.\n")
    print("| features | k-NN | linear |\n|---|---|---|")
    for name in found.knn:
        cells = [
            f"{percent(score.accuracy)} ({100 * score.low:.1f} to {100 * score.high:.1f})"
            for score in (found.knn[name], found.linear[name])
        ]
        print(f"| {'known' if name == 'encoder' else name} | {' | '.join(cells)} |")
    print(f"\nThe known encoder has {found.costs['encoder']}.")
    print("\n".join(f"{item}." for item in found.summary().values()))


if __name__ == "__main__":
    main()
