"""The report's section on anomalous parts: a bank of normal images, what it promises, and odd images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..analysis import bank_file, conformal
from ..analysis.anomaly_maps import boxes, full_size
from ..analysis.part_detector import LEAST, HeldOut, PartDetector, PictureScore
from ..core.text import counted
from ..queries.part_files import draw, ends_of
from ..training.run import Run
from .blocks import Blocks, Grid, ImageTile, Note, Plot, Plots, TableBlock
from .figures import Line, curves
from .galleries import tile
from .sample import ImageSample

SCORED, SHOWN = 64, 12  # images of the sample that are scored, and those with a map
SIDE = 192  # of a map in the page, in pixels
RATES = (0.01, 0.05, 0.1, 0.2)  # false-positive rates whose thresholds are shown


@dataclass(frozen=True)
class BankReport:
    """A bank of normal images.

    Attributes:
        path: its file.
        detector: with the bank.
        held: normal images that are not in it.
    """

    path: Path
    detector: PartDetector
    held: list[HeldOut]


def open_bank(run: Run, path: str | Path) -> BankReport:
    """Read a bank.

    Args:
        run: made its encoder.
        path: a file that `nearfar anomalies --parts --bank` has made.

    Raises:
        NearfarError: it is another encoder's, or damaged.
    """
    bank_file.check_name(Path(path))
    return BankReport(Path(path), *bank_file.load(Path(path), run.encoder, run.preprocess))


def blocks(bank: BankReport, sampled: ImageSample | None) -> Blocks:
    """Show the bank, its thresholds, and the sampled images with the most anomalous parts.

    Args:
        bank: of normal images.
        sampled: the run's images; None where they cannot be read.
    """
    made = [_facts(bank), _thresholds(bank)]
    if sampled is None:
        return [*made, Note("The images cannot be read, so no maps are shown.")]
    rows = list(range(min(SCORED, len(sampled.few))))
    scored = sorted(bank.detector.score(sampled.few, rows), key=lambda one: -one.score)
    if not scored:
        return [*made, Note(f"All of {len(rows):,} sampled images are in the bank, so none is scored.")]
    return [*made, _curve(bank, scored), _maps(bank, sampled, scored)]


def _facts(bank: BankReport) -> TableBlock:
    found = bank.detector
    rows = [
        ("file", bank.path.name),
        ("detector", found.method + (", turned and mirrored" if found.turned else "")),
        ("feature maps", ", ".join(f"stride {stride}" for stride in found.features.strides)),
        ("short side", f"{found.side:,} px"),
        ("normal images in it", f"{len(found.pictures):,}"),
        ("held out", f"{len(bank.held):,}"),
    ]
    return TableBlock("The bank of normal images", (), rows)


def _thresholds(bank: BankReport) -> TableBlock | Note:
    scores = np.array([one.score for one in bank.held])
    known = [(rate, conformal.threshold(scores, rate)) for rate in RATES]
    rows = [(f"{100 * rate:g} %", f"{value:.4g}") for rate, value in known if value is not None]
    if not rows:
        return Note("Too few normal images are held out of the bank for a threshold.")
    head = ("at most of new normal images, on average", "score above")
    return TableBlock("Thresholds by held-out images", head, rows)


def _curve(bank: BankReport, scored: list[PictureScore]) -> Plots:
    lines = []
    for run, (name, values) in enumerate((
        ("held out", [one.score for one in bank.held]),
        ("images", [one.score for one in scored]),
    )):  # fmt: skip
        if values:
            x = sorted(values)
            lines.append(Line(x, [1 - at / len(x) for at in range(len(x))], run, label=name))
    svg = curves(
        "parts",
        "Share of images by score",
        lines,
        x="score of the most anomalous part",
        percent=True,
        labels=True,
    )
    says = "Share of images that score at least so much: normal ones that were held out, and sampled ones."
    return Plots([Plot(svg, "Images by score", says)])


def _maps(bank: BankReport, sampled: ImageSample, scored: list[PictureScore]) -> Grid:
    top = scored[:SHOWN]
    ends = ends_of([one.places for one in scored[-LEAST:]], [one.places for one in top])
    tiles: list[ImageTile] = []
    for one in top:
        parts = boxes(full_size(one.places, one.shape))
        picture = draw(sampled.few, one.row, one.places, parts, ends, bank.detector.preprocess)
        if picture is not None:
            name = sampled.few.ids[one.row]
            tiles.append(tile(np.asarray(picture), name, SIDE, note=f"{one.score:.4g}"))
    says = (
        f"Of {counted(len(scored), 'image')} of the sample that are not in the bank, those with the most "
        "anomalous part first; clear is normal, yellow the most anomalous."
    )
    return Grid("Most anomalous parts", says, [tiles], wide=True)
