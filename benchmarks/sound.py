"""Measures encoders of sound on spoken digits: speakers left out one by one, and the official split.

    python -m benchmarks.sound FSDD/recordings --out /tmp/sound --steps 300 [--methods simclr byol]
    python -m benchmarks.sound FSDD/recordings --out /tmp/sound --official
    python -m benchmarks.sound FSDD/recordings --out /tmp/sound --svm

The data is the Free Spoken Digit Dataset: 3,000 clips of ten digits by six speakers. For each speaker an
encoder is trained without labels on the clips of the other five; k-NN and a linear classifier are fitted on
their labels, chosen on one of the five. Then the clips of the speaker left out are read, once. Beside it
stand an untrained network and MFCC. It prints a table, and writes all figures to OUT/METHOD/speakers.json.
With --svm nothing is trained but scikit-learn's support vector machine (radial basis functions) on the same
MFCC; its C is chosen on whole speakers among those that are not left out.
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
from nearfar.data.modalities import modality
from nearfar.features.chunked import CHUNK_IMAGES, read_chunks
from nearfar.features.extract import features

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
        for classifier, rows in (("knn", found.knn), ("linear", found.linear))
    }
    return {**scores, "minutes": minutes}


def coefficients(files: list[Path], name: str) -> dict[Path, Any]:
    """Compute MFCC as an evaluation does, of clips trimmed and stretched as an encoder has them."""
    kind = modality("sound")
    preprocess = kind.preprocess_for(SIZE, kind.views(rate=HOW["rate"]))
    net, how = kind.baseline(name, preprocess)
    chunks = read_chunks(kind.open(files), range(0, len(files), CHUNK_IMAGES), how, 1)
    x = np.concatenate([features(net, chunk, how) for chunk in chunks])
    return dict(zip(files, x, strict=True))


def machine(split: Split, x: dict[Path, Any]) -> dict[str, Any]:
    """Fit a support vector machine and read the speaker left out: accuracy in %, and the C chosen."""
    from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    (train, y), (test, truth) = (labelled(files) for files in split)
    grid = {"svc__C": [0.1, 1, 10, 100]}
    search = GridSearchCV(make_pipeline(StandardScaler(), SVC()), grid, cv=LeaveOneGroupOut())
    search.fit([x[path] for path in train], y, groups=[path.stem.split("_")[1] for path in train])
    score = search.score([x[path] for path in test], truth)
    return {"accuracy": round(100 * score, 1), "C": search.best_params_["svc__C"]}


def machines(found: dict[str, Split]) -> None:
    """Print a line for each speaker left out, and one for each kind of MFCC."""
    files = sorted({path for split in found.values() for side in split for path in side})
    for name in ("mfcc_course", "mfcc"):
        x, each = coefficients(files, name), []
        for who, split in found.items():
            each.append(machine(split, x))
            print(f"{name}, without {who}: {json.dumps(each[-1])}", flush=True)
        values = [one["accuracy"] for one in each]
        print(f"{name}: {np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})", flush=True)


def table(found: dict[str, dict[str, Any]]) -> str:
    """Write means over the splits, with the least and the greatest."""
    lines = ["| features | k-NN | linear |", "|---|---|---|"]
    first = next(iter(found.values()))
    for row in first["knn"]:
        cells = []
        for classifier in ("knn", "linear"):
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
    parser.add_argument("--svm", action="store_true", help="only a support vector machine on MFCC")
    given = parser.parse_args()
    if given.svm:
        machines(splits(given.folder, given.official))
        return
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
