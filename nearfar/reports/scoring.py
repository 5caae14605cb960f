"""Shows what `evaluation.json` holds: accuracies with intervals, few-label curves, confusion, the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..core.text import counted
from ..evaluation import PARTS
from .blocks import Blocks, Columns, Fold, Heat, Note, Plot, Plots, TableBlock, of_run
from .figures import Dot, Line, curves, dots

TITLES = {
    "knn": "k-NN",
    "scratch": "from scratch",
    "colours": "colour histogram",
    "patches": "k-means patches",
    "mfcc": "MFCC",
    "mfcc_course": "MFCC course",
    "known": "known encoder",
    "combined": "both together",
    **{name: entry.column for name, entry in PARTS.items() if entry.column},
}
NAMES = {"map": "mean precision", "nmi": "NMI", "ari": "ARI", "ece": "error (ECE)"}
FACTS = (
    "ranking",
    "summary",
    "classes",
    "images",
    "encoder",
    "seed",
    "data",
    "left_out",
)  # what an evaluation is about, and no score
RANKED = ("knn", "linear")  # classifiers by which encoders are ranked
HEAT = 20  # classes up to which the whole confusion is shown

Scores = Mapping[str, Any]
Matrix = Sequence[Sequence[int]]


def percent(share: Any) -> str:
    """Write a share as "62.3 %", or a dash where there is none."""
    return f"{100 * share:.1f} %" if isinstance(share, (int, float)) else "–"


def title(key: str) -> str:
    """Write a key of the JSON as people say it."""
    return TITLES.get(key) or NAMES.get(key) or key.replace("_", " ")


def classifiers(scores: Scores) -> list[str]:
    """Find the keys that hold accuracies with intervals: knn, linear and whatever else does."""
    found = []
    for key, rows in scores.items():
        cells = list(rows.values()) if isinstance(rows, Mapping) and key not in FACTS else []
        if cells and all(
            isinstance(cell, Mapping)
            and all(isinstance(cell.get(name), (int, float)) for name in ("accuracy", "low", "high"))
            for cell in cells
        ):
            found.append(key)
    return found


def main(scores: Scores) -> tuple[str, Mapping[str, Any]] | None:
    """Give the name and the encoder's score of the classifier that a summary quotes: k-NN if there."""
    keys = [key for key in classifiers(scores) if "encoder" in scores[key]]
    key = "knn" if "knn" in keys else keys[0] if keys else None
    return None if key is None else (key, scores[key]["encoder"])


def blocks(runs: Mapping[str, Scores], noun: str = "images", several: bool = False) -> Blocks:
    """Show evaluations.

    Args:
        runs: by run's name, what is in its evaluation.json; at least one.
        noun: the word for what was tested.
        several: whether the page is about several runs, so that each block says whose it is.

    Returns:
        Blocks: what the encoder is better than, the table and its picture, few-label curves, the classes and
        what was mistaken, the rest.
    """
    told = (_summaries, partial(_table, noun=noun), _picture, partial(_ranked, noun=noun), _few_labels)
    made: list[Any] = [block for make in told for block in make(runs, several=several)]
    for make in (_left_out, partial(_leaks, noun=noun), partial(_classes, noun=noun), _others):
        if not several:
            made += make(next(iter(runs.values())))
            continue
        columns = [(name, of_run(name, make(scores))) for name, scores in runs.items()]
        marks = [at for at, (_, found) in enumerate(columns) if found]
        columns = [columns[at] for at in marks]
        made += columns[0][1] if len(columns) == 1 else [Columns(columns, marks)] * bool(columns)
    return made


def sentences(scores: Scores) -> list[str]:
    """Say, by classifier, what the encoder is better than and what it is not; nothing without baselines.

    Also which is best on these images, by how much, and at what cost.
    """
    compared = scores.get("summary", {}).values()
    told = [str(found["sentence"]) for found in compared if "sentence" in found]
    return told + _best(scores)


def _best(scores: Scores) -> list[str]:
    """Say, by classifier, which of all rows is best."""
    return [str(sentence) for sentence in scores.get("ranking", {}).get("sentences", ())]


def _summaries(runs: Mapping[str, Scores], several: bool) -> list[Note]:
    """Put these sentences first; a ranking that runs share is told once."""
    made = []
    ranked = [_best(scores) for scores in runs.values()]
    shared = several and all(told == ranked[0] for told in ranked)
    for name, scores in runs.items():
        before = f"{name}, " if several else ""
        told = [sentence for sentence in sentences(scores) if not (shared and sentence in ranked[0])]
        made += [Note(f"{before}{sentence}.") for sentence in told]
    return made + [Note(f"{sentence}.") for sentence in ranked[0] * shared]


def _ranked(runs: Mapping[str, Scores], noun: str, several: bool) -> list[TableBlock]:
    """List encoders and baselines by k-NN, with what each encoder costs; nothing of unlike rankings."""
    rankings = [scores.get("ranking", {}) for scores in runs.values()]
    rows = rankings[0].get("rows", ())
    if not rows or any(ranking != rankings[0] for ranking in rankings):
        return []
    cells = []
    for row in rows:
        shares = [_cell(row.get(key)) for key in RANKED]
        cost = row.get("cost")
        facts = ["–", "–", "–"]
        if cost:
            facts = [f"{cost['parameters']:,}", f"{cost['images_per_second']:,.0f}", cost["licence"]]
        cells.append((row["name"], *shares, *facts))
    head = ("ranked by k-NN", *map(title, RANKED), "parameters", f"{noun}/s", "licence")
    whose = f"{next(iter(runs))}: what" if several and len(runs) == 1 else "What"
    return [TableBlock(f"{whose} is best, and what each encoder costs", head, cells)]


def _table(runs: Mapping[str, Scores], noun: str, several: bool) -> list[TableBlock]:
    """List accuracies: a row a run, and the baselines once for each run."""
    keys = list(dict.fromkeys(key for scores in runs.values() for key in classifiers(scores)))
    if not keys:
        return []
    rows = []
    for run, scores in runs.items():
        for way in dict.fromkeys(way for key in keys for way in scores.get(key, {})):
            named = title(way)
            label = f"{run}: {named}" if several else named
            rows.append((label, *(_cell(scores.get(key, {}).get(way)) for key in keys)))
    images = [scores.get("images", {}) for scores in runs.values()]
    tested = " and ".join(f"{count:,}" for count in sorted({found.get("test", 0) for found in images}))
    caption = f"Accuracy on {tested} test {noun}, with 95 % intervals over these {noun}"
    return [TableBlock(caption, ("features", *map(title, keys)), rows, strong=len(runs) == 1)]


def _cell(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "–"
    return f"{percent(score['accuracy'])} ({100 * score['low']:.1f} to {100 * score['high']:.1f})"


def _picture(runs: Mapping[str, Scores], several: bool) -> list[Plots]:
    """Draw the accuracies: the encoders in colour, the baselines of the first run in grey."""
    plots = []
    own, first = next(iter(runs.items()))
    for key in classifiers(first):
        if "encoder" not in first[key]:
            continue
        rows = [
            Dot(name if several else "encoder", *_interval(scores[key]["encoder"]), number)
            for number, (name, scores) in enumerate(runs.items())
            if "encoder" in scores.get(key, {})
        ]
        rows += [
            Dot(title(way), *_interval(score), None) for way, score in first[key].items() if way != "encoder"
        ]
        says = "Bars are 95 % intervals. The encoder is useful if it is clearly above the baselines."
        says += f" These, in grey, are of {own}." if several and len(rows) > len(runs) else ""
        alt = f"{title(key)} accuracy: {', '.join(f'{row.label} {percent(row.middle)}' for row in rows)}"
        plots.append(Plot(dots(f"accuracy-{key}", alt, rows), f"Accuracy, {title(key)}", says))
    return [Plots(plots)] if plots else []


def _interval(score: Mapping[str, Any]) -> tuple[float, float, float]:
    return float(score["low"]), float(score["accuracy"]), float(score["high"])


def _few_labels(runs: Mapping[str, Scores], several: bool) -> list[Any]:
    """Draw accuracy over the number of labels, a plot a classifier: what the encoder saves."""
    made: list[Any] = []
    for run, scores in runs.items():
        found = scores.get("few_labels")
        if not isinstance(found, Mapping) or not isinstance(found.get("rows"), Mapping):
            continue
        ways = list(found["rows"])
        plots = []
        for kind in dict.fromkeys(kind for way in ways for kind in found["rows"][way]):
            lines = [
                _line(found["rows"][way][kind], number, way)
                for number, way in enumerate(ways)
                if kind in found["rows"][way]
            ]
            svg = curves(
                f"few-{run}-{kind}",
                f"Accuracy of {title(kind)} over the number of labels",
                lines,
                x="labels",
                logarithmic=(True, False),
                percent=True,
                labels=True,
            )
            says = "The encoder saves labels where it reaches a baseline's accuracy further left."
            plots.append(Plot(svg, f"Few labels, {title(kind)}" + (f": {run}" if several else ""), says))
        made.append(Plots(plots))
        sentence = found.get("efficiency", {}).get("sentence")
        before = f"{run}: " if several else ""
        made += [Note(f"{before}{sentence}")] if sentence else []
    return made


def _line(points: Sequence[Mapping[str, Any]], number: int, way: str) -> Line:
    x, y = [float(point["labels"]) for point in points], [float(point["mean"]) for point in points]
    std = [float(point.get("std") or 0.0) for point in points]
    low, high = [m - s for m, s in zip(y, std, strict=True)], [m + s for m, s in zip(y, std, strict=True)]
    return Line(x, y, number, low, high, label=way)


def _left_out(scores: Scores) -> list[Any]:
    """Say which baselines are not in the table, and why."""
    return [Note(f"Left out: {title(way)}, since {why}.") for way, why in scores.get("left_out", {}).items()]


def _leaks(scores: Scores, noun: str) -> list[Any]:
    """Warn of test images that are not new after the training images, and score without them."""
    made: list[Any] = []
    for name, leak in scores.get("leaks", {}).items():
        if not leak["images"]:
            continue
        parts = [
            f"{title(kind)} {percent(rows['encoder']['accuracy'])}"
            for kind, rows in leak["without"].items()
            if "encoder" in rows
        ]
        known = f"test {noun.removesuffix('s')} is"
        made.append(
            Note(
                f"Warning: {counted(leak['images'], known)} not new ({title(name)}); on the "
                f"{leak['left']:,} others the encoder reaches {', '.join(parts) or 'no score'}."
            )
        )
    return made


def confusion(scores: Scores, key: str = "") -> tuple[str, list[str], Matrix] | None:
    """Give the confusion that mistakes are told from: title, classes, counts.

    Args:
        scores: the evaluation.
        key: of the classifier; if it has none, or none is named, the last one's.
    """
    keys = [key for key in classifiers(scores) if _is_confusion(scores[key].get("encoder", {}))]
    keys += [key] * (key in keys)
    if not keys:
        return None
    encoder = scores[keys[-1]]["encoder"]
    return title(keys[-1]), list(encoder["per_class"]), encoder["confusion"]


def _is_confusion(score: Mapping[str, Any]) -> bool:
    """Tell whether a score has a confusion of its classes: a square of counts, a row a class."""
    rows, count = score.get("confusion"), len(score.get("per_class") or ())
    return isinstance(rows, list) and len(rows) == count and all(len(row) == count for row in rows)


def mistakes(names: Sequence[str], matrix: Matrix, count: int) -> list[tuple[str, str, int, float]]:
    """List what is most often taken for what.

    Args:
        names: of the classes.
        matrix: counts; row the true class, column the answer.
        count: mistakes, at most.

    Returns:
        True class, answer, images, and their share of the true class.
    """
    wrong = [
        (names[a], names[b], int(images), images / sum(row))
        for a, row in enumerate(matrix)
        for b, images in enumerate(row)
        if a != b and images
    ]
    return sorted(wrong, key=lambda item: -item[2])[:count]


def _classes(scores: Scores, noun: str) -> list[Any]:
    """Show each class: how much of it is found, and what it is taken for."""
    keys = [key for key in classifiers(scores) if "per_class" in scores[key].get("encoder", {})]
    if not keys:
        return []
    found = {key: scores[key]["encoder"]["per_class"] for key in keys}
    order = sorted(found[keys[-1]], key=lambda name: found[keys[-1]][name]["recall"] or 0.0)
    rows = [
        (name, *(percent(found[key][name]["recall"]) for key in keys), f"{found[keys[0]][name]['images']:,}")
        for name in order
    ]
    head = ("class", *(f"recall, {title(key)}" for key in keys), f"test {noun}")
    made: list[Any] = [TableBlock("Recall of each class, the lowest first", head, rows)]
    if len(rows) > HEAT:
        made = [Fold(f"Recall of each of {len(rows):,} classes", made)]
    mixed = confusion(scores)
    return made if mixed is None else [*made, _confused(*mixed, noun)]


def _confused(how: str, names: Sequence[str], matrix: Matrix, noun: str) -> Heat | TableBlock:
    if len(names) <= HEAT:
        cells = [[count / max(1, sum(row)) for count in row] for row in matrix]
        says = (
            "In per cent of the true class: rows are true classes, columns predictions. A strong colour off "
            "the diagonal is a pair of classes that the encoder confuses."
        )
        return Heat(f"Confusion ({how})", says, names, cells)
    rows = [
        (true, answer, f"{images:,}", percent(share))
        for true, answer, images, share in mistakes(names, matrix, 15)
    ]
    return TableBlock(f"Most often confused ({how})", ("true", "answered", noun, "of the class"), rows)


def _others(scores: Scores) -> list[Any]:
    """Show whatever else the evaluation holds: rows of figures as tables."""
    known = {*FACTS, *classifiers(scores), "few_labels", "leaks"}
    made: list[Any] = []
    for key, value in scores.items():
        if key in known or not isinstance(value, Mapping) or not value:
            continue
        caption = title(key)[:1].upper() + title(key)[1:]
        rows = {
            name: _flat(cell)
            for name, cell in value.items()
            if isinstance(cell, Mapping) and name != "ranking"  # of a transfer
        }
        heads = list(dict.fromkeys(head for cells in rows.values() for head in cells))
        if heads:
            lines = [(title(name), *(cells.get(head, "–") for head in heads)) for name, cells in rows.items()]
            made.append(TableBlock(caption, ("", *heads), lines))
        alone = _flat({name: cell for name, cell in value.items() if not isinstance(cell, Mapping)})
        if alone:
            made.append(TableBlock(caption, (), list(alone.items())))
    return made


def _flat(cells: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Write every number and word of a nested dict, under its path; lists are left out."""
    found: dict[str, str] = {}
    for key, value in cells.items():
        name = f"{before} {title(str(key))}".strip()
        if isinstance(value, Mapping):
            found |= _flat(value, name)
        elif value is None or isinstance(value, bool):
            found[name] = "–" if value is None else "yes" if value else "no"
        elif isinstance(value, (int, float)):
            found[name] = f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
        elif isinstance(value, str):
            found[name] = value
    return found
