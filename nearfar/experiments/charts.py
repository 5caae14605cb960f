"""Draws a sweep: the importance of settings, and a slice along every setting, each with a caption."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.figure import Figure

from .findings import MEASURES, SHARES, Sweep, Trial
from .influence import Influence
from .space import Axis, rounded, short

BLUE, ORANGE, GREY, PALE = "#0072b2", "#d55e00", "#666666", "#dddddd"  # distinct for colour-blind readers
COLUMNS = 4


def draw(found: Sweep) -> Figure:
    """Draw importance first, then a panel for each setting.

    Args:
        found: the sweep.

    Returns:
        A figure of matplotlib.
    """
    rows = math.ceil((1 + len(found.axes)) / COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 3.6 * rows + 0.7), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for panel in panels:
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    _importance(panels[0], found)
    influences = {item.name: item for item in found.influences}
    for panel, axis in zip(panels[1:], found.axes, strict=False):
        _slice(panel, found, axis, influences.get(axis.name))
    for panel in panels[1 + len(found.axes) :]:
        panel.set_axis_off()
    figure.suptitle(
        f"{MEASURES.get(found.measure, found.measure)}, higher is better. Each dot is a run; the star is the "
        "recipe,\nthe diamond the best; crosses were ended early; the band is the spread of seeds.",
        fontsize=11,
    )
    return figure


def _importance(panel: Any, found: Sweep) -> None:
    """Draw a bar for each setting, the greatest on top, filled where it matters beyond chance."""
    titles = {axis.name: axis.title for axis in found.axes}
    for row, item in enumerate(reversed(found.influences)):
        style = {"color": BLUE} if item.matters else {"color": "white", "edgecolor": BLUE, "hatch": "///"}
        panel.barh(row, 100 * item.importance, height=0.65, **style)
    if not found.influences:
        panel.set_axis_off()
        panel.set_title("Too few trials to tell\nwhich settings matter.", fontsize=10, loc="left")
        return
    panel.set_yticks(range(len(found.influences)), [titles[item.name] for item in reversed(found.influences)])
    panel.set_xlabel("importance, %")
    panel.set_title("Full bars matter beyond chance;\nhatched ones may be chance.", fontsize=10, loc="left")


def _slice(panel: Any, found: Sweep, axis: Axis, influence: Influence | None) -> None:
    """Draw every run along one setting."""
    scale = 100.0 if found.measure in SHARES else 1.0
    at = {value: place for place, value in enumerate(axis.values)}

    def where(value: Any) -> float:
        return at[value] if axis.values else value

    def points(trials: list[Trial]) -> tuple[list[float], list[float]]:
        return [where(t.params[axis.name]) for t in trials], [scale * (t.value or low) for t in trials]

    best, ends = found.best, (0, found.best.number)
    low = min(trial.value for trial in found.trials if trial.value is not None)
    others = [t for t in found.trials if t.value is not None and t.number not in ends]
    middle = scale * sum(found.recipe) / len(found.recipe)
    noise = scale * (found.noise or 0.0)
    panel.axhspan(middle - noise, middle + noise, color=PALE, linewidth=0, zorder=0)
    panel.plot(*points(others), "o", color=BLUE, alpha=0.8)
    panel.plot(*points([t for t in found.trials if t.value is None]), "x", color=GREY)
    panel.plot(*points([found.trials[0]]), "*", color="black", markersize=13)
    if best.number:
        panel.plot(*points([best]), "D", color=ORANGE, markersize=8)
    if axis.values:
        panel.set_xticks(range(len(axis.values)), [short(value) for value in axis.values])
        panel.set_xlim(-0.5, len(axis.values) - 0.5)
    else:
        panel.set_xscale("log" if axis.log else "linear")
        ticks = sorted({axis.low, axis.own, axis.high})
        panel.set_xticks(ticks, [short(rounded(value)) for value in ticks])
        panel.set_xticks([], minor=True)
        panel.plot([axis.low, axis.high], [middle, middle], alpha=0)  # so that all of the range is shown
    panel.set_xlabel(axis.title)
    panel.set_ylabel("%" if scale == 100.0 else found.measure)
    if influence is None:
        return
    effect, chance = (found.shown(value, points=True) for value in (influence.effect, influence.chance))
    says = "more" if influence.matters else "not surely more"
    sentence = f"Good and bad values differ by {effect},\n{says} than chance ({chance})."
    panel.set_title(sentence, fontsize=10, loc="left")
