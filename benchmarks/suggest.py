"""The gain by suggestions of what to label: accuracy with 10 to 400 labels, compared with random choice.

    python -m benchmarks.suggest runs/a --train cifar10/train --test cifar10/test --draws 10

Labels that are there already are handed out as if someone gave them. Each draw takes a pool of its own from
the training images; each method asks for 10, then for 10 more, 30 more and so on, and sees the labels of what
it asked for. Logistic regression on the encoder's features, its penalty chosen among those labels, then names
the test images.
"""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt
import torch

BUDGETS = (10, 20, 50, 100, 200, 400)
STRATEGIES = ("random", "auto", "typical", "margin", "k-center")


def accuracy(
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    test: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]],
) -> float:
    """Fit on the labelled rows, class after class, and name the test images."""
    from nearfar.evaluation.few_label_fits import linear
    from nearfar.features import logistic

    rows = rows[np.argsort(y[rows], kind="stable")]
    there, own = np.unique(y[rows], return_inverse=True)
    if len(there) == 1:
        return float((test[1] == there[0]).mean())
    fitted = linear(
        torch.from_numpy(x[rows]), torch.from_numpy(own), len(there), logistic.standards(torch.from_numpy(x))
    )
    return float((there[fitted.predict(torch.from_numpy(test[0])).numpy()] == test[1]).mean())


def replay(
    method: str,
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.int64],
    test: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]],
    seed: int,
) -> list[float]:
    """Label as one method suggests, from none on; give the accuracy at each budget."""
    from nearfar.analysis.active_learning import UNKNOWN, suggest_rows

    labels, found = np.full(len(y), UNKNOWN), []
    for budget in BUDGETS:
        known = int((labels != UNKNOWN).sum())
        # Margins need labels: the first are drawn at random.
        step = "random" if method == "margin" and not known else method
        rows = suggest_rows(x, labels, budget - known, method=step, seed=seed).rows
        labels[rows] = y[rows]
        found.append(accuracy(x, y, np.flatnonzero(labels != UNKNOWN), test))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--pool", type=int, default=10_000)
    words = parser.parse_args()
    import nearfar
    from nearfar.core import rng

    train, test = (nearfar.embed(words.run, data, labels=True) for data in (words.train, words.test))
    names = sorted(set(train.labels or ()))
    y, truth = (np.array([names.index(label) for label in one.labels or ()]) for one in (train, test))
    print(f"| accuracy, % ({words.draws} draws) | {' | '.join(f'{n} labels' for n in BUDGETS)} |")
    print("|---" * (len(BUDGETS) + 1) + "|")
    for method in STRATEGIES:
        found = []
        for draw in range(words.draws):
            pool = rng.permutation(rng.fold(0, "pool", draw), len(y))[: words.pool]
            found.append(replay(method, train.vectors[pool], y[pool], (test.vectors, truth), draw))
        mean, spread = 100 * np.mean(found, axis=0), 100 * np.std(found, axis=0, ddof=1)
        cells = [f"{m:.1f} ± {s:.1f}" for m, s in zip(mean, spread, strict=True)]
        print(f"| {method} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
