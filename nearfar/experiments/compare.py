"""Compares methods: the same images, encoder, budget and evaluation for each, over several seeds.

Every run has a folder of its own, and a file of its figures next to it. The same call again resumes where it
stopped, and tries again what failed. A method that fails is a row with its reason; the others still run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from .. import methods
from ..core import progress
from ..core.atomic import atomic_write, check_folder_name
from ..core.device import cores
from ..core.entries import entries
from ..core.errors import NearfarError, nearest
from ..core.text import as_list, percent
from ..data.modalities import modality, modality_of
from ..data.open import open_data
from ..evaluation.summary import BASELINES as BASELINE_NAMES
from ..training.options import Options
from ..training.pretrain import pretrain
from ..training.recipes import RECIPES
from ..training.resolve import expected_kind, needs_labels
from ..training.run import Run
from ..training.settings import Training
from .measuring import BASELINES, check_known, digest_of, figures_of

TITLES = {"knn": "k-NN", "linear": "linear"}  # of the classifiers
COSTS = ("parameters", "encoded_per_second")  # of an encoder
SHOWN_HEALTH = ("rankme", "uniformity", "spread")  # what the table shows of it; the JSON holds all


@dataclass(frozen=True)
class SeedStatistics:
    """A figure over the seeds: its mean, and the least and the greatest."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> SeedStatistics | None:
        """Summarise values; None where there are none."""
        return cls(sum(values) / len(values), min(values), max(values)) if values else None


@dataclass(frozen=True)
class Row:
    """One method, a known encoder or a baseline.

    Attributes:
        name: what it is called.
        seeds: how many there are.
        figures: by name, over the seeds.
        reason: why a seed failed, if one did.
        licence: of an encoder's weights.
    """

    name: str
    seeds: int
    figures: Mapping[str, SeedStatistics]
    reason: str = ""
    licence: str = ""


@dataclass(frozen=True)
class MethodComparison:
    """The rows, with labels the best by k-NN first; the settings common to all; what they learnt from."""

    rows: tuple[Row, ...]
    baselines: tuple[Row, ...]
    common: Mapping[str, Any]
    path: Path
    noun: str = "images"

    def to_json(self) -> dict[str, Any]:
        """Write everything in plain values."""

        def plain(row: Row) -> dict[str, Any]:
            figures = {name: vars(value) for name, value in row.figures.items()}
            told = {"name": row.name, "seeds": row.seeds, "figures": figures, "reason": row.reason}
            return {**told, **({"licence": row.licence} if row.licence else {})}

        return {
            "sentences": self.sentences(),
            "methods": [plain(row) for row in self.rows],
            "baselines": [plain(row) for row in self.baselines],
            "common": dict(self.common),
            "path": str(self.path),
        }

    def table(self) -> str:
        """Write the rows as a Markdown table: means, and in brackets the least and the greatest."""
        rows = (*self.rows, *self.baselines)
        shown = [
            name
            for name in ("knn", "linear", *COSTS, "images_per_second", "epochs", "peak_mib", *SHOWN_HEALTH)
            if any(name in row.figures for row in rows)
        ]
        known = any(row.licence for row in self.baselines)
        shown = [name for name in shown if known or name not in COSTS]
        titles = {"knn": "k-NN", "peak_mib": "peak MiB", "rankme": "RankMe"}
        titles["images_per_second"] = f"{self.noun}/s"
        titles["encoded_per_second"] = f"{self.noun}/s encoded"
        heads = [*(titles.get(name, name) for name in shown), *["licence"] * known]
        lines = [f"| method | seeds | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads)]
        for row in rows:
            cells = [_cell(name, row.figures.get(name)) for name in shown]
            cells += [row.licence or "-"] * known
            lines.append(f"| {row.name} | {row.seeds or '-'} | {' | '.join(cells)} |")
        lines += [f"\n{row.name}: {row.reason}" for row in rows if row.reason]
        return "\n".join([*self.sentences(), "", *lines] if self.sentences() else lines)

    def sentences(self) -> list[str]:
        """Say for each classifier what the best method is above, with every seed, and what it is not above.

        Returns:
            A sentence a classifier; none without labels.
        """
        made = []
        for figure, title in TITLES.items():
            rows = [row for row in self.rows if figure in row.figures]
            others = [row for row in self.baselines if figure in row.figures]
            if not rows or not others:
                continue
            best = max(rows, key=lambda row: row.figures[figure].mean)
            floor = best.figures[figure].low
            others.sort(key=lambda row: -row.figures[figure].mean)
            above = [_named(row, figure) for row in others if row.figures[figure].high < floor]
            rest = [_named(row, figure) for row in others if row.figures[figure].high >= floor]
            words = f"{title}: {best.name} is best with {percent(best.figures[figure].mean)}"
            words += f", above {_listed(above)} with every seed" if above else ""
            made.append(f"{words}; not above {_listed(rest)}" if rest else words)
        return made


def _named(row: Row, figure: str) -> str:
    """Name a baseline with its figure."""
    return f"{BASELINE_NAMES.get(row.name, row.name)} ({100 * row.figures[figure].mean:.1f})"


def _listed(words: Sequence[str]) -> str:
    """Write words as a sentence has them."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _cell(name: str, value: SeedStatistics | None) -> str:
    if value is None:
        return "-"
    if name in ("knn", "linear"):
        text = percent(value.mean)
        return (
            text if value.low == value.high else f"{text} ({100 * value.low:.1f} to {100 * value.high:.1f})"
        )
    if name in ("images_per_second", "peak_mib", *COSTS):
        return f"{value.mean:,.0f}"
    return f"{value.mean:.1f}" if abs(value.mean) >= 10 or name == "epochs" else f"{value.mean:.2f}"


class CompareOptions(Options, total=False):
    """What all runs of a comparison share."""

    recipe: str | None


def compare(
    data: Any,
    *,
    methods: Sequence[str],
    out: str | Path = "runs/compare",
    seeds: int = 3,
    train: Any = None,
    test: Any = None,
    known: Sequence[str] = (),
    **settings: Unpack[CompareOptions],
) -> MethodComparison:
    """Train several methods under the same budget, over several seeds, and evaluate them in the same way.

    Run the same command again to resume.

    Example: nearfar compare photos/ --methods simclr byol --minutes 5

    With labels, k-NN and linear accuracy are measured as `evaluate` does, every choice made on validation
    images. With or without labels there are also label-free figures (see `health.Health`). Written to
    `out`: a folder a run, compare.json, compare.md and, with matplotlib, compare.png.

    Args:
        data: images to learn from, as `pretrain` takes them; with labels for methods that need them.
        methods: names of `METHODS`, at least one.
        out: the folder for all results.
        seeds: number of runs of each method, with seeds 0, 1, ...
        train: labelled images to fit on and to choose on; needs test.
        test: labelled images, read once a run, at its end; without labels, only label-free figures are shown.
        known: known encoders as further rows, such as timm:resnet18, or none. By default the encoder that
            training starts from, else `known`, where it is installed and there are at most 10,000 images.
        **settings: any setting of training or views, the same for all; a length above all. What a method's
            own recipe says stays its own.

    Returns:
        The comparison.

    Raises:
        NearfarError: a name is unknown, one of train and test is missing, or there are no images.
    """
    names, known = list(dict.fromkeys(as_list(methods))), list(dict.fromkeys(as_list(known)))
    given: dict[str, Any] = {**settings}
    _check(names, seeds, train, test, given)
    folder = _place(out)
    kind = open_data(
        data, expected=expected_kind(given, names[0])
    ).modality  # what is not there is said before anything is made
    for part in (train, test):
        if part is not None:
            open_data(part, expected=modality(kind).encodes or kind, labels=True)
    check_known(known, train is not None, modality(kind).encodes or kind)
    folder.mkdir(parents=True, exist_ok=True)
    labelled = None if train is None else {"train": train, "test": test}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    based: dict[str, list[dict[str, Any]]] = {name: [] for name in BASELINES}
    kept: list[Any] = []  # the images, held in memory so that no later run has to read them again
    # Seed by seed, so that a comparison cut short has a row for every method.
    for seed in range(seeds):
        for name in names:
            place = folder / f"{name}-{seed}"
            progress.say(f"{name}, seed {seed}: {place}")
            try:
                run = pretrain(data, method=name, out=place, seed=seed, **given)
                if not kept:
                    kept = [_images(data, run, False)]
                    kept += [_images(part, run, True) for part in (train, test) if part is not None]
                first = name == names[0]
                beside = known if first else None
                mark = digest_of(run, kept[1:], known if first else ())
                figures = figures_of(run, folder / f"{name}-{seed}.json", labelled, seed, beside, mark)
            except Exception as error:  # a method that fails is a row of the table
                reason = str(error) if isinstance(error, NearfarError) else f"{type(error).__name__}: {error}"
                failed[name] = f"seed {seed} failed: {reason}"
                progress.say(f"{name}, seed {seed} failed: {reason}")
                continue
            found[name].append(figures["method"])
            for key, values in figures["baselines"].items():
                based.setdefault(key, []).append(values)
    if failed and not any(found.values()) and len(names) == len(failed):
        raise NearfarError(f"every method failed; {next(iter(failed.values()))}")
    rows = [_row(name, found[name], failed.get(name, "")) for name in names]
    rows.sort(key=lambda row: -row.figures["knn"].mean if "knn" in row.figures else 1.0)
    others = [_row(name, values, "") for name, values in based.items() if values]
    common = {"seeds": seeds, **{key: value for key, value in given.items() if value is not None}}
    made = MethodComparison(tuple(rows), tuple(others), common, folder, modality(kind).noun)
    with atomic_write(folder / "compare.json") as file:
        file.write(json.dumps(made.to_json(), indent=1).encode())
    with atomic_write(folder / "compare.md") as file:
        file.write((made.table() + "\n").encode())
    _plot(made)
    return made


def _place(out: str | Path) -> Path:
    """Name the folder; refuse one that holds other things and no comparison."""
    folder = Path(out)
    check_folder_name(folder)
    runs = "|".join(map(re.escape, methods.METHODS))
    ours = re.compile(rf"({runs})-\d+(\.json)?|compare\..*")
    names = [name for name in entries(folder) if not name.startswith(".")]
    if names and not any(map(ours.fullmatch, names)):
        raise NearfarError(
            f"{folder} holds {names[0]!r} and is not the folder of a comparison; name a new one with --out."
        )
    return folder


def _check(names: Sequence[str], seeds: int, train: Any, test: Any, settings: Mapping[str, Any]) -> None:
    """Refuse what cannot be compared, before anything is trained."""
    for name in names:
        if name not in methods.METHODS:
            raise NearfarError(f"there is no method {name!r}; {nearest(name, methods.METHODS)}")
    if not names or seeds < 1:
        raise NearfarError("a comparison needs a method and a seed; give --methods simclr byol --seeds 3.")
    if (train is None) != (test is None):
        raise NearfarError("--train and --test belong together; give both, or neither.")
    if settings.get("recipe", "auto") not in ("auto", *RECIPES):
        raise NearfarError(
            f"there is no recipe {settings['recipe']!r}; {nearest(settings['recipe'], RECIPES)}"
        )
    if "seed" in settings:
        raise NearfarError("a comparison runs seeds 0, 1, ...; give how many with --seeds, not --seed.")


def _images(data: Any, run: Run, labels: bool) -> Any:
    """Read the images as pretraining and evaluation do, to keep them."""
    kind = modality_of(run.preprocess)
    return kind.load(
        open_data(data, expected=kind.name, labels=labels),
        run.preprocess,
        limit=Training.max_pixels,
        max_bad=Training.max_bad,
        threads=cores(),
    )


def _row(name: str, seeds: Sequence[Mapping[str, Any]], reason: str) -> Row:
    """Summarise the seeds of one method."""
    licence = next((str(values["licence"]) for values in seeds if "licence" in values), "")
    keys = dict.fromkeys(key for values in seeds for key in values if key != "licence")
    spreads = {key: SeedStatistics.of([values[key] for values in seeds if key in values]) for key in keys}
    figures = {key: value for key, value in spreads.items() if value is not None}
    return Row(name, len(seeds), figures, reason, licence)


def _plot(made: MethodComparison) -> None:
    """Draw accuracy, or RankMe without labels, against the images that the budget let each method see."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        progress.say("compare.png needs matplotlib: pip install 'nearfar[plots]'.")
        return
    height = "knn" if any("knn" in row.figures for row in made.rows) else "rankme"
    rows = [row for row in made.rows if height in row.figures and "epochs" in row.figures]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    scale = 100 if height == "knn" else 1
    for row in rows:
        x, y = row.figures["epochs"], row.figures[height]
        bars = [[scale * (y.mean - y.low)], [scale * (y.high - y.mean)]]
        inside = "white" if needs_labels(row.name, {}) else "#0072b2"
        axes.errorbar(x.mean, scale * y.mean, bars, fmt="o", capsize=3, color="#0072b2", mfc=inside)
        axes.annotate(row.name, (x.mean, scale * y.mean), (6, 4), textcoords="offset points", fontsize=9)
    others = [row for row in made.baselines if height in row.figures]
    others.sort(key=lambda row: row.figures[height].mean)
    for place, row in enumerate(others):  # side by side, since their levels may be the same
        level = scale * row.figures[height].mean
        axes.axhline(level, color="#999999", linewidth=1, linestyle="--")
        axes.annotate(row.name, (1 - 0.1 * place, level), (-2, 2), xycoords=("axes fraction", "data"),
                      textcoords="offset points", ha="right", fontsize=8, color="#666666")  # fmt: skip
    axes.set_xlabel("epochs that the common budget allowed")
    axes.set_ylabel("k-NN accuracy, %" if height == "knn" else "RankMe")
    told = "; hollow: learns from labels" if any(needs_labels(row.name, {}) for row in rows) else ""
    axes.set_title(f"Higher is better; the bars span the seeds{told}", fontsize=10)
    axes.margins(x=0.15, y=0.15)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    with atomic_write(made.path / "compare.png") as file:
        figure.savefig(file, format="png", dpi=150)
