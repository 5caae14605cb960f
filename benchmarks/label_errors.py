"""Real label errors found: CIFAR-10N's human labels, with an encoder's features, and cleanlab on pixels.

    python -m benchmarks.label_errors runs/a --images cifar10/train --labels CIFAR-10_human.pt

The images are CIFAR-10's training images in a folder a class, in their original order within each class; the
labels are those of Wei et al. 2022, "Learning with noisy labels revisited" ("aggregate" and "worse"). What is
wrong is known: a label that is not the original one. Each ranking flags as many labels as are wrong.
The encoder has seen no label, and nothing was chosen on these: the ranking's weights come from made-up
errors. `--sample 10000` takes that many images, drawn at random.
"""

from __future__ import annotations

import argparse
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

NOISES = {"aggregate": "aggre_label", "worse": "worse_label"}
COMPONENTS = 256  # of the pixels, for logistic regression; they hold nearly all that a line can read


class _ArraysOnly(pickle.Unpickler):
    """Reads a dict of NumPy arrays and refuses everything else."""

    KNOWN = frozenset({
        ("numpy", "ndarray"), ("numpy", "dtype"), ("numpy.core.multiarray", "_reconstruct"),
        ("_codecs", "encode"),
    })  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
        return super().find_class(module, name)


def in_original_order(path: Path) -> dict[str, npt.NDArray[np.int64]]:
    """Read CIFAR-10N's file: "clean_label" and the labels that people gave."""
    with zipfile.ZipFile(path) as archive, archive.open("archive/data.pkl") as file:
        return _ArraysOnly(file).load()


def human_labels(path: Path) -> dict[str, npt.NDArray[np.int64]]:
    """Read CIFAR-10N's file, and put it in the order of the images: class after class."""
    held = in_original_order(path)
    order = np.argsort(held["clean_label"], kind="stable")
    return {name: np.asarray(values, np.int64)[order] for name, values in held.items()}


def components(images: Path | list[Path]) -> npt.NDArray[np.float32]:
    """Reduce raw pixels to their principal components."""
    from nearfar.core.device import cores
    from nearfar.data import cache
    from nearfar.data.sources import open_source
    from nearfar.features.extract import features
    from nearfar.features.probes import principal_components
    from nearfar.images.views import Preprocess

    source = open_source(images)
    store = cache.load(source, short_side=32, max_pixels=1 << 24, max_bad=0, threads=cores())
    how = Preprocess(size=32, crop=1.0, interpolation="bilinear")
    return features(principal_components(store, how, "cpu", COMPONENTS), store, how)


def cleanlabs(shares: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Rank labels as cleanlab does by default: by self-confidence."""
    from cleanlab.rank import get_label_quality_scores

    return np.argsort(get_label_quality_scores(labels, shares), kind="stable")


def measure(
    seen: dict[str, npt.NDArray[np.float32]], labels: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]
) -> list[tuple[str, float, str]]:
    """Rank one set of labels in every way; give each way's precision, and what else there is to say."""
    from nearfar.analysis import label_errors

    wrong = labels != truth
    count = int(wrong.sum())
    found = label_errors.find_label_errors(seen["encoder"], labels, [str(n) for n in range(10)])
    right = float((found.suggested[wrong] == truth[wrong]).mean())
    note = (
        f"estimate {found.estimate:,}; {100 * found.accuracy:.1f} % of the labels are predicted; "
        f"the suggestion is right for {100 * right:.1f} % of the wrong labels"
    )
    rows = [("nearfar, encoder", label_errors.precision_at(found.order, wrong, count), note)]
    near = label_errors.neighbour_shares(seen["encoder"], labels, 10)
    order = np.argsort(near[np.arange(len(labels)), labels], kind="stable")
    rows.append(("k-NN alone, encoder", label_errors.precision_at(order, wrong, count), ""))
    rows.append(("nearfar, pixels", _pixels(seen["pixels"], labels, wrong), ""))
    try:
        from cleanlab.count import compute_confident_joint

        for name, x in seen.items():
            shares = label_errors.out_of_fold(x, labels, 10, 0)
            rows.append(
                (f"cleanlab, {name}", label_errors.precision_at(cleanlabs(shares, labels), wrong, count), "")
            )
        theirs = compute_confident_joint(labels, shares, calibrate=True) / len(labels)
        apart = float(np.abs(theirs - label_errors.confident_joint(shares, labels)).max())
        rows[-1] = (
            *rows[-1][:2],
            f"its confident joint and the paper's, which is ours, differ by {apart:.1e} at most",
        )
    except ImportError:
        rows.append(("cleanlab", float("nan"), "not installed: pip install cleanlab"))
    return [*rows, ("random", count / len(labels), "")]


def _pixels(x: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], wrong: npt.NDArray[np.bool_]) -> float:
    from nearfar.analysis import label_errors

    found = label_errors.find_label_errors(x, labels, [str(n) for n in range(10)])
    return label_errors.precision_at(found.order, wrong, int(wrong.sum()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--sample", type=int)
    words = parser.parse_args()
    import nearfar

    torch.manual_seed(0)
    held = human_labels(words.labels)
    files = sorted(words.images.glob("*/*"))
    names = sorted({file.parent.name for file in files})
    assert [names.index(file.parent.name) for file in files] == held["clean_label"].tolist()
    rows = np.sort(np.random.default_rng(0).permutation(len(files))[: words.sample])
    held, files = {name: values[rows] for name, values in held.items()}, [files[row] for row in rows]
    seen = {"encoder": nearfar.embed(words.run, files).vectors, "pixels": components(files)}
    for noise, column in NOISES.items():
        labels = held[column]
        count = int((labels != held["clean_label"]).sum())
        print(
            f"\n{noise}: {count:,} of {len(labels):,} labels are wrong ({100 * count / len(labels):.1f} %)\n"
        )
        print("| ranking | precision at that number | |\n|---|---|---|")
        for name, precision, note in measure(seen, labels, held["clean_label"]):
            print(f"| {name} | {100 * precision:.1f} % | {note} |", flush=True)


if __name__ == "__main__":
    main()
