"""Anomalous parts on textures, with the settings that `nearfar anomalies --parts` has by itself.

    python -m benchmarks.textures textures [PHOTOGRAPHS ...]
    python -m benchmarks.anomalies_textures textures/weave textures/knit

Each folder has `train/good`, `test` and `ground_truth`. Every other test picture of a kind of defects has a
faint one (`benchmarks.textures`), and is told apart. Figures are percent; a line a texture and detector.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from .anomalies_seeds import remembered

HEADS = ("texture", "how", "image AUROC, %", "of clear defects", "of faint ones", "pixel AUROC, %",
         "AUPRO, %", "good flagged, %", "pictures a second of a core")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--run", default="known")
    parser.add_argument("--parts", nargs="*", default=["whitened", "patchcore"])
    parser.add_argument("--strides", type=int, nargs="+")
    parser.add_argument("--bare", action="store_true", help="print rows without the head of the table")
    words = parser.parse_args()
    import torch
    from sklearn.metrics import roc_auc_score

    import nearfar
    from nearfar.analysis.anomaly_maps import full_size
    from nearfar.analysis.patch_features import patch_features
    from nearfar.data.defects import Truth
    from nearfar.data.open import open_data
    from nearfar.queries import part_learning
    from nearfar.queries.part_measures import Measures, count_pixels

    torch.set_num_threads(1)
    run = nearfar.load(words.run)
    if not words.bare:
        print(f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|")
    for data in words.data:
        # What is computed once serves all detectors; seconds are those of the first.
        made = [
            remembered(patch_features(run.encoder, run.preprocess.size, words.strides, coarser))
            for coarser in (False, True)
        ]
        part_learning.patch_features = lambda *given, made=made: made[given[3]]
        truth = Truth(data / "ground_truth")
        good = open_data(str(data / "train" / "good"), expected=run.preprocess.modality)
        asked = open_data(str(data / "test"), expected=run.preprocess.modality)
        for method in words.parts:
            began = time.process_time()
            made = part_learning.learn(run, good, None, part_learning.Settings(method))
            found, _ = part_learning.thresholds(made.held, 0.05, len(made.detector.pictures), [])
            measures, kinds = Measures(method), []
            for one in made.detector.score(asked, list(range(len(asked))), threads=1):
                kind, number = asked.ids[one.row].split("/")
                regions, _ = truth.of(asked.ids[one.row], one.shape)
                count_pixels(measures.pixels, full_size(one.places, one.shape), regions, kind)
                measures.add(one.score, "" if kind == "good" else kind)
                kinds.append("good" if kind == "good" else ("clear", "faint")[int(number[:3]) % 2])
            rate = (len(good) + len(asked)) / (time.process_time() - began)
            scores, which = np.array(measures.scores), np.array(kinds)

            def auroc(kind: str, scores: np.ndarray = scores, which: np.ndarray = which) -> float:
                some = (which == "good") | (which == kind)
                return float(roc_auc_score(which[some] != "good", scores[some]))

            row = measures.rows(0, by_kind=False)[0]
            flagged = np.mean(scores[which == "good"] > found.value) if found is not None else np.nan
            cells = (row["image_auroc"]["value"], auroc("clear"), auroc("faint"),
                     row["pixel"]["auroc"]["value"], row["pixel"]["aupro"]["value"], flagged)  # fmt: skip
            shown = " | ".join(f"{100 * cell:.1f}" for cell in cells)
            print(f"| {data.name} | {method} | {shown} | {rate:.1f} |", flush=True)


if __name__ == "__main__":
    main()
