"""What the report shows of a fine-tuned run: figures beside others, classes, mistakes, training, origin."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core import progress
from ..core.config import flag_of
from ..core.device import cores
from ..core.errors import NearfarError
from ..core.own_mark import is_own
from ..core.text import counted
from ..core.version import __version__
from ..data.modalities import modality
from ..data.modality import Modality
from ..features.extract import fingerprint
from ..finetuning.outcome import TUNED, Finetuned
from ..finetuning.session import CHECKS_FILE
from ..finetuning.task_types import Mistake, Setup, Where, figure_name
from ..finetuning.tuned import open_result, open_tuned
from ..training import checkpoint
from ..training.run import Run
from . import cards, curves, summary
from .blocks import Blocks, Command, Fold, Grid, Note, Plot, Plots, Section, TableBlock
from .figures import Dot, Line, dots
from .figures import curves as draw_curves
from .galleries import tile
from .sample import foreign

SHOWN = {1: 36, 2: 12, 3: 12}  # mistakes, by how many pictures show one
SIDE = {1: 112, 2: 280, 3: 200}  # of a picture
LISTED = 40  # classes listed before the table is folded away
BATCH = 64
INTERVAL = ("low", "high")


@dataclass(frozen=True)
class TunedRun:
    """A fine-tuned run, what came of it, and its mistakes on test images; or why these cannot be shown."""

    name: str
    run: Run
    result: Finetuned
    mistakes: Sequence[Mistake]
    trouble: str

    @property
    def kind(self) -> Modality:
        """What it was trained on: "images", "sound", "text"."""
        return modality(self.run.preprocess.modality)


def is_tuned(run: Run) -> bool:
    """Tell whether a run was made by `nearfar finetune`."""
    return "task" in run.config.get("asked", {})


def gather(run: Run, name: str, test: Any, device: torch.device) -> TunedRun:
    """Read a run, and predict its test images again to see its mistakes.

    Args:
        run: the run.
        name: what the report calls it.
        test: labelled images; None for those that it was tested on.
        device: where to compute.

    Raises:
        NearfarError: the run is not finished, or test images that were given cannot be used.
    """
    result, asked = open_result(run.folder), run.config["asked"]
    named = test if test is not None else asked.get("test")
    if named is None:
        return TunedRun(name, run, result, (), f"it had no test {modality(run.preprocess.modality).noun}")
    if test is None and not is_own(run.config.get("mark"), [named, asked.get("labels")]):
        return TunedRun(name, run, result, (), foreign(run, named, "--test").rstrip("."))
    try:
        opened = open_tuned(run)
        own = {"labels": asked.get("labels"), "label_level": asked.get("label_level")} if test is None else {}
        where = Where(**own, max_bad=float(asked["max_bad"]), workers=cores())
        progress.say(f"predicting test {modality(run.preprocess.modality).noun} of {name}")
        data = opened.task.read_test(named, run.preprocess, where)
        network = opened.network.to(device)
        setup = Setup(run.preprocess, device, cores())
        answers = opened.task.answers(network, data.dataset, setup, batch_size=BATCH)
        return TunedRun(name, run, result, opened.task.mistakes(answers, data, max(SHOWN.values())), "")
    except NearfarError as error:
        if test is not None:
            raise
        return TunedRun(name, run, result, (), str(error).rstrip("."))


def sections(one: TunedRun, out: str) -> list[Section]:
    """Make every section.

    Args:
        one: the run.
        out: where the report goes, for the command that repeats it.
    """
    noun = one.kind.noun
    return [
        Section("figures", "Figures", "The trained network, and what it is compared with.", _figures(one)),
        Section("classes", "Classes", "The same figures by class, the lowest first.", _classes(one)),
        Section("mistakes", "Mistakes", f"Test {noun} on which the network is most wrong.", _mistakes(one)),
        Section("training", "Training", "What was trained, and how it went.", _training(one)),
        Section("provenance", "Provenance and repeating", "Versions, settings, commands.", _origin(one, out)),
    ]


def answers(one: TunedRun) -> list[tuple[str, str, str]]:
    """Answer the questions that a reader comes with: question, answer, section."""
    result = one.result
    rows = result.figures[_last(result)]
    told = [f"{row} {_value(result.main, found)}" for row, found in rows.items()]
    low = min(_by_class(result), key=lambda item: item[1], default=None)
    trained = f"{result.task}, {result.mode}, from {one.run.config['asked']['run']}."
    where = "See the mistakes." if low is None else f"Lowest of all classes: {low[0]}, {100 * low[1]:.1f} %."
    return [
        ("What was trained?", trained, "training"),
        ("Is it good?", f"{figure_name(result.main)} on {_images(one)}: {'; '.join(told)}.", "figures"),
        ("Where does it fail?", where, "mistakes"),
        (summary.LIMITS, _limits(one), "figures"),
    ]


def sentence(one: TunedRun) -> str:
    """Sum the run up in one sentence, for who reads no further.

    Args:
        one: the run.
    """
    result = one.result
    name, rows = result.main, result.figures[_last(result)]
    value = _value(name, rows[TUNED])
    says = f"The fine-tuned network reaches {figure_name(name)} {value} on {_images(one)}"
    others = {row: found[name] for row, found in rows.items() if row != TUNED and name in found}
    if not others:
        return f"{says}; it was compared with nothing."
    best = (min if "loss" in name else max)(others, key=lambda row: others[row])
    return f"{says}; the best of what it was compared with, {best}, reaches {_value(name, rows[best])}."


def _limits(one: TunedRun) -> str:
    """Say what the figures do not tell."""
    noun, part = one.kind.noun, _last(one.result)
    sources = "cameras" if one.kind.pictures else "sources"
    told = [f"The figures hold for {noun} like these, not for other {sources}, places or years."]
    if part != "test":
        told.append(
            f"There were no test {noun}: settings were chosen on the {part} {noun}, which flatters them."
        )
    told.append("It is one run: with another seed, figures differ by a point or more.")
    return " ".join(told)


def _last(result: Finetuned) -> str:
    """Name the part of the images that the verdict is about."""
    return "test" if "test" in result.figures else next(iter(result.figures))


def _images(one: TunedRun) -> str:
    part = _last(one.result)
    return counted(one.result.images[part], f"{part} {one.kind.one}")


def _value(name: str, found: Mapping[str, float]) -> str:
    """Write a figure, the main one with its interval."""
    return f"{found[name]:.3f}" if "loss" in name else f"{100 * found[name]:.1f} %"


def _figures(one: TunedRun) -> Blocks:
    """Set the rows of each part side by side, and draw the main figure with its interval."""
    result = one.result
    made: list[Any] = []
    for part, rows in reversed([*result.figures.items()]):
        names = [name for name in next(iter(rows.values())) if name not in (*INTERVAL, "chance")]
        names = [result.main, *(name for name in names if name != result.main)]
        drawn = [
            Dot(row, found["low"], found[result.main], found["high"], 0 if row == TUNED else None)
            for row, found in rows.items()
            if {*INTERVAL} <= {*found}
        ]
        if drawn:
            alt = f"{figure_name(result.main)} on {part} {one.kind.noun}, with 95 % intervals"
            plot = Plot(dots(f"main-{part}", alt, drawn), alt, "Intervals that overlap may still differ: "
                        f"the verdict compares on the same {one.kind.noun}.")  # fmt: skip
            made.append(Plots([plot]))
        cells = [
            (
                row,
                _value(result.main, found) + _interval(found),
                *(_value(name, found) for name in names[1:]),
            )
            for row, found in rows.items()
        ]
        head = ("", *(figure_name(name) for name in names))
        many = counted(result.images[part], f"{part} {one.kind.one}")
        made.append(TableBlock(many, head, cells, strong=True))
    return [*made, *(Note(f"{note[:1].upper()}{note[1:].rstrip('.')}.") for note in result.notes)]


def _interval(found: Mapping[str, float]) -> str:
    if not {*INTERVAL} <= {*found}:
        return ""
    return f" ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


def _by_class(result: Finetuned) -> list[tuple[str, float]]:
    """Give each class's first figure that is a share, the lowest first."""
    found = [
        (name, next((value for key, value in own.items() if key != "images"), None))
        for name, own in result.per_class.items()
    ]
    return sorted(((name, value) for name, value in found if value is not None), key=lambda item: item[1])


def _classes(one: TunedRun) -> Blocks:
    result = one.result
    names = list(dict.fromkeys(key for own in result.per_class.values() for key in own if key != "images"))
    order = [name for name, _ in _by_class(result)]
    if not order:
        return [Note("There are no figures by class.")]
    with_counts = any("images" in own for own in result.per_class.values())
    rows = []
    for name in order:
        own = result.per_class[name]
        cells = [f"{100 * own[key]:.1f} %" if key in own else "–" for key in names]
        rows.append((name, *cells, *([f"{own['images']:,.0f}"] if with_counts and "images" in own else [])))
    head = ("class", *map(figure_name, names), *([one.kind.noun] if with_counts else []))
    table = TableBlock(f"By class, {_images(one)}", head, rows)
    return [table] if len(rows) <= LISTED else [Fold(f"Each of {len(rows):,} classes", [table])]


def _mistakes(one: TunedRun) -> Blocks:
    if one.trouble:
        command = shlex.join(["nearfar", "report", str(one.run.folder), "--test", "LABELLED"])
        return [Note(f"Mistakes cannot be shown: {one.trouble}.", command)]
    if not one.mistakes:
        return [Note("There is not one mistake.")]
    count = len(one.mistakes[0].pictures)
    if not count:
        rows = [(item.name, item.says) for item in one.mistakes]
        return [TableBlock("The surest mistakes", ("", "answer"), rows)]
    shown = one.mistakes[: SHOWN.get(count, 12)]
    tiles = [
        [
            tile(
                pixels,
                f"{item.name}: {item.says}",
                SIDE.get(count, 160),
                note=item.says if at == 0 and count < 3 else title or item.says,
            )
            for at, (title, pixels) in enumerate(item.pictures)
        ]
        for item in shown
    ]
    says = f"The {counted(len(shown), one.kind.one)} on which it is most wrong."
    if count == 1:
        return [Grid("Wrong answers", says, [[item for row in tiles for item in row]])]
    return [Grid("Wrong answers", says, tiles, columns=count)]


def _training(one: TunedRun) -> Blocks:
    run, result = one.run, one.result
    facts = [
        ("task, mode", f"{result.task}, {result.mode}"),
        ("started from", str(run.config["asked"]["run"])),
        (one.kind.noun, ", ".join(f"{part} {count:,}" for part, count in result.images.items())),
        ("classes", f"{len(result.classes):,}"),
        *((name.replace("_", " "), _plain(value)) for name, value in result.chosen.items()),
    ]
    made: list[Any] = [TableBlock("What was trained", (), facts)]
    log = run.log()
    if log:
        steps, batch = int(result.chosen["steps"]), int(result.chosen["batch_size"])
        one_epoch = max(1, result.images["train"] // batch)
        made.append(curves.losses([curves.TrainingCurves(one.name, log, (), one_epoch, steps)]))
    checks = checkpoint.read_log(run.folder / CHECKS_FILE, {"step": int, str: float})
    if len(checks) > 1:
        steps_seen = [float(line["step"]) for line in checks]
        lines = [
            Line(steps_seen, [float(line[key]) for line in checks], at, label=text)
            for at, (key, text) in enumerate((("held", "held out"), ("trained", "trained on")))
        ]
        title = f"{figure_name(result.main)} in training"
        svg = draw_curves("checks", title, lines, x="steps", percent=True, labels=True)
        says = f"A curve of {one.kind.noun} held out that falls while the other rises is over-fitting."
        made.append(Plots([Plot(svg, title, says)]))
    return made


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {100 * found:.1f} %" for key, found in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def command(run: Run) -> str:
    """Write the command that made a run."""
    words = dict(run.config["asked"])
    parts = ["nearfar", "finetune", str(words.pop("run")), "--train", str(words.pop("train") or "DATA")]
    for name in ("start", "preprocess"):
        words.pop(name, None)
    for name, value in words.items():
        flag = flag_of(name)
        if isinstance(value, bool):
            parts += [flag] if value else []
        elif value is not None:
            parts += [flag, str(value)]
    return shlex.join([*parts, "--out", str(run.folder)])


def _origin(one: TunedRun, out: str) -> Blocks:
    run = one.run
    config, asked = run.config, run.config["asked"]
    facts = [
        ("nearfar", f"{config['nearfar']} (this report: {__version__})"),
        ("commit", str(config.get("commit") or "not recorded")),
        ("PyTorch", str(config["torch"])),
        (
            f"training {one.kind.noun}",
            f"{config['data']['name']}, fingerprint {config['data']['fingerprint']}",
        ),
        ("started from, SHA-256 of its weights", str(asked["start"])),
        ("encoder, SHA-256 of its weights", fingerprint(run.encoder)),
        ("licence of the weights started from", str(run.provenance.get("licence") or "unknown")),
    ]
    here, own = str(run.folder), config["settings"]
    settings = [(flag_of(name), cards.plain(value)) for name, value in own.items()]
    listed = {
        "The command that made the run; it also resumes an unfinished run.": command(run),
        f"Predict {one.kind.noun}.": shlex.join(
            ["nearfar", "predict", here, "DATA", "--out", "predictions.csv"]
        ),
        "Write this page.": shlex.join(["nearfar", "report", here, "--out", out]),
    }
    return [
        TableBlock("Provenance", (), facts),
        Fold(f"Settings of --task {one.result.task}", [TableBlock("Settings", (), settings)]),
        *(Command(text, line) for text, line in listed.items()),
    ]


def lede(one: TunedRun) -> str:
    """Say what the page is about."""
    name = Path(str(one.run.config["data"]["name"])).name
    return f"{one.result.task} on {name}, {len(one.result.classes):,} classes"
