"""How figures are written down: sections of a Markdown page, each with its bars, its table, its notes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from .measure import Spread

HEADING = re.compile(r"^## ", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    """One contender in one case.

    Attributes:
        case: what was measured.
        who: the contender.
        figure: its values, or None where it could not be measured.
        unit: of the figure.
        gain: how many times better ours is, round by round; None for ours itself.
        note: what differs, or why there is no figure.
    """

    case: str
    who: str
    figure: Spread | None
    unit: str
    gain: Spread | None = None
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """Something that was promised: in words, whether it was met, and what was found."""

    text: str
    met: bool
    found: str

    def line(self) -> str:
        return f"- **{'met' if self.met else 'missed'}**: {self.text}: {self.found}"


@dataclass
class Section:
    """One subject: how it was measured, its rows, its bars, and notes below the table."""

    how: str
    rows: list[Row] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def number(value: float) -> str:
    """Write a value with three digits or more, and separated thousands."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"


def spread(found: Spread | None, unit: str = "") -> str:
    """Write min - median - max; a single value where all three are one."""
    if found is None:
        return "-"
    unit = f" {unit}" if unit not in ("", "x") else unit
    if found.low == found.high:
        return f"{number(found.middle)}{unit}"
    return f"{number(found.low)} - **{number(found.middle)}** - {number(found.high)}{unit}"


def render(title: str, section: Section, stamp: str) -> str:
    """Write a section as Markdown.

    Args:
        title: its heading.
        section: what was found.
        stamp: when and with which command.
    """
    lines = [f"## {title}", "", section.how, "", stamp, ""]
    lines += [bar.line() for bar in section.bars]
    lines += ["", "| case | who | min - median - max | ours is better by | note |", "|---|---|---|---|---|"]
    for row in section.rows:
        cells = (row.case, row.who, spread(row.figure, row.unit), spread(row.gain, "x"), row.note)
        lines.append("| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |")
    for note in section.notes:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def sections(page: str) -> dict[str, str]:
    """Split a page: heading to text, heading included."""
    parts = HEADING.split(page)[1:]
    return {part.partition("\n")[0].strip(): "## " + part.rstrip() + "\n" for part in parts}


def page(head: Iterable[str], found: dict[str, str], order: Iterable[str]) -> str:
    """Put a page together: the head, every bar of every section, and the sections in order.

    Args:
        head: lines about the machine.
        found: heading to text, as `sections` and `render` give them.
        order: the headings' order; those it does not name come last.
    """
    known = [title for title in order if title in found]
    titles = [*known, *(title for title in found if title not in known)]
    bars = [line for title in titles for line in found[title].splitlines() if re.match(r"- \*\*m", line)]
    lines = ["# nearfar and other tools", "", *head, "", *bars, ""]
    return "\n".join(lines) + "\n" + "\n".join(found[title] for title in titles)
