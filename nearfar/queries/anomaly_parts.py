"""The pictures with the most anomalous parts: what `nearfar anomalies --parts` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..analysis import bank_file, conformal, part_baselines
from ..analysis.anomalies import Threshold, threshold
from ..analysis.anomaly_maps import boxes, full_size
from ..analysis.part_detector import FAR, LEAST, PLACES, PartDetector, PictureScore
from ..analysis.patch_features import patch_features
from ..core import rng
from ..core.errors import NearfarError
from ..data.defects import GOOD
from ..data.modalities import modality_of
from ..data.source import Source
from ..images.files import MAX_PIXELS
from ..training.run import Run
from .listing import Listing, check_name, write
from .part_files import draw, ends_of, make_folder, small, write_map
from .part_measures import Measures, count_pixels, table
from .part_sources import Asked, open_asked
from .store_access import StoreLike, check_limit

METHOD = "patchcore"
NAMED = 10  # pictures named in a sentence
SAMPLED = 32  # normal pictures whose sides are looked at


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
    detector, held, spare, lines, facts = _learn(asked, method, bank, strides, size, fpr, seed)
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
        lines.append(f"{len(bad):,} pictures cannot be read: {_few(bad)}")
    passed = len(asked.rows) - len(scores) - len(bad)
    if passed:
        lines.append(f"{passed:,} pictures are in the bank of normal ones and are not scored.")
    if not scores:
        raise NearfarError("no picture is left to score: all are in the bank; name other pictures.")
    found = _threshold(held, fpr, len(detector.pictures), lines)
    facts |= {"images": len(scores), "threshold": None if found is None else vars(found)}
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
        extra = [] if "" in known.values() else spare
        for score in held if extra else []:
            measures.add(score, "")
        rows = [*measures.rows(seed), *_baselines(asked, detector, known, extra, seed)]
        lines += ["", *table(rows)]
        facts["measures"] = rows
    listing = Listing("most anomalous parts first", tuple(listed), columns, tuple(lines), facts)
    _write(listing, asked, detector, top, parts, calm, out, heat_maps)
    return listing


def _learn(
    asked: Asked,
    method: str | None,
    bank: str | Path | None,
    strides: Sequence[int] | None,
    size: int | None,
    fpr: float,
    seed: int,
) -> tuple[PartDetector, list[float], list[int], list[str], dict[str, Any]]:
    """Read or make the bank; score normal pictures that are held out of it, and name their rows; keep it."""
    path = None if bank is None else Path(bank)
    run, normal, lines, held, spare = asked.run, asked.normal, list[str](), list[float](), list[int]()
    if path is not None:
        bank_file.check_name(path)
    if path is not None and path.exists():
        detector, held = bank_file.load(path, run.encoder, run.preprocess)
        _check_same(path, detector, method, strides, size)
    elif normal is None:
        raise NearfarError(
            "parts are compared with normal pictures; name them with --normal, or a bank of them with --bank."
        )
    else:
        features = patch_features(run.encoder, run.preprocess.size, strides)
        preprocess = modality_of(run.preprocess).with_range(run.preprocess, normal, limit=MAX_PIXELS)
        side = size or _usual_side(normal, preprocess, PLACES * features.strides[0])
        detector = PartDetector(features, preprocess, side, method or METHOD, seed)
    if normal is not None:
        rows = np.arange(len(normal))
        inside = np.array(detector.in_bank(normal, rows.tolist()), np.bool_)
        fresh = rows[~inside]
        many = held_out_count(len(fresh), int(inside.sum()), fpr)
        drawn = [rng.fold(seed, "held-out normal pictures", normal.ids[row]) for row in fresh.tolist()]
        order = fresh[np.argsort(np.array(drawn, np.uint64), kind="stable")]
        spare, learned = np.sort(order[:many]).tolist(), np.sort(order[many:]).tolist()
        if learned:
            odd = detector.add(normal, learned)
            if detector.rejected:
                bad = [normal.ids[row] for row, _ in detector.rejected]
                lines.append(f"{len(bad):,} normal pictures cannot be read: {_few(bad)}")
            if odd:
                fate = "left out" if 10 * len(odd) <= len(detector.pictures) else "kept"
                lines.append(
                    f"{len(odd):,} of {len(learned):,} normal pictures have a part that hardly any other "
                    f"has, and are {fate}: {_few(odd)}"
                )
        scored = list(detector.score(normal, spare))
        held, spare = [one.score for one in scored], [one.row for one in scored]
        lines += _suspects(held, [normal.ids[one.row] for one in scored])
        if path is not None:
            bank_file.save(path, detector, held)
    facts = {
        "method": detector.method,
        "encoder": run.encoder.name,
        "strides": list(detector.features.strides),
        "size": detector.side,
        "normal": len(detector.pictures),
        "held_out": len(held),
    }
    strides_used = " ".join(map(str, detector.features.strides))
    lines.insert(
        0,
        f"{detector.method} with {run.encoder.name}, strides {strides_used}, "
        f"pictures at {detector.side} px: {len(detector.pictures):,} normal pictures in the bank, "
        f"{len(held):,} held out.",
    )
    return detector, held, spare, lines, facts


def _check_same(
    path: Path, detector: PartDetector, method: str | None, strides: Sequence[int] | None, size: int | None
) -> None:
    """Refuse what was typed and is otherwise in a bank."""
    held = {"parts": detector.method, "strides": detector.features.strides, "size": detector.side}
    typed = {"parts": method, "strides": None if strides is None else tuple(sorted(strides)), "size": size}
    for name, value in typed.items():
        if value not in (None, held[name]):
            own = held[name]
            shown = " ".join(map(str, own)) if isinstance(own, tuple) else own
            raise NearfarError(
                f"the bank {path} was made with --{name} {shown}; type the same, or name another file with "
                "--bank."
            )


def held_out_count(fresh: int, inside: int, fpr: float) -> int:
    """Say how many normal pictures are held out of the bank: a fifth, or as many as the promise needs.

    Args:
        fresh: normal pictures that are not in the bank.
        inside: those that are.
        fpr: false-positive rate to be promised, between 0 and 1.

    Returns:
        The number; 0 where half of all are too few.

    Raises:
        NearfarError: the rate is no such share.
    """
    if not 0 < fpr < 1:
        raise NearfarError(f"--fpr is {fpr:g}; it must lie between 0 and 1, such as 0.05.")
    needed, every = int(np.ceil(1 / fpr - 1e-9)) - 1, fresh + inside
    many = max(needed, every // 5)
    return many if many <= min(fresh, every // 2) else 0


def _threshold(held: list[float], fpr: float, inside: int, lines: list[str]) -> Threshold | None:
    """Set the threshold, or say that held-out pictures are too few to promise it."""
    if conformal.rank(len(held), fpr):
        found = threshold(np.array(held, np.float64), fpr)
        lines.append(str(found))
        return found
    needed, every = int(np.ceil(1 / fpr - 1e-9)) - 1, inside + len(held)
    best = 100 / (every // 2 + 1)
    lines.append(
        f"{every:,} normal pictures are too few to promise {100 * fpr:g} % false alarms: {needed:,} have to "
        f"be held out, so name {2 * needed:,}; with these --fpr {np.ceil(best) / 100:g} could be promised."
        if every > 1
        else f"one normal picture is too few to promise {100 * fpr:g} % false alarms; name {2 * needed:,}."
    )
    return None


def _suspects(held: list[float], ids: list[str]) -> list[str]:
    """Name held-out normal pictures that score far above the others."""
    if len(held) < LEAST:
        return []
    low, high = np.quantile(held, [0.25, 0.75])
    odd = [at for at in np.argsort(-np.array(held)).tolist() if held[at] > high + FAR * (high - low)]
    if not odd:
        return []
    return [
        f"{len(odd):,} of {len(held):,} held-out normal pictures score far above the others: "
        f"{_few([ids[at] for at in odd])} If they have defects, take them out: they raise the threshold."
    ]


def _few(names: Sequence[str]) -> str:
    """List some names."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}."


def _usual_side(normal: Source, preprocess: Any, largest: int) -> int:
    """Choose the short side: the pictures' own, from the encoder's to the largest."""
    kind, sides = modality_of(preprocess), []
    for row in np.unique(np.linspace(0, len(normal) - 1, min(len(normal), SAMPLED)).astype(int)).tolist():
        try:
            found = kind.decode(kind.fetch(normal, row, limit=MAX_PIXELS)[0], preprocess, limit=MAX_PIXELS)
        except Exception:  # a picture that cannot be read is named later
            continue
        sides.append(min(found.columns["height"], found.columns["width"]))
    usual = int(np.median(sides)) if sides else preprocess.size
    return max(preprocess.size, min(usual, largest))


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
    out: str | Path | None,
    heat_maps: str | Path | None,
) -> None:
    """Write the list, the maps and the sheet that were asked for."""
    if out is None and heat_maps is None:
        return
    path = None if out is None else Path(out)
    folder = path if path is not None and not path.suffix else None
    maps = Path(heat_maps) if heat_maps is not None else None if folder is None else folder / "heat_maps"
    for one in (folder, maps):
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

    def thumbnails(ids: list[str]) -> list[bytes]:
        return [copies.get(one, b"") for one in ids]

    if folder is not None:
        for name in ("anomalies.csv", "anomalies.json", "sheet.png"):
            write(listing, folder / name, thumbnails)
    elif path is not None:
        write(listing, path, thumbnails)
