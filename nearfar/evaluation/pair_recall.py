"""`nearfar pairs`: how often captions find their images, images their captions, and names their classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .. import models
from ..analysis.bm25 import BM25
from ..core import progress, rng
from ..core.device import cores, device_named
from ..core.errors import NearfarError
from ..core.intervals import wilson
from ..core.text import as_list, columns, counted, percent
from ..core.words import words_of
from ..data.dataset import ImageDataset, Subset
from ..data.modalities import IMAGES, modality
from ..data.open import open_data
from ..data.pairs import PairSource
from ..embedding.words import TEMPLATES, of_names, text_run
from ..features.extract import Vectors, features
from ..features.knn import unit
from ..features.probes import FeatureProbe, encode_with, untrained, validation_split
from ..training.run import Run, load
from ..training.settings import Training
from . import labelled_data
from .accuracy import Accuracy

RANKS = (1, 5, 10)
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Recall:
    """How often the right one is among the first 1, 5 and 10: shares from 0 to 1.

    Attributes:
        image: of captions, that find their image.
        text: of images, that find one of their captions.
        low, high: the 95 % interval of the first of `image`: Wilson's, or where images have several captions,
            which are alike, by a bootstrap over images.
    """

    image: tuple[float, ...]
    text: tuple[float, ...]
    low: float
    high: float


@dataclass(frozen=True)
class WordClasses:
    """Accuracy on labelled images by the names of their classes, on the half that no classifier saw.

    Attributes:
        words: by the names alone; `low`, `high` is its 95 % Wilson interval.
        linear: of a linear classifier on the encoder, fitted on the other half.
        untrained: of one on the same network with random weights.
        chance: the share of the most frequent class.
        images, classes: how many were asked.
    """

    words: float
    low: float
    high: float
    linear: float
    untrained: float
    chance: float
    images: int
    classes: int


@dataclass(frozen=True)
class PairRecall:
    """What `pairs` found.

    Attributes:
        rows: each way to compare, by name; "chance" is computed.
        images, captions: how many there are; captions of the same words count once, and any image of one is
            right, as any of the same bytes is.
        rejected: images that could not be used.
        classes: of labelled images, if there are any.
        aside: captions that could not be used, of images that could.
    """

    rows: Mapping[str, Recall]
    images: int
    captions: int
    rejected: int
    classes: WordClasses | None
    aside: int = 0

    def to_json(self) -> dict[str, Any]:
        """Write it in plain values."""
        classes = None if self.classes is None else vars(self.classes)
        rows = {name: vars(row) for name, row in self.rows.items()}
        return {**vars(self), "rows": rows, "classes": classes}

    def __str__(self) -> str:
        """Write a table."""
        heads = [f"{what} R@{k}" for what in ("image", "text") for k in RANKS]
        cells = [
            [
                name,
                *(f"{100 * share:.1f}" for share in row.image),
                *(f"{100 * share:.1f}" for share in row.text),
                f"{100 * row.low:.1f} to {100 * row.high:.1f}" if name != "chance" else "",
            ]
            for name, row in self.rows.items()
        ]
        lines = columns(["compared by", *heads, "image R@1, 95 %"], cells)
        bad = ((self.rejected, "image"), (self.aside, "caption"))
        told = " and ".join(counted(count, what) for count, what in bad if count)
        left = f"; {told} could not be used" if told else ""
        lines.append(f"{counted(self.images, 'image')}, {counted(self.captions, 'caption')}{left}")
        if (found := self.classes) is not None:
            lines.append(
                f"classes by their names: {percent(found.words)} right ({percent(found.low)} to "
                f"{percent(found.high)}) of {counted(found.images, 'image')} of "
                f"{counted(found.classes, 'class')}; a linear classifier on the other half: "
                f"{percent(found.linear)} on this encoder, {percent(found.untrained)} on an untrained one; "
                f"the most frequent class: {percent(found.chance)}"
            )
        return "\n".join(lines)


def pairs(
    run: Run | str | Path,
    test: Any,
    *,
    classes: Any = None,
    templates: Sequence[str] = TEMPLATES,
    seed: int = 0,
    device: str = "auto",
) -> PairRecall:
    """Find the image of each caption among all images, and a caption of each image among all captions.

    Example: nearfar pairs runs/captions test/captions.csv --classes labelled/

    Args:
        run: the folder of a run with encoders of images and of texts, or a known such model.
        test: images with captions that no training saw; a folder, a table, shards or a list.
        classes: labelled images, to classify by the names of their classes; a linear classifier learns from
            one half of them, and all are measured on the other.
        templates: sentences around the name of a class, with {} for it.
        seed: random seed of the untrained encoders and of the halves.
        device: where to compute.

    Returns:
        Recall both ways, beside chance, untrained encoders and the names of the files.

    Raises:
        NearfarError: the run has no encoder of texts, or there are fewer than two images with captions.
    """
    opened = load(run)
    words, where = text_run(opened), device_named(device)
    source: Any = open_data(test, expected="pairs")
    dataset: Any = modality(IMAGES).load(
        source, opened.preprocess, limit=Training.max_pixels, max_bad=1.0, threads=cores()
    )
    if len(dataset) < 2:
        raise NearfarError(f"{source.name} has one image to find; give two or more with captions.")
    texts, right = _answers(source, dataset)
    blank = Run(None, _untrained_texts(words, seed), words.preprocess, {"source": "untrained"}, {})
    random: Any = untrained(opened.encoder, dataset, opened.preprocess, seed, str(where))
    ways = {
        name: _cosines(net, dataset, opened.preprocess, told.encode(texts, device=device), where)
        for name, net, told in (("encoder", opened.encoder, words), ("untrained", random, blank))
    }
    names = [Path(name).stem.replace("_", " ").replace("-", " ") for name in dataset.ids]
    index = BM25(names)
    by_name = np.stack([index.scores(text) for text in texts], axis=1)
    if by_name.max(initial=0.0) > 0:
        ways["file names (bm25)"] = by_name
    rows = {name: _recall(table, right) for name, table in ways.items()}
    rows["chance"] = _chance(right)
    told = None if classes is None else _by_words(opened, classes, as_list(templates), seed, where)
    return PairRecall(rows, len(dataset), len(texts), len(dataset.rejected), told, len(source.set_aside))


def _answers(source: PairSource, dataset: ImageDataset) -> tuple[list[str], Flags]:
    """List the captions, each once, and tell which belong to which image: (images, captions).

    Captions of the same words are one, and of images of the same bytes each has the captions of all: nothing
    could tell them apart.
    """
    held = dict(zip(source.ids, source.captions, strict=True))
    texts: dict[str, str] = {}
    for text in (text for name in dataset.ids for text in held[name]):
        texts.setdefault(_words(text), text)
    number = {words: at for at, words in enumerate(texts)}
    found: dict[bytes, set[int]] = {}
    marks = [digest.tobytes() for digest in dataset.digests]
    for mark, name in zip(marks, dataset.ids, strict=True):
        found.setdefault(mark, set()).update(number[_words(text)] for text in held[name])
    right = np.zeros((len(dataset), len(texts)), np.bool_)
    for row, mark in zip(right, marks, strict=True):
        row[list(found[mark])] = True
    return list(texts.values()), right


def _words(text: str) -> str:
    return " ".join(words_of(text)) or text


def _untrained_texts(words: Run, seed: int) -> models.Encoder:
    """Build the encoder of texts with random weights."""
    args: dict[str, Any] = {"args": words.encoder.args} if words.encoder.args else {}
    made = modality("text").encoder(words.encoder.name, size=words.encoder.size, seed=seed, **args)
    with models.seeded(seed, "text projection"):
        return models.like(made, words.encoder).eval()


def _cosines(
    net: torch.nn.Module, dataset: Any, preprocess: Any, words: Vectors, device: torch.device
) -> Vectors:
    """Compare every image with every caption: (images, captions)."""
    x = unit(torch.from_numpy(features(net, dataset, preprocess, device=device)))
    found: Vectors = (x @ unit(torch.from_numpy(words)).T).numpy()
    return found


def _recall(table: Vectors, right: Flags) -> Recall:
    """Rank both ways; where scores are equal, the wrong one counts as first."""
    image, text = _ranks(table.T, right.T), _ranks(table, right)
    first = Accuracy.of(image == 1, right.argmax(axis=0))  # a caption is of the first image that it is of
    shares = [tuple(float((ranks <= k).mean()) for k in RANKS) for ranks in (image, text)]
    return Recall(shares[0], shares[1], first.low, first.high)


def _ranks(table: Vectors, right: Flags) -> npt.NDArray[np.int64]:
    """Give the rank of the best right answer in each row, from 1."""
    best = np.where(right, table, -np.inf).max(axis=1, keepdims=True)
    ranks: npt.NDArray[np.int64] = 1 + ((table >= best) & ~right).sum(axis=1)
    return ranks


def _chance(right: Flags) -> Recall:
    """Compute what guessing finds: of n answers, m of them right, none of them among the first k."""

    def one(right: Flags) -> tuple[float, ...]:
        n, m = right.shape[1], right.sum(axis=1)
        shares = []
        for k in RANKS:
            missed = np.ones(len(m))
            for drawn in range(min(k, n)):
                missed *= np.maximum(n - m - drawn, 0) / (n - drawn)
            shares.append(float(1 - missed.mean()))
        return tuple(shares)

    image, text = one(right.T), one(right)
    return Recall(image, text, image[0], image[0])


def _by_words(
    run: Run, classes: Any, templates: Sequence[str], seed: int, device: torch.device
) -> WordClasses:
    """Classify labelled images by the names of their classes, and by linear classifiers on the other half."""
    dataset = labelled_data.read(open_data(classes, expected=IMAGES, labels=True), run.preprocess)
    labels = labelled_data.class_numbers(dataset)
    order = np.lexsort((rng.uniform(rng.fold(seed, "halves"), np.arange(len(labels)), 1)[:, 0], labels))
    first = np.zeros(len(labels), np.bool_)
    first[order[::2]] = True
    fitted: Any  # a part is used as the whole is
    asked: Any
    fitted, asked = (Subset(dataset, np.flatnonzero(half)) for half in (first, ~first))
    truth = labels[~first]
    if not len(np.unique(labels[first])) == len(np.unique(truth)) == len(dataset.classes):
        raise NearfarError("a class has one image; give at least two labelled images of each class.")
    validation = validation_split(labels[first], dataset.classes, seed)
    if not validation.any():
        raise NearfarError("the classes have too few images; give at least four of each.")
    told = of_names(run, dataset.classes, templates)
    answers = _cosines(run.encoder, asked, run.preprocess, told, device).argmax(axis=1)
    found: dict[str, Any] = {}
    random = untrained(run.encoder.unprojected(), fitted, run.preprocess, seed, str(device))
    for name, net in (("linear", run.encoder), ("untrained", random)):
        progress.say(f"fitting a linear classifier on {name} of {len(fitted):,} images")
        probe = FeatureProbe(encode_with(net, run.preprocess, device, 256), fitted, validation, centred=False)
        found[name] = float((probe.predict_linear(asked) == truth).mean())
    low, high = wilson(int((answers == truth).sum()), len(truth))
    often = float(np.bincount(truth).max() / len(truth))
    share = float((answers == truth).mean())
    counts = {"images": len(truth), "classes": len(dataset.classes)}
    return WordClasses(share, low, high, **found, chance=often, **counts)
