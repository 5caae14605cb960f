"""What it costs to begin: seconds of CPU, user and system, of a command that does nothing but start.

Each command runs in turns with the others, after one turn that fills the disk cache; what takes more than
some seconds then is measured by that turn alone, unless `--thorough` is asked for. Telemetry of peers is
switched off. `check` and the first step of `pretrain` are seconds by the clock, on 3,000 JPEG files of
500 x 375 px, with every core of this machine; other libraries have no command to compare.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from . import measure, pictures
from .feed import FIRST_STEP
from .measure import Spread
from .scoreboard import Asked
from .table import Bar, Row, Section

MOST = 0.3
CHECKED, STEPPED = 10.0, 15.0  # seconds by the clock, of 3,000 photographs
LONG = 5.0  # seconds of CPU from which a command is not run again


def commands() -> dict[str, tuple[str, list[str]]]:
    """List what is started: the case, and the command."""
    beside = Path(sys.executable).parent
    known = {
        "nearfar --help": ("--help", [str(beside / "nearfar"), "--help"]),
        "lightly-train --help": ("--help", [str(beside / "lightly-train"), "--help"]),
    }
    lines = [f"import {module}" for module in ("nearfar", "lightly", "lightly_train", "torch")]
    lines += ["from nearfar.losses import nt_xent", "from lightly.loss import NTXentLoss", "pass"]
    for line in lines:
        case = "a loss" if line.startswith("from") else "import"
        known[line] = (case, [sys.executable, "-c", line])
    return known


def cpu(command: list[str]) -> Callable[[], float]:
    """Run a command and give its seconds of CPU."""
    return lambda: measure.finished(command)[0]


def drawn(folder: Path, count: int) -> Path:
    """Write `count` JPEG files of 500 x 375 px: 64 images, each time moved by other distances."""
    images = pictures.photographs(min(count, 64), 375, 500)
    for first in range(0, count, len(images)):
        moved = [np.roll(image, (first * 7, first * 13), (0, 1)) for image in images[: count - first]]
        pictures.write(folder / f"{first:05d}", np.stack(moved))
    return folder


def photographs(wanted: Asked) -> tuple[list[Row], list[Bar]]:
    """Measure `check` and the first step of `pretrain` on photographs."""
    count = 12 if wanted.quick else 3000
    nearfar = str(Path(sys.executable).parent / "nearfar")
    rows, bars = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = str(drawn(Path(name) / "photos", count))
        train = [nearfar, "pretrain", folder, "--out", f"{name}/run", "--overwrite", "--steps", "300"]
        short = ["--batch-size", "4", "--encoder", "resnet8"] if wanted.quick else []
        known = {
            "check": ([nearfar, "check", folder], CHECKED),
            "pretrain, to its first step": ([sys.executable, "-c", FIRST_STEP, *train, *short], STEPPED),
        }
        for what, (command, most) in known.items():
            case = f"{what}, {count:,} photographs"
            try:
                values = [measure.finished(command)[1] for _ in range(1 if wanted.quick else wanted.rounds)]
            except measure.Failed as failed:
                rows.append(Row(case, "nearfar", None, "s", note=str(failed)))
                continue
            spread = Spread.of(values)
            rows.append(Row(case, "nearfar", spread, "s"))
            told = f"{spread.low:.1f} - {spread.middle:.1f} - {spread.high:.1f} s"
            bars.append(Bar(f"{case}: at most {most:g} s", spread.middle <= most, told))
    return rows, bars


def run(wanted: Asked) -> Section:
    """Measure every command in turns."""
    section = Section((__doc__ or "").partition("\n\n")[2].strip().replace("\n", " "))
    works, known, found = {}, commands(), {}
    for who, (case, command) in known.items():
        try:
            first = measure.finished(command)[0]
            if first < LONG or wanted.thorough:
                works[who] = cpu(command)
            else:
                found[who] = [first]
        except measure.Failed as failed:
            section.rows.append(Row(case, who, None, "CPU s", note=str(failed)))
    found |= measure.alternate(works, wanted.rounds, warm=0)
    for who in (who for who in known if who in found):
        values = found[who]
        case = known[who][0]
        mine = next((found[name] for name in found if "nearfar" in name and known[name][0] == case), None)
        own = "nearfar" in who or who == "pass"
        gain = None
        if mine and not own:
            turns = min(len(mine), len(values))
            gain = measure.gain(mine[:turns], values[:turns], more_is_better=False)
        note = "Python alone" if who == "pass" else ""
        section.rows.append(Row(case, who, Spread.of(values), "CPU s", gain, note))
        if who == "nearfar --help":
            spread = Spread.of(values)
            told = f"{spread.low:.2f} - {spread.middle:.2f} - {spread.high:.2f} s"
            section.bars.append(Bar(f"nearfar --help: at most {MOST} s of CPU", spread.middle <= MOST, told))
    rows, bars = photographs(wanted)
    section.rows += rows
    section.bars += bars
    return section
