"""Measures one run on labelled images: fits and chooses on training images, then opens the test set once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core import progress
from ..core.errors import NearfarError
from ..data.dataset import ImageDataset, Subset
from ..data.modality import modality_of, open_data
from ..features.extract import fingerprint
from ..features.probes import Reader, Rows, Seen, seen_by, validation_split, ways
from ..finetuning.trainer import How
from ..finetuning.tune import Tuned, cost, tune
from ..training.run import Run
from . import (
    calibration,
    clustering,
    few_labels,
    groups,
    imagenet_baseline,
    labelled_data,
    leaks,
    retrieval,
    robustness_part,
)
from .accuracy import score
from .result import Evaluation, EvaluationPart, Leak

# Parts that are measured on frozen features, one way of seeing after the other.
MEASURES: Mapping[str, Callable[[Reader, Seen, Rows, int], Any]] = {
    "few_labels": few_labels.measure,
    "retrieval": retrieval.measure,
    "clusters": clustering.measure,
    "calibration": calibration.measure,
    "robustness": robustness_part.measure,
}
SCRATCH: How = "scratch"  # a baseline like any other, but dear
# What is trained by gradient steps, and its place in the scores: classifier and way of seeing.
TUNED: Mapping[How, tuple[str, str]] = {
    "linear": ("augmented", "encoder"),
    "finetune": ("finetune", "encoder"),
    "scratch": ("finetune", "scratch"),
}


@dataclass(frozen=True)
class Wishes:
    """What is measured, and how; see `evaluate`. `parts` are names of MEASURES, `tuned` of TUNED.

    `scratch` among the baselines is trained where that takes no longer than the encoder's own training.
    """

    seed: int
    device: torch.device
    batch_size: int
    baselines: tuple[str, ...]
    parts: tuple[str, ...] = ()
    tuned: tuple[How, ...] = ()
    groups: str | Path | None = None
    imagenet: str | None = None


@dataclass
class _Answers:
    """What was answered for the test images and how it was chosen, by classifier and way of seeing."""

    given: dict[str, dict[str, Rows]] = field(default_factory=dict)
    chosen: dict[str, dict[str, Mapping[str, Any]]] = field(default_factory=dict)

    def add(self, classifier: str, name: str, answers: Rows, chosen: Mapping[str, Any]) -> None:
        """Note one way's answers."""
        self.given.setdefault(classifier, {})[name] = answers
        self.chosen.setdefault(classifier, {})[name] = chosen


def measure(run: Run, train: Any, test: Any, wishes: Wishes) -> Evaluation:
    """Measure one run.

    Args:
        run: the run.
        train, test: labelled images, as `sources.open_source` takes them.
        wishes: what is measured.

    Returns:
        What was found.

    Raises:
        NearfarError: images or labels cannot be used, or the encoder's bytes changed on the way.
    """
    where, seed = wishes.device, wishes.seed
    kind = modality_of(run.preprocess)
    if not kind.pictures and (wishes.tuned or wishes.imagenet or "robustness" in wishes.parts):
        raise NearfarError(
            "--robustness, --augmented, --finetune and --imagenet are for images; leave them out for "
            f"{kind.name}."
        )
    train_source, test_source = (open_data(x, expected=kind.name, labels=True) for x in (train, test))
    labelled_data.check(train_source, test_source)
    pretrained = None if wishes.imagenet is None else imagenet_baseline.imagenet(wishes.imagenet)
    listed = None if wishes.groups is None else groups.read(wishes.groups)
    frozen = run.encoder if where.type == "cpu" else copy.deepcopy(run.encoder).to(where)
    before = fingerprint(frozen)

    dataset = labelled_data.read(train_source, run.preprocess)
    labels = labelled_data.class_numbers(dataset)
    own = None if listed is None else listed.numbers([(train_source, dataset.ids)])[0]
    held = validation_split(labels, dataset.classes, seed, own)
    if not held.any():
        what = "image" if own is None else "group"
        raise NearfarError(
            f"every class of {train_source.name} has one {what}; give two of some class at least."
        )
    readers: dict[str, Reader] = {}
    seeing = ways(frozen, run.preprocess, dataset, seed, where, wishes.batch_size)
    if pretrained is not None:
        net, its = pretrained
        seeing["imagenet"] = lambda: (seen_by(net, its, where, wishes.batch_size), False)
    for name, way in seeing.items():
        if name in ("encoder", "imagenet", *wishes.baselines):
            progress.say(f"Fitting on {name} of {len(dataset):,} training images")
            encode, centred = way()
            readers[name] = Reader(encode, dataset, held, centred=centred)

    learnt: dict[How, Tuned] = {}
    left_out: dict[str, str] = {}
    courses = wishes.tuned
    if SCRATCH in wishes.baselines and SCRATCH in kind.baselines and SCRATCH not in courses:
        reason = _too_dear(run, len(dataset), int(held.sum()))
        if reason:
            left_out[SCRATCH] = reason
        else:
            courses += (SCRATCH,)
    for how in courses:
        learnt[how] = tune(frozen, run.preprocess, dataset, held, how=how, seed=seed, device=where)

    # Every choice is made; only now is a test image opened.
    test_store = labelled_data.read(test_source, run.preprocess)
    truth = labelled_data.renumbered(test_store, dataset.classes, train_source.name)
    answers, candidates = _Answers(), []
    found: dict[str, dict[str, Any]] = {part: {} for part in wishes.parts}
    for name, reader in readers.items():
        progress.say(f"Testing {name} on {len(test_store):,} images")
        seen = reader.see(test_store)
        for classifier, rows, chosen in zip(
            ("knn", "linear"), (seen.knn, seen.linear), reader.chosen(), strict=True
        ):
            answers.add(classifier, name, rows, chosen)
        if name in ("encoder", "pixels"):
            candidates.append(seen.nearest)
        for part in wishes.parts:
            progress.say(f"Measuring {part.replace('_', ' ')} of {name}")
            found[part][name] = MEASURES[part](reader, seen, truth, seed)
    for how, tuned in learnt.items():
        answers.add(*TUNED[how], tuned.answer(test_store), tuned.chosen)
    if "few_labels" in wishes.parts:
        for how in wishes.tuned:
            if how != "linear":
                classifier, name = TUNED[how]
                share = float((answers.given[classifier][name] == truth).mean())
                curve = _tuned_on_few(run, dataset, test_store, truth, how, wishes)
                curve[len(dataset)] = few_labels.Spread.of([share])
                found["few_labels"].setdefault(name, {})[classifier] = curve
    most = int(np.bincount(labels).argmax())
    for classifier in answers.given:
        answers.add(classifier, "chance", np.full_like(truth, most), {"class": dataset.classes[most]})

    copies = leaks.near_copies(test_store, dataset, np.concatenate(candidates, axis=1))
    pairs = copies.pairs(test_store, dataset)
    warnings = {"near_copies": Leak.of(copies.known, truth, answers.given, seed, pairs)}
    if listed is not None:
        sides = [(train_source, dataset.ids), (test_source, test_store.ids)]
        own, theirs = listed.numbers(sides)
        warnings["groups"] = Leak.of(np.isin(theirs, own), truth, answers.given, seed)

    if fingerprint(frozen) != before:
        raise NearfarError(
            "the encoder changed while it was evaluated, so the figures are void; report this."
        )
    return Evaluation(
        scores={
            classifier: {
                name: score(truth, rows, dataset.classes, answers.chosen[classifier][name], seed)
                for name, rows in given.items()
            }
            for classifier, given in answers.given.items()
        },
        classes=dataset.classes,
        images={
            "train": len(dataset),
            "validation": int(held.sum()),
            "test": len(test_store),
            "rejected": len(dataset.rejected) + len(test_store.rejected),
            "shared": int(copies.same.sum()),
            "near_copies": int(copies.known.sum()),
        },
        encoder={"name": run.encoder.name, "dim": run.encoder.dim, "sha256": before},
        data={"train": train_source.name, "test": test_source.name},
        seed=seed,
        leaks=warnings,
        parts=_parts(found, dataset),
        truth=truth,
        answers=answers.given,
        ids=test_store.ids,
        left_out=left_out,
    )


def _too_dear(run: Run, images: int, held: int) -> str:
    """Say why training from scratch is left out, by images seen, or nothing where it takes no longer."""
    own = 2 * run.provenance.get("steps", 0) * run.provenance.get("batch_size", 0)  # two views of each
    if not own:
        return "how long the encoder itself was trained is not known"
    times = cost(SCRATCH, images, held, run.preprocess.size) / own
    return f"it would take {times:,.1f} times the encoder's own training" if times > 1 else ""


def _tuned_on_few(
    run: Run, dataset: ImageDataset, test: ImageDataset, truth: Rows, how: How, wishes: Wishes
) -> dict[int, few_labels.Spread]:
    """Train anew on each draw of a few labels."""

    def answer(rows: Rows) -> Rows:
        part: Any = Subset(dataset, rows)
        held = validation_split(part.labels, dataset.classes, wishes.seed)
        made = tune(run.encoder, run.preprocess, part, held, how=how, seed=wishes.seed, device=wishes.device)
        return made.answer(test)

    return few_labels.tuned(labelled_data.class_numbers(dataset), dataset.classes, truth, wishes.seed, answer)


def _parts(found: Mapping[str, Mapping[str, Any]], dataset: ImageDataset) -> dict[str, EvaluationPart]:
    """Put the figures of each part together."""
    make: Mapping[str, Callable[[Any], EvaluationPart]] = {
        "few_labels": partial(
            few_labels.FewLabels, few_labels.sizes(labelled_data.class_numbers(dataset), len(dataset.classes))
        ),
        "retrieval": retrieval.Retrieval,
        "clusters": clustering.Clusters,
        "calibration": calibration.Calibration,
        "robustness": robustness_part.Spoilt,
    }
    return {name: make[name](rows) for name, rows in found.items()}
