"""What an evaluation found: scores, warnings and parts, as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..core.text import columns, percent
from ..features.probes import Rows
from .accuracy import Score, Share, mixed_up

Answers = Mapping[str, Mapping[str, Rows]]  # classifier -> way of seeing -> (n,) class numbers
CLASSIFIERS = {"knn": "k-NN", "linear": "linear", "augmented": "linear, augmented", "finetune": "fine-tuned"}
CALLED = {
    "scratch": "from scratch",
    "imagenet": "ImageNet weights",
}  # ways of seeing that go by another name in tables


class EvaluationPart(Protocol):
    """One part beyond k-NN and linear, such as retrieval."""

    def to_json(self) -> dict[str, Any]:
        """Write it in plain values."""

    def lines(self) -> list[str]:
        """Write it for people."""


@dataclass(frozen=True)
class Leak:
    """Test images that are not new to who saw the training images, and the scores without them.

    Attributes:
        images: how many there are.
        left: test images without them.
        without: accuracy on those left, by classifier and way of seeing; empty where none is left.
        pairs: (test image, training image, likeness) where one was found for the other.
    """

    images: int
    left: int
    without: Mapping[str, Mapping[str, Share]]
    pairs: tuple[tuple[str, str, float], ...] = ()

    @classmethod
    def of(
        cls,
        known: npt.NDArray[np.bool_],
        truth: Rows,
        answers: Answers,
        seed: int,
        pairs: Sequence[tuple[str, str, float]] = (),
    ) -> Leak:
        """Score the test images that are not `known` (n,) once more."""
        new = ~known
        without: dict[str, dict[str, Share]] = {}
        for classifier, rows in answers.items() if new.any() else ():
            without[classifier] = {
                name: Share.of(found[new] == truth[new], seed) for name, found in rows.items()
            }
        return cls(int(known.sum()), int(new.sum()), without, tuple(pairs))

    def to_json(self) -> dict[str, Any]:
        """Write everything in plain values."""
        return {
            "images": self.images,
            "left": self.left,
            "without": {
                classifier: {name: vars(share) for name, share in rows.items()}
                for classifier, rows in self.without.items()
            },
            "pairs": [{"test": test, "train": train, "likeness": like} for test, train, like in self.pairs],
        }

    def sentence(self, what: str) -> str:
        """Warn: how many there are, what they are, and what the encoder scores without them."""
        share = percent(self.images / (self.images + self.left))
        line = f"beware: {self.images:,} test images ({share}) {what}; "
        if not self.without:
            return line + "none is left without them, so the scores above mean nothing"
        shares = [
            f"{CLASSIFIERS[name]} {percent(rows['encoder'].accuracy)}"
            for name, rows in self.without.items()
            if "encoder" in rows
        ]
        return line + f"without them the encoder has {', '.join(shares)}"


@dataclass(frozen=True)
class Evaluation:
    """Scores of the encoder and of the baselines, by name: encoder, pixels, untrained, chance.

    Attributes:
        scores: by classifier, a name of CLASSIFIERS: knn is weighted cosine k-NN, linear logistic regression.
        classes: the classes of the training images.
        images: counts: train, validation, test, rejected (of both), shared (test images also in train, byte
            for byte), and near_copies (of training images, the former among them).
        encoder: name, dim and the digest of its bytes, the same before and after.
        data: what the training and the test images are called.
        seed: names the held-out images, the untrained weights and the resamples.
        leaks: warnings by name: near_copies always, groups where groups were given.
        parts: what else was asked for, by name: few_labels, retrieval, clusters, calibration, ...
        truth: (n,) the test images' class numbers; not in the JSON.
        answers: what was answered, by classifier and way of seeing; not in the JSON.
        ids: the test images' names; not in the JSON.
        left_out: baselines that were not measured, and why.
    """

    scores: Mapping[str, Mapping[str, Score]]
    classes: tuple[str, ...]
    images: Mapping[str, int]
    encoder: Mapping[str, Any]
    data: Mapping[str, str]
    seed: int
    leaks: Mapping[str, Leak]
    parts: Mapping[str, EvaluationPart]
    truth: Rows = field(repr=False)
    answers: Answers = field(repr=False)
    ids: Sequence[str] = field(repr=False)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def knn(self) -> Mapping[str, Score]:
        """The scores of weighted cosine k-NN."""
        return self.scores["knn"]

    @property
    def linear(self) -> Mapping[str, Score]:
        """The scores of logistic regression."""
        return self.scores["linear"]

    def to_json(self) -> dict[str, Any]:
        """Write everything in plain values: {"knn": {"encoder": {"accuracy": ..}, ..}, "linear": ..}."""
        return {
            **{
                classifier: {name: item.to_json() for name, item in rows.items()}
                for classifier, rows in self.scores.items()
            },
            "classes": list(self.classes),
            "images": dict(self.images),
            "encoder": dict(self.encoder),
            "data": dict(self.data),
            "seed": self.seed,
            "leaks": {name: item.to_json() for name, item in self.leaks.items()},
            "left_out": dict(self.left_out),
            **{name: item.to_json() for name, item in self.parts.items()},
        }

    def table(self) -> str:
        """Write the figures as people read them, a few lines; the confusion in full is in the JSON."""
        count = self.images
        lines = [
            f"{count['train']:,} training images ({count['validation']:,} of them held out for choices), "
            f"{count['test']:,} test images, {len(self.classes)} classes",
            "",
            *self._accuracies(),
        ]
        best, line = self.knn["encoder"], self.linear["encoder"]
        lines += [
            "",
            f"chosen: k {best.chosen['k']}, temperature {best.chosen['temperature']}, "
            f"C {line.chosen['C']:.3g}",
            *self._warnings(),
        ]
        if len(self.classes) <= 30:
            lines += ["", f"{'recall of the encoder':26}{'k-NN':10}{'linear':10}{'test images'}"]
            for near, straight in zip(best.per_class, line.per_class, strict=True):
                lines.append(
                    f"{near.name[:24]:26}{percent(near.recall):10}{percent(straight.recall):10}{near.images:,}"
                )
        wrong = [f"{images:,} {true} taken for {answer}" for true, answer, images in mixed_up(line)]
        if wrong:
            lines += ["", f"most mistaken (linear): {'; '.join(wrong)}"]
        for part in self.parts.values():
            lines += ["", *part.lines()]
        return "\n".join(lines)

    def _accuracies(self) -> list[str]:
        """Write a row a way of seeing and a column a classifier."""
        names = dict.fromkeys(name for rows in self.scores.values() for name in rows)
        names["chance"] = names.pop("chance")  # the last
        cells = []
        for name in names:
            found = [rows.get(name) for rows in self.scores.values()]
            cells.append([CALLED.get(name, name), *map(_accuracy, found)])
        return columns(["accuracy (95 % interval)", *(CLASSIFIERS[name] for name in self.scores)], cells)

    def _warnings(self) -> list[str]:
        """Say what a reader of the scores has to know."""
        copies, groups, lines = self.leaks["near_copies"], self.leaks.get("groups"), []
        if copies.images:
            same = f", {self.images['shared']:,} of them byte for byte" if self.images["shared"] else ""
            lines.append(copies.sentence(f"are training images too, or nearly so{same}"))
        if groups and groups.images:
            lines.append(groups.sentence("belong to groups of training images"))
        if self.images["rejected"]:
            lines.append(f"{self.images['rejected']:,} unusable images were left out")
        if "scratch" in self.left_out:
            lines.append(
                f"training from scratch is left out: {self.left_out['scratch']}; add it by --finetune"
            )
        return lines


def _accuracy(item: Score | None) -> str:
    if item is None:
        return "-"
    return f"{percent(item.accuracy)} ({100 * item.low:.1f} to {100 * item.high:.1f})"


@dataclass(frozen=True)
class Transfer:
    """The same encoder on a second labelled data set."""

    evaluation: Evaluation

    def to_json(self) -> dict[str, Any]:
        """Write that evaluation in plain values."""
        return self.evaluation.to_json()

    def lines(self) -> list[str]:
        """Write that evaluation's table, set in."""
        data = self.evaluation.data
        head = f"transfer, on {data['train']} and {data['test']}:"
        return [head, *(f"  {line}".rstrip() for line in self.evaluation.table().splitlines())]
