"""Learns classes by gradient steps: a linear layer on a frozen encoder, the encoder too, or all from scratch.

The three share images, draws, layer, loop and rule of length: they differ by what may move and by where it
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

from .. import models
from ..core.errors import NearfarError
from ..data.dataset import ImageDataset, Subset
from ..features.extract import Vectors, features
from ..features.probes import Rows
from ..images.view_settings import Views
from ..images.views import Preprocess
from .trainer import COURSES, How, Learner, seen

CROP_AND_FLIP = Views(jitter=0.0, grayscale=0.0, blur=0.0, solarize=0.0)
LEAST_HELD = 50  # held-out images without which no choice is made
TRIAL = 0.25  # length of a trial, as a share of the training's


@dataclass(frozen=True)
class Tuned:
    """A network that names classes, and how it came about.

    Attributes:
        net: encoder and linear layer, (n, 3, size, size) in [0, 1] to (n, classes), on the device.
        preprocess: how an image becomes its input.
        device: where it computes.
        chosen: how, rate (for 256 images a step), epochs, steps, batch, precision; and validation, accuracy
            on the held-out images in that rate's trial, None where nothing was tried.
    """

    net: nn.Module
    preprocess: Preprocess
    device: torch.device
    chosen: Mapping[str, Any]

    def logits(self, dataset: ImageDataset) -> Vectors:
        """Give every image of a store its (n, classes) float32 logits, from its centre."""
        return features(self.net, dataset, self.preprocess, device=self.device)

    def answer(self, dataset: ImageDataset) -> Rows:
        """Give every image of a store its likeliest class, (n,) int64."""
        return self.logits(dataset).argmax(axis=1)


def tune(
    encoder: models.Encoder,
    preprocess: Preprocess,
    dataset: ImageDataset,
    held: npt.NDArray[np.bool_],
    *,
    how: How,
    seed: int,
    device: str | torch.device,
    epochs: float | None = None,
    views: Views = CROP_AND_FLIP,
) -> Tuned:
    """Train an encoder, or a layer on it, to name the classes of labelled images.

    Where 50 images are held out, or more, three rates are tried at a quarter of the length on the others, and
    the best by accuracy on the held-out ones is taken; else the usual rate. Then all images are trained on.

    The cost: n images are seen `Course.epochs(n)` times each, or for 200 steps if those are more. To choose
    takes a quarter of that again where the encoder is frozen, since the rates are then tried side by side,
    and three quarters otherwise.

    Args:
        encoder: never changed; what is trained is a copy, or its like with random weights.
        preprocess: how an image becomes the encoder's input when nothing is random.
        store: labelled images, two at least.
        held: (n,) bool, the images that the rate is chosen on, as from `validation_split`; may be all False.
        how: "linear" trains a layer on the frozen encoder, in eval mode; "finetune" the encoder too;
            "scratch" is "finetune" from random weights.
        seed: names every draw, the same for all three.
        device: where to compute.
        epochs: passes over all images, instead of the course's own; a trial makes a quarter of them.
        views: how images are augmented.

    Returns:
        The network and what was chosen.

    Raises:
        NearfarError: there are no labels of two classes, or a frozen encoder's bytes changed.

    Source:
        SimCLR, appendices B.5 (fine-tuning: rate 0.05 bs/256, 60 epochs on few labels, 30 on more) and B.6
        (linear: 0.1 bs/256, 90 epochs).
    """
    if dataset.labels is None or len(dataset.classes) < 2 or len(dataset) < 2:
        raise NearfarError("tuning needs two labelled images and two classes at least; give more images.")
    where = torch.device(device)
    learner = Learner(
        encoder, preprocess, dataset, how=how, seed=seed, device=where, epochs=epochs, views=views
    )
    lr, accuracy = COURSES[how].rates[0], None
    if held.sum() >= LEAST_HELD and (~held).sum() >= 2:
        tried = _try(learner, np.flatnonzero(~held), np.flatnonzero(held))
        lr = max(tried, key=lambda each: tried[each])  # of equals the first, which is the usual one
        accuracy = tried[lr]
    net, facts = learner.train(np.arange(len(dataset)), [lr])
    return Tuned(net, preprocess, where, {"how": how, "lr": lr, "validation": accuracy, **facts})


def cost(how: How, images: int, held: int, size: int) -> int:
    """Tell how many images `tune` trains on, repeats and trials counted.

    Args:
        how: as in `tune`.
        images: there are.
        held: of these, held out to choose on.
        size: side of a view in pixels.
    """
    trials = (1 if how == "linear" else len(COURSES[how].rates)) if held >= LEAST_HELD else 0
    return round(seen(how, images, size) * (1 + TRIAL * trials))


def _try(learner: Learner, rows: Rows, asked: Rows) -> dict[float, float]:
    """Train shortly on some rows at each rate, and give the accuracies on others."""
    rates = COURSES[learner.how].rates
    part, truth = Subset(learner.dataset, asked), learner.dataset.labels[asked]
    found: dict[float, float] = {}
    for together in [rates] if learner.how == "linear" else [(lr,) for lr in rates]:
        net, _ = learner.train(rows, together, TRIAL)
        logits = features(net, part, learner.preprocess, device=learner.device)
        right = logits.reshape(len(part), len(together), -1).argmax(axis=2) == truth[:, None]
        found |= dict(zip(together, right.mean(axis=0).tolist(), strict=True))
    return found
