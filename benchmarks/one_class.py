"""One class against nine: AUROC of anomaly scores on CIFAR-10, by encoder, pixels and untrained encoder.

    python -m benchmarks.one_class runs/a --train cifar10/train --test cifar10/test

Both are folders with a folder a class. Each class in turn is normal: a detector is fitted on its training
images and scores all test images, of which those of the other classes are anomalous. The encoder has seen
training images of all ten classes, without labels; figures of encoders that saw one class alone are not
comparable. Nothing is chosen: k is 5, the other detectors have their defaults.
"""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt
from torch import nn

Vectors = npt.NDArray[np.float32]


def aurocs(
    train: tuple[Vectors, npt.NDArray[np.int64]], test: tuple[Vectors, npt.NDArray[np.int64]], way: str
) -> list[float]:
    """Let each class be the normal one in turn."""
    from sklearn.metrics import roc_auc_score

    from nearfar.analysis.anomaly_detectors import detector

    (x, y), (asked, truth) = train, test
    return [
        float(roc_auc_score(truth != number, detector(x[y == number], way)(asked)))
        for number in range(int(y.max()) + 1)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    words = parser.parse_args()
    import nearfar
    from nearfar.core.device import cores
    from nearfar.data import cache
    from nearfar.data.sources import open_source
    from nearfar.features.extract import features
    from nearfar.features.probes import untrained
    from nearfar.images.views import Preprocess

    run = nearfar.load(words.run)
    size = run.preprocess.size
    stores = [
        cache.load(
            open_source(data, labels=True), short_side=size, max_pixels=1 << 24, max_bad=0, threads=cores()
        )
        for data in (words.train, words.test)
    ]
    small = Preprocess(size=min(32, size), crop=1.0)
    made = {
        "encoder": (run.encoder, run.preprocess),
        "pixels": (nn.Flatten(), small),
        "untrained": (untrained(run.encoder, stores[0], run.preprocess, 0, "cpu"), run.preprocess),
    }
    columns: dict[str, list[float]] = {}
    for name, (net, how) in made.items():
        train, test = ((features(net, store, how), store.labels) for store in stores)
        for way in ("knn", "mahalanobis", "forest") if name == "encoder" else ("knn",):
            columns[f"{name}, {way}"] = aurocs(train, test, way)
    print(f"| normal | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for number, name in enumerate(stores[0].classes):
        print(f"| {name} | {' | '.join(f'{100 * column[number]:.1f}' for column in columns.values())} |")
    print(f"| **mean** | {' | '.join(f'{100 * np.mean(column):.1f}' for column in columns.values())} |")


if __name__ == "__main__":
    main()
