"""Plots of the guide: a few axes side by side, and bars with their values."""

from matplotlib.figure import Figure


def plots(count, width=3.4, **more):
    """Begin a figure of some plots side by side."""
    figure = Figure(figsize=(width * count, 2.9), layout="constrained", dpi=80)
    axes = figure.subplots(1, count, squeeze=False, **more)[0]
    for at in axes:
        at.spines[["top", "right"]].set_visible(False)
    return figure, axes


def bars(at, groups, title):
    """Draw groups of bars, name to values by name, with each value above its bar."""
    for k, (name, values) in enumerate(groups.items()):
        places = [place + 0.8 * (k + 0.5) / len(groups) - 0.4 for place in range(len(values))]
        drawn = at.bar(places, values.values(), 0.76 / len(groups), label=name)
        at.bar_label(drawn, fmt="%.0f", fontsize=8)
    at.set_xticks(range(len(values)), values, fontsize=8)
    at.set_title(title, loc="left", fontsize=10)
    at.set_ylim(0, 112)
    if len(groups) > 1:
        at.legend(frameon=False, fontsize=8, ncols=len(groups))
