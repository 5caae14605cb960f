"""The pictures with the most anomalous parts: what `nearfar anomalies --parts` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..analysis import part_baselines
from ..analysis.anomaly_maps import boxes, full_size
from ..analysis.part_detector import LEAST, PartDetector, PictureScore
from ..core.errors import NearfarError
from ..core.text import counted
from ..data.defects import GOOD
from ..training.run import Run
from .listing import Listing, check_name, write
from .part_files import draw, ends_of, make_folder, small, write_map, write_mask
from .part_learning import Settings, few, learn, thresholds
from .part_measures import Measures, count_pixels, table
from .part_sources import Asked, open_asked
from .store_access import StoreLike, check_limit


def find_parts(
    where: StoreLike,
    *,
    method: str | None = None,
    normal: str | None = None,
    anomalous: str | None = None,
    condition: str | None = None,
    truth: str | Path | None = None,
    bank: str | Path | None = None,
    strides: Sequence[int] | None = None,
    size: int | None = None,
    turned: bool = False,
    fpr: float = 0.05,
    limit: int = 100,
    out: str | Path | None = None,
    heat_maps: str | Path | None = None,
    run: Run | str | Path | None = None,
    seed: int = 0,
) -> Listing:
    """List the pictures with the most anomalous parts, and say where these are; see `anomalies`.

    Returns:
        The pictures, the most anomalous first.

    Raises:
        NearfarError: nothing is known to be normal, or something does not fit together.
    """
    check_limit(limit)
    if out is not None and Path(out).suffix:
        check_name(Path(out))
    if strides is not None and min(strides, default=0) < 1:
        raise NearfarError("--strides takes pixels of 1 or more, such as --strides 8 16.")
    if size is not None and size < 8:
        raise NearfarError(f"--size is {size}; give 8 pixels or more.")
    asked = open_asked(where, normal, anomalous, condition, truth, run)
    settings = Settings(method, strides, size, turned, fpr, seed)
    made = learn(asked.run, asked.normal, bank, settings)
    detector, held, lines = made.detector, made.held, made.lines
    facts: dict[str, Any] = {
        "method": detector.method,
        "encoder": asked.run.encoder.name,
        "strides": list(detector.features.strides),
        "size": detector.side,
        "turned": detector.turned,
        "normal": len(detector.pictures),
        "held_out": len(held),
    }
    source, limit = asked.source, min(limit, len(asked.rows))
    measures = Measures(f"parts, {detector.method}")
    top: list[PictureScore] = []
    scores: dict[int, float] = {}
    known: dict[int, str] = {}  # kinds of defects, "" for none
    calm: list[torch.Tensor] = []
    for one in detector.score(source, asked.rows):
        scores[one.row] = one.score
        if asked.kinds is not None or asked.truth is not None:
            heat = full_size(one.places, one.shape)
            known[one.row] = _measure(measures, asked, one.row, one.score, heat)
        top = sorted([*top, one], key=lambda other: -other.score)[:limit]
        calm = sorted([*calm, one.places], key=lambda other: float(other.max()))[:LEAST]
    bad = [source.ids[row] for row, _ in detector.rejected]
    if bad:
        lines.append(f"{counted(len(bad), 'picture')} cannot be read: {few(bad)}")
    passed = len(asked.rows) - len(scores) - len(bad)
    if passed:
        they = "is" if passed == 1 else "are"
        lines.append(f"{counted(passed, 'picture is')} in the bank of normal ones and {they} not scored.")
    if not scores:
        unread = f"{few(bad).rstrip('.')} cannot be read, " if bad else ""
        rest = f"{'the others' if bad else 'all'} are in the bank" if passed else "and there are no others"
        raise NearfarError(f"no picture is left to score: {unread}{rest}; name other pictures.")
    found, pixel = thresholds(held, fpr, len(detector.pictures), lines)
    facts |= {"images": len(scores), "threshold": None if found is None else vars(found)}
    facts["pixel_threshold"] = pixel
    listed = [source.ids[one.row] for one in top]
    parts = [boxes(full_size(one.places, one.shape)) for one in top]
    columns: dict[str, Sequence[Any]] = {"anomaly_score": [one.score for one in top]}
    if found is not None:
        columns["flagged"] = [one.score > found.value for one in top]
        facts["flagged"] = sum(score > found.value for score in scores.values())
        lines.append(f"{facts['flagged']:,} of {len(scores):,} pictures are flagged.")
    if asked.kinds is not None:
        columns["kind"] = [asked.kinds[one.row] or GOOD for one in top]
    columns["boxes"] = ["; ".join(f"{b['x1']} {b['y1']} {b['x2']} {b['y2']}" for b in part) for part in parts]
    facts["parts"] = dict(zip(listed, parts, strict=True))
    if known:
        # Where no good picture was named to be scored, the held-out normal ones stand for them.
        extra = [] if "" in known.values() else made.spare
        for one_held in held if extra else []:
            measures.add(one_held.score, "")
        rows = [*measures.rows(seed), *_baselines(asked, detector, known, extra, seed)]
        lines += ["", *table(rows)]
        facts["measures"] = rows
    listing = Listing("most anomalous parts first", tuple(listed), columns, tuple(lines), facts)
    _write(listing, asked, detector, top, parts, calm, pixel, out, heat_maps)
    return listing


def _measure(measures: Measures, asked: Asked, row: int, score: float, heat: Any) -> str:
    """Count a picture whose truth is known, and say the kind of its defects, "" for a good one."""
    name = asked.source.ids[row]
    kind = "" if asked.kinds is None else asked.kinds[row]
    if asked.truth is not None:
        regions, kinds = asked.truth.of(name, heat.shape)
        if asked.kinds is None and regions.any():
            kind = "defect"
        if not kind or regions.any():
            count_pixels(measures.pixels, heat, regions if kind else 0 * regions, kinds or kind or "defect")
    measures.add(score, kind)
    return kind


def _baselines(
    asked: Asked, detector: PartDetector, known: dict[int, str], extra: list[int], seed: int
) -> list[dict[str, Any]]:
    """Measure what parts have to beat, on the same pictures; `extra` are held-out normal ones."""
    if asked.normal is None:
        return []
    run, normal = asked.run, asked.normal
    every = list(range(len(normal)))
    base = [row for row, inside in zip(every, detector.in_bank(normal, every), strict=True) if inside]
    if not base:  # the bank is of pictures that were named in another call
        return []
    sets = [(asked.source, sorted(known)), *([(normal, extra)] if extra else [])]
    ways = [Measures("pixels"), Measures("whole vectors"), Measures("difference")]
    differences = part_baselines.Differences(seed)
    differences.add(detector.read(normal, base))
    for source, rows in sets:
        pairs = (normal, base), (source, rows)
        whole = (
            part_baselines.pixels(*pairs),
            part_baselines.vectors(run.encoder, detector.preprocess, *pairs),
        )
        for measures, scores in zip(ways, whole, strict=False):
            for row, score in scores.items():
                measures.add(score, known[row] if source is asked.source else "")
        for picture in detector.read(source, rows):
            places = differences.score(picture.x)
            if source is asked.source:
                heat = full_size(places, picture.shape, smooth=0)
                _measure(ways[2], asked, picture.row, float(places.max()), heat)
            else:
                ways[2].add(float(places.max()), "")
    return [row for measures in ways for row in measures.rows(seed, by_kind=False)]


def _write(
    listing: Listing,
    asked: Asked,
    detector: PartDetector,
    top: list[PictureScore],
    parts: list[list[dict[str, Any]]],
    calm: list[torch.Tensor],
    pixel: float | None,
    out: str | Path | None,
    heat_maps: str | Path | None,
) -> None:
    """Write the list, the maps, the masks and the sheet that were asked for."""
    if out is None and heat_maps is None:
        return
    path = None if out is None else Path(out)
    folder = path if path is not None and not path.suffix else None
    maps = Path(heat_maps) if heat_maps is not None else None if folder is None else folder / "heat_maps"
    masks = None if folder is None or pixel is None else folder / "masks"
    for one in (folder, maps, masks):
        if one is not None:
            make_folder(one)
    copies: dict[str, bytes] = {}
    if maps is not None or folder is not None or (path is not None and path.suffix.lower() == ".png"):
        ends = ends_of(calm, [one.places for one in top])
        for number, (scored, part) in enumerate(zip(top, parts, strict=True), start=1):
            name = asked.source.ids[scored.row]
            picture = draw(asked.source, scored.row, scored.places, part, ends, detector.preprocess)
            copies[name] = small(picture)
            if maps is not None:
                write_map(maps, number, name, picture)
            if masks is not None and pixel is not None:
                write_mask(masks, number, name, full_size(scored.places, scored.shape) > pixel)

    def thumbnails(ids: list[str]) -> list[bytes]:
        return [copies.get(one, b"") for one in ids]

    if folder is not None:
        for name in ("anomalies.csv", "anomalies.json", "sheet.png"):
            write(listing, folder / name, thumbnails)
    elif path is not None:
        write(listing, path, thumbnails)
