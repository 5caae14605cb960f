"""Measures one run on labelled images: fits and chooses on training images, then opens the test set once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core import progress
from ..core.config import flag_of
from ..core.errors import NearfarError
from ..core.text import counted
from ..data import groups
from ..data.dataset import ImageDataset, Subset
from ..data.modalities import modality_of
from ..features.extract import fingerprint
from ..features.probes import FeatureProbe, Rows, encode_with, feature_sets, validation_split
from ..finetuning.classifier import FineTuned, cost, train_classifier
from ..finetuning.neck import with_neck
from ..finetuning.trainer import Mode
from ..models.combined import Combined, combine
from ..training.run import Run
from . import PARTS, known_row, labelled_data, leaks
from .accuracy import score
from .part import Trained
from .ranking import EncoderCost
from .result import FEATURE_SETS, Evaluation, Leak

NO_PARTS = ("colours", "patches", known_row.COMBINED)  # k-NN and linear alone: parts would take minutes
KNOWN, COMBINED = known_row.KNOWN, known_row.COMBINED
SCRATCH: Mode = "scratch"  # a baseline as well, left out where it takes long:
SHORT = 0.25  # times the encoder's own training


@dataclass(frozen=True)
class EvaluationOptions:
    """What is measured, and how; see `evaluate`. `parts` are names of PARTS, in their order."""

    seed: int
    device: torch.device
    batch_size: int
    baselines: tuple[str, ...]
    parts: tuple[str, ...] = ()
    groups: str | Path | None = None
    known: str | None = None
    beside: tuple[Run, ...] = ()  # other encoders that are evaluated on the same images
    label_level: int | None = None
    labels: str | Path | None = None
    from_head: int = 0  # layers of the head that stay in fine-tuning


@dataclass
class _Answers:
    """The classes named for the test images and how each classifier was chosen, by feature set."""

    rows: dict[str, dict[str, Rows]] = field(default_factory=dict)
    chosen: dict[str, dict[str, Mapping[str, Any]]] = field(default_factory=dict)

    def add(self, classifier: str, name: str, answers: Rows, chosen: Mapping[str, Any]) -> None:
        """Add those of one classifier on one feature set."""
        self.rows.setdefault(classifier, {})[name] = answers
        self.chosen.setdefault(classifier, {})[name] = chosen


def columns_of_modes() -> dict[Mode, tuple[str, str]]:
    """Tell where the accuracy of each training by gradient steps stands: its part and its feature set."""
    return {
        mode: (name, feature_set)
        for name, entry in PARTS.items()
        if entry.column
        for mode, feature_set in entry.load().modes.items()
    }


def measure(run: Run, train: Any, test: Any, options: EvaluationOptions) -> Evaluation:
    """Measure one run.

    Args:
        run: the run.
        train, test: labelled images, as `sources.open_source` takes them.
        options: what is measured.

    Returns:
        What was found.

    Raises:
        NearfarError: images or labels cannot be used, or the encoder's bytes changed on the way.
    """
    where, seed = options.device, options.seed
    kind = modality_of(run.preprocess)
    if not kind.pictures:
        refused = [flag_of(name) for name in options.parts if PARTS[name].load().images_only]
        refused += ["--known"] if options.known not in (None, known_row.NONE) else []
        if refused:
            raise NearfarError(f"{refused[0]} is for images only; leave it out for {kind.name}.")
    train_source, test_source = labelled_data.open_both(
        train, test, kind.name, options.label_level, options.labels
    )
    count = len(train_source) + len(test_source)
    known, reason = None, ""
    if kind.pictures:
        known, reason = known_row.open_row(run, options.known, count, options.beside)
    listed = None if options.groups is None else groups.read_groups(options.groups)
    frozen = run.encoder if where.type == "cpu" else copy.deepcopy(run.encoder).to(where)
    before = fingerprint(frozen)

    dataset = labelled_data.read(train_source, run.preprocess)
    labels = labelled_data.class_numbers(dataset)
    own = None
    if listed is not None:  # a test image without a group is named before anything is fitted, not after
        own = listed.numbers([(train_source, dataset.ids), (test_source, test_source.ids)])[0]
    validation = validation_split(labels, dataset.classes, seed, own)
    if not validation.any():
        what = "image" if own is None else "group"
        raise NearfarError(
            f"every class of {train_source.name} has one {what}; give at least two of one class."
        )
    probes: dict[str, FeatureProbe] = {}
    available = feature_sets(frozen, run.preprocess, dataset, seed, where, options.batch_size)
    own_sets: dict[str, Any] = {}  # a known encoder's images are read for it
    if known is not None:
        net = known.encoder.to(where)
        its = known.preprocess
        available[KNOWN] = lambda: (encode_with(net, its, where, options.batch_size), False)
        own_sets[KNOWN] = labelled_data.read(train_source, its)
    costs: dict[str, EncoderCost] = {}
    for name, make in available.items():
        if name in ("encoder", KNOWN, *options.baselines):
            progress.say(
                f"fitting on {FEATURE_SETS.get(name, name)} of {len(dataset):,} training {kind.noun}"
            )
            encode, centred = make()
            images = own_sets.pop(name, dataset)
            probes[name] = FeatureProbe(encode, images, validation, centred=centred, groups=own)
            whose = {"encoder": run, KNOWN: known}.get(name)
            if whose is not None:
                pace = round(probes[name].images_per_second, 1)
                costs[name] = EncoderCost(
                    **whose.facts(), images_per_second=pace, noun=kind.noun, unit=kind.unit
                )

    vectors = {name: probes[name].x for name in ("encoder", KNOWN) if name in probes}
    if len(vectors) > 1 and not isinstance(frozen.net, Combined):
        progress.say(f"fitting on both together of {len(dataset):,} training {kind.noun}")
        probes[COMBINED] = FeatureProbe(
            lambda images: combine(list(vectors.values())), dataset, validation, centred=False
        )

    parts = {name: PARTS[name].load() for name in options.parts}
    asked = [mode for part in parts.values() for mode in part.modes]
    modes = list(asked)
    left_out = {KNOWN: reason} if reason else {}
    if SCRATCH in options.baselines and SCRATCH in kind.baselines and SCRATCH not in modes:
        reason = _takes_longer(run, len(dataset), int(validation.sum()))
        if reason:
            left_out[SCRATCH] = reason
        else:
            modes.append(SCRATCH)
    tuned = with_neck(run, options.from_head)  # of which fine-tuning trains a copy
    trained: dict[Mode, FineTuned] = {
        mode: train_classifier(
            tuned if mode == "finetune" else frozen,
            run.preprocess,
            dataset,
            validation,
            mode=mode,
            seed=seed,
            device=where,
        )
        for mode in modes
    }

    # Every choice is made; only now is a test image opened.
    test_set = labelled_data.read(test_source, run.preprocess)
    truth = labelled_data.renumbered(test_set, dataset.classes, train_source.name)
    answers, candidates = _Answers(), []
    found: dict[str, dict[str, Any]] = {part: {} for part in parts}
    without = NO_PARTS if options.known else (*NO_PARTS, KNOWN)
    for name, probe in probes.items():
        progress.say(f"testing {FEATURE_SETS.get(name, name)} on {counted(len(test_set), kind.one)}")
        own_test = known is not None and name == KNOWN
        outputs = probe.predict(labelled_data.read(test_source, its) if own_test else test_set)
        if name in vectors:
            vectors[name] = outputs.x
        for classifier, rows, chosen in zip(
            ("knn", "linear"), (outputs.knn, outputs.linear), probe.chosen(), strict=True
        ):
            answers.add(classifier, name, rows, chosen)
        if name in ("encoder", "pixels"):
            candidates.append(outputs.nearest)
        for key, part in parts.items() if name not in without else ():
            if not part.modes:
                progress.say(f"measuring {key.replace('_', ' ')} of {FEATURE_SETS.get(name, name)}")
            figures = part.measure(probe, outputs, truth, seed)
            classified = part.classify(probe, outputs, seed)
            if classified is not None:
                answers.add(key, name, *classified)
            if figures is not None:
                found[key][name] = figures
    for mode, (column, name) in columns_of_modes().items():
        if mode not in trained:
            continue
        own_layers = {"from_head": options.from_head} if options.from_head and mode == "finetune" else {}
        how = {**trained[mode].chosen, **own_layers}
        answers.add(column, name, trained[mode].answer(test_set), how)
        if mode not in asked:
            continue
        retrain = _retrain(run, dataset, test_set, mode, options, own)
        result = Trained(mode, dataset, answers.rows[column][name], truth, retrain)
        for key, part in parts.items():
            figures = part.measure_trained(result, seed)
            if figures is not None:
                found[key].setdefault(name, {})[column] = figures
    most = int(np.bincount(labels).argmax())
    for classifier in answers.rows:
        answers.add(classifier, "chance", np.full_like(truth, most), {"class": dataset.classes[most]})

    copies = leaks.near_copies(test_set, dataset, np.concatenate(candidates, axis=1), run.preprocess)
    pairs = copies.pairs(test_set, dataset)
    theirs = None
    if listed is not None:
        sides = [(train_source, dataset.ids), (test_source, test_set.ids)]
        own, theirs = listed.numbers(sides)
    warnings = {"near_copies": Leak.of(copies.known, truth, answers.rows, pairs, theirs)}
    if theirs is not None and own is not None:
        warnings["groups"] = Leak.of(np.isin(theirs, own), truth, answers.rows, groups=theirs)

    if fingerprint(frozen) != before:
        raise NearfarError(
            "the encoder changed while it was evaluated, so the scores are invalid; please report this."
        )
    return Evaluation(
        scores={
            classifier: {
                name: score(truth, rows, dataset.classes, answers.chosen[classifier][name], theirs)
                for name, rows in by_name.items()
            }
            for classifier, by_name in answers.rows.items()
        },
        classes=dataset.classes,
        images={
            "train": len(dataset),
            "validation": int(validation.sum()),
            "test": len(test_set),
            "rejected": len(dataset.rejected) + len(test_set.rejected),
            "shared": int(copies.same.sum()),
            "near_copies": int(copies.known.sum()),
        },
        encoder={"name": run.encoder.name, "dim": run.encoder.dim, "sha256": before},
        data={"train": train_source.name, "test": test_source.name},
        seed=seed,
        leaks=warnings,
        parts={name: part(found[name]) for name, part in parts.items() if found[name]},
        truth=truth,
        answers=answers.rows,
        ids=test_set.ids,
        groups=theirs,
        left_out=left_out,
        costs=costs,
        known="" if known is None else known.name,
        known_is_start=known is not None and known_row.is_start(run, known),
        noun=kind.noun,
    )


def _takes_longer(run: Run, images: int, validation: int) -> str:
    """Say why training from scratch is left out, by images seen, or nothing where it is short."""
    own = 2 * run.provenance.get("steps", 0) * run.provenance.get("batch_size", 0)  # two views of each
    if not own:
        return "how long the encoder itself was trained is not known"
    times = cost(SCRATCH, images, validation, run.preprocess.size) / own
    return f"it would take {times:.2g} times the encoder's own training" if times > SHORT else ""


def _retrain(
    run: Run,
    dataset: ImageDataset,
    test: ImageDataset,
    mode: Mode,
    options: EvaluationOptions,
    groups: Rows | None,
) -> Callable[[Rows], Rows]:
    """Make the function that trains again on some of the training images, and classifies the test images."""

    def answer(rows: Rows) -> Rows:
        few: Any = Subset(dataset, rows)
        own = None if groups is None else groups[rows]
        made = train_classifier(
            with_neck(run, options.from_head if mode == "finetune" else 0),
            run.preprocess,
            few,
            validation_split(few.labels, dataset.classes, options.seed, own),
            mode=mode,
            seed=options.seed,
            device=options.device,
        )
        return made.answer(test)

    return answer
