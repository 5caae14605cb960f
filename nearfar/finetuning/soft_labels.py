"""Distillation with few labels: what a fine-tuned teacher says of unlabelled images is learnt.

Source:
    Chen et al. 2020, "Big self-supervised models are strong semi-supervised learners" (SimCLR v2), section 2,
    equations 2 and 3.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import NearfarError
from ..data.modalities import modality, modality_of
from ..data.open import open_data
from ..features.extract import fingerprint
from ..images.files import MAX_PIXELS
from .task_types import Where
from .tuned import Tuned, open_tuned

NONE = -1  # the label of an unlabelled image


@dataclass(frozen=True)
class TaskTeacher:
    """A fine-tuned run, and unlabelled images of which it says what they are."""

    opened: Tuned
    unlabelled: Any
    temperature: float

    @property
    def digest(self) -> str:
        """Name teacher and images by their content."""
        told = f"{fingerprint(self.opened.network)} {self.unlabelled.fingerprint}"
        return hashlib.sha256(told.encode()).hexdigest()

    @property
    def net(self) -> nn.Module:
        """Images (n, 3, side, side) to (n, classes) logits, in eval mode and without gradients."""
        network: Any = self.opened.network
        return nn.Sequential(network.f, network.head).eval().requires_grad_(False)


def open_teacher(
    name: str, unlabelled: str | None, temperature: float, preprocess: Any, where: Where
) -> TaskTeacher:
    """Open a teacher and the images that it is asked about.

    Args:
        name: the folder of a run of `nearfar finetune --task classify`.
        unlabelled: images; None is refused.
        temperature: by which both networks' logits are divided.
        preprocess: the student's input.
        where: how to read.

    Raises:
        NearfarError: it is another kind of run, sees images of another size, or no images are named.
    """
    if unlabelled is None:
        raise NearfarError("--teacher needs images to ask it about; name them with --unlabelled DATA.")
    opened = open_tuned(name)
    task: Any = opened.task
    if task.name != "classify" or task.many:
        raise NearfarError(f"--teacher {name} gives no classes, one an image; name a run that does.")
    size = opened.run.preprocess.size
    if opened.run.preprocess.modality != preprocess.modality or size != preprocess.size:
        raise NearfarError(
            f"--teacher {name} sees {opened.run.preprocess.modality} of {size} px, and the run that is "
            f"trained {preprocess.modality} of {preprocess.size} px; both have to see the same crops."
        )
    kind = modality_of(preprocess)
    dataset = kind.load(
        open_data(unlabelled, expected=kind.name),
        preprocess,
        limit=MAX_PIXELS,
        max_bad=where.max_bad,
        threads=where.workers,
    )
    return TaskTeacher(opened, dataset, temperature)


class Joined:
    """Labelled images, and behind them unlabelled ones."""

    def __init__(self, labelled: Any, unlabelled: Any) -> None:
        """Join two data sets of one kind."""
        self.parts = labelled, unlabelled
        self.modality: str = labelled.modality

    def __len__(self) -> int:
        """Count all images."""
        return sum(map(len, self.parts))

    def gather(self, rows: npt.NDArray[np.int64]) -> Any:
        """Give some images; see `Dataset.gather`."""
        first, second = self.parts
        own = rows < len(first)
        blocks = first.gather(rows[own]), second.gather(rows[~own] - len(first))
        places = np.where(own, np.cumsum(own), np.cumsum(~own)) - 1
        found = [blocks[int(not mine)].image(int(at)) for mine, at in zip(own, places, strict=True)]
        return modality(self.modality).collate(found)


def loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Compare a student's answers with a teacher's, and where there is a label with that.

        loss = - mean over images of sum over classes c of p(c) log q(c)

    with q = softmax(student / temperature), and p = softmax(teacher / temperature), or 1 for the label.

    Args:
        student, teacher: (n, classes) logits.
        labels: (n,) class numbers; NONE for an image without one.
        temperature: above 0.

    Returns:
        A scalar.
    """
    known = labels >= 0
    hard = F.one_hot(labels.clamp(min=0), student.shape[1]).to(student.dtype)
    p = torch.where(known[:, None], hard, (teacher / temperature).softmax(1))
    return -(p * (student / temperature).log_softmax(1)).sum(1).mean()
