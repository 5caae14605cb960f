"""A fine-tuned classifier as a folder that timm and transformers open, its head as their last layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..finetuning.class_network import Classifier
from ..finetuning.task_types import HeadExport
from ..finetuning.tuned import Tuned
from ..training.run import Run
from . import timm_folder
from .transformers_folder import quiet

OPENED = {
    "timm": "timm.create_model('local-dir:{folder}', pretrained=True)",
    "transformers": "transformers.AutoModelForImageClassification.from_pretrained('{folder}')",
}


@dataclass(frozen=True)
class LastLayer:
    """The last layer of a classifier: weight (classes, dim), bias (classes,), and the classes' names."""

    weight: Tensor
    bias: Tensor
    classes: tuple[str, ...]

    def named(self, net: Any) -> dict[str, Tensor]:
        """Give both as the network's own file calls them."""
        name = net.pretrained_cfg["classifier"]
        return {f"{name}.weight": self.weight, f"{name}.bias": self.bias}


def last_layer(run: Run, found: Tuned) -> LastLayer | None:
    """Fold what a head does into one layer, whose outputs are logits of calibrated probabilities.

    Args:
        run: fine-tuned.
        found: the same, opened.

    Returns:
        The layer; None where the network or the head is no such one, as with layers of a head between.
    """
    network: Any = found.network
    if not isinstance(network, Classifier) or network.head.neck is not None:
        return None
    if timm_folder.architecture(run.encoder) is None or run.encoder.projection is not None:
        return None
    if not isinstance(getattr(run.encoder.net, "pretrained_cfg", {}).get("classifier"), str):
        return None  # torchvision's, and distilled networks, which have two
    head, task = network.head, found.task
    with torch.no_grad():
        weight = head.linear.weight * head.scale
        bias = head.linear.bias - weight @ head.mean
        heat = float(getattr(task, "temperature", 1.0))
        return LastLayer((weight / heat).cpu().contiguous(), (bias / heat).cpu(), tuple(task.classes))


def described(made: HeadExport) -> HeadExport:
    """Say what the folder's network answers, in place of the probabilities of other exports."""
    says = (
        "Logits (n, classes), float32, calibrated: the probabilities are their softmax, or, where an image "
        "may have several labels, their sigmoid. The classes are `label_names` in config.json.",
    )
    return HeadExport(made.module, made.shape, 0, ("logits",), says, made.tag)


def compared(run: Run, found: Tuned, layer: LastLayer, folder: Path, to: str) -> float:
    """Ask the other library and ours about random images; the largest difference, over the largest logit."""
    side = run.preprocess.size
    x = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(list(one)).view(1, 3, 1, 1) for one in (run.encoder.mean, run.encoder.std))
    with torch.inference_mode():
        ours = found.network.eval().head(run.encoder.eval()(x)) / float(getattr(found.task, "temperature", 1))
        theirs = _opened(folder, to, layer)((x - mean) / std)
    return float((theirs - ours).abs().max() / ours.abs().max().clamp_min(1e-12))


def _opened(folder: Path, to: str, layer: LastLayer) -> Callable[[Tensor], Tensor]:
    if to == "timm":
        import timm

        net: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        return lambda x: net(x)
    from transformers import AutoModelForImageClassification

    with quiet():
        model: Any = AutoModelForImageClassification.from_pretrained(folder).eval()
    assert tuple(model.config.id2label.values()) == layer.classes
    return lambda x: model(pixel_values=x).logits
