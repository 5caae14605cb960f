"""A detector of anomalous parts as one ONNX graph: encoder and bank, from a picture to its score and map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ..analysis import bank_file, conformal
from ..analysis.anomaly_maps import smoothed
from ..analysis.padim import Padim
from ..analysis.part_detector import HeldOut, PartDetector
from ..analysis.spade import Spade
from ..analysis.whitened import Whitened
from ..core.atomic import check_new_folder, whole_folder
from ..core.entries import entries
from ..core.errors import NearfarError
from ..data.in_memory import open_in_memory
from ..training.run import Run, load
from . import onnx
from .prepared import prepared
from .rebuilt import for_one_size

GRAPH = "parts.onnx"
CLOSE = 5e-3  # of the largest score, that the other runtime's scores and maps may differ by
BLOCK = 8  # pixels of one colour in the pictures that are compared
RATES = (0.01, 0.05, 0.1)  # false-positive rates whose thresholds are written down


class PartsGraph(nn.Module):
    """Prepares one picture as the detector does, encodes it and scores it."""

    inverse: torch.Tensor

    def __init__(self, run: Run, detector: PartDetector) -> None:
        """Take the encoder, how pictures are prepared, and the bank."""
        super().__init__()
        assert detector.detector is not None and detector.seen is not None, "add normal pictures first"
        self.encoder = for_one_size(run.encoder)
        self.features = replace(detector.features, encoder=self.encoder)
        plan = detector.preprocess_at_side
        self.most, self.reduction = plan.decode_side, plan.reduction
        self.shape, self.mode = detector.seen, plan.interpolation
        self.bank = detector.detector
        if isinstance(self.bank, Padim):
            self.register_buffer("inverse", torch.linalg.inv(self.bank.factor))

    def forward(self, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Score a picture.

        Args:
            picture: (1, H, W, 3) uint8, RGB, upright.

        Returns:
            (1,) its score and (1, H, W) those of its pixels, float32; higher is more anomalous.
        """
        x = prepared(picture, self.most, self.reduction, [], "center", *self.shape, self.mode)
        if isinstance(self.bank, Whitened):
            places, score = self.bank.score(self.features.compute_maps(x))
        elif isinstance(self.bank, Padim):
            away = self.bank.centred(self.features.compute(x))
            places = (self.inverse @ away).square().sum(1).sqrt().T.reshape(1, *self.bank.shape)
            score = places.flatten(1).amax(1)
        else:
            places, score = self.bank.score(self.features.compute(x))
        heat = functional.interpolate(smoothed(places[:, None]), picture.shape[1:3], mode="bilinear")
        return score, heat[:, 0]


def export_parts(run: Run | str | Path, bank: str | Path, out: str | Path | None) -> Any:
    """Write encoder and bank as one graph, open it with onnxruntime, and compare scores and maps.

    Args:
        run: a finished run, its folder, or the name of a known encoder: the one that made the bank.
        bank: a file that `nearfar anomalies --parts --bank` has made.
        out: a new folder; the bank's name and the format's if not given.

    Returns:
        What was written.

    Raises:
        NearfarError: the bank is another encoder's, ONNX cannot hold it, the folder exists, or what comes out
            differs.
    """
    from . import ExportedEncoder

    path = Path(bank)
    folder = Path(out) if out is not None else Path(f"{path.stem}-onnx")
    check_new_folder(folder)  # before anything is loaded
    bank_file.check_name(path)
    opened = load(run)
    onnx.needs(opened)
    detector, held = bank_file.load(path, opened.encoder, opened.preprocess)
    if isinstance(detector.detector, Spade):
        raise NearfarError(
            f"the bank {path} is of spade, which looks for normal pictures for each new one; ONNX holds "
            "banks of patchcore, whitened, padim and nearest."
        )
    if detector.preprocess.value_range is not None:
        raise NearfarError(f"the bank {path} is of pictures of more than 8 bits, and the graph takes uint8.")
    with whole_folder(folder) as made:
        _write(PartsGraph(opened, detector), made / GRAPH)
        (made / "README.md").write_text(_card(detector, held), encoding="utf-8")
        difference = _compared(detector, made / GRAPH)
    files = tuple(entries(folder))
    return ExportedEncoder(
        folder, files, difference, f"onnxruntime.InferenceSession('{folder}/{GRAPH}')", "scores and maps"
    )


def _write(graph: PartsGraph, path: Path) -> None:
    """Trace the graph for a picture of any size."""
    high, wide = graph.shape
    picture = torch.zeros(1, 2 * high + 3, 2 * wide + 5, 3, dtype=torch.uint8)
    dims = {at: torch.export.Dim(name, min=2, max=1 << 15) for at, name in ((1, "height"), (2, "width"))}
    onnx.graph(graph, picture, dims, path, "picture", ["score", "map"])


def _compared(detector: PartDetector, path: Path) -> float:
    """Score drawn pictures both ways: the largest difference, over the largest score."""
    assert detector.seen is not None
    high, wide = detector.seen
    draws = np.random.default_rng(0)
    coarse = draws.integers(0, 256, (-(-high // BLOCK), -(-wide // BLOCK), 3), np.uint8)
    pictures = [  # a large one is reduced first, and rounded
        coarse.repeat(side, 0).repeat(side, 1)[: scale * high, : scale * wide]
        for scale, side in ((1, BLOCK), (2, 2 * BLOCK))
    ]
    source, session = open_in_memory(pictures, None), onnx.session(path)
    apart, most = [], 0.0
    for ours, picture in zip(
        detector.score(source, range(len(pictures)), threads=1, inside=True), pictures, strict=True
    ):
        score, heat = session.run(None, {"picture": picture[None]})
        mine = functional.interpolate(
            smoothed(ours.places[None, None]), picture.shape[:2], mode="bilinear"
        ).numpy()[0]
        apart += [abs(float(score[0]) - ours.score), float(np.abs(heat - mine).max())]
        most = max(most, ours.score, float(mine.max()))
    difference = float(np.max(apart)) / max(most, 1e-12)  # NaN where one is
    if not difference <= CLOSE:
        raise NearfarError(
            f"the graph gives other scores (a difference of {difference:.2g}); this is a fault of nearfar or "
            "of onnxruntime: please report it."
        )
    return difference


def _card(detector: PartDetector, held: list[HeldOut]) -> str:
    """Write what the graph is, and its thresholds."""
    assert detector.seen is not None
    high, wide = detector.seen
    lines = [
        f"# Anomalous parts: {detector.method} with {detector.features.encoder.name}",
        "",
        f"`{GRAPH}` takes one uint8 picture (1, H, W, 3), RGB, upright, and gives `score` (1,) and `map` "
        f"(1, H, W): higher is more anomalous. Inside, pictures are resized to {wide} x {high} px: it is "
        "made for pictures of these proportions, and stretches others.",
        "",
        f"Normal pictures in the bank: {len(detector.pictures):,}; held out: {len(held):,}.",
        "",
    ]
    scores, peaks = (np.array([getattr(one, name) for one in held]) for name in ("score", "peak"))
    rows = [(rate, conformal.threshold(scores, rate), conformal.threshold(peaks, rate)) for rate in RATES]
    known = [(rate, score, peak) for rate, score, peak in rows if score is not None and peak is not None]
    if known:
        lines += [
            "| at most of new normal pictures, on average | `score` above | `map` above, anywhere |",
            "|---|---|---|",
            *(f"| {100 * rate:g} % | {score:.6g} | {peak:.6g} |" for rate, score, peak in known),
            "",
        ]
    else:
        lines += ["The held-out pictures are too few for a threshold.", ""]
    return "\n".join(lines)
