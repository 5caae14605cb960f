"""What it costs to begin: seconds of CPU, user and system, of a command that does nothing but start.

Each command runs in turns with the others, after one turn that fills the disk cache; what takes more than
some seconds then is measured by that turn alone, unless `--thorough` is asked for. Telemetry of peers is
switched off.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from . import measure
from .measure import Spread
from .scoreboard import Asked
from .table import Bar, Row, Section

MOST = 0.3
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
    return section
