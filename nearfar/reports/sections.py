"""Lays out the report: which section holds what, for one run or several side by side."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..core import progress
from ..features.whitening import is_whitened
from ..training.run import Run
from ..training.run_config import RunConfig
from . import anomalous_parts, cards, curves, galleries, maps, scoring, what_features_see
from .blocks import Blocks, Columns, Fold, Grid, Note, Section, TableBlock, of_run
from .sample import ImageSample, noun_of


@dataclass(frozen=True)
class Subject:
    """One run, and all that the report knows of it.

    Attributes:
        name: what the report calls it.
        run, wanted: the run and its settings.
        rejected: the rejected images, with reasons.
        sampled: its images; None where they cannot be read, and then `trouble` says why.
        scores: its evaluation.json, if there is one.
        verdict: the verdict on its health, if there is one.
        labelled: labelled images to search and to query with, where they were given.
        bank: normal images whose parts are known, where they were given.
    """

    name: str
    run: Run
    wanted: RunConfig
    rejected: Sequence[tuple[str, str]]
    sampled: ImageSample | None
    trouble: str
    scores: scoring.Scores | None
    verdict: Any
    labelled: tuple[ImageSample, ImageSample] | None
    bank: anomalous_parts.BankReport | None = None

    @property
    def noun(self) -> str:
        """The word for what it learnt from, such as "images"."""
        return noun_of(self.wanted.kind)

    @property
    def one(self) -> str:
        """The word for one of these."""
        return self.noun.removesuffix("s")

    @property
    def learnt(self) -> str:
        """The word for what is counted of its training: of images with captions, "pairs"."""
        return str(self.wanted.kind.noun)


def sections(subjects: Sequence[Subject], out: str) -> list[Section]:
    """Make every section.

    Args:
        subjects: the runs, at least one.
        out: where the report goes, for the command that repeats it.

    Returns:
        The sections, in the order of a reader's questions.
    """
    return [
        _data(subjects),
        _views(subjects),
        _training(subjects),
        _evaluation(subjects),
        _neighbours(subjects),
        *_seen(subjects),
        _map(subjects),
        _spectrum(subjects),
        _typical(subjects),
        *_parts(subjects),
        _duplicates(subjects),
        _cost(subjects),
        _provenance(subjects, out),
    ]


def overview(subjects: Sequence[Subject]) -> list[TableBlock]:
    """Set several runs side by side; nothing for one."""
    if len(subjects) < 2:
        return []
    rows = []
    for subject in subjects:
        found = scoring.main(subject.scores) if subject.scores else None
        log = subject.run.log()
        config = subject.run.config
        rows.append(
            (
                subject.name,
                config["method"],
                subject.run.encoder.name,
                f"{config['data']['images']:,}",
                f"{log[-1]['epoch']:.3g}" if log else "–",
                progress.duration(log[-1]["seconds"]) if log else "–",
                subject.verdict.name if subject.verdict else "–",
                "–"
                if found is None
                else f"{scoring.title(found[0])} {scoring.percent(found[1]['accuracy'])}",
            )
        )
    head = ("run", "method", "encoder", _learnt(subjects), "epochs", "time", "verdict", "accuracy")
    return [TableBlock("The runs", head, rows)]


def _learnt(subjects: Sequence[Subject]) -> str:
    """Give the word for what all runs learnt from."""
    words = {subject.learnt for subject in subjects}
    return words.pop() if len(words) == 1 else "examples"


def _each(
    subjects: Sequence[Subject], make: Callable[[Subject], Blocks], shown: Sequence[Subject] = ()
) -> Blocks:
    """Put the same blocks of every run side by side, each named; of one run, as they are.

    Args:
        subjects: all runs of the report.
        make: gives a run's blocks.
        shown: those of them that are shown, if not all.
    """
    shown = shown or subjects
    if len(subjects) == 1:
        return make(subjects[0])
    named = [(subject.name, of_run(subject.name, make(subject))) for subject in shown]
    marks = [[*subjects].index(subject) for subject in shown]
    return named[0][1] if len(named) == 1 else [Columns(named, marks)]


def _with_images(
    subjects: Sequence[Subject],
    make: Callable[[ImageSample, Subject], Blocks],
    shown: Sequence[Subject] = (),
) -> Blocks:
    """Make blocks of each run's images, or say how to get at them; arguments as for `_each`."""

    def one(subject: Subject) -> Blocks:
        if subject.sampled is None:
            command = ["nearfar", "report", subject.run.name, "--data", "DATA"]
            return [Note(f"The {subject.noun} cannot be shown: {subject.trouble}", shlex.join(command))]
        if not subject.wanted.kind.pictures:
            return [Note(f"Of {subject.wanted.modality}, no pictures can be shown.")]
        return make(subject.sampled, subject)

    return _each(subjects, one, shown)


def _distinct(subjects: Sequence[Subject]) -> list[Subject]:
    """Keep one run of those that learnt from the same images."""
    first = {str(subject.run.config["data"]["fingerprint"]): subject for subject in reversed(subjects)}
    return [subject for subject in subjects if subject in first.values()]


def _shared(subjects: Sequence[Subject], kept: Sequence[Subject]) -> list[Note]:
    """Say whose images are shown, where some runs learnt from the same ones."""
    if len(kept) == len(subjects):
        return []
    made = []
    for one in kept:
        prints = one.run.config["data"]["fingerprint"]
        names = [item.name for item in subjects if item.run.config["data"]["fingerprint"] == prints]
        if len(names) > 1:
            made.append(Note(f"{' and '.join(names)} learnt from the same {one.learnt}, shown once."))
    return made


def _data(subjects: Sequence[Subject]) -> Section:
    def one(subject: Subject) -> Blocks:
        return cards.data(subject.run, subject.sampled, subject.rejected)

    kept = _distinct(subjects)
    blocks = [
        *_shared(subjects, kept),
        *_each(subjects, one, kept),
        *_with_images(subjects, lambda sampled, _: [galleries.sample(sampled)], kept),
    ]
    noun = _learnt(subjects)
    return Section("data", f"The {noun}", f"The training {noun}, without labels.", blocks)


def _views(subjects: Sequence[Subject]) -> Section:
    lead = f"Augmented views, as the network received them: views of one {subjects[0].one} belong together."
    made = _with_images(subjects, lambda sampled, subject: [galleries.views_grid(sampled, subject.wanted)])
    return Section("views", "The views", lead, made)


def _training(subjects: Sequence[Subject]) -> Section:
    curves_of_runs = [curves.TrainingCurves.of(subject.run, subject.name) for subject in subjects]
    key = tuple(subject.name for subject in subjects) if len(subjects) > 1 else ()
    drawn = [curves.losses(curves_of_runs, key), curves.health(curves_of_runs, subjects[0].noun, key)]
    table = curves.last_health(curves_of_runs, subjects[0].noun)
    facts = _side_by_side("What was trained", subjects, cards.model)
    lead = "The loss, and figures of the features during training, measured without labels."
    folds = [Fold("Every figure of health", [table])] if table else []
    return Section("training", "Training", lead, [facts, *drawn, *folds])


def _side_by_side(
    caption: str, subjects: Sequence[Subject], make: Callable[[Run], cards.Facts]
) -> TableBlock:
    """Set facts of several runs in columns."""
    made = [make(subject.run) for subject in subjects]
    rows = [(name, *(facts[at][1] for facts in made)) for at, (name, _) in enumerate(made[0])]
    head = ("", *(subject.name for subject in subjects)) if len(subjects) > 1 else ()
    return TableBlock(caption, head, rows)


def _evaluation(subjects: Sequence[Subject]) -> Section:
    lead = "Accuracy with labels: the frozen encoder and its baselines."
    scored = {subject.name: subject.scores for subject in subjects if subject.scores}
    made: list[Any] = (
        list(scoring.blocks(scored, subjects[0].noun, several=len(subjects) > 1)) if scored else []
    )
    for subject in subjects:
        if not subject.scores:
            words = [
                "nearfar",
                "evaluate",
                subject.run.name,
                "--train",
                "LABELLED",
                "--test",
                "LABELLED",
            ]
            text = f"{subject.name} has not been evaluated on labelled {subject.noun} yet."
            made.append(Note(text, shlex.join(words)))
    return Section("evaluation", "Evaluation", lead, made)


def _neighbours(subjects: Sequence[Subject]) -> Section:
    def one(sampled: ImageSample, subject: Subject) -> Blocks:
        return (
            galleries.labelled_neighbours(*subject.labelled)
            if subject.labelled
            else galleries.neighbours(sampled)
        )

    lead = "by the encoder: for random queries, for the best and for the worst."
    return Section(
        "neighbours",
        "Nearest neighbours",
        f"The most similar {subjects[0].noun} {lead}",
        _with_images(subjects, one),
    )


def _seen(subjects: Sequence[Subject]) -> list[Section]:
    """Show what features see, of one run: it takes about as long as encoding the images."""
    if len(subjects) > 1 or not subjects[0].wanted.kind.pictures:
        return []

    def one(sampled: ImageSample, subject: Subject) -> Blocks:
        known = subject.labelled[0] if subject.labelled else sampled  # labels name features
        return what_features_see.blocks(
            subject.run, known if len(known) >= what_features_see.FEWEST else sampled
        )

    lead = "Parts that make images similar, the images of single features, and what the encoder ignores."
    return [Section("features", "What features see", lead, _with_images(subjects, one))]


def _map(subjects: Sequence[Subject]) -> Section:
    def one(sampled: ImageSample, subject: Subject) -> list[Grid | Note]:
        if len(sampled) < 5:
            return [Note(f"A map needs at least five {subject.noun}.")]
        return [maps.sheet(sampled)]

    lead = f"The collection on one map, similar {subjects[0].noun} together."
    return Section("map", "Map", lead, _with_images(subjects, one))


def _spectrum(subjects: Sequence[Subject]) -> Section:
    seen = [None if subject.sampled is None else subject.sampled.features for subject in subjects]
    made: list[Any] = []
    if any(rows is not None for rows in seen):
        whitened = [subject.name for subject in subjects if is_whitened(subject.run.encoder)]
        made.append(curves.spectrum([subject.name for subject in subjects], seen, whitened))
    if lost := [subject for subject in subjects if subject.sampled is None]:
        made += _with_images(subjects, lambda sampled, subject: [], lost)
    return Section("spectrum", "Spectrum", "How many directions the features use.", made)


def _typical(subjects: Sequence[Subject]) -> Section:
    lead = f"{subjects[0].noun.capitalize()} with many similar ones, and {subjects[0].noun} with none."
    made = _with_images(subjects, lambda sampled, _: galleries.typical(sampled))
    return Section("typical", "Typical and odd", lead, made)


def _parts(subjects: Sequence[Subject]) -> list[Section]:
    lead = "Parts that no normal image has, by a bank of the patches of normal images."
    return [
        Section("parts", "Anomalous parts", lead, anomalous_parts.blocks(subject.bank, subject.sampled))
        for subject in subjects
        if subject.bank is not None
    ]


def _duplicates(subjects: Sequence[Subject]) -> Section:
    lead = "Duplicates and near-duplicates: across training and test set they inflate every score."
    kept = _distinct(subjects)
    made = _with_images(subjects, lambda sampled, _: galleries.duplicates(sampled), kept)
    return Section("duplicates", "Near-duplicates", lead, [*_shared(subjects, kept), *made])


def _cost(subjects: Sequence[Subject]) -> Section:
    table = _side_by_side("What training took", subjects, cards.cost)
    return Section("cost", "Cost", "Time, memory and speed, as the run recorded them.", [table])


def _provenance(subjects: Sequence[Subject], out: str) -> Section:
    def one(subject: Subject) -> Blocks:
        return [*cards.provenance(subject.run), *cards.commands(subject.run, out)]

    lead = "Versions, settings and digests, and the commands that repeat the run."
    return Section("provenance", "Provenance and repeating", lead, _each(subjects, one))
