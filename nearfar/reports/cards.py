"""Writes the facts of a run as tables and sentences: its data, its cost, its origin, how to repeat it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core import progress
from ..core.config import flag_of
from ..core.device import cores
from ..core.text import counted
from ..core.version import __version__
from ..data.dataset import duplicates
from ..data.inspection import Sides
from ..data.modalities import modality, modality_of
from ..data.subset import subset_of
from ..features.extract import fingerprint
from ..methods.catalogue import catalogue
from ..training.run import Run
from ..training.settings import Training
from . import scoring
from .blocks import Command, Fold, Note, TableBlock
from .sample import ImageSample, noun_of

INSPECTED = 512  # images whose files are looked into
LISTED = 200  # rejected files named, at most

Facts = list[tuple[str, str]]


def data(run: Run, sampled: ImageSample | None, rejected: Sequence[tuple[str, str]]) -> list[Any]:
    """Describe the images of a run.

    Args:
        run: the run.
        sampled: its images, if they are there.
        rejected: the rejected images, with reasons.

    Returns:
        A table of facts, and the rejected files.
    """
    facts = run.config["data"]
    noun = modality(run.config["training"]["modality"]).noun
    trained, apart = int(facts["images"]), int(facts.get("holdout", 0))
    rows: Facts = [(noun, str(facts["name"])), ("trained on", f"{trained:,}")]
    rows.append(("holdout, for health checks", f"{apart:,}"))
    rows.append(("rejected as unusable", f"{len(rejected):,}"))
    made: list[Any] = []
    if sampled is not None:
        rows += _files(sampled)
        there = len(sampled.source) - len(rejected)
        if there != sampled.expected:
            usable = counted(there, f"usable {noun.removesuffix('s')}")
            made.append(Note(f"There are {usable} now, and were {sampled.expected:,} in training."))
    rows.append(("fingerprint", str(facts["fingerprint"])))
    made.insert(0, TableBlock("Data card", (), rows))
    return made + _rejected(rejected, noun)


def _files(sampled: ImageSample) -> Facts:
    """ImageSample into some of the files: sides, formats, colours; and count equal ones."""
    few = subset_of(sampled.few, np.arange(min(INSPECTED, len(sampled.few))))
    found = modality_of(few).describe(few, limit=Training.max_pixels, threads=cores())
    rows: Facts = []
    for name, sides in (("short side", found.short), ("long side", found.long)):
        if sides is not None:
            rows.append((name, _sides(sides)))
    for name, counts in (("formats", found.formats), ("colours", found.modes)):
        if not counts:  # not every kind of data has them
            continue
        total = sum(counts.values())
        shares = ", ".join(f"{kind} {_share(count, total)}" for kind, count in counts.items())
        rows.append((name, shares))
    size = found.bytes / max(1, found.usable)
    rows.append(("size of a file", f"{size / 1024:,.1f} KiB on average, about "
                 f"{size * len(sampled.source) / 2**20:,.0f} MiB in all"))  # fmt: skip
    extra = sum(len(group) - 1 for group in duplicates(sampled.dataset))
    rows.append(("duplicates, byte for byte", f"{extra:,} of {len(sampled):,} sampled"))
    if len(few) < len(sampled.source):
        rows.append(("sides, formats and sizes", f"from {counted(len(few), 'file')} drawn at random"))
    return rows


def _sides(sides: Sides) -> str:
    if sides.least == sides.greatest:
        return f"{sides.least:,} px, all the same"
    return f"{sides.least:,} to {sides.greatest:,} px, median {sides.median:,}"


def _share(count: int, total: int) -> str:
    return "100 %" if count == total else f"{100 * count / total:.1f} %"


def _rejected(rejected: Sequence[tuple[str, str]], noun: str) -> list[Any]:
    if not rejected:
        return []
    one = noun.removesuffix("s")
    reasons = Counter(reason for _, reason in rejected)
    rows = [(reason, f"{count:,}") for reason, count in reasons.most_common(12)]
    more = f", the first {LISTED}" if len(rejected) > LISTED else ""
    return [
        TableBlock(f"Why {noun} were rejected", ("reason", noun), rows),
        Fold(f"Their names{more}", [TableBlock(f"Rejected {noun}", (one, "reason"), rejected[:LISTED])]),
    ]


def model(run: Run) -> Facts:
    """Say in a few facts what was trained."""
    training, log, kind = run.config["training"], run.log(), modality(run.config["training"]["modality"])
    weights = sum(weight.numel() for weight in run.encoder.parameters())
    method = next(entry for entry in catalogue().entries if entry.name == run.config["method"])
    passes = f"{log[-1]['epoch']:.3g}" if log else ""
    epochs = f", {passes} epoch{'' if passes == '1' else 's'}" if log else ""
    return [
        ("method", f"{method.name} ({method.paper}): {method.line}"),
        ("encoder", f"{run.encoder.name}, {run.encoder.stem} stem, {weights:,} weights"),
        ("features", f"{run.encoder.dim:,} numbers for each of the {kind.noun}"),
        ("input", f"{run.preprocess.size} {kind.unit}"),
        (
            "length",
            f"{run.provenance.get('steps', 0):,} steps of {training['batch_size']:,} {kind.noun}{epochs}",
        ),
        (
            "optimizer",
            f"{training['optimizer']}, learning rate {training['lr']:g}, recipe {run.config['recipe']}",
        ),
    ]


def cost(run: Run) -> Facts:
    """Say what the training took."""
    log = run.log()
    last: Mapping[str, Any] = log[-1] if log else {}
    training, kind = run.config["training"], modality(run.config["training"]["modality"])
    seconds, pace, peak = last.get("seconds"), last.get("images_per_second"), last.get("peak_mib")
    looked = sum(float(line.get("seconds") or 0) for line in run.health())
    return [
        ("time", "unknown" if seconds is None else progress.duration(seconds)),
        ("of it, health checks", progress.duration(looked) if looked else "none"),
        ("pace", "unknown" if pace is None else f"{pace:,.0f} {kind.noun}/s"),
        (
            f"{kind.noun} seen",
            f"{run.provenance.get('steps', 0) * training['batch_size']:,}, each in several views",
        ),
        (
            "waiting for data",
            "unknown" if "waiting" not in last else f"{100 * last['waiting']:.1f} % of the time",
        ),
        ("memory at its peak", "unknown" if peak is None else f"{peak:,.0f} MiB"),
        ("computed on", f"{training['device']}, {training['precision']}"),
        ("energy", "not measured"),
    ]


def provenance(run: Run) -> list[Any]:
    """Say where a run comes from: versions, settings, digests."""
    config = run.config
    facts: Facts = [
        ("nearfar", f"{config['nearfar']} (this report: {__version__})"),
        ("commit", str(config.get("commit") or "not recorded")),
        ("PyTorch", str(config["torch"])),
        ("seed", str(config["training"]["seed"])),
        ("data, fingerprint", str(config["data"]["fingerprint"])),
        ("encoder, SHA-256 of its weights", fingerprint(run.encoder)),
        ("weights started from", str(run.provenance.get("weights") or "none: random")),
    ]
    if teacher := run.provenance.get("teacher"):
        facts.append(("teacher, its licence", f"{teacher['name']}, {teacher['licence']}"))
    groups = [("training", "Training"), ("views", "Views"), ("settings", f"Method {config['method']}")]
    tables = [
        TableBlock(title, (), [(flag_of(name), plain(value)) for name, value in config[key].items()])
        for key, title in groups
    ]
    return [TableBlock("Provenance", (), facts), Fold("Every setting of the run", tables)]


def plain(value: Any) -> str:
    """Write a setting's value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def asked(run: Run) -> str:
    """Write the command that started a run."""
    words = dict(run.config["asked"])
    place, like = words.pop("data", None), words.pop("like", None)
    parts = ["nearfar", "pretrain", str(place or "DATA"), "--out", run.name]
    if like:
        parts += ["--like", str(like)]
        words.pop("method", None), words.pop("recipe", None)
    for name, value in words.items():
        flag = flag_of(name)
        if value is None or (name == "recipe" and value == "auto"):
            continue
        if isinstance(value, bool):
            parts.append(flag if value else f"--no-{flag[2:]}")
        else:
            parts += [flag, *(map(str, value) if isinstance(value, list) else [str(value)])]
    return shlex.join(parts)


def commands(run: Run, out: str) -> list[Command]:
    """List the commands that repeat a run and its report.

    Args:
        run: the run.
        out: the report.
    """
    noun = noun_of(modality(run.config["training"]["modality"]))
    here, place = run.name, str(run.config["asked"].get("data") or "DATA")
    labelled = ["--train", "LABELLED", "--test", "LABELLED"]
    listed = {
        "The command that started the run; it also resumes an unfinished run.": asked(run),
        "Repeat the run, with every setting and the same number of steps.": shlex.join(
            ["nearfar", "pretrain", place, "--out", f"{here}-again", "--like", here]
        ),
        f"Evaluate on labelled {noun}.": shlex.join(["nearfar", "evaluate", here, *labelled]),
        f"Embed {noun}.": shlex.join(["nearfar", "embed", here, place, "--out", "vectors.parquet"]),
        "Write this page.": shlex.join(["nearfar", "report", here, "--out", out]),
    }
    return [Command(text, command) for text, command in listed.items()]


def answers(run: Run, scores: scoring.Scores | None, rejected: int) -> list[tuple[str, str, str]]:
    """Answer the questions that a reader comes with.

    Args:
        run: the run.
        scores: its evaluation.json, if there is one.
        rejected: how many images were rejected.

    Returns:
        Question, answer, and the id of the section that says more.
    """
    config, log = run.config, run.log()
    facts, kind = config["data"], modality(config["training"]["modality"])
    noun = noun_of(kind)
    seconds = f" in {progress.duration(log[-1]['seconds'])}" if log and log[-1].get("seconds") else ""
    steps = run.provenance.get("steps", 0)
    trained = (
        f"A {run.encoder.name} that turns {kind.noun} of {run.preprocess.size} {kind.unit} into "
        f"{run.encoder.dim:,} numbers, by {config['method']}, {counted(steps, 'step')} of "
        f"{counted(config['training']['batch_size'], kind.one)}{seconds}."
    )
    apart = f", {facts['holdout']:,} more held out for health checks" if facts.get("holdout") else ""
    on = f"{counted(facts['images'], kind.one)} of {facts['name']}{apart}, {rejected:,} rejected as unusable."
    again = (
        "Yes: the settings, the seed and the number of steps are recorded, and the same "
        f"{kind.noun} have the same fingerprint."
    )
    return [
        ("What was trained?", trained, "cost"),
        ("On what?", on, "data"),
        ("Is it good?", good(scores, noun, "; health without labels is below"), "evaluation"),
        (
            "Where does it fail?",
            fails(scores, noun),
            "neighbours" if kind.pictures and not scores else "evaluation",
        ),
        ("Can I repeat it?", again, "provenance"),
    ]


def good(scores: scoring.Scores | None, noun: str, otherwise: str = "") -> str:
    """Say how good an encoder is.

    Args:
        scores: its evaluation.json, if there is one.
        noun: what it is tested on.
        otherwise: what else there is to see, where it is not evaluated.
    """
    found = scoring.main(scores) if scores else None
    if scores is None or found is None:
        return f"Not evaluated with labels yet{otherwise}."
    key, encoder = found
    told = scoring.sentences(scores)
    first = f"{'. '.join(told)}. " if told else ""
    others = [
        f"{scoring.title(way)} {scoring.percent(score['accuracy'])}"
        for way, score in scores[key].items()
        if way != "encoder"
    ]
    return (
        f"{first}{scoring.title(key)} classifies {scoring.percent(encoder['accuracy'])} of "
        f"{scores.get('images', {}).get('test', 0):,} test {noun} correctly "
        f"({100 * encoder['low']:.1f} to {100 * encoder['high']:.1f})"
        f"{'; ' * bool(others)}{', '.join(others)}."
    )


def fails(scores: scoring.Scores | None, noun: str) -> str:
    """Say where an encoder fails.

    Args:
        scores: its evaluation.json, if there is one.
        noun: what it is tested on.
    """
    quoted = scoring.main(scores) if scores else None
    found = scoring.confusion(scores, quoted[0] if quoted else "") if scores else None
    wrong = scoring.mistakes(found[1], found[2], 3) if found else []
    if not wrong and noun != "images":  # of which alone neighbours are shown
        return (
            f"No test {noun[:-1]} was taken for another class." if found else f"Labelled {noun} would tell."
        )
    if not wrong:
        return f"See the least similar neighbours and the least typical {noun}."
    listed = ", ".join(f"{true} for {answer} ({scoring.percent(share)})" for true, answer, _, share in wrong)
    how = found[0] if found else ""
    return f"By {how}, it most often takes {listed}."
