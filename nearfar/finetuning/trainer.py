"""Trains linear layers on an encoder, or the encoder with its layer, on labelled images.

The SimCLR protocol: random crops and flips, SGD with Nesterov's momentum, half a cosine, no weight decay. But
an encoder with layer norms, as transformers have, is trained by AdamW, its layers near the image more slowly:
SGD hardly moves such networks.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import models
from ..core import progress, rng
from ..core.device import cores, multiplies_bfloat16
from ..core.errors import NearfarError
from ..data.dataset import Subset
from ..data.loader import DataLoader
from ..features import probes
from ..features.extract import Vectors, features, fingerprint
from ..features.probes import Rows
from ..images.views import Preprocess
from ..methods.base import Batch, Loss, Method
from ..training import engine
from ..training.adapting import layers
from ..training.schedule import StepPlan

Mode = Literal["linear", "finetune", "scratch"]

BATCH, LARGE_SIDE, LARGE_BATCH = 256, 96, 64  # images a step; and above that side, where all is trained
MIN_STEPS = 200
SCALE_IMAGES = 2048  # images that the layers' input is centred and scaled by
INPUT_NORM = 8.0  # of the layers' input, as the root of its mean square over images


@dataclass(frozen=True)
class TrainRecipe:
    """How a mode trains: its learning rates for 256 images a step, the usual one first, and its length."""

    title: str  # of the progress bar
    lrs: tuple[float, ...]
    views: int  # images seen in all, repeats counted, within the two bounds on epochs
    max_epochs: int
    min_epochs: int = 10

    def epochs(self, images: int) -> float:
        """Give the number of epochs: the more images there are, the fewer."""
        return min(self.max_epochs, max(self.min_epochs, self.views / images))


RECIPES: Mapping[Mode, TrainRecipe] = {
    "linear": TrainRecipe("training a linear layer", (0.1, 0.02, 0.5), views=1_000_000, max_epochs=90),
    "finetune": TrainRecipe("fine-tuning", (0.05, 0.0125, 0.2), views=500_000, max_epochs=60),
    "scratch": TrainRecipe("training from scratch", (0.05, 0.0125, 0.2), views=500_000, max_epochs=60),
}


ADAMW_LRS = (1e-3, 2.5e-4, 4e-3)  # for 256 images a step, the usual one first
RATE_DECAY, WEIGHT_DECAY = 0.75, 0.05  # of AdamW: of the rate from layer to layer, and of the weights


def takes_adamw(f: nn.Module) -> bool:
    """Tell whether an encoder is trained by AdamW, where it is trained.

    Args:
        f: the encoder.

    Returns:
        Whether it has layer norms.

    Source:
        He et al. 2022 (MAE), appendix A.1, fine-tuning: AdamW, and layer-wise decay of the rate.
    """
    return any(isinstance(part, nn.LayerNorm) for part in f.modules())


def lrs_of(mode: Mode, f: nn.Module) -> tuple[float, ...]:
    """Give the learning rates that a mode tries with an encoder, for 256 images a step, the usual first."""
    return ADAMW_LRS if mode != "linear" and takes_adamw(f) else RECIPES[mode].lrs


def adamw(
    f: models.Encoder, head: Sequence[nn.Parameter], lr: float, share: float = 1.0
) -> torch.optim.AdamW:
    """Make AdamW for an encoder and its head; from random weights all layers learn at one rate.

    Args:
        f: the encoder.
        head: the weights of the head.
        lr: the learning rate at its peak.
        share: a factor on it.
    """
    depth = layers(f)
    last, decay = max(depth.values(), default=0), 1.0 if f.untrained else RATE_DECAY
    groups = [{"params": list(head), "lr_scale": share}]
    for name, weight in f.named_parameters():
        kept = WEIGHT_DECAY if weight.ndim > 1 else 0.0
        scale = share * decay ** (last - depth[name])
        groups.append({"params": [weight], "lr_scale": scale, "weight_decay": kept})
    return torch.optim.AdamW(groups, lr, weight_decay=WEIGHT_DECAY)


class Network(Method):
    """An encoder, and independent linear layers on its centred and scaled output, trained side by side.

    Layers start at 0. Features are centred and scaled, so that one grid of learning rates fits every encoder.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    mean: Tensor
    scale: Tensor

    def __init__(self, f: models.Encoder, start: Vectors, classes: int, layers: int, frozen: bool) -> None:
        """Put layers on an encoder.

        Args:
            f: the encoder; it is trained too unless frozen.
            start: (m, dim) features of some images, to centre and scale by.
            classes: how many there are.
            layers: how many; one, unless frozen.
            frozen: whether the encoder stays as it is, in eval mode.
        """
        super().__init__(f.requires_grad_(not frozen), None)
        self.frozen = frozen
        x = torch.from_numpy(start)
        length = float((x - x.mean(0)).square().sum(1).mean().sqrt())
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("scale", torch.tensor(INPUT_NORM / length if length > 0 else 1.0))
        self.layers: Any = nn.ModuleList(nn.Linear(x.shape[1], classes) for _ in range(layers))
        for weight in self.layers.parameters():
            nn.init.zeros_(weight)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.f.eval()
        return self

    def forward(self, batch: Batch) -> Loss:
        """Give each layer's cross-entropy, in float32; a frozen encoder builds no graph."""
        assert batch.labels is not None
        h = self.f(torch.cat(batch.views))
        with torch.autocast(h.device.type, enabled=False):
            x = (h.float() - self.mean) * self.scale
            each = enumerate(self.layers)
            return Loss({str(k): F.cross_entropy(layer(x), batch.labels) for k, layer in each})

    def optimizer(self, lrs: Sequence[float], lr: float) -> torch.optim.Optimizer:
        """Make the optimizer; each layer has a learning rate of its own, the encoder that of the first."""
        found = [list(layer.parameters()) for layer in self.layers]
        if not self.frozen and takes_adamw(self.f):
            return adamw(self.f, found[0], lr, lrs[0])
        if not self.frozen:
            found[0] += list(self.f.parameters())
        groups = [{"params": group, "lr_scale": scale} for group, scale in zip(found, lrs, strict=True)]
        return torch.optim.SGD(groups, lr, momentum=0.9, nesterov=True, fused=True)

    @torch.no_grad()
    def plain(self) -> nn.Sequential:
        """Give encoder and layers as a plain network, (n, layers x classes), the scaling folded in."""
        weight = torch.cat([layer.weight for layer in self.layers]) * self.scale
        bias = torch.cat([layer.bias for layer in self.layers]) - weight @ self.mean
        joined = nn.Linear(weight.shape[1], len(weight), device=weight.device)
        joined.weight.copy_(weight)
        joined.bias.copy_(bias)
        return nn.Sequential(self.f, joined).eval()


class FineTuner:
    """One encoder, labelled images and a mode; every training starts from the same state."""

    def __init__(
        self,
        encoder: Any,
        preprocess: Preprocess,
        dataset: Any,
        *,
        mode: Mode,
        seed: int,
        device: torch.device,
        epochs: float | None,
        views: Any,
    ) -> None:
        """Copy the encoder, or build the same network again; see `train_classifier` for the arguments."""
        self.preprocess, self.dataset, self.mode, self.seed = preprocess, dataset, mode, seed
        self.device, self.epochs, self.views = device, epochs, views
        if mode == "scratch":
            self.origin: Any = probes.untrained(encoder, dataset, preprocess, seed, str(device))
        else:
            self.origin = copy.deepcopy(encoder).to(device)
        self.origin.to(memory_format=torch.channels_last)
        rows = rng.permutation(rng.fold(seed, "scale"), len(dataset))[:SCALE_IMAGES]
        self.start = features(self.origin, Subset(dataset, np.sort(rows)), preprocess, device=device)

    def train(
        self, rows: Rows, lrs: Sequence[float], share: float = 1.0
    ) -> tuple[nn.Sequential, dict[str, Any]]:
        """Train on some images.

        Args:
            rows: (n,) which, two at least.
            lrs: learning rates for 256 images a step; several for a frozen encoder only.
            share: of the full length.

        Returns:
            A network to (n, len(lrs) x classes) logits; and epochs, steps, batch and precision.

        Raises:
            NearfarError: a frozen encoder's bytes changed.
        """
        frozen, size = self.mode == "linear", self.preprocess.size
        f = self.origin if frozen else copy.deepcopy(self.origin)
        before = fingerprint(f) if frozen else ""
        network = Network(f, self.start, len(self.dataset.classes), len(lrs), frozen).to(self.device)
        batch_size = batch_images(len(rows), size, frozen)
        steps = training_steps(self.mode, len(rows), batch_size, share, self.epochs)
        lr = batch_size / 256  # times the share of each group
        loader = DataLoader(
            Subset(self.dataset, rows),
            [self.views],
            size=size,
            batch_size=batch_size,
            seed=rng.fold(self.seed, "tuning"),
            threads=cores(),
            device=self.device if self.device.type == "cuda" else None,
            labels=self.dataset.labels[rows],
        )
        precision = _precision(self.device)
        try:
            with progress.Bar(RECIPES[self.mode].title, steps * batch_size) as bar:
                for _ in engine.train(
                    network,
                    loader,
                    network.optimizer(lrs, lr),
                    plan=StepPlan(((0, steps),)),
                    lr=lr,
                    warmup=0.0,
                    device=self.device,
                    precision=precision,
                ):
                    bar.advance(batch_size)
        finally:
            loader.close()
        if frozen and fingerprint(f) != before:
            raise NearfarError(
                "the frozen encoder changed in training, so the scores are invalid; please report this."
            )
        facts = {
            "epochs": steps * batch_size / len(rows),
            "steps": steps,
            "batch_size": batch_size,
            "precision": precision,
        }
        return network.plain(), facts


def training_steps(mode: Mode, images: int, batch_size: int, share: float, epochs: float | None) -> int:
    """Count the steps of a training on so many images."""
    if epochs is not None:
        return max(1, round(share * epochs * images / batch_size))
    epochs = RECIPES[mode].epochs(images)
    return round(share * max(MIN_STEPS, epochs * images / batch_size))


def batch_images(images: int, size: int, frozen: bool) -> int:
    """Choose the images of a step: batches nearly as large as each other, so that none is left out."""
    most = BATCH if frozen or size <= LARGE_SIDE else LARGE_BATCH
    return images // -(-images // most)


def images_seen(mode: Mode, images: int, size: int) -> int:
    """Count the images that a training sees, repeats counted.

    Args:
        mode: how it is trained.
        images: how many there are.
        size: side of a view in pixels.

    Returns:
        Images, without the trials that choose its learning rate.
    """
    batch_size = batch_images(images, size, mode == "linear")
    return batch_size * training_steps(mode, images, batch_size, 1.0, None)


def _precision(device: torch.device) -> str:
    """Choose the arithmetic by what the device has instructions for: a measurement could end either way."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if device.type == "cpu" and multiplies_bfloat16() else "float32"
