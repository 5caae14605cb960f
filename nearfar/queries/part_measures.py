"""Measures scores and maps of parts where the defects are known, kind by kind, and writes the table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..analysis.anomalies import score_detection
from ..analysis.pixel_scores import PixelCounter, best_f1
from ..core.text import counted

HEADS = ("how", "pictures", "image AUROC", "best F1 (at)", "pixel AUROC", "AUPRO", "pixel F1 (at)")
ALL = "all kinds"


@dataclass
class Measures:
    """The scores of one way, and of its maps if it makes any.

    Attributes:
        name: of the way.
        scores: of pictures whose kind is known.
        kinds: the kind of each, "" for a good one.
        pixels: counts the maps.
    """

    name: str
    scores: list[float] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    pixels: PixelCounter = field(default_factory=PixelCounter)

    def add(self, score: float, kind: str) -> None:
        """Count a picture.

        Args:
            score: higher is more anomalous.
            kind: of its defects; "" for a good one.
        """
        self.scores.append(score)
        self.kinds.append(kind)

    def rows(self, seed: int, by_kind: bool = True) -> list[dict[str, Any]]:
        """Compute the figures: of all, then kind by kind.

        Args:
            seed: random seed of the intervals.
            by_kind: whether kinds are told apart.

        Returns:
            A dict a row: `how`, `kind`, `normal`, `anomalous`, and where there is something to measure
            `image_auroc`, `image_f1`, `image_threshold` and `pixel`.
        """
        scores, kinds = np.array(self.scores, np.float64), np.array(self.kinds, np.str_)
        good = kinds == ""
        odd_kinds = {*kinds[~good].tolist()}
        if self.pixels.kinds and odd_kinds == {"defect"}:  # boxes know more of kinds than pictures
            odd_kinds = set()
        named = sorted({*odd_kinds, *self.pixels.kinds}) if by_kind else []
        found = []
        for kind in [ALL, *(named if len(named) > 1 else [])]:
            odd = ~good if kind == ALL else kinds == kind
            row: dict[str, Any] = {
                "how": self.name, "kind": kind, "normal": int(good.sum()), "anomalous": int(odd.sum()),
            }  # fmt: skip
            if good.any() and odd.any():
                among = good | odd
                measured = score_detection(scores[among], odd[among], seed)
                row["image_auroc"] = dict(zip(("value", "low", "high"), measured.auroc, strict=True))
                row["image_f1"], row["image_threshold"] = best_f1(scores[among], odd[among])
            pixel = self.pixels.measure(None if kind == ALL else kind, seed) if self.pixels.kinds else None
            row["pixel"] = None if pixel is None else pixel.to_json()
            found.append(row)
        return found


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Write the figures as a table, percent with their intervals.

    Args:
        rows: from `Measures.rows`.

    Returns:
        Lines.
    """
    cells = [HEADS]
    for row in rows:
        name = row["how"] if row["kind"] == ALL else f"  {row['kind']}"
        pixel = row["pixel"] or {}
        cells.append((
            name,
            f"{row['anomalous']} among {row['normal']}"
            if row["anomalous"]
            else counted(pixel["regions"], "part"),
            _percent(row.get("image_auroc")),
            _best(row.get("image_f1"), row.get("image_threshold")),
            _percent(pixel.get("auroc")),
            _percent(pixel.get("aupro")),
            _best(pixel["f1"]["value"], pixel["threshold"]) if pixel else "-",
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(f"{word:{width}}" for word, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _percent(figure: dict[str, float] | None) -> str:
    """Write a figure with its interval: 91.2 (90.1 to 92.3)."""
    if figure is None:
        return "-"
    value, low, high = (100 * figure[end] for end in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def _best(value: float | None, threshold: float | None) -> str:
    """Write an F1 and its threshold."""
    return "-" if value is None or threshold is None else f"{100 * value:.1f} ({threshold:.4g})"


def count_pixels(
    counter: PixelCounter, heat: npt.NDArray[np.float32], regions: npt.NDArray[np.int32], kinds: Any
) -> None:
    """Count the pixels of a map.

    Args:
        counter: counts.
        heat: (h, w), at least 0.
        regions: (h, w), 0 where normal.
        kinds: of the numbered defects: a name for all, or a dict that may lack some.
    """
    if isinstance(kinds, dict):
        numbers = np.unique(regions[regions > 0]).tolist()
        kinds = {number: kinds.get(number, "defect") for number in numbers}
    counter.add(np.maximum(heat, 0), regions, kinds)
