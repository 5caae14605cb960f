"""The result of an evaluation: scores, warnings and parts, as a table for people and as JSON for programs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..core.intervals import few_groups
from ..core.text import columns, counted, percent
from ..features.probes import Rows
from . import PARTS
from .accuracy import Accuracy, Score, most_confused
from .known_row import COMBINED, KNOWN
from .ranking import Candidate, EncoderCost, Ranking, rank
from .summary import BASELINES, BaselineSummary, summarise

Answers = Mapping[str, Mapping[str, Rows]]  # classifier -> feature set -> (n,) class numbers
CLASSIFIERS = {
    "knn": "k-NN",
    "linear": "linear",
    **{name: entry.column for name, entry in PARTS.items() if entry.column},
}
RANKED = ("knn", "linear")  # classifiers by which encoders are ranked
SUMMARISED = (*RANKED, "svm")  # and that the summary tells of, as far as they are measured
FEATURE_SETS = {
    "scratch": "from scratch",
    "known": "known encoder",
    "combined": "both together",
    "colours": "colour histogram",
    "patches": "k-means patches",
    "mfcc": "MFCC",
    "mfcc_course": "MFCC course",
}  # whose heading is not their name


class PartResult(Protocol):
    """What one part beyond k-NN and linear found, such as retrieval."""

    def to_json(self) -> dict[str, Any]:
        """Write it in plain values."""

    def lines(self) -> list[str]:
        """Write it for people."""


@dataclass(frozen=True)
class Leak:
    """Test images that are known from the training images, and the scores without them.

    Attributes:
        images: how many there are.
        left: test images without them.
        without: accuracy on those left, by classifier and feature set; empty where none is left.
        pairs: (test image, training image, similarity) of those that were found one by one.
    """

    images: int
    left: int
    without: Mapping[str, Mapping[str, Accuracy]]
    pairs: tuple[tuple[str, str, float], ...] = ()

    @classmethod
    def of(
        cls,
        known: npt.NDArray[np.bool_],
        truth: Rows,
        answers: Answers,
        pairs: Sequence[tuple[str, str, float]] = (),
        groups: Rows | None = None,
    ) -> Leak:
        """Score the test images that are not `known` (n,) once more; intervals are over `groups` (n,)."""
        new = ~known
        left = None if groups is None else groups[new]
        without: dict[str, dict[str, Accuracy]] = {}
        for classifier, rows in answers.items() if new.any() else ():
            without[classifier] = {
                name: Accuracy.of(found[new] == truth[new], left) for name, found in rows.items()
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
            "pairs": [{"test": test, "train": train, "similarity": same} for test, train, same in self.pairs],
        }

    def sentence(self, what: str, noun: str) -> str:
        """Warn: how many there are, what they are, and the encoder's accuracy without them."""
        share = percent(self.images / (self.images + self.left))
        line = f"warning: {counted(self.images, f'test {noun[:-1]}')} ({share}) {what}; "
        if not self.without:
            return line + f"no other test {noun[:-1]} is left, so the scores above mean nothing"
        shares = [
            f"{CLASSIFIERS[name]} {percent(rows['encoder'].accuracy)}"
            for name, rows in self.without.items()
            if "encoder" in rows
        ]
        return line + f"without them the encoder reaches {', '.join(shares)}"


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
        seed: names the validation images, the untrained weights and every draw.
        leaks: warnings by name: near_copies always, groups where groups were given.
        parts: what else was measured, by its name in `PARTS`; transfer, where it was asked for.
        truth: (n,) the test images' class numbers; not in the JSON.
        answers: the classes named, by classifier and feature set; not in the JSON.
        ids: the test images' names; not in the JSON.
        groups: (n,) numbers of the test images' groups, over which intervals are, or None; not in the JSON.
        left_out: baselines that were not measured, and why.
        costs: of the encoder, and of the known one.
        known: the encoder of the row "known"; "" where there is none.
        known_is_start: whether the encoder's training started from that one.
        noun: the word for the examples.
    """

    scores: Mapping[str, Mapping[str, Score]]
    classes: tuple[str, ...]
    images: Mapping[str, int]
    encoder: Mapping[str, Any]
    data: Mapping[str, str]
    seed: int
    leaks: Mapping[str, Leak]
    parts: Mapping[str, PartResult]
    truth: Rows = field(repr=False)
    answers: Answers = field(repr=False)
    ids: Sequence[str] = field(repr=False)
    groups: Rows | None = field(default=None, repr=False)
    left_out: Mapping[str, str] = field(default_factory=dict)
    costs: Mapping[str, EncoderCost] = field(default_factory=dict)
    known: str = ""
    known_is_start: bool = False
    noun: str = "images"

    def candidates(self, name: str = "the encoder", *, others: bool = True) -> list[Candidate]:
        """List what is ranked: the encoder under a name and, if wanted, the other rows but chance."""
        rows = {"encoder": name}
        if others:
            named = {key: BASELINES.get(key, key) for key in self.knn if key not in ("encoder", "chance")}
            rows |= named | ({KNOWN: self.known} if self.known else {})
        return [
            Candidate(
                title,
                {key: self.answers[key][row] for key in RANKED if row in self.answers.get(key, {})},
                self.costs.get(row),
            )
            for row, title in rows.items()
        ]

    def ranking(self) -> Ranking | None:
        """Rank the encoder, a known one if there is one, and the baselines; None where it is alone."""
        rows = self.candidates()
        return rank(self.truth, rows, self.seed, self.groups) if len(rows) > 1 else None

    def with_known(self, name: str, other: Evaluation, row: str, is_start: bool) -> Evaluation:
        """Give this evaluation with the row "known" taken from another one on the same test images.

        Args:
            name: of the encoder of the row.
            other: that evaluation.
            row: the feature set of the encoder in it.
            is_start: whether this encoder's training started from that one.
        """

        def joined(own: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
            return {
                key: {**rows, **({KNOWN: theirs[key][row]} if row in theirs.get(key, {}) else {})}
                for key, rows in own.items()
            }

        costs = {**self.costs, **({KNOWN: other.costs[row]} if row in other.costs else {})}
        return replace(
            self,
            scores=joined(self.scores, other.scores),
            answers=joined(self.answers, other.answers),
            costs=costs,
            known=name,
            known_is_start=is_start,
            left_out={key: why for key, why in self.left_out.items() if key != KNOWN},
        )

    @property
    def knn(self) -> Mapping[str, Score]:
        """The scores of weighted cosine k-NN."""
        return self.scores["knn"]

    @property
    def linear(self) -> Mapping[str, Score]:
        """The scores of logistic regression."""
        return self.scores["linear"]

    def summary(self) -> dict[str, BaselineSummary]:
        """Compare the encoder with each baseline on the same test images, by classifier."""
        titles = {name: CLASSIFIERS[name] for name in SUMMARISED if name in self.answers}
        return summarise(self.truth, self.answers, titles, self.seed, self.groups)

    def to_json(self) -> dict[str, Any]:
        """Write everything in plain values: {"summary": .., "knn": {"encoder": {"accuracy": ..}, ..}, ..}."""
        ranking = self.ranking()
        return {
            "summary": {name: item.to_json() for name, item in self.summary().items()},
            **({"ranking": ranking.to_json()} if ranking else {}),
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
            **({"known": self.known, "known_is_start": self.known_is_start} if self.known else {}),
            **{name: item.to_json() for name, item in self.parts.items()},
        }

    def table(self) -> str:
        """Write the figures as people read them, a few lines; the confusion in full is in the JSON."""
        count = self.images
        sentences = [str(item) for item in self.summary().values()]
        ranking = self.ranking() if self.known else None
        sentences += ranking.sentences() if ranking else []
        if ranking and any(best.name == BASELINES[COMBINED] for best, *_ in ranking.leads.values()):
            sentences.append(
                f"nearfar combine {shlex.quote(self.known)} RUN --out runs/both makes one encoder of both"
            )
        lines = [
            *sentences,
            *([""] if sentences else []),
            f"{count['train']:,} training {self.noun} ({count['validation']:,} of them for validation), "
            f"{count['test']:,} test {self.noun}, {len(self.classes)} classes",
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
            lines += ["", f"{'recall of the encoder':26}{'k-NN':10}{'linear':10}test {self.noun}"]
            for by_knn, by_line in zip(best.per_class, line.per_class, strict=True):
                lines.append(
                    f"{by_knn.name[:24]:26}{percent(by_knn.recall):10}{percent(by_line.recall):10}"
                    f"{by_knn.images:,}"
                )
        wrong = [f"{images:,} {true} classified as {answer}" for true, answer, images in most_confused(line)]
        if wrong:
            lines += ["", f"most confused (linear): {'; '.join(wrong)}"]
        for part in self.parts.values():
            lines += ["", *part.lines()]
        return "\n".join(lines)

    def _accuracies(self) -> list[str]:
        """Write a row a feature set and a column a classifier."""
        names = dict.fromkeys(name for rows in self.scores.values() for name in rows)
        names["chance"] = names.pop("chance")  # the last
        cells = []
        for name in names:
            found = [rows.get(name) for rows in self.scores.values()]
            cells.append([FEATURE_SETS.get(name, name), *map(_accuracy, found)])
        return columns(["accuracy (95 % interval)", *(CLASSIFIERS[name] for name in self.scores)], cells)

    def _warnings(self) -> list[str]:
        """List what limits the scores."""
        copies, groups, lines = self.leaks["near_copies"], self.leaks.get("groups"), []
        if copies.images:
            same = f", {self.images['shared']:,} of them byte for byte" if self.images["shared"] else ""
            lines.append(
                copies.sentence(f"are training {self.noun}, or near-copies of them{same}", self.noun)
            )
        if groups and groups.images:
            lines.append(groups.sentence(f"belong to groups of training {self.noun}", self.noun))
        if few := few_groups(self.groups, self.noun):
            lines.append(few)
        if self.images["rejected"]:
            lines.append(f"{self.images['rejected']:,} unusable {self.noun} were left out")
        if "scratch" in self.left_out:
            lines.append(
                f"training from scratch is left out: {self.left_out['scratch']}; add it with --finetune"
            )
        if KNOWN in self.left_out:
            lines.append(f"the known encoder is left out: {self.left_out[KNOWN]}; add it with --known known")
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
        """Write that evaluation's table, indented."""
        data = self.evaluation.data
        head = f"transfer, on {data['train']} and {data['test']}:"
        return [head, *(f"  {line}".rstrip() for line in self.evaluation.table().splitlines())]
