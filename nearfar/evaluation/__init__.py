"""Evaluation on labelled images, and the table of its parts beyond k-NN and linear.

Nothing here imports torch until a part is asked for. To add a part: write one file with a subclass of
`part.EvaluationPart`, and add its line to `PARTS`. Its flag, its help, its line in docs/evaluation.md,
its place in the table and in the JSON, and its test follow from that.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.errors import NearfarError, nearest

if TYPE_CHECKING:
    from .part import EvaluationPart


@dataclass(frozen=True)
class PartEntry:
    """One line of `PARTS`.

    Attributes:
        help: what it measures, in one line.
        file, name: the file of its class in this folder, and what it is called.
        column: the heading of its accuracies next to k-NN and linear, for a part that classifies.
    """

    help: str
    file: str
    name: str
    column: str = ""

    def load(self) -> type[EvaluationPart]:
        """Import the class."""
        found: type[EvaluationPart] = getattr(importlib.import_module(f".{self.file}", __name__), self.name)
        return found


PARTS = {
    "few_labels": PartEntry(
        "accuracy with 1, 2, 4, ... labels per class, 1 % and 10 %, over many draws",
        "few_labels",
        "FewLabels",
    ),
    "retrieval": PartEntry(
        "search by example: mean average precision, and hits among the first 1, 5 and 10",
        "retrieval",
        "Retrieval",
    ),
    "clusters": PartEntry(
        "whether k-means finds the classes without labels: accuracy, NMI, ARI",
        "clustering",
        "ClusterAgreement",
    ),
    "calibration": PartEntry(
        "whether the linear classifier is right as often as it says: ECE, and its bins",
        "calibration",
        "Calibration",
    ),
    "svm": PartEntry(
        "a support vector machine on the same features, a third classifier; of sounds always",
        "svm",
        "SupportVectors",
        column="SVM",
    ),
    "robustness": PartEntry(
        "accuracy on corrupted test images: noise, blur, weather, compression, at five strengths",
        "robustness",
        "Robustness",
    ),
    "augmented": PartEntry(
        "a linear classifier trained on augmented images, the encoder frozen (SimCLR's protocol)",
        "fine_tuned",
        "AugmentedLinear",
        column="linear, augmented",
    ),
    "finetune": PartEntry(
        "fine-tune the encoder, and train the network from scratch; with --few-labels, on few labels too",
        "fine_tuned",
        "FineTuning",
        column="fine-tuned",
    ),
}
"""The parts by name, which is also the flag, the key in the JSON, and what `evaluate(parts=...)` takes."""


def chosen(names: Iterable[str] | str) -> tuple[str, ...]:
    """Check the names of parts.

    Args:
        names: of `PARTS`; one name alone, or "all".

    Returns:
        The names, in the order of `PARTS`, each once.

    Raises:
        NearfarError: there is no such part.
    """
    if isinstance(names, str):
        names = PARTS if names == "all" else (names,)
    names = set(names)
    for name in sorted(names - PARTS.keys()):
        raise NearfarError(f"part {name!r} of an evaluation is not known; {nearest(name, PARTS)}")
    return tuple(name for name in PARTS if name in names)
