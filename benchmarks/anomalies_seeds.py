"""Anomalous parts over seeds: detectors and encoders, on boards and on one class against the others.

    python -m benchmarks.anomalies_seeds pcb known --seeds 3 --others
    python -m benchmarks.anomalies_seeds photos/trash known --normal glass --seeds 3
    python -m benchmarks.anomalies_seeds pcb known runs/cutpaste runs/simclr --seeds 1 --parts patchcore

The first is the folder of boards that `benchmarks.anomalies` describes; or, with `--normal CLASS`, one with
`train/<class>` and `test/<class>`: `--bank` training pictures of the class are in the bank, `--test` of its
test pictures are good, and as many of the other classes, drawn by the seed, are anomalous. Then follow runs;
`{seed}` in a name stands for the seed, so that each draw has a training of its own.
A seed draws the pictures and seeds the detectors. Pictures are encoded once for all detectors. Each figure is
the mean over seeds, in percent, with the least and the greatest. Nothing is chosen by these figures.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .anomalies import boards

FIGURES = ("image AUROC", "pixel AUROC", "AUPRO")


def classes(data: Path, normal: str, bank: int, test: int, seed: int) -> tuple[Any, Any, int]:
    """Draw pictures of one class for the bank, and others of it and of the other classes to test.

    Args:
        data: the folder.
        normal: the class.
        bank, test: how many.
        seed: draws them.

    Returns:
        The bank's pictures, those to test, and how many of these are good, which come first.
    """
    from nearfar.core import rng
    from nearfar.data.in_memory import InMemorySource

    def drawn(paths: list[Path], count: int, name: str) -> list[Path]:
        order = rng.permutation(rng.fold(seed, name), len(paths))[:count]
        return [paths[row] for row in order]

    def source(paths: list[Path]) -> InMemorySource:
        return InMemorySource("pictures", tuple(map(str, paths)), None, paths)

    learned = drawn(sorted((data / "train" / normal).iterdir()), bank, "bank")
    good = drawn(sorted((data / "test" / normal).iterdir()), test, "good")
    rest = [path for path in sorted((data / "test").glob("*/*")) if path.parent.name != normal]
    return source(learned), source([*good, *drawn(rest, len(good), "others")]), len(good)


def remembered(features: Any) -> Any:
    """Give features that are computed once for equal pictures."""
    from nearfar.analysis.patch_features import PatchFeatures

    kept: dict[bytes, Any] = {}
    mapped: dict[bytes, Any] = {}

    @dataclass(frozen=True)
    class Remembered(PatchFeatures):
        def __call__(self, x: Any) -> Any:
            key = x.numpy().tobytes()
            if key not in kept:
                kept[key] = super().__call__(x)
            return kept[key]

        def maps(self, x: Any) -> Any:
            key = x.numpy().tobytes()
            if key not in mapped:
                mapped[key] = super().maps(x)
            return mapped[key]

    return Remembered(**vars(features))


@dataclass
class Row:
    """Figures of one way, a value a seed."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(100 * value)

    def cells(self, names: Sequence[str] = FIGURES) -> list[str]:
        found = []
        for name in names:
            some = self.values.get(name)
            spread = f" ({min(some):.1f} to {max(some):.1f})" if some and len(some) > 1 else ""
            found.append(f"{np.mean(some):.1f}{spread}" if some else "-")
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--normal", help="the class that is normal; without it the folder is one of boards")
    parser.add_argument("--size", type=int, help="320 for boards, else the pictures' own")
    parser.add_argument("--strides", type=int, nargs="+")
    parser.add_argument("--bank", type=int, default=40)
    parser.add_argument("--test", type=int, default=20)
    parser.add_argument("--parts", nargs="*", default=["patchcore", "padim", "nearest", "spade"])
    parser.add_argument("--others", action="store_true", help="of boards, also the test of other designs")
    parser.add_argument("--dirty", type=float, default=0.0, help="of boards, share of the bank with defects")
    parser.add_argument("--turn", action="store_true", help="turn the pictures of the tests by quarters")
    parser.add_argument("--turned", action="store_true", help="learn turned pictures")
    parser.add_argument("--seeds", type=int, default=3)
    words = parser.parse_args()
    import torch

    import nearfar
    from nearfar.analysis import part_baselines
    from nearfar.analysis.anomaly_maps import full_size
    from nearfar.analysis.part_detector import PartDetector
    from nearfar.analysis.patch_features import patch_features
    from nearfar.data.defects import Truth
    from nearfar.queries.part_measures import Measures, count_pixels

    torch.set_num_threads(1)
    rows: dict[tuple[str, str], Row] = {}
    truth = None if words.normal else Truth(words.data / "boxes")

    def count(key: tuple[str, str], measures: Measures, seed: int) -> None:
        (found,) = measures.rows(seed, by_kind=False)
        row = rows.setdefault(key, Row())
        row.add("image AUROC", found["image_auroc"]["value"])
        if found["pixel"]:
            row.add("pixel AUROC", found["pixel"]["auroc"]["value"])
            row.add("AUPRO", found["pixel"]["aupro"]["value"])

    began = time.process_time()
    for seed in range(words.seeds):
        if words.normal:
            bank, asked, good = classes(words.data, words.normal, words.bank, words.test, seed)
            tests = {f"{words.normal} and others": (asked, good)}
        else:
            bank, tests = boards(words.data, words.bank, words.test, seed, words.dirty)
            if not words.others:
                del tests["other designs"]
        every = list(range(len(bank)))
        for name in words.runs:
            run = nearfar.load(name.format(seed=seed))
            features = {
                coarser: remembered(patch_features(run.encoder, run.preprocess.size, words.strides, coarser))
                for coarser in (False, True)
            }
            side = words.size or (run.preprocess.size if words.normal else 320)
            for method in words.parts:
                detector = PartDetector(
                    features[method == "whitened"], run.preprocess, side, method, seed, turned=words.turned
                )
                detector.add(bank, every, threads=1)
                for test, (asked, good) in tests.items():
                    measures = Measures(method)
                    for one in detector.read(asked, list(range(len(asked))), threads=1):
                        quarters = one.row % 4 if words.turn else 0
                        places, scores = detector.score_picture(one.x.rot90(quarters, (2, 3)))
                        measures.add(float(scores[0]), "defect" if one.row >= good else "")
                        if truth is not None:
                            heat = full_size(places[0].rot90(-quarters, (0, 1)), one.shape)
                            regions, kinds = truth.of(asked.ids[one.row], one.shape)
                            count_pixels(measures.pixels, heat, regions, kinds)
                    count((f"{name}, {method}", test), measures, seed)
            for test, (asked, good) in tests.items():
                asked_rows = list(range(len(asked)))
                pairs = (bank, every), (asked, asked_rows)
                whole = {
                    f"{name}, whole vectors": part_baselines.vectors(run.encoder, run.preprocess, *pairs)
                }
                if name == words.runs[0]:
                    whole["pixels"] = part_baselines.pixels(*pairs)
                for way, scores_of in whole.items():
                    measures = Measures(way)
                    for row, score in scores_of.items():
                        measures.add(score, "defect" if row >= good else "")
                    count((way, test), measures, seed)
        seconds = time.process_time() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{seed + 1} seeds: {seconds:.0f} s of a core, {peak:.2f} GB at most", flush=True)
    for test in dict.fromkeys(key[1] for key in rows):
        print(f"\n{test}\n\n| how | {', % | '.join(FIGURES)}, % |\n{'|---' * (1 + len(FIGURES))}|")
        for (how, of), row in rows.items():
            if of == test:
                print(f"| {how} | {' | '.join(row.cells())} |")


if __name__ == "__main__":
    main()
