"""TEMI beside k-means, on the vectors of one encoder: how well clusters agree with classes that neither saw.

    python -m benchmarks.clusters runs/a runs/b --images cifar10/train

A folder with a folder a class; as many clusters as classes are asked for, and no label is used until both are
done. Accuracy matches each cluster with a class of its own, the best way that there is (Kuhn 1955); mutual
information is normalised by the mean of the two entropies. Seconds are those of the clustering alone, without
the resampling by which `nearfar clusters` tells how stable it is.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


def accuracy(cluster: Rows, truth: Rows) -> float:
    """Match clusters with classes, one to one, so that most images agree; give their share."""
    from scipy.optimize import linear_sum_assignment

    side = int(max(cluster.max(), truth.max())) + 1
    counts = np.bincount(cluster * side + truth, minlength=side * side).reshape(side, side)
    return float(counts[linear_sum_assignment(-counts)].sum() / len(truth))


def main() -> None:
    """Print a row an encoder and a way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--images", required=True)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    from sklearn.metrics import normalized_mutual_info_score
    from threadpoolctl import threadpool_limits

    import nearfar
    from nearfar.analysis.clusters import kmeans
    from nearfar.analysis.temi import temi
    from nearfar.core.device import cores
    from nearfar.data import cache
    from nearfar.data.sources import open_source
    from nearfar.features.extract import features

    ways: dict[str, Callable[[Vectors, int, int], Rows]] = {"k-means": kmeans, "TEMI": temi}
    print("| vectors | way | accuracy | mutual information | s |\n|---|---|---|---|---|", flush=True)
    for name in words.runs:
        run = nearfar.load(name)
        how = run.preprocess
        store = cache.load(
            open_source(words.images, labels=True),
            short_side=how.size,
            max_pixels=1 << 24,
            max_bad=0,
            threads=cores(),
        )
        x = torch.from_numpy(features(run.encoder, store, how))
        rows: Vectors = torch.nn.functional.normalize(x).numpy()
        truth = store.labels.astype(np.int64)
        for way, divide in ways.items():
            began = time.perf_counter()
            with threadpool_limits(1):  # as `nearfar clusters` does
                found = divide(rows, len(store.classes), words.seed)
            seconds = time.perf_counter() - began
            told = 100 * accuracy(found, truth), 100 * normalized_mutual_info_score(truth, found)
            print(f"| {name} | {way} | {told[0]:.1f} % | {told[1]:.1f} % | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
