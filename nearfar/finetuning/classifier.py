"""Trains a classifier: a linear layer on a frozen encoder, both fine-tuned, or both from scratch.

The three share images, draws, layer, loop and rule of length. They differ by what is trained and by where it
starts. The test sees the centre of each image, as frozen features do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..core.errors import NearfarError
from ..data.dataset import ImageDataset, Subset
from ..data.modalities import modality_of
from ..features.extract import Vectors, features
from ..features.probes import Rows
from ..images.views import Preprocess
from .trainer import RECIPES, FineTuner, Mode, images_seen, lrs_of

MIN_VALIDATION = 50  # validation images without which no choice is made
TRIAL_SHARE = 0.25  # length of a trial, as a share of the training's


@dataclass(frozen=True)
class FineTuned:
    """A network that classifies, and how it was trained.

    Attributes:
        net: encoder and linear layer, (n, 3, size, size) in [0, 1] to (n, classes), on the device.
        preprocess: how an image becomes its input.
        device: where it computes.
        chosen: mode, lr (for 256 images a step), epochs, steps, batch_size, precision; and validation, the
            accuracy on the validation images in that learning rate's trial, None where nothing was tried.
    """

    net: nn.Module
    preprocess: Preprocess
    device: torch.device
    chosen: Mapping[str, Any]

    def logits(self, dataset: ImageDataset) -> Vectors:
        """Give every image of a data set its (n, classes) float32 logits, from its centre."""
        return features(self.net, dataset, self.preprocess, device=self.device)

    def answer(self, dataset: ImageDataset) -> Rows:
        """Give every image of a data set its likeliest class, (n,) int64."""
        return self.logits(dataset).argmax(axis=1)


def train_classifier(
    encoder: Any,
    preprocess: Preprocess,
    dataset: ImageDataset,
    validation: npt.NDArray[np.bool_],
    *,
    mode: Mode,
    seed: int,
    device: str | torch.device,
    epochs: float | None = None,
    views: Any = None,
) -> FineTuned:
    """Train an encoder, or a layer on it, to classify labelled images.

    With 50 validation images or more, three learning rates are tried on the others, at a quarter of the
    length, and the most accurate on the validation images is taken; else the usual one. Then the network is
    trained on all images.

    The cost: n images are seen `TrainRecipe.epochs(n)` times each, or for 200 steps if those are more. The
    trials take a quarter of that again where the encoder is frozen, since all learning rates are then tried
    at once, and three quarters otherwise.

    Args:
        encoder: never changed; what is trained is a copy, or the same network with random weights. For
            "finetune" it may have layers of a head behind it.
        preprocess: how an image becomes the encoder's input when nothing is random.
        dataset: labelled images, two at least.
        validation: (n,) bool, the images that the learning rate is chosen on, as from `validation_split`; may
            be all False.
        mode: "linear" trains a layer on the frozen encoder, in eval mode; "finetune" the encoder too;
            "scratch" is "finetune" from random weights.
        seed: random seed, the same for all three.
        device: where to compute.
        epochs: passes over all images, instead of the recipe's own; a trial makes a quarter of them.
        views: how images are augmented; None: as `Modality.labelled_views` has it.

    Returns:
        The network and what was chosen.

    Raises:
        NearfarError: there are no labels of two classes, or a frozen encoder's bytes changed.

    Source:
        SimCLR, appendices B.5 (fine-tuning: rate 0.05 bs/256, 60 epochs on few labels, 30 on more) and B.6
        (linear: 0.1 bs/256, 90 epochs).
    """
    if dataset.labels is None or len(dataset.classes) < 2 or len(dataset) < 2:
        raise NearfarError("fine-tuning needs at least two labelled images and two classes; add more images.")
    where = torch.device(device)
    views = modality_of(preprocess).labelled_views(preprocess) if views is None else views
    tuner = FineTuner(
        encoder, preprocess, dataset, mode=mode, seed=seed, device=where, epochs=epochs, views=views
    )
    lr, accuracy = lrs_of(mode, encoder)[0], None
    if validation.sum() >= MIN_VALIDATION and (~validation).sum() >= 2:
        tried = _try_lrs(tuner, np.flatnonzero(~validation), np.flatnonzero(validation))
        lr = max(tried, key=lambda each: tried[each])  # of equals the first, which is the usual one
        accuracy = tried[lr]
    net, facts = tuner.train(np.arange(len(dataset)), [lr])
    return FineTuned(net, preprocess, where, {"mode": mode, "lr": lr, "validation": accuracy, **facts})


def cost(mode: Mode, images: int, validation: int, size: int) -> int:
    """Count the images that `train_classifier` trains on, repeats and trials counted.

    Args:
        mode: as in `train_classifier`.
        images: how many there are.
        validation: how many of these the learning rate is chosen on.
        size: side of a view in pixels.
    """
    trials = (1 if mode == "linear" else len(RECIPES[mode].lrs)) if validation >= MIN_VALIDATION else 0
    return round(images_seen(mode, images, size) * (1 + TRIAL_SHARE * trials))


def _try_lrs(tuner: FineTuner, rows: Rows, asked: Rows) -> dict[float, float]:
    """Train shortly on some rows at each learning rate, and give the accuracies on others."""
    lrs = lrs_of(tuner.mode, tuner.origin)
    part, truth = Subset(tuner.dataset, asked), tuner.dataset.labels[asked]
    found: dict[float, float] = {}
    for together in [lrs] if tuner.mode == "linear" else [(lr,) for lr in lrs]:
        net, _ = tuner.train(rows, together, TRIAL_SHARE)
        logits = features(net, part, tuner.preprocess, device=tuner.device)
        right = logits.reshape(len(part), len(together), -1).argmax(axis=2) == truth[:, None]
        found |= dict(zip(together, right.mean(axis=0).tolist(), strict=True))
    return found
