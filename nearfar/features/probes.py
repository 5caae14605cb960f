"""k-NN and a linear probe on frozen features: the same for an encoder and for its baselines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .. import models
from ..core import rng
from ..core.device import cores
from ..data.dataset import ImageDataset, Subset
from ..data.modalities import modality_of
from ..images.views import Preprocess
from . import knn, logistic, patches
from .colour_histogram import ColourHistogram
from .extract import features
from .whitening import whiten

MAX_VALIDATION = 5000  # training images that choices are made on, at most; and never over a fifth
COPY_CANDIDATES = 3  # nearest training images that are checked as possible copies of a test image
PIXEL_SIDE = 32  # side to which images are reduced for the raw-pixel baseline, at most
MAX_PIXEL_VALUES = 1 << 29  # raw-pixel values in memory at most (2 GiB): beyond, the side shrinks further
MAX_PLAIN_SIDE = 64  # side to which images are reduced for colours and patches, at most
MIN_PATCH_SIDE = 12  # and at least: patches of 6 px, in each of four quarters
PATCH_IMAGES = 2048  # training images that patches are cut from
CALIBRATION_IMAGES = 2048  # training images that an untrained encoder's batch norms are measured on
WARM = 2048  # images up to which two are encoded before the pace is measured
Rows = npt.NDArray[np.int64]
Encode = Callable[[ImageDataset], torch.Tensor]


def validation_split(
    labels: Rows,
    classes: tuple[str, ...],
    seed: int,
    groups: Rows | None = None,
    share: float = 0.2,
) -> npt.NDArray[np.bool_]:
    """Choose the validation images, on which choices are made: the same share of every class.

    Args:
        labels: (n,) class numbers.
        classes: their names.
        seed: names the draw.
        groups: (n,) numbers of the groups that images belong to; a group then stays on one side, and the
            shares are as even as that allows.
        share: of the images, `MAX_VALIDATION` of them at most.

    Returns:
        (n,) bool; a class of a single image has none.
    """
    share = min(share, MAX_VALIDATION / len(labels))
    validation = np.zeros(len(labels), np.bool_)
    sizes = np.bincount(labels, minlength=len(classes))
    wanted = np.where(sizes > 1, np.maximum(1, np.round(share * sizes)), 0).astype(np.int64)
    if groups is not None:
        return _validation_groups(labels, groups, wanted, rng.fold(seed, "held out"))
    for number, name in enumerate(classes):
        rows = np.flatnonzero(labels == number)
        order = rng.permutation(rng.fold(seed, "held out", name), len(rows))
        validation[rows[order[: wanted[number]]]] = True
    return validation


def _validation_groups(labels: Rows, groups: Rows, wanted: Rows, key: int) -> npt.NDArray[np.bool_]:
    """Go through the groups in random order; take each that brings the counts nearer to `wanted`.

    A class that has none then, since its groups are large, gets the group that brings them nearest, even if
    that is more than wanted: one that leaves images of all its classes to fit to or, where there is no such
    group, of this class.
    """
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    left, fitted = wanted.copy(), np.bincount(labels, minlength=len(wanted))
    taken = np.zeros(len(members), np.bool_)

    def held(at: int) -> Rows:
        return np.bincount(labels[members[at]], minlength=len(wanted))

    def excess(at: int) -> int:
        return int(np.abs(left - held(at)).sum())

    def leaves_all(at: int) -> bool:
        there = held(at)
        return bool((fitted > there)[there > 0].all())

    drawn = rng.permutation(key, len(members))
    for at in drawn:
        if excess(at) < np.abs(left).sum() and leaves_all(at):
            taken[at], left, fitted = True, left - held(at), fitted - held(at)
    place = np.empty(len(labels), np.int64)  # of an image's group among the members
    place[order] = np.repeat(np.arange(len(members)), [len(rows) for rows in members])
    turn = np.argsort(drawn)
    for number in np.flatnonzero(wanted):
        own = np.unique(place[labels == number])
        if not taken[own].any() and len(own) > 1:
            leaving = [at for at in own if leaves_all(at)]
            best = min(leaving or own, key=lambda at: (excess(at), turn[at]))
            taken[best], left, fitted = True, left - held(best), fitted - held(best)
    validation = np.zeros(len(labels), np.bool_)
    for at in np.flatnonzero(taken):
        validation[members[at]] = True
    return validation


def untrained(
    encoder: models.Encoder, dataset: ImageDataset, preprocess: Preprocess, seed: int, device: str
) -> nn.Module:
    """Build the same network with random weights, its batch norms and whitening measured on training images.

    Without that measurement its batch norms would do nothing, and the baseline would be too weak.

    Args:
        encoder: the encoder to match.
        dataset: training images.
        preprocess: what they need.
        seed: names the weights and the images.
        device: where to compute.

    Returns:
        The encoder, on the device, in eval mode.
    """
    kind = modality_of(preprocess)
    args: dict[str, Any] = {"args": encoder.args} if encoder.args else {}  # of known encoders alone
    made = kind.encoder(
        encoder.name,
        stem=encoder.stem,
        size=encoder.size,
        seed=seed,
        mean=encoder.mean,
        std=encoder.std,
        **args,
    )
    with models.seeded(seed, "projection"):
        net = models.like(made, encoder).to(device)
    rows = rng.permutation(rng.fold(seed, "calibration"), len(dataset))[:CALIBRATION_IMAGES]

    def batches() -> Iterator[torch.Tensor]:
        for chunk in np.array_split(rows, math.ceil(len(rows) / 256)):
            block = dataset.gather(chunk)
            yield kind.prepare(block, preprocess, threads=cores()).to(device)

    if len(rows) < 2:
        return net.eval()
    models.settle(net, batches())
    whiten(net, dataset, preprocess, seed=seed, device=device)
    return net


def principal_components(
    dataset: ImageDataset, preprocess: Preprocess, device: str, dims: int = 128
) -> nn.Module:
    """Find the principal directions of raw pixels, without labels.

    Args:
        dataset: training images.
        preprocess: what they need.
        device: where to compute.
        dims: components kept, at most.

    Returns:
        (n, 3, size, size) -> (n, dims) centred coordinates, on the device.
    """
    x = torch.from_numpy(features(nn.Flatten(), dataset, preprocess, device=device))
    mean = x.mean(0)
    _, axes = torch.linalg.eigh((x - mean).T @ (x - mean))
    axes = axes[:, -dims:].flip(1).T.contiguous()
    linear = nn.Linear(len(mean), len(axes))
    with torch.no_grad():
        linear.weight.copy_(axes)
        linear.bias.copy_(-(axes @ mean))
    return nn.Sequential(nn.Flatten(), linear).to(device).eval()


def k_means_patches(dataset: ImageDataset, preprocess: Preprocess, seed: int, device: str) -> nn.Module:
    """Learn the centres of small patches, without labels.

    Args:
        dataset: training images.
        preprocess: what they need; a side of at least `MIN_PATCH_SIDE`.
        seed: names the images, the places of patches and the first centres.
        device: where the images are then encoded.

    Returns:
        (n, 3, size, size) -> (n, 8 x centres), on the device; so many centres that the features of all
        images have at most `MAX_PIXEL_VALUES` values.
    """
    rows = rng.permutation(rng.fold(seed, "patches"), len(dataset))[:PATCH_IMAGES]
    kind = modality_of(preprocess)
    batches = (
        kind.prepare(dataset.gather(chunk), preprocess, threads=cores())
        for chunk in np.array_split(rows, math.ceil(len(rows) / 256))
    )
    centres = max(1, min(patches.CENTRES, MAX_PIXEL_VALUES // (8 * len(dataset))))
    made = patches.fit(batches, rng.fold(seed, "centres") % 2**63, centres=centres)
    return made.to(device).eval()


@dataclass(frozen=True)
class ProbeOutputs:
    """What one feature probe gives for the test images.

    Attributes:
        dataset: the images.
        x: (m, d) features, on the device.
        nearest: (m, up to COPY_CANDIDATES) int64, the most similar training images, the most similar first.
        logits: (m, classes) of the linear classifier, on the device.
        knn, linear: (m,) int64, the classifiers' answers.
    """

    dataset: ImageDataset
    x: torch.Tensor
    nearest: Rows
    logits: torch.Tensor
    knn: Rows
    linear: Rows


class FeatureProbe:
    """One feature set with a k-NN and a linear classifier: chosen, fitted, then applied once."""

    def __init__(
        self,
        encode: Encode,
        dataset: ImageDataset,
        validation: npt.NDArray[np.bool_],
        *,
        centred: bool,
        groups: Rows | None = None,
    ) -> None:
        """Encode the training images, choose on the validation images, and fit on all.

        Args:
            encode: turns a data set into (n, d) features on the device.
            dataset: the training images, with labels.
            validation: (n,) bool, from `validation_split`.
            centred: whether the training mean is subtracted before anything else.
            groups: (n,) numbers of the groups that images belong to, for what is chosen within a few labels.
        """
        assert dataset.labels is not None
        self.encode, self.classes, self.validation = encode, dataset.classes, validation
        self.groups = groups
        if len(dataset) <= WARM:  # else what is made at first use would count as slowness
            few: Any = Subset(dataset, np.arange(min(2, len(dataset))))
            encode(few)
        began = time.perf_counter()
        x = encode(dataset)
        self.images_per_second = len(dataset) / max(time.perf_counter() - began, 1e-9)
        self.mean = x.mean(dim=0) if centred else torch.zeros_like(x[0])
        self.x = x.sub_(self.mean)
        self.y = torch.from_numpy(dataset.labels).to(x.device)
        count = len(self.classes)
        out = torch.from_numpy(np.flatnonzero(validation)).to(x.device)
        kept = torch.from_numpy(np.flatnonzero(~validation)).to(x.device)
        fitted, own, asked, truth = self.x[kept], self.y[kept], self.x[out], self.y[out]
        similarity, who = knn.top_k(asked, fitted, min(max(knn.NEIGHBOURS), len(fitted)))
        self.vote = knn.choose_vote(similarity, own[who], truth, count)
        chosen = logistic.choose(fitted, own, asked, truth, count)
        del fitted, asked
        self.l2, self.linear = chosen.l2, logistic.fit(self.x, self.y, count, chosen.l2, start=chosen)

    def chosen(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Tell what was chosen for k-NN and linear; C is scikit-learn's, on standardised features."""
        return (
            {"k": self.vote.k, "temperature": self.vote.temperature},
            {"C": 1 / (len(self.x) * self.l2)},
        )

    @torch.no_grad()
    def predict(self, test: ImageDataset) -> ProbeOutputs:
        """Encode the test images, and give both classifiers' answers for them."""
        x = self.encode(test).sub_(self.mean)
        similarity, who = knn.top_k(x, self.x, min(max(self.vote.k, COPY_CANDIDATES), len(self.x)))
        k, logits = self.vote.k, self.linear.logits(x)
        votes = knn.knn_votes(similarity[:, :k], self.y[who[:, :k]], len(self.classes), self.vote.temperature)
        by_votes, by_logits = votes.argmax(dim=1).cpu().numpy(), logits.argmax(dim=1).cpu().numpy()
        return ProbeOutputs(test, x, who[:, :COPY_CANDIDATES].cpu().numpy(), logits, by_votes, by_logits)

    def predict_linear(self, images: ImageDataset) -> Rows:
        """Give the linear classifier's answers alone, (m,) int64."""
        return self.linear.predict(self.encode(images).sub_(self.mean)).cpu().numpy()


def encode_with(net: nn.Module, preprocess: Preprocess, device: torch.device, batch_size: int) -> Encode:
    """Make a function that encodes images by a network.

    Args:
        net: (n, 3, size, size) floats in [0, 1] to (n, d).
        preprocess: what it needs.
        device: where to compute.
        batch_size: images encoded at a time.

    Returns:
        A function of a data set, giving (n, d) features on the device.
    """

    def encode(images: ImageDataset) -> torch.Tensor:
        return torch.from_numpy(features(net, images, preprocess, device=device, batch_size=batch_size)).to(
            device
        )

    return encode


def feature_sets(
    encoder: models.Encoder,
    preprocess: Preprocess,
    dataset: ImageDataset,
    seed: int,
    device: torch.device,
    batch_size: int,
) -> dict[str, Callable[[], tuple[Encode, bool]]]:
    """List the feature sets: encoder, untrained, and those of `baselines` that the kind of data names.

    Args:
        encoder: on the device.
        preprocess: what it needs.
        dataset: the training images.
        seed: names the untrained weights.
        device: where to compute.
        batch_size: images encoded at a time.

    Returns:
        By name a function that makes what encodes images, and tells whether the mean is to be subtracted.
    """
    side = max(1, min(PIXEL_SIDE, preprocess.size, math.isqrt(MAX_PIXEL_VALUES // (3 * len(dataset)))))
    small = replace(preprocess, size=side)

    def by(net: nn.Module, preprocess: Preprocess) -> Encode:
        return encode_with(net, preprocess, device, batch_size)

    def random_weights() -> nn.Module:
        return untrained(encoder, dataset, preprocess, seed, str(device))

    plain = replace(preprocess, size=min(preprocess.size, MAX_PLAIN_SIDE))
    large = replace(plain, size=max(plain.size, MIN_PATCH_SIDE))
    made: dict[str, Callable[[], tuple[Encode, bool]]] = {
        "encoder": lambda: (by(encoder, preprocess), False),
        "pixels": lambda: (by(nn.Flatten(), small), True),
        "pca": lambda: (by(principal_components(dataset, small, str(device)), small), False),
        "colours": lambda: (by(ColourHistogram(), plain), False),
        "patches": lambda: (by(k_means_patches(dataset, large, seed, str(device)), large), False),
        "untrained": lambda: (by(random_weights(), preprocess), False),
    }
    kind = modality_of(preprocess)

    def own(name: str) -> tuple[Encode, bool]:
        return by(*kind.baseline(name, preprocess)), False

    made |= {name: partial(own, name) for name in kind.baselines if name not in made and name != "scratch"}
    known = ("encoder", "untrained", *kind.baselines)
    return {name: way for name, way in made.items() if name in known}
