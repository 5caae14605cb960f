"""What the settings of the uses were chosen by: made-up label errors, classes by example, dislikes.

    python -m benchmarks.use_settings runs/a --images labelled/held --second runs/b

Labelled images that nothing else is reported of, 10,000 at most; the encoder has not seen the labels.
Each table varies what `nearfar.analysis` keeps fixed; docs/decisions.md says what was taken.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
RATES = (0.08, 0.2)


def flipped(y: Rows, shares: Vectors, rate: float, kind: str, seed: int) -> Rows:
    """Make labels wrong: at random, to the class most often mistaken for it, or where a model is in doubt."""
    draw, n, count = np.random.default_rng(seed), len(y), shares.shape[1]
    other = shares.copy()
    other[np.arange(n), y] = 0
    if kind == "random":
        wrong, to = draw.random(n) < rate, (y + draw.integers(1, count, n)) % count
    elif kind == "alike":
        like = np.array([other[y == c].sum(axis=0).argmax() for c in range(count)])
        wrong, to = draw.random(n) < rate, like[y]
    else:
        doubt = 1 - shares[np.arange(n), y]
        wrong = draw.random(n) < np.minimum(1, doubt * rate / doubt.mean())
        to = (draw.random((n, 1)) < np.cumsum(other / other.sum(axis=1, keepdims=True), axis=1)).argmax(
            axis=1
        )
    return np.where(wrong, to, y)


def label_errors(what: str, x: Vectors, y: Rows, count: int, second: Vectors) -> None:
    """Print the average precision of rankings, by witness and by the weight of a rival class."""
    from sklearn.metrics import average_precision_score

    from nearfar.analysis.label_errors import neighbour_shares, out_of_fold

    shares = out_of_fold(second, y, count, 0)
    found: dict[tuple[str, float], list[float]] = defaultdict(list)
    for kind in ("random", "alike", "doubtful"):
        for rate in RATES:
            given = flipped(y, shares, rate, kind, seed=1)
            line = out_of_fold(x, given, count, 0)
            near = neighbour_shares(x, given, count)
            for name, seen in (("k-NN", near), ("regression", line), ("both", (near + line) / 2)):
                own, rest = seen[np.arange(len(y)), given], seen.copy()
                rest[np.arange(len(y)), given] = 0
                for rival in (0.0, 0.1, 0.25, 0.5, 1.0):
                    doubt = rival * rest.max(axis=1) - own
                    found[name, rival].append(average_precision_score(given != y, doubt))
    heads = "random 8, 20 % | alike 8, 20 % | doubtful 8, 20 % | mean"
    print(f"\n| label errors, average precision, {what} | {heads} |")
    print("|---|---|---|---|---|")
    for (name, rival), values in found.items():
        pairs = " | ".join(f"{a:.3f} {b:.3f}" for a, b in np.reshape(values, (3, 2)))
        print(f"| {name}, rival {rival:g} | {pairs} | {np.mean(values):.3f} |")


def digits() -> None:
    """Print the first table for scikit-learn's digits too, where neighbours know more than a line does."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    label_errors("digits", x.astype(np.float32), y.astype(np.int64), 10, x.astype(np.float32))


def naming(x: Vectors, y: Rows, count: int, draws: int = 10) -> None:
    """Print how well images are named by few examples, and others told, with half of the classes known."""
    from sklearn.metrics import roc_auc_score

    from nearfar.analysis import few_shot, label_propagation

    found: dict[tuple[int, str], list[float]] = defaultdict(list)
    for each in (1, 5, 25):
        for number in range(draws):
            draw = np.random.default_rng(number)
            order = draw.permutation(len(y))
            shown = np.concatenate([order[y[order] == c][:each] for c in range(count)])
            rest = np.setdiff1d(order[:6000], shown)
            middle = x[rest].mean(axis=0)
            z, e = few_shot.centred(x[rest], middle), few_shot.centred(x[shown], middle)
            alike = z @ few_shot.prototypes(e, y[shown], count).T
            found[each, "accuracy, prototypes"].append(float((alike.argmax(axis=1) == y[rest]).mean()))
            known = np.concatenate([np.full(len(z), -1), y[shown]])
            for label_propagation.ALPHA in (0.9, 0.99) if number < 3 else ():
                spread = label_propagation.propagate(np.concatenate([z, e]), known, count)[: len(z)]
                name = f"accuracy, propagated with alpha {label_propagation.ALPHA}, 3 draws"
                found[each, name].append(float((spread.argmax(axis=1) == y[rest]).mean()))
            half = draw.permutation(count)[: count // 2]
            mine, truth = np.isin(y[shown], half), np.isin(y[rest], half)
            alike = (
                z @ few_shot.prototypes(e[mine], np.searchsorted(np.sort(half), y[shown][mine]), len(half)).T
            )
            share = np.exp((alike - alike.max(axis=1, keepdims=True)) / 0.1).sum(axis=1)
            for name, score in (
                ("similarity to the nearest prototype", alike.max(axis=1)),
                ("share of the likeliest class", 1 / share),
                ("similarity to the nearest example", (z @ e[mine].T).max(axis=1)),
            ):
                found[each, f"AUROC, {name}"].append(float(roc_auc_score(truth, score)))
    print(f"\n| classes by example, {draws} draws | examples a class | mean | spread |\n|---|---|---|---|")
    for (each, name), values in found.items():
        print(f"| {name} | {each} | {np.mean(values):.3f} | {np.std(values, ddof=1):.3f} |")


def disliking(x: Vectors, y: Rows, count: int, searches: int = 300) -> None:
    """Print how many of the first 50 are right once as many wrong ones were disliked as right ones liked."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    weights = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
    print(f"\n| likes | {' | '.join(f'dislikes x {w:g}' for w in weights)} |\n{'|---' * (len(weights) + 1)}|")
    for likes in (1, 3, 10):
        shares = np.zeros(len(weights))
        for number in range(searches):
            own = np.flatnonzero(y == number % count)
            liked = np.random.default_rng(number).permutation(own)[:likes]
            towards = unit[liked].mean(axis=0)
            first = np.argsort(-(unit @ towards))[:200]
            disliked = first[y[first] != number % count][:likes]
            for at, weight in enumerate(weights):
                alike = unit @ (towards - weight * unit[disliked].mean(axis=0))
                alike[np.concatenate([liked, disliked])] = -np.inf
                shares[at] += (y[np.argpartition(-alike, 50)[:50]] == number % count).mean() / searches
        print(f"| {likes} | {' | '.join(f'{100 * share:.1f} %' for share in shares)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--images", required=True)
    parser.add_argument("--second", help="another run, whose doubts make labels wrong (default: the same)")
    words = parser.parse_args()
    import nearfar
    from nearfar.core import rng

    seen = nearfar.embed(words.run, words.images, labels=True)
    names, y = np.unique(seen.labels or (), return_inverse=True)
    rows = rng.permutation(rng.fold(0, "settings"), len(y))[:10_000]
    x, y = seen.vectors[rows], y[rows]
    second = nearfar.embed(words.second, words.images).vectors[rows] if words.second else x
    label_errors("the images", x, y, len(names), second)
    digits()
    naming(x, y, len(names))
    disliking(x, y, len(names))


if __name__ == "__main__":
    main()
