"""What a part of an evaluation is: what it trains, what it measures on test images, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..data.dataset import ImageDataset
from ..features.probes import FeatureProbe, ProbeOutputs, Rows
from ..finetuning.trainer import Mode


@dataclass(frozen=True)
class Trained:
    """What was trained for one column of accuracies, as a part gets it.

    Attributes:
        mode: how it was trained.
        dataset: the training images, with labels.
        answers: (m,) its class numbers for the test images.
        truth: (m,) their class numbers.
        retrain: trains again on some rows of the training images, and gives its (m,) answers.
    """

    mode: Mode
    dataset: ImageDataset
    answers: Rows
    truth: Rows
    retrain: Callable[[Rows], Rows]


@dataclass(frozen=True)
class EvaluationPart:
    """One part: its figures for each feature set (encoder, pixels, untrained, ...).

    A part overrides `measure`, or names what is to be trained in `modes`, or both; and then how its rows are
    shown. Every method that is left as it is here does nothing.

    Attributes:
        rows: what `measure` gave, by feature set.
        modes: what is trained for the part before a test image is opened, each with the feature set in whose
            row its accuracy stands, in a column of the part's own.
        images_only: whether it changes pictures, so that other kinds of data have no such part.
    """

    rows: Mapping[str, Any]
    modes: ClassVar[Mapping[Mode, str]] = {}
    images_only: ClassVar[bool] = False

    @classmethod
    def measure(cls, probe: FeatureProbe, outputs: ProbeOutputs, truth: Rows, seed: int) -> Any:
        """Measure one feature set.

        Args:
            probe: its classifiers, fitted on the training images.
            outputs: what they give for the test images.
            truth: (m,) class numbers of the test images.
            seed: random seed.

        Returns:
            Its figures; None where the part measures nothing there.
        """
        return None

    @classmethod
    def classify(
        cls, probe: FeatureProbe, outputs: ProbeOutputs, seed: int
    ) -> tuple[Rows, Mapping[str, Any]] | None:
        """Classify the test images of one feature set, for a column of accuracies beside k-NN and linear.

        Args:
            probe: its classifiers, fitted on the training images.
            outputs: what they give for the test images.
            seed: random seed.

        Returns:
            (m,) class numbers, and what was chosen; None where the part has no such column.
        """
        return None

    @classmethod
    def measure_trained(cls, trained: Trained, seed: int) -> Any:
        """Measure what was trained for a part; the figures join the row, under the name of the column.

        Args:
            trained: the network's answers, and how to train it again.
            seed: random seed.

        Returns:
            Its figures; None where the part measures nothing there.
        """
        return None

    def to_json(self) -> dict[str, Any]:
        """Write the figures in plain values."""
        return {name: vars(item) for name, item in self.rows.items()}

    def lines(self) -> list[str]:
        """Write the figures for people, a line a feature set."""
        return []
