"""Measures encoders of sound on spoken digits: speakers left out one by one, and the official split.

    python -m benchmarks.sound FSDD/recordings --out /tmp/sound --steps 300 [--methods simclr byol]
    python -m benchmarks.sound FSDD/recordings --out /tmp/sound --official

The data is the Free Spoken Digit Dataset: 3,000 clips of ten digits by six speakers. For each speaker an
encoder is trained without labels on the clips of the other five; k-NN, a linear classifier and a support
vector machine are fitted on their labels, chosen on one of the five. Then the clips of the speaker left out
are read, once. Beside it stand an untrained network and MFCC. It prints a table, and writes all figures to
OUT/METHOD/speakers.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import nearfar

HOW: dict[str, Any] = {
    "rate": 8000,
    "batch_size": 128,
    "health_checks": 0,
    "holdout": 0.0,
    "save_minutes": 99,
    "precision": "bfloat16",
    "device": "cpu",
    "threads": 1,
    "workers": 1,
}
OWN: dict[str, dict[str, Any]] = {"cpc": {"predicted": 3}}  # of 8 steps, which is what short clips have
SIZE = 31  # frames of an input: the median clip's, as `nearfar pretrain` chooses them
Split = tuple[list[Path], list[Path]]


def splits(folder: Path, official: bool) -> dict[str, Split]:
    """Give training and test files: by the speaker left out, or of the official split."""
    files = sorted(folder.glob("*.wav"))
    if official:
        first = [path for path in files if int(path.stem.split("_")[2]) < 5]
        return {"official": ([path for path in files if path not in set(first)], first)}
    speakers = sorted({path.stem.split("_")[1] for path in files})
    return {
        name: (
            [path for path in files if path.stem.split("_")[1] != name],
            [path for path in files if path.stem.split("_")[1] == name],
        )
        for name in speakers
    }


def labelled(files: list[Path]) -> tuple[list[Path], list[str]]:
    """Pair clips with their digits."""
    return files, [path.stem.split("_")[0] for path in files]


def measure(name: str, split: Split, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train and evaluate one encoder."""
    train, test = split
    began, used = time.perf_counter(), time.process_time()
    run = nearfar.pretrain(train, out=out / name, **settings)
    minutes = {"wall": (time.perf_counter() - began) / 60, "cpu": (time.process_time() - used) / 60}
    groups = out / f"{name}.csv"
    with groups.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "group"])
        rows.writerows((path, path.stem.split("_")[1]) for path in (*train, *test))
    own = None if name == "official" else groups
    found = nearfar.evaluate(run, train=labelled(train), test=labelled(test), groups=own, known="none")
    scores = {
        classifier: {row: 100 * score.accuracy for row, score in rows.items()}
        for classifier, rows in found.scores.items()
    }
    return {**scores, "minutes": minutes}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Write means over the splits, with the least and the greatest."""
    lines = ["| features | k-NN | linear | SVM |", "|---|---|---|---|"]
    first = next(iter(found.values()))
    for row in first["knn"]:
        cells = []
        for classifier in ("knn", "linear", "svm"):
            values = [each[classifier][row] for each in found.values()]
            spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.1f}{spread}")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    wall, cpu = (np.mean([each["minutes"][what] for each in found.values()]) for what in ("wall", "cpu"))
    return "\n".join([*lines, f"{wall:.1f} minutes a training, of which {cpu:.2f} of a processor"])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--methods", nargs="+", default=["simclr"])
    parser.add_argument("--official", action="store_true")
    parser.add_argument("--only", nargs="+", help="speakers to leave out, for a choice among settings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="bfloat16", help="float32 for a processor without bfloat16")
    given = parser.parse_args()
    for method in given.methods:
        found: dict[str, dict[str, Any]] = {}
        out = given.out / method
        for name, split in splits(given.folder, given.official).items():
            if given.only and name not in given.only:
                continue
            settings = {**HOW, "steps": given.steps, "method": method, "seed": given.seed}
            settings |= {"precision": given.precision}
            settings |= OWN.get(method, {})
            found[name] = measure(name, split, out, settings)
            print(f"{method}, without {name}: {json.dumps(found[name])}", flush=True)
        kind = "official" if given.official else "speakers"
        (out / f"{kind}.json").write_text(json.dumps(found, indent=1))
        print(table(found), flush=True)


if __name__ == "__main__":
    main()
