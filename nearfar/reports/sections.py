"""Lays out the report: which section holds what, for one run or several side by side."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..core import progress
from ..training.resolve import RunConfig
from ..training.run import Run
from . import cards, curves, galleries, maps, scoring
from .blocks import Blocks, Columns, Fold, Grid, Note, Section, Table
from .sample import Look


@dataclass(frozen=True)
class Subject:
    """One run, and all that the report knows of it.

    Attributes:
        name: what the report calls it.
        run, wanted: the run and its settings.
        rejected: images set aside, with reasons.
        look: its images; None where they are not to be had, and then `trouble` says why.
        scores: its evaluation.json, if there is one.
        verdict: its health in words, if it was judged.
        labelled: labelled images to search and to ask for, where they were given.
    """

    name: str
    run: Run
    wanted: RunConfig
    rejected: Sequence[tuple[str, str]]
    look: Look | None
    trouble: str
    scores: scoring.Scores | None
    verdict: Any
    labelled: tuple[Look, Look] | None


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
        _map(subjects),
        _spectrum(subjects),
        _typical(subjects),
        _duplicates(subjects),
        _cost(subjects),
        _provenance(subjects, out),
    ]


def overview(subjects: Sequence[Subject]) -> list[Table]:
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
    head = ("run", "method", "encoder", "images", "epochs", "time", "verdict", "accuracy")
    return [Table("The runs", head, rows)]


def _each(subjects: Sequence[Subject], make: Callable[[Subject], Blocks]) -> Blocks:
    """Put the same blocks of every run side by side; of one run, as they are."""
    if len(subjects) == 1:
        return make(subjects[0])
    return [Columns([(subject.name, make(subject)) for subject in subjects])]


def _looked(subjects: Sequence[Subject], make: Callable[[Look, Subject], Blocks]) -> Blocks:
    """Make blocks of each run's images, or say how to get at them."""

    def one(subject: Subject) -> Blocks:
        if subject.look is None:
            command = ["nearfar", "report", str(subject.run.path), "--data", "DATA"]
            return [Note(f"The images cannot be shown: {subject.trouble}", shlex.join(command))]
        if not subject.wanted.kind.pictures:
            return [Note(f"Of {subject.wanted.modality}, no pictures can be shown.")]
        return make(subject.look, subject)

    return _each(subjects, one)


def _distinct(subjects: Sequence[Subject]) -> list[Subject]:
    """Keep one run of those that learnt from the same images."""
    first = {str(subject.run.config["data"]["fingerprint"]): subject for subject in reversed(subjects)}
    return [subject for subject in subjects if subject in first.values()]


def _data(subjects: Sequence[Subject]) -> Section:
    def one(subject: Subject) -> Blocks:
        return cards.data(subject.run, subject.look, subject.rejected)

    kept = _distinct(subjects)
    blocks = [*_each(kept, one), *_looked(kept, lambda look, _: [galleries.sample(look)])]
    return Section("data", "The images", "What the encoder learnt from, without labels.", blocks)


def _views(subjects: Sequence[Subject]) -> Section:
    lead = "What the network was told: views of one image belong together, whatever was changed."
    made = _looked(subjects, lambda look, subject: [galleries.viewed(look, subject.wanted)])
    return Section("views", "The views", lead, made)


def _training(subjects: Sequence[Subject]) -> Section:
    courses = [curves.Course.of(subject.run, subject.name) for subject in subjects]
    key = tuple(subject.name for subject in subjects) if len(subjects) > 1 else ()
    drawn = [curves.losses(courses, key), curves.health(courses)]
    table = curves.last_health(courses)
    facts = _side_by_side("What was trained", subjects, cards.model)
    lead = "How the loss fell, and what the features looked like on the way, measured without labels."
    folds = [Fold("Every figure of health", [table])] if table else []
    return Section("training", "Training", lead, [facts, *drawn, *folds])


def _side_by_side(caption: str, subjects: Sequence[Subject], make: Callable[[Run], cards.Facts]) -> Table:
    """Set facts of several runs in columns."""
    made = [make(subject.run) for subject in subjects]
    rows = [(name, *(facts[at][1] for facts in made)) for at, (name, _) in enumerate(made[0])]
    head = ("", *(subject.name for subject in subjects)) if len(subjects) > 1 else ()
    return Table(caption, head, rows)


def _evaluation(subjects: Sequence[Subject]) -> Section:
    lead = "What the features are worth with labels: the encoder frozen, beside what comes for nothing."
    scored = {subject.name: subject.scores for subject in subjects if subject.scores}
    made: list[Any] = list(scoring.blocks(scored)) if scored else []
    for subject in subjects:
        if not subject.scores:
            words = [
                "nearfar",
                "evaluate",
                str(subject.run.path),
                "--train",
                "LABELLED",
                "--test",
                "LABELLED",
            ]
            text = f"{subject.name} has not been evaluated on labelled images yet."
            made.append(Note(text, shlex.join(words)))
    return Section("evaluation", "Evaluation", lead, made)


def _neighbours(subjects: Sequence[Subject]) -> Section:
    def one(look: Look, subject: Subject) -> Blocks:
        return galleries.judged(*subject.labelled) if subject.labelled else galleries.neighbours(look)

    lead = "Who looks most like whom to the encoder: by chance, at its best and, on purpose, at its worst."
    return Section("neighbours", "Nearest neighbours", lead, _looked(subjects, one))


def _map(subjects: Sequence[Subject]) -> Section:
    def one(look: Look, subject: Subject) -> list[Grid | Note]:
        if len(look) < 5:
            return [Note("A map needs at least five images.")]
        return [maps.sheet(look)]

    lead = "The collection on one sheet, as the encoder orders it."
    return Section("map", "Map", lead, _looked(subjects, one))


def _spectrum(subjects: Sequence[Subject]) -> Section:
    seen = [(subject.name, subject.look.features) for subject in subjects if subject.look is not None]
    made: list[Any] = (
        [curves.spectrum([name for name, _ in seen], [rows for _, rows in seen])] if seen else []
    )
    if len(seen) < len(subjects):
        lost = [subject for subject in subjects if subject.look is None]
        made += _looked(lost, lambda look, subject: [])
    return Section("spectrum", "Spectrum", "How many directions the features use.", made)


def _typical(subjects: Sequence[Subject]) -> Section:
    lead = "What there is much of, and what stands alone."
    made = _looked(subjects, lambda look, _: galleries.typical(look))
    return Section("typical", "Typical and odd", lead, made)


def _duplicates(subjects: Sequence[Subject]) -> Section:
    lead = "Images that are there twice, or nearly: in a test set they would flatter every score."
    kept = _distinct(subjects)
    made = _looked(kept, lambda look, _: galleries.duplicates(look))
    return Section("duplicates", "Near-duplicates", lead, made)


def _cost(subjects: Sequence[Subject]) -> Section:
    table = _side_by_side("What training took", subjects, cards.cost)
    return Section("cost", "Cost", "Time, memory and pace, as the run recorded them.", [table])


def _provenance(subjects: Sequence[Subject], out: str) -> Section:
    def one(subject: Subject) -> Blocks:
        return [*cards.provenance(subject.run), *cards.commands(subject.run, out)]

    lead = "Where this comes from, and the commands that make it again."
    return Section("provenance", "Provenance and repeating", lead, _each(subjects, one))
