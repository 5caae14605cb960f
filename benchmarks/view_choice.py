"""How well a few labels choose views: by hits of the nearest others, and by shares of their vote.

    nearfar sweep trash/train --over views --train few.csv --steps 30 --out runs/views
    python -m benchmarks.view_choice runs/views trash/train --each 8 33

The runs of the first round are measured with all labels (k-NN of ten others, each image among all others);
then so many labels a class are drawn, sixty times, and the set that they choose is held against the best.
Only training images are read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

DRAWS = 60
TEMPERATURE = 0.1


def shares(x: torch.Tensor, labels: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Give of each image whether its k nearest others name its class, and the share of their vote for it."""
    from nearfar.features import knn

    similarity, who = knn.top_k(x, x, k, exclude_self=True)
    votes = knn.knn_votes(similarity, labels[who], int(labels.max()) + 1, TEMPERATURE)
    return (votes.argmax(1) == labels).double(), votes.gather(1, labels[:, None])[:, 0].double()


def ranks(values: np.ndarray) -> np.ndarray:
    """Number values from the least on."""
    return values.argsort().argsort()


def main() -> None:
    """Print the truth, and how near each way to choose comes to it."""
    import nearfar
    from nearfar.data.labels import open_labelled

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path)
    parser.add_argument("labelled")
    parser.add_argument("--each", type=int, nargs="+", default=[8], help="labels a class")
    given = parser.parse_args()
    source = open_labelled(given.labelled, "images")
    class_of = dict(zip(source.ids, source.labels or (), strict=True))
    vectors, truth = {}, {}
    for run in sorted(path for path in given.sweep.glob("round-1-*") if path.is_dir()):
        found = nearfar.embed(run, given.labelled)
        labels = torch.from_numpy(np.unique([class_of[name] for name in found.ids], return_inverse=True)[1])
        vectors[run.name] = torch.from_numpy(found.vectors)
        truth[run.name] = 100 * float(shares(vectors[run.name], labels, 10)[0].mean())
        print(f"{run.name:50} {truth[run.name]:.1f} %", flush=True)
    right = np.array(list(truth.values()))
    print(f"a set drawn at random is {right.max() - right.mean():.2f} points below the best")
    for each in given.each:
        r = np.random.default_rng(0)
        chosen: dict[str, list[tuple[float, float]]] = {"hits": [], "shares": []}
        for _ in range(DRAWS):
            classes = [np.flatnonzero(labels == number) for number in labels.unique()]
            rows = torch.from_numpy(np.concatenate([r.choice(own, each, replace=False) for own in classes]))
            figures = [shares(x[rows], labels[rows], 5) for x in vectors.values()]
            for at, name in enumerate(chosen):
                values = np.array([float(figure[at].mean()) for figure in figures])
                agree = np.corrcoef(ranks(values), ranks(right))[0, 1]
                chosen[name].append((agree, right.max() - right[values.argmax()]))
        for name, drawn in chosen.items():
            agree, lost = np.mean(drawn, 0)
            said = f"{lost:.2f} points below the best; ranks agree by {agree:.2f}"
            print(f"{each} labels a class, by {name}: {said}")


if __name__ == "__main__":
    main()
