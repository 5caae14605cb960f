"""Anomalous parts from 1, 4 and 16 normal pictures: figures, and what a threshold can promise.

    python -m benchmarks.anomalies_few pcb textures/photo-red-wood --seeds 3

Each folder is one of boards, as `benchmarks.anomalies` describes, or a layout with `train/good`, `test` and
`ground_truth`. A seed draws the normal pictures. Figures are with all of them in the bank, as `nearfar
anomalies --parts` has it where they are too few to promise 5 %. The threshold is that of the lowest rate that
they can promise; for it half of them are held out, and the other half is the bank.

On boards a bank holds the normal pictures of so many designs, and pictures of these are tested, 8 boards a
seed: with 1, each has a bank of its own. Scores of all banks are put together.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from .anomalies import boards
from .anomalies_seeds import FIGURES, Row, remembered

COUNTS = (1, 4, 16)
TESTED = 8  # boards
RATES = "can promise, %"
HEADS = (
    "normal pictures",
    *(f"{name}, %" for name in FIGURES),
    RATES,
    "good flagged, %",
    "defects flagged, %",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--run", default="known")
    parser.add_argument("--size", type=int, help="320 for boards, else the encoder's or the pictures' own")
    parser.add_argument("--seeds", type=int, default=3)
    words = parser.parse_args()
    import torch

    import nearfar
    from nearfar.analysis.anomaly_maps import full_size
    from nearfar.analysis.part_detector import PLACES, PartDetector
    from nearfar.analysis.patch_features import patch_features
    from nearfar.core import rng
    from nearfar.data.defects import Truth
    from nearfar.data.in_memory import InMemorySource
    from nearfar.data.open import open_data
    from nearfar.queries.part_learning import _usual_side, held_out, held_out_count, thresholds
    from nearfar.queries.part_measures import Measures, count_pixels

    torch.set_num_threads(1)
    run = nearfar.load(words.run)

    def measured(made: Any, asked: Any, truth: Any, measures: Measures, odd: list[bool]) -> list[float]:
        scores = []
        for one in made.score(asked, list(range(len(asked))), threads=1):
            name = asked.ids[one.row]
            regions, kinds = truth.of(name, one.shape)
            count_pixels(
                measures.pixels, full_size(one.places, one.shape), regions * odd[one.row], kinds or "defect"
            )
            measures.add(one.score, "defect" if odd[one.row] else "")
            scores.append(one.score)
        return scores

    def count(row: Row, measures: Measures, seed: int) -> None:
        (found,) = measures.rows(seed, by_kind=False)
        row.add(FIGURES[0], found["image_auroc"]["value"])
        row.add(FIGURES[1], found["pixel"]["auroc"]["value"])
        row.add(FIGURES[2], found["pixel"]["aupro"]["value"])

    for data in words.data:
        rows = {number: Row() for number in COUNTS}
        began, lines = time.process_time(), dict[int, str]()
        features = remembered(patch_features(run.encoder, run.preprocess.size, coarser=True))
        for seed in range(words.seeds):
            if (data / "boxes").is_dir():
                truth, side = Truth(data / "boxes"), words.size or 320
                bank, tests = boards(data, max(COUNTS), TESTED, seed)
                asked, good = tests["known designs"]
                for number in COUNTS:
                    measures = Measures(f"{number}")
                    for first in range(0, TESTED, number):
                        made = PartDetector(features, run.preprocess, side, seed=seed)
                        here = range(first, first + number)
                        made.add(bank, list(here), threads=1)
                        known = here[:TESTED]
                        some = [*known, *(good + row for row in known)]
                        ids = tuple(asked.ids[row] for row in some)
                        part = InMemorySource("boards", ids, None, [asked.items[row] for row in some])
                        measured(made, part, truth, measures, [row >= good for row in some])
                    count(rows[number], measures, seed)
                continue
            truth = Truth(data / "ground_truth")
            paths = sorted((data / "train" / "good").iterdir())
            order = rng.permutation(rng.fold(seed, "normal pictures"), len(paths))
            asked = open_data(str(data / "test"), expected=run.preprocess.modality)
            odd = [not name.startswith("good/") for name in asked.ids]
            for number in COUNTS:
                drawn = [paths[at] for at in order[:number]]
                normal = InMemorySource("normal", tuple(map(str, drawn)), None, drawn)
                side = words.size or _usual_side(normal, run.preprocess, PLACES * features.strides[0])
                made = PartDetector(features, run.preprocess, side, seed=seed)
                made.add(normal, list(range(number)), threads=1)
                measures = Measures(f"{number}")
                measured(made, asked, truth, measures, odd)
                count(rows[number], measures, seed)
                said: list[str] = []
                thresholds([], 0.01, number, said)
                lines[number] = said[0]
                rate = np.ceil(100 / (number // 2 + 1)) / 100
                many = held_out_count(number, 0, rate) if number > 1 else 0
                if not many:
                    continue
                half = PartDetector(features, run.preprocess, side, seed=seed)
                half.add(normal, list(range(many, number)), threads=1)
                held = [held_out(one) for one in half.score(normal, list(range(many)), threads=1)]
                found, _ = thresholds(held, rate, number - many, [])
                assert found is not None
                scores = np.array(measured(half, asked, truth, Measures("half"), odd))
                rows[number].add(RATES, rate)
                rows[number].add(HEADS[5], float(np.mean(scores[~np.array(odd)] > found.value)))
                rows[number].add(HEADS[6], float(np.mean(scores[np.array(odd)] > found.value)))
        print(f"\n{data.name}: {time.process_time() - began:.0f} s of a core\n")
        print(f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|")
        for number, row in rows.items():
            print(f"| {number} | {' | '.join(row.cells((*FIGURES, *HEADS[4:])))} |")
        for line in lines.values():
            print(f"\n{line}", flush=True)


if __name__ == "__main__":
    main()
