"""Measures an encoder on labelled images, honestly: frozen, beside three baselines, the test set read once.

Everything that has to be chosen (k, temperature, penalty) is chosen on held-out training images, for the
encoder and for each baseline alike. Only then is the test set opened, and each image in it read once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from . import progress
from .data import pack
from .data.sources import Source, open_source
from .errors import NearfarError
from .features import cores, features, fingerprint
from .readers import Encode, Reader, Rows, held_out, principal, untrained
from .resolve import device_named
from .run import Run, load
from .scores import Score, mixed_up, percent, score
from .settings import Training
from .views import Preprocess

PIXELS = 32  # side to which images are reduced for the raw-pixel baseline, at most
BASELINES = ("pixels", "untrained")
NUMBERS = 1 << 29  # raw-pixel numbers in memory at most (2 GiB): beyond, the side shrinks further


@dataclass(frozen=True)
class Evaluation:
    """Scores of the encoder and of the baselines, by name: encoder, pixels, untrained, chance.

    Attributes:
        knn: weighted cosine k-NN.
        linear: logistic regression.
        classes: the classes of the training images.
        images: counts: train, held_out, test, rejected (of both), shared (test images also in train).
        encoder: name, dim and the digest of its bytes, the same before and after.
        seed: names the held-out images, the untrained weights and the resamples.
    """

    knn: Mapping[str, Score]
    linear: Mapping[str, Score]
    classes: tuple[str, ...]
    images: Mapping[str, int]
    encoder: Mapping[str, Any]
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Write everything in plain values: {"knn": {"encoder": {"accuracy": ..}, ..}, "linear": ..}."""
        return {
            "knn": {name: item.to_json() for name, item in self.knn.items()},
            "linear": {name: item.to_json() for name, item in self.linear.items()},
            "classes": list(self.classes),
            "images": dict(self.images),
            "encoder": dict(self.encoder),
            "seed": self.seed,
        }

    def table(self) -> str:
        """Write the figures as people read them, a few lines; the confusion in full is in the JSON."""
        count = self.images
        lines = [
            f"{count['train']:,} training images ({count['held_out']:,} of them held out for choices), "
            f"{count['test']:,} test images, {len(self.classes)} classes",
            "",
            f"{'accuracy (95 % interval)':26}{'k-NN':24}{'linear':24}",
        ]
        for name in self.knn:
            cells = [
                f"{percent(item.accuracy)} ({100 * item.low:.1f} to {100 * item.high:.1f})"
                for item in (self.knn[name], self.linear[name])
            ]
            lines.append(f"{name:26}{cells[0]:24}{cells[1]:24}".rstrip())
        best, line = self.knn["encoder"], self.linear["encoder"]
        lines += [
            "",
            f"chosen: k {best.chosen['k']}, temperature {best.chosen['temperature']}, "
            f"C {line.chosen['C']:.3g}",
        ]
        if count["shared"]:
            lines.append(f"beware: {count['shared']:,} test images are also training images, byte for byte")
        if count["rejected"]:
            lines.append(f"{count['rejected']:,} unusable images were left out")
        if len(self.classes) <= 30:
            lines += ["", f"{'recall of the encoder':26}{'k-NN':10}{'linear':10}{'test images'}"]
            for near, straight in zip(best.per_class, line.per_class, strict=True):
                lines.append(
                    f"{near.name[:24]:26}{percent(near.recall):10}{percent(straight.recall):10}{near.images:,}"
                )
        wrong = [f"{images:,} {true} taken for {answer}" for true, answer, images in mixed_up(line)]
        if wrong:
            lines += ["", f"most mistaken (linear): {'; '.join(wrong)}"]
        return "\n".join(lines)


def evaluate(
    run: Run | str | Path,
    *,
    train: Any,
    test: Any,
    seed: int = 0,
    device: str = "auto",
    batch: int = 256,
    baselines: Sequence[str] = BASELINES,
) -> Evaluation:
    """Measure an encoder by k-NN and by logistic regression on frozen features.

    Beside it stand raw pixels (the same centred square, at most 32 px a side, less the training mean), an
    untrained encoder of the same make, and chance (the most frequent training class). Memory: the
    features of both sets, and at most 2 GiB of raw pixels; images as `pack.load` keeps them.

    Args:
        run: a run, or its folder.
        train: labelled images to fit and to choose on, as `sources.open_source` takes them; labels are
            first-level folder names or a list's column.
        test: labelled images, read once, after every choice is made.
        seed: names the held-out images, the untrained encoder and the bootstrap's resamples.
        device: "auto", "cpu", "cuda" or "mps".
        batch: images encoded at a time.
        baselines: which to measure, of "pixels", "pca" (their 128 principal directions, found without
            labels) and "untrained".

    Returns:
        The scores.

    Raises:
        NearfarError: images or labels cannot be used, or the encoder's bytes changed on the way.

    Source:
        k-NN: Wu et al. 2018, section 3.4. Logistic regression on stored features by L-BFGS: SimCLR,
        appendix B.8.
    """
    run = run if isinstance(run, Run) else load(run)
    where = device_named(device)
    train_source, test_source = open_source(train, labels=True), open_source(test, labels=True)
    _check_labels(train_source, test_source)
    frozen = run.encoder if where.type == "cpu" else copy.deepcopy(run.encoder).to(where)
    before = fingerprint(frozen)

    store = _read(train_source, run.preprocess)
    assert store.labels is not None
    if len(store.classes) < 2:
        raise NearfarError(
            f"{train_source.name} holds one class, {store.classes[0]!r}; telling apart needs two."
        )
    held = held_out(store.labels, store.classes, seed)
    if not held.any():
        raise NearfarError(
            f"every class of {train_source.name} has one image; give two of some class at least."
        )
    side = max(1, min(PIXELS, run.preprocess.size, math.isqrt(NUMBERS // (3 * len(store)))))
    small = replace(run.preprocess, size=side)

    def with_encoder(net: nn.Module, preprocess: Preprocess) -> Encode:
        def encode(images: pack.Store) -> torch.Tensor:
            found = features(net, images, preprocess, device=where, batch=batch)
            return torch.from_numpy(found).to(where)

        return encode

    ways: dict[str, Callable[[], tuple[Encode, bool]]] = {
        "encoder": lambda: (with_encoder(frozen, run.preprocess), False),
        "pixels": lambda: (with_encoder(nn.Flatten(), small), True),
        "pca": lambda: (with_encoder(principal(store, small, str(where)), small), False),
        "untrained": lambda: (
            with_encoder(untrained(run.encoder, store, run.preprocess, seed, str(where)), run.preprocess),
            False,
        ),
    }
    readers: dict[str, Reader] = {}
    for name in ("encoder", *baselines):
        progress.say(f"Fitting on {name} of {len(store):,} training images")
        encode, centred = ways[name]()
        readers[name] = Reader(encode, store, held, centred=centred)

    # Every choice is made; only now is a test image opened.
    test_store = _read(test_source, run.preprocess)
    assert test_store.labels is not None
    truth = _renumbered(test_store, store.classes, train_source.name)
    knn: dict[str, Score] = {}
    linear: dict[str, Score] = {}
    for name, reader in readers.items():
        progress.say(f"Testing {name} on {len(test_store):,} images")
        near, straight = reader.answer(test_store)
        by_knn, by_line = reader.chosen()
        knn[name] = score(truth, near, store.classes, by_knn, seed)
        linear[name] = score(truth, straight, store.classes, by_line, seed)
    most = int(np.bincount(store.labels).argmax())
    guess = {"class": store.classes[most]}
    knn["chance"] = linear["chance"] = score(truth, np.full_like(truth, most), store.classes, guess, seed)

    if fingerprint(frozen) != before:
        raise NearfarError(
            "the encoder changed while it was evaluated, so the figures are void; report this."
        )
    seen = {digest.tobytes() for digest in store.digests}
    return Evaluation(
        knn=knn,
        linear=linear,
        classes=store.classes,
        images={
            "train": len(store),
            "held_out": int(held.sum()),
            "test": len(test_store),
            "rejected": len(store.rejected) + len(test_store.rejected),
            "shared": sum(digest.tobytes() in seen for digest in test_store.digests),
        },
        encoder={"name": run.encoder.name, "dim": run.encoder.dim, "sha256": before},
        seed=seed,
    )


def _read(source: Source, preprocess: Preprocess) -> pack.Store:
    """Decode a labelled collection, at the short side that training keeps too."""
    store = pack.load(
        source,
        short_side=-(-preprocess.size * 8 // 7),
        max_pixels=Training.max_pixels,
        max_bad=Training.max_bad,
        threads=cores(),
    )
    assert isinstance(store, pack.Store)
    return store


def _check_labels(train: Source, test: Source) -> None:
    """Refuse a test set with classes that training has no image of, before any image is read."""
    unknown = sorted(set(test.labels or ()) - set(train.labels or ()))
    if unknown:
        raise NearfarError(
            f"{test.name} has classes that {train.name} has not ({', '.join(unknown[:3])}"
            f"{', ...' if len(unknown) > 3 else ''}); give training images of each, or take them out."
        )


def _renumbered(store: pack.Store, classes: tuple[str, ...], train: str) -> Rows:
    """Give the test labels as numbers of the training classes."""
    assert store.labels is not None
    missing = [name for name in store.classes if name not in classes]
    if missing:
        raise NearfarError(
            f"every training image of class {missing[0]!r} in {train} is unusable; see nearfar check."
        )
    numbers = np.array([classes.index(name) for name in store.classes], np.int64)
    return numbers[store.labels]
