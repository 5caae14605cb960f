"""Known near-copies found: the pairs that ciFAIR's authors found between CIFAR-10's test and training images.

    python -m benchmarks.duplicates runs/a --train cifar10/train --test cifar10/test \\
        --pairs duplicates_cifar10.csv --labels CIFAR-10_human.pt

The images lie in a folder a class, in their original order within each class. Barz and Denzler 2020 ("Do we
train on test data?") judged pairs by eye; judgment 1 is a near-copy, 249 pairs. Asked for is how many of them
are among the first 1,000 pairs that nearfar suggests, by the encoder's cosine, by pixels, and by both, which
is what it does. Pairs that the list lacks are not errors: many of them are copies too.

Training images are found by their number, by the order of the true labels in CIFAR-10N's file. A test image's
place within its class is known only to about one in ten of its number: a suggestion counts if the training
image is the very one, and the test image is of its class and within `WINDOW` places of that.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.label_errors import in_original_order

WINDOW = 45  # three standard deviations of how many of i images drawn from ten classes are of one
FIRST = (250, 500, 1000)
Rows = npt.NDArray[np.int64]


def known(pairs: Path, labels: Path) -> list[tuple[int, int]]:
    """Read the near-copies: number of the test image, row of the training image."""
    order = np.argsort(in_original_order(labels)["clean_label"], kind="stable")
    row = np.empty_like(order)
    row[order] = np.arange(len(order))
    with open(pairs, encoding="utf-8", newline="") as file:
        read = [
            (int(one["TestID"]), int(one["TrainID"]), int(one["Judgment"])) for one in csv.DictReader(file)
        ]
    return [(test, int(row[train])) for test, train, judgment in read if judgment == 1]


def hits(test: Rows, train: Rows, wanted: list[tuple[int, int]]) -> int:
    """Count the known pairs among suggested ones (rows in class order, 1,000 and 5,000 a class)."""
    found = 0
    for number, row in wanted:
        mine = test[train == row]
        found += bool(((mine // 1000 == row // 5000) & (np.abs(mine % 1000 - number / 10) <= WINDOW)).any())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    for flag in ("--train", "--test", "--pairs", "--labels"):
        parser.add_argument(flag, type=Path, required=True)
    words = parser.parse_args()
    import nearfar
    from nearfar.analysis import duplicates
    from nearfar.analysis.pixel_similarity import pixel_similarity, zoomed
    from nearfar.core.device import cores
    from nearfar.data import cache
    from nearfar.data.sources import open_source
    from nearfar.features.extract import features

    run, made = nearfar.load(words.run), []
    for folder in (words.test, words.train):
        source = open_source(folder, labels=True)
        store = cache.load(source, short_side=32, max_pixels=1 << 24, max_bad=0, threads=cores())
        x = features(run.encoder, store, run.preprocess)
        digests = [bytes(digest).hex() for digest in store.digests]
        made.append(duplicates.Collection(x, zoomed(store), digests))
    test, train = made
    assert len(test) == 10_000 and len(train) == 50_000
    wanted = known(words.pairs, words.labels)
    found = duplicates.duplicate_pairs(test, train, min_similarity=-1.0)
    pixels = pixel_similarity(test.fine, train.fine, found.a, found.b)
    scores = {"cosine": 2 * found.similarity - pixels, "pixels": pixels, "both": found.similarity}
    print(f"| of {len(wanted)} pairs | {' | '.join(f'first {many:,}' for many in FIRST)} |")
    print("|---" * (len(FIRST) + 1) + "|")
    for name, score in scores.items():
        order = np.argsort(-score, kind="stable")
        counts = [hits(found.a[order[:many]], found.b[order[:many]], wanted) for many in FIRST]
        print(f"| {name} | {' | '.join(f'{n} ({100 * n / len(wanted):.1f} %)' for n in counts)} |")
    flagged = found.similarity >= duplicates.MIN_SIMILARITY
    copied = len(np.unique(found.a[flagged]))
    print(f"\nAt {duplicates.MIN_SIMILARITY}: {copied:,} test images have near-copies.")


if __name__ == "__main__":
    main()
