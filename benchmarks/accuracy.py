"""The main job, measured: pretrain on a folder for some minutes, then k-NN and linear beside the baselines.

    python benchmarks/accuracy.py cifar10 --minutes 10 --seeds 3

The folder holds train/ and test/, each with a folder a class. Pretraining sees no label. Every choice of
the evaluation is made on held-out training images; the test images are read once a run. What is printed
is written to OUT/accuracy.md too: mean, least and greatest over the seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import nearfar
from nearfar import progress


def main() -> None:
    """Run every seed, then print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with train/ and test/")
    parser.add_argument("--minutes", type=float, default=10.0, help="training time of each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs, seeds 0, 1, ...")
    parser.add_argument("--recipe", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"), help="where the runs go")
    given = parser.parse_args()
    progress.show(True)
    found: dict[tuple[str, str], list[float]] = {}
    paces = []
    for seed in range(given.seeds):
        folder = given.out / f"{given.minutes:g}-minutes-seed-{seed}"
        run = nearfar.pretrain(
            given.data / "train", out=folder, minutes=given.minutes, seed=seed, recipe=given.recipe
        )
        result = folder.with_suffix(".json")
        if result.exists():
            scores = json.loads(result.read_text())
        else:
            scores = nearfar.evaluate(
                run, train=given.data / "train", test=given.data / "test", seed=seed
            ).to_json()
            result.write_text(json.dumps(scores))
        last = run.log()[-1]
        paces.append((last["images_per_second"], last["epoch"], last["seconds"]))
        for way in ("knn", "linear"):
            for row, score in scores[way].items():
                found.setdefault((way, row), []).append(score["accuracy"])
    lines = [
        "| classifier | features | accuracy, mean | least | greatest | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for (way, row), values in found.items():
        cells = (f"{100 * value:.1f} %" for value in (sum(values) / len(values), min(values), max(values)))
        lines.append(f"| {way} | {row} | {' | '.join(cells)} | {len(values)} |")
    for seed, (pace, epochs, seconds) in enumerate(paces):
        lines.append(
            f"\nseed {seed}: {pace:,.0f} images/s, {epochs:.1f} epochs in {seconds:,.0f} s of training"
        )
    text = "\n".join(lines)
    print(text)
    (given.out / f"accuracy-{given.minutes:g}-minutes.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
