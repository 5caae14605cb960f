"""One class of CIFAR-10 as normal: CSI and its score beside SimCLR and k-NN, each for as many images.

    python -m benchmarks.csi cifar10/train cifar10/test --out /tmp/csi --classes 3 --images 120000

For each of the first classes an encoder is trained on its training images alone, by each method; the test
images of that class are normal, and all others anomalous. `--images` counts what goes through the network:
CSI turns each view four ways, so it takes a quarter of the images in as many steps. Prints AUROC by class.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

import nearfar
from nearfar.analysis.anomaly_detectors import detector
from nearfar.data.in_memory import open_in_memory
from nearfar.features.chunked import CHUNK_IMAGES, read_chunks
from nearfar.features.extract import features
from nearfar.methods.csi import TurnedVectors
from nearfar.models.every_scale import as_trained

HOW = {
    "recipe": "cpu",
    "precision": "bfloat16",
    "device": "cpu",
    "threads": 1,
    "workers": 1,
    "health_checks": 0,
    "holdout": 0.0,
    "colour": "change",
}
WAYS = {
    "simclr": {"views": 2, "batch_size": 256},
    "csi": {"views": 8, "batch_size": 64},
}  # 512 through the network in a step of either


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--images", type=int, default=120_000)
    parser.add_argument("--test-images", type=int, default=200, help="of each class")
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    names = sorted(path.name for path in words.train.iterdir())
    asked = {name: sorted((words.test / name).glob("*"))[: words.test_images] for name in names}
    paths = [path for some in asked.values() for path in some]
    print("| normal | simclr, k-NN | csi, k-NN | csi, its score |\n|---|---|---|---|", flush=True)
    rows = []
    for normal in names[: words.classes]:
        truth = np.array([path.parent.name != normal for path in paths])
        known, found = sorted((words.train / normal).glob("*")), []
        for method, way in WAYS.items():
            step = way["views"] * way["batch_size"]
            run = nearfar.pretrain(
                known,
                out=words.out / f"{normal}-{method}-{words.seed}",
                method=method,
                steps=words.images // step,
                batch_size=way["batch_size"],
                seed=words.seed,
                **HOW,
            )
            nets = {"knn": run.encoder}
            if method == "csi":
                nets["csi"] = TurnedVectors(as_trained(run.encoder), run.part("g"), run.part("turn"))
            for score, net in nets.items():
                x, y = (encoded(net, some, run.preprocess) for some in (known, paths))
                found.append(100 * roc_auc_score(truth, detector(x, score)(y)))
        rows.append(found)
        print(f"| {normal} | {' | '.join(f'{value:.1f}' for value in found)} |", flush=True)
    print(f"| **mean** | {' | '.join(f'{value:.1f}' for value in np.mean(rows, axis=0))} |")


def encoded(net: object, paths: list[Path], preprocess: object) -> np.ndarray:
    """Encode images from their files."""
    source = open_in_memory(paths, None)
    chunks = read_chunks(source, range(0, len(paths), CHUNK_IMAGES), preprocess, 1)
    return np.concatenate([features(net, chunk, preprocess) for chunk in chunks])


if __name__ == "__main__":
    main()
