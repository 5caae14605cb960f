"""The parts of an evaluation that train by gradient steps: their accuracies are columns of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..finetuning.trainer import Mode
from .part import EvaluationPart


class AugmentedLinear(EvaluationPart):
    """A linear classifier trained on augmented images, the encoder frozen."""

    modes: ClassVar[Mapping[Mode, str]] = {"linear": "encoder"}
    images_only = True


class FineTuning(EvaluationPart):
    """The encoder fine-tuned on the labels, and the same network trained from scratch."""

    modes: ClassVar[Mapping[Mode, str]] = {"finetune": "encoder", "scratch": "scratch"}
    images_only = True
