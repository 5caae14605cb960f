"""PatchCore beside anomalib's, with the same network, stages and pictures: AUROC, pictures a second, memory.

    python -m benchmarks.anomalies_peer pcb known

The boards and the two tests are those of `benchmarks.anomalies`. anomalib's model is given our encoder's
feature maps by way of its `feature_extractor`, and the pictures as our detector reads them, so that only the
detectors differ: neighbourhood means, coreset, scores and maps. Ours is also measured without the offsets by
which it moves maps, which anomalib does not have. Each way runs in a process of its own, on one thread, one
after the other; seconds are of a core, and peak memory is the process's. anomalib 2.7.0 has to be importable.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from .anomalies import boards

WAYS = ("nearfar", "nearfar without offsets", "anomalib")
HEADS = ("how", "image AUROC, %", "pixel AUROC, %", "AUPRO, %", "bank, s", "pictures a second", "peak, GB")


def child(words: argparse.Namespace) -> dict[str, Any]:
    """Measure one way in this process."""
    import torch

    import nearfar
    from nearfar.analysis.anomaly_maps import full_size
    from nearfar.analysis.part_detector import PartDetector
    from nearfar.analysis.patch_features import patch_features
    from nearfar.data.defects import Truth
    from nearfar.queries.part_measures import Measures, count_pixels

    torch.set_num_threads(1)
    run, truth = nearfar.load(words.run), Truth(words.data / "boxes")
    bank, tests = boards(words.data, words.bank, words.test, words.seed)
    asked, good = tests[words.only]
    features = patch_features(run.encoder, run.preprocess.size, words.strides)
    if words.child != "nearfar":
        features = replace(features, offsets=())
    detector = PartDetector(features, run.preprocess, words.size, "patchcore", words.seed)
    measures, rows = Measures(words.child), list(range(len(asked)))
    began = time.process_time()
    if words.child == "anomalib":
        model = anomalib_model(features)
        model.train()
        for picture in detector.read(bank, range(len(bank)), threads=1):
            model(picture.x)
        model.subsample_embedding(0.1)
        model.eval()

        def scored() -> Any:
            for picture in detector.read(asked, rows, threads=1):
                with torch.inference_mode():
                    found = model(picture.x)
                heat = torch.nn.functional.interpolate(found.anomaly_map, picture.shape, mode="bilinear")
                yield picture.row, float(found.pred_score), heat[0, 0].numpy()

    else:
        detector.add(bank, list(range(len(bank))), threads=1)

        def scored() -> Any:
            for one in detector.score(asked, rows, threads=1):
                yield one.row, one.score, full_size(one.places, one.shape)

    learned = time.process_time() - began
    kept, began = [], time.process_time()
    for row, score, heat in scored():
        kept.append((row, score, heat))
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    for row, score, heat in kept:
        regions, kinds = truth.of(asked.ids[row], heat.shape)
        count_pixels(measures.pixels, heat, regions, kinds)
        measures.add(score, "defect" if row >= good else "")
    (found,) = measures.rows(words.seed, by_kind=False)
    return {
        "how": words.child,
        "image": found["image_auroc"]["value"],
        "pixel": found["pixel"]["auroc"]["value"],
        "aupro": found["pixel"]["aupro"]["value"],
        "bank": learned,
        "rate": len(kept) / seconds,
        "peak": peak,
    }


def anomalib_model(features: Any) -> Any:
    """Make anomalib's PatchCore and give it our feature maps."""
    import torch
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    class Maps(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            maps = features.encoder.maps(x)
            return {str(level): maps[level] for level in features.levels}

    model = PatchcoreModel([str(level) for level in features.levels], "resnet18", pre_trained=False)
    model.feature_extractor = Maps()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("run")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--strides", type=int, nargs="+")
    parser.add_argument("--bank", type=int, default=40)
    parser.add_argument("--test", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="known designs", choices=("known designs", "other designs"))
    parser.add_argument("--child", choices=WAYS, help="measure this one and print it as JSON")
    words = parser.parse_args()
    if words.child:
        print(json.dumps(child(words)))
        return
    print(f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|", flush=True)
    for way in WAYS:
        command = [sys.executable, "-m", "benchmarks.anomalies_peer", *sys.argv[1:], "--child", way]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        cells = [f"{100 * found[name]:.1f}" for name in ("image", "pixel", "aupro")]
        cells += [f"{found['bank']:.0f}", f"{found['rate']:.2f}", f"{found['peak']:.2f}"]
        print(f"| {way} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
