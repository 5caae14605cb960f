"""Draws plots as SVG in the page's own ink, so that one drawing suits light, dark and paper."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# matplotlib wants colours; each of these stands for a variable of the page's style, put in at the end.
INK, SOFT, LINE, PAPER = "#010101", "#020202", "#030303", "#040404"
SERIES = tuple(f"#0{number}05ff" for number in range(6))
VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", PAPER: "card"}
VARIABLES |= {colour: f"series-{number}" for number, colour in enumerate(SERIES)}
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)), (0, (10, 3)), (0, (1, 1)))
SIZE = (4.4, 2.6)  # inches of 72 px: a phone's width

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class may be called $x
    "font.size": 11,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.xmargin": 0.02,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "text.color": INK,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Line:
    """A curve: its points, the number of its run, an interval about each, and whether it lies behind."""

    x: Sequence[float]
    y: Sequence[float]
    run: int = 0
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    faint: bool = False
    label: str = ""


@dataclass(frozen=True)
class Dot:
    """A figure with its interval, on a line of its own; `run` None is a baseline."""

    label: str
    low: float
    middle: float
    high: float
    run: int | None = 0


def draw(name: str, alt: str, paint: Callable[[Any], None], size: tuple[float, float] = SIZE) -> str:
    """Draw one plot.

    Args:
        name: tells this plot's parts from other plots' in the page.
        alt: what a reader hears who cannot see it.
        paint: draws on matplotlib's axes.
        size: in inches.

    Returns:
        An <svg> element.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = io.StringIO()
    with rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the reader's own fonts have it
        figure = Figure(figsize=size, layout="constrained", facecolor="none")
        paint(figure.subplots())
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    return _inline(file.getvalue(), name, alt)


def _inline(svg: str, name: str, alt: str) -> str:
    """Make a file's SVG part of a page: no header, ids of its own, the page's colours, a spoken text."""
    name = re.sub(r"[^A-Za-z0-9]", "-", name)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    label = alt.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    opening = f'<svg class="plot" role="img" aria-label="{label}" {box[0]}>'
    return opening + re.sub(r"\n\s*", "\n", svg[svg.index(">") + 1 :]).strip()


def curves(
    name: str,
    alt: str,
    lines: Sequence[Line],
    *,
    x: str,
    logarithmic: tuple[bool, bool] = (False, False),
    percent: bool = False,
    labels: bool = False,
) -> str:
    """Draw curves, one a run.

    Args:
        name, alt: as in `draw`.
        lines: the curves; those of one run share a colour and a dash.
        x: what the horizontal axis is.
        logarithmic: whether each axis is.
        percent: whether values are shares.
        labels: whether each curve's label stands at its end.

    Returns:
        An <svg> element.
    """
    several = len({line.run for line in lines}) > 1

    def paint(axes: Any) -> None:
        for line in lines:
            colour, dash = SERIES[line.run % 6], DASHES[line.run % 6] if several else "-"
            if line.low is not None and line.high is not None:
                axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.16, linewidth=0)
            style: dict[str, Any] = {"linewidth": 0.7, "alpha": 0.35} if line.faint else {"linestyle": dash}
            dots = "o" if len(line.x) < 24 and not line.faint else None
            axes.plot(line.x, line.y, color=colour, marker=dots, markersize=3.2, **style)
        axes.set_xlabel(x)
        _scales(axes, logarithmic, percent)
        if labels:
            _label_ends(axes, [line for line in lines if line.label])

    return draw(name, alt, paint)


def _label_ends(axes: Any, lines: Sequence[Line], apart: float = 11.0) -> None:
    """Write each curve's label at its end; where ends are near, labels make room, some points apart."""
    axes.figure.draw_without_rendering()  # else the axes still reach from 0 to 1
    points = 72 / axes.figure.dpi
    heights = [axes.transData.transform((line.x[-1], line.y[-1]))[1] * points for line in lines]
    last = -math.inf
    for height, line in sorted(zip(heights, lines, strict=True), key=lambda pair: pair[0]):
        last = max(height, last + apart)
        axes.annotate(line.label, (line.x[-1], line.y[-1]), (5, last - height), textcoords="offset points",
                      va="center", fontsize=10, color=SOFT, annotation_clip=False)  # fmt: skip


def _scales(axes: Any, logarithmic: tuple[bool, bool], percent: bool) -> None:
    """Set the scales, with plain numbers on them."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    plain = FuncFormatter(lambda value, _: f"{value:,g}")
    for axis, scale, wanted in (
        (axes.xaxis, axes.set_xscale, logarithmic[0]),
        (axes.yaxis, axes.set_yscale, logarithmic[1]),
    ):
        if wanted:
            scale("log")
            axis.set_minor_formatter(NullFormatter())
        else:
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(plain)
    if percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))


def dots(name: str, alt: str, rows: Sequence[Dot]) -> str:
    """Draw accuracies with their intervals, one a line, the first on top.

    Args:
        name, alt: as in `draw`.
        rows: from 0 to 1.

    Returns:
        An <svg> element.
    """

    def paint(axes: Any) -> None:
        for place, row in enumerate(rows):
            colour = SOFT if row.run is None else SERIES[row.run % 6]
            axes.plot([row.low, row.high], [place, place], color=colour, linewidth=3.5, alpha=0.45)
            axes.plot(row.middle, place, "o", color=colour, markersize=6.5)
            axes.annotate(f"{100 * row.middle:.1f}", (row.middle, place), (0, 7), fontsize=10,
                          textcoords="offset points", ha="center", color=INK)  # fmt: skip
        axes.set_yticks(range(len(rows)), [_short(row.label) for row in rows])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(len(rows) - 0.5, -0.75)
        axes.set_xlim(0, min(1.0, 1.12 * max(0.01, *(row.high for row in rows))))
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        _percent_below(axes)

    return draw(name, alt, paint, (SIZE[0], 0.75 + 0.36 * len(rows)))


def _percent_below(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))


def _short(text: str, most: int = 18) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def smooth(y: Sequence[float], share: float = 0.04) -> list[float]:
    """Average a curve over a window of some share of its length; at its end, over what came before.

    Args:
        y: (n,) values.
        share: of n, on each side.

    Returns:
        (n,) values.
    """
    reach = int(share * len(y))
    sums = [0.0]
    for value in y:
        sums.append(sums[-1] + value)
    found = []
    for at in range(len(y)):
        before, after = min(reach, at), min(reach, at, len(y) - 1 - at)
        found.append((sums[at + after + 1] - sums[at - before]) / (before + after + 1))
    return found
