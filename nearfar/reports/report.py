"""One HTML page about a run, or about several side by side."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core import progress
from ..core.atomic import atomic_write, check_place
from ..core.device import device_named
from ..core.errors import NearfarError
from ..core.own_mark import is_own
from ..core.text import as_list, counted
from ..data.modalities import modality
from ..evaluation.evaluate import evaluate
from ..training import checkpoint, run_shapes
from ..training.run import Run, load
from ..training.run_config import RunConfig
from . import cards, encoder_page, page, sample, summary, tuned
from .anomalous_parts import open_bank
from .blocks import Section
from .sections import Subject, overview, sections

RUNS = 6  # side by side at most: so many colours can be distinguished
BASE, ASKED = 4096, 1024  # labelled images to search, and to query with, at most


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes:
        path: the file.
        bytes: its size.
        runs: the runs' folders, or a known encoder's name.
        sections: the ids of its sections.
        missing: by section's id, what is not there and why.
    """

    path: Path
    bytes: int
    runs: tuple[Path, ...]
    sections: tuple[str, ...]
    missing: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Write it as plain values."""
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "runs": [str(path) for path in self.runs],
            "sections": list(self.sections),
            "missing": dict(self.missing),
        }

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.bytes / 2**20:.1f} MiB, opens in any browser"]
        lines += [f"  {name}: {text}" for name, text in self.missing.items()]
        return "\n".join(lines)


def report(
    *runs: Run | str | Path,
    out: str | Path = "report.html",
    data: Any = None,
    train: Any = None,
    test: Any = None,
    bank: str | Path | None = None,
    names: Sequence[str] = (),
) -> Report:
    """Write one HTML file about a run, or about several side by side; it needs no network and no other file.

    Example: nearfar report runs/a --out report.html

    It shows what was trained and on what, views as the network saw them, loss and health, scores on labelled
    images if there are any, nearest neighbours, a map, the spectrum, odd images, near-duplicates, cost, and
    how to repeat it all. Where something cannot be shown, the page gives the reason and a command. At most
    4,096 of a collection's images are sampled, the same ones each time.

    Of a run of nearfar finetune it shows the figures beside the baselines', the classes, the mistakes on test
    images, the training and its origin. Of an encoder that was not trained here, such as a known one, it
    shows the card and the evaluation.

    Args:
        runs: folders of runs, up to six; of nearfar finetune one, and of encoders that were not trained here,
            such as known, one.
        out: the file.
        data: the images, if they have moved.
        train: labelled images to fit on, for a run that has not been evaluated; needs test.
        test: labelled images to test on; if not given, those that the run was evaluated or tested on.
        bank: a .safetensors file that nearfar anomalies --parts has made with the run's encoder: adds a
            section on anomalous parts.
        names: what to call the runs, in their order; if not given, as their folders.

    Returns:
        Where it is, how large, and what is missing in it.

    Raises:
        NearfarError: a run cannot be loaded, a library is missing, or the file cannot be written.
    """
    page.check_libraries()
    check_place(Path(out))
    if not 1 <= len(runs) <= RUNS:
        raise NearfarError(f"a report shows 1 to {RUNS} runs, not {len(runs)}.")
    if bank is not None and len(runs) > 1:
        raise NearfarError("a bank is of one encoder; name one run with --bank.")
    loaded = [load(run) for run in runs]
    called = summary.names_of(as_list(names), _names(loaded))
    device = device_named("auto")
    if any(tuned.is_tuned(run) for run in loaded):
        if bank is not None:
            raise NearfarError("--bank is for reports on pretrainings; leave it out for a fine-tuned run.")
        return _tuned(loaded, called[0], Path(out), data, train, test, device)
    if (train is None) != (test is None):
        raise NearfarError("--train and --test belong together; give both, or neither.")
    if any(not run.config for run in loaded):
        return _of_others(loaded, called[0], Path(out), data, train, test, bank)
    subjects = [
        _subject(run, name, data, train, test, bank, device) for run, name in zip(loaded, called, strict=True)
    ]
    progress.say("drawing the report")
    made = sections(subjects, str(out))
    first = subjects[0]
    several = len(subjects) > 1
    text = page.render(
        made,
        title=" and ".join(called) if len(called) < 3 else f"{len(called)} runs compared",
        lede=f"{first.run.config['method']} on {first.run.config['data']['name']}"
        if not several
        else "Several runs side by side.",
        summary=_summary(subjects),
        verdicts=[(item.name if several else "", item.verdict) for item in subjects],
        answers=_answers(subjects),
        overview=overview(subjects),
    )
    return _written(Path(out), text, loaded, made)


def _summary(subjects: Sequence[Subject]) -> str:
    """Sum up the runs in a sentence."""
    if len(subjects) > 1:
        return summary.compared({item.name: item.scores for item in subjects}, subjects[0].noun)
    (one,) = subjects
    learnt = counted(int(one.run.config["data"]["images"]), one.wanted.kind.one)
    return summary.sentence(learnt, one.noun, one.scores, one.verdict)


def _answers(subjects: Sequence[Subject]) -> list[tuple[str, str, str]]:
    """Answer a reader's questions on a run; and say what the report does not tell, of several too."""
    # Of runs on several collections, the one of which the smallest share is shown.
    one = min(subjects, key=lambda item: 1.0 if item.sampled is None else len(item.sampled) / _known(item))
    scores = next((item.scores for item in subjects if item.scores), None)
    sampled = None if one.sampled is None else len(one.sampled)
    told = summary.limits(scores, sampled, _known(one), one.noun, len(subjects))
    limits = (summary.LIMITS, told, "evaluation")
    if len(subjects) > 1:
        return [limits]
    return [*cards.answers(one.run, one.scores, len(one.rejected)), limits]


def _known(one: Subject) -> int:
    """Count what a run's collection holds."""
    facts = one.run.config["data"]
    return int(facts["images"]) + int(facts.get("holdout", 0))


def _written(out: Path, text: str, runs: Sequence[Run], made: Sequence[Section]) -> Report:
    """Write the file."""
    with atomic_write(out, folders=True) as file:
        file.write(text.encode())
    folders, ids = tuple(Path(run.name) for run in runs), tuple(section.id for section in made)
    return Report(out, len(text.encode()), folders, ids, page.missing(made))


def _tuned(
    runs: Sequence[Run], name: str, out: Path, data: Any, train: Any, test: Any, device: torch.device
) -> Report:
    """Write the page of a fine-tuned run."""
    if len(runs) > 1:
        raise NearfarError("a report on a run of nearfar finetune shows that run alone; name one run.")
    noun = modality(runs[0].preprocess.modality).noun
    for flag, value in (("--data", data), ("--train", train)):
        if value is not None:
            raise NearfarError(
                f"{flag} is for reports on pretrainings; name labelled {noun} of {name} with --test."
            )
    one = tuned.gather(runs[0], name, test, device)
    progress.say("drawing the report")
    made = tuned.sections(one, str(out))
    head = {"title": name, "lede": tuned.lede(one), "verdicts": [("", one.result.verdict)]}
    text = page.render(made, **head, summary=tuned.sentence(one), answers=tuned.answers(one), overview=[])
    return _written(out, text, runs, made)


def _of_others(
    runs: Sequence[Run], name: str, out: Path, data: Any, train: Any, test: Any, bank: Any
) -> Report:
    """Write the page of an encoder that was not trained here."""
    foreign = next(run for run in runs if not run.config)
    if len(runs) > 1:
        raise NearfarError(
            f"{foreign.name} was not trained here, so a report shows it alone; name one run, or compare: "
            f"nearfar evaluate {shlex.join(run.name for run in runs)} --train LABELLED --test LABELLED"
        )
    for flag, value in (("--data", data), ("--bank", bank)):
        if value is not None:
            raise NearfarError(f"{flag} is for runs that were trained here; leave it out for {foreign.name}.")
    one = encoder_page.OthersEncoder(name, foreign, _scores(foreign, train, test))
    progress.say("drawing the report")
    made = encoder_page.sections(one, str(out))
    head: dict[str, Any] = {"title": name, "lede": encoder_page.lede(one), "verdicts": []}
    head |= {"summary": encoder_page.sentence(one), "answers": encoder_page.answers(one), "overview": []}
    return _written(out, page.render(made, **head), runs, made)


def _names(runs: Sequence[Run]) -> list[str]:
    """Call runs by the names of their folders, or by paths where two share one; known encoders by theirs."""
    short = [run.name if run.path is None else run.path.resolve().name for run in runs]
    return short if len(set(short)) == len(short) else [run.name for run in runs]


def _subject(
    run: Run, name: str, data: Any, train: Any, test: Any, bank: str | Path | None, device: torch.device
) -> Subject:
    """Gather what the report shows of a run."""
    wanted = RunConfig.from_json(run.config, f"{run.folder / 'config.json'}: ")
    opened = None if bank is None else open_bank(run, bank)
    found, trouble = None, ""
    progress.say(f"encoding {sample.noun_of(wanted.kind)} of {name}")
    try:
        found = sample.sample_run(run, wanted, data, device)
    except NearfarError as error:
        if data is not None:
            raise
        trouble = str(error)
    scores = _scores(run, train, test)
    return Subject(
        name=name,
        run=run,
        wanted=wanted,
        rejected=sample.read_rejected(run.folder),
        sampled=found,
        trouble=trouble,
        scores=scores,
        verdict=run.verdict(),
        labelled=_labelled(run, scores, train, test, device),
        bank=opened,
    )


def _labelled(
    run: Run, scores: Mapping[str, Any] | None, train: Any, test: Any, device: torch.device
) -> tuple[sample.ImageSample, sample.ImageSample] | None:
    """Sample labelled images: those given, or those that the evaluation names, if they are still there."""
    named = (scores or {}).get("data", {})
    parts = (train, test) if train is not None else (named.get("train"), named.get("test"))
    if None in parts or (train is None and not is_own(named.get("mark"), parts)):
        return None
    try:
        base, asked = (
            sample.sample_labelled(run, part, count, device)
            for part, count in zip(parts, (BASE, ASKED), strict=True)
        )
    except NearfarError:
        if train is not None:
            raise
        return None
    return base, asked


def _scores(run: Run, train: Any, test: Any) -> Mapping[str, Any] | None:
    """Read a run's evaluation; make it where labels were given that it is not of."""
    path = None if run.path is None else run.path / "evaluation.json"
    there = path is not None and path.exists()
    kept = checkpoint.read_json(path, run_shapes.EVALUATION) if path is not None and there else None
    if train is None:
        return kept
    if kept is not None:
        named = kept.get("data", {})
        if _same_place(train, named.get("train")) and _same_place(test, named.get("test")):
            return kept
        progress.say(f"{path} is of other images; evaluating anew")
    return evaluate(run, train=train, test=test).to_json()


def _same_place(given: Any, named: Any) -> bool:
    """Tell whether labelled images that were given are those that an evaluation names."""
    places = (str, Path)
    return (
        isinstance(given, places)
        and isinstance(named, places)
        and os.path.realpath(given) == os.path.realpath(named)
    )
