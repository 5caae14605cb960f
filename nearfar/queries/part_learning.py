"""Makes or reads the bank of normal pictures, and sets the threshold by those that are held out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis import bank_file, conformal
from ..analysis.anomalies import Threshold, threshold
from ..analysis.anomaly_maps import full_size
from ..analysis.part_detector import FAR, LEAST, METHOD, PLACES, HeldOut, PartDetector, PictureScore
from ..analysis.patch_features import patch_features
from ..analysis.whitened import Whitened
from ..core import rng
from ..core.errors import NearfarError
from ..core.text import counted
from ..data.modalities import modality_of
from ..data.source import Source
from ..images.files import MAX_PIXELS
from ..training.run import Run

NAMED = 10  # pictures named in a sentence
SAMPLED = 32  # normal pictures whose sides are looked at


@dataclass(frozen=True)
class Settings:
    """What a user typed about the detector; None where it was left to us.

    Attributes:
        method: one of `DETECTORS`.
        strides: of the feature maps.
        size: short side of the pictures in pixels.
        turned: whether normal pictures are also learned turned and mirrored.
        fpr: false-positive rate to be promised.
        seed: random seed.
    """

    method: str | None = None
    strides: Sequence[int] | None = None
    size: int | None = None
    turned: bool = False
    fpr: float = 0.05
    seed: int = 0


@dataclass
class Learned:
    """A detector and what the threshold is set by.

    Attributes:
        detector: with its bank.
        held: normal pictures that are not in it.
        spare: their rows among the normal pictures, if these were named now.
        lines: what a reader has to know, a sentence each.
    """

    detector: PartDetector
    held: list[HeldOut]
    spare: list[int]
    lines: list[str]


def learn(run: Run, normal: Source | None, bank: str | Path | None, asked: Settings) -> Learned:
    """Read or make the bank, add normal pictures to it, score those that are held out of it, and keep it.

    Args:
        run: of the encoder.
        normal: normal pictures; those that the bank does not hold are added, but for the held-out ones.
        bank: its file; without one nothing is kept.
        asked: what was typed.

    Raises:
        NearfarError: nothing is known to be normal, or the bank is another one than was typed.
    """
    path = None if bank is None else Path(bank)
    held: list[HeldOut] = []
    if path is not None:
        bank_file.check_name(path)
    if path is not None and path.exists():
        detector, held = bank_file.load(path, run.encoder, run.preprocess)
        _check_same(path, detector, asked)
    elif normal is None:
        raise NearfarError(
            "parts are compared with normal pictures; name them with --normal, or a bank of them with --bank."
        )
    else:
        method = asked.method or METHOD
        coarser = method == Whitened.name
        features = patch_features(run.encoder, run.preprocess.size, asked.strides, coarser)
        preprocess = modality_of(run.preprocess).with_range(run.preprocess, normal, limit=MAX_PIXELS)
        side = asked.size or _usual_side(normal, preprocess, PLACES * features.strides[0])
        detector = PartDetector(features, preprocess, side, method, asked.seed, turned=asked.turned)
    made = Learned(detector, held, [], [])
    if normal is not None:
        _extend(made, normal, asked)
        if path is not None:
            bank_file.save(path, detector, made.held)
    strides = " ".join(map(str, detector.features.strides))
    made.lines.insert(
        0,
        f"{detector.method} with {run.encoder.name}, strides {strides}, "
        f"pictures at {detector.side} px{', turned' if detector.turned else ''}: "
        f"{counted(len(detector.pictures), 'normal picture')} in the bank, {len(made.held):,} held out.",
    )
    return made


def _extend(made: Learned, normal: Source, asked: Settings) -> None:
    """Add normal pictures to the bank, and score some that are held out of it."""
    detector, lines = made.detector, made.lines
    rows = np.arange(len(normal))
    inside = np.array(detector.in_bank(normal, rows.tolist()), np.bool_)
    fresh, before = rows[~inside], len(detector.pictures)
    many = held_out_count(len(fresh), int(inside.sum()), asked.fpr)
    drawn = [rng.fold(asked.seed, "held-out normal pictures", normal.ids[row]) for row in fresh.tolist()]
    order = fresh[np.argsort(np.array(drawn, np.uint64), kind="stable")]
    spare, learned = np.sort(order[:many]).tolist(), np.sort(order[many:]).tolist()
    if learned:
        odd = detector.add(normal, learned)
        if detector.rejected:
            bad = [normal.ids[row] for row, _ in detector.rejected]
            lines.append(f"{counted(len(bad), 'normal picture')} cannot be read: {few(bad)}")
        if odd:
            fate = "left out" if 10 * len(odd) <= len(detector.pictures) else "kept"
            lines.append(
                f"{len(odd):,} of {len(learned):,} normal pictures have a part that hardly any other "
                f"has, and are {fate}: {few(odd)}"
            )
    scored = list(detector.score(normal, spare))
    held, more = [held_out(one) for one in scored], len(detector.pictures) - before
    if before and len(held) < len(made.held):
        # What is added now is too little to hold some of it out.
        made.held = still_out(made.held, detector)
        if more and made.held:
            lines.append(
                f"{counted(len(made.held), 'held-out picture was')} scored before "
                f"{counted(more, 'normal picture was')} added; a larger bank gives lower scores, so the "
                "threshold is on the safe side."
            )
    else:
        made.held, made.spare = held, [one.row for one in scored]
        lines += _suspects([one.score for one in held], [normal.ids[one.row] for one in scored])


def held_out(scored: PictureScore) -> HeldOut:
    """Keep of a scored picture what a threshold is set by."""
    peak = float(full_size(scored.places, scored.shape).max())
    return HeldOut(scored.digest, scored.score, peak)


def still_out(held: list[HeldOut], detector: PartDetector) -> list[HeldOut]:
    """Leave out those that have come into the bank since."""
    inside = set(detector.pictures)
    return [one for one in held if one.digest not in inside]


def _check_same(path: Path, detector: PartDetector, asked: Settings) -> None:
    """Refuse what was typed and is otherwise in a bank."""
    held = {"parts": detector.method, "strides": detector.features.strides, "size": detector.side}
    strides = None if asked.strides is None else tuple(sorted(asked.strides))
    typed = {"parts": asked.method, "strides": strides, "size": asked.size}
    if asked.turned and not detector.turned:
        raise NearfarError(f"the bank {path} was made without --turned; name another file with --bank.")
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


def thresholds(
    held: list[HeldOut], fpr: float, inside: int, lines: list[str]
) -> tuple[Threshold | None, float | None]:
    """Set the thresholds, or say that held-out pictures are too few to promise the rate.

    Args:
        held: normal pictures outside of the bank.
        fpr: false-positive rate to be promised.
        inside: normal pictures in the bank.
        lines: gets a sentence.

    Returns:
        That of pictures; and that of pixels, which at most `fpr` of new normal pictures exceed anywhere.
    """
    if conformal.rank(len(held), fpr):
        found = threshold(np.array([one.score for one in held]), fpr)
        lines.append(str(found))
        return found, conformal.threshold(np.array([one.peak for one in held]), fpr)
    needed, every = int(np.ceil(1 / fpr - 1e-9)) - 1, inside + len(held)
    best = 100 / (every // 2 + 1)
    lines.append(
        f"{counted(every, 'normal picture is')} too few to promise {100 * fpr:g} % false alarms: "
        f"{needed:,} have to be held out, so name {2 * needed:,}; with these --fpr {np.ceil(best) / 100:g} "
        "could be promised."
        if every > 1
        else f"one normal picture is too few to promise {100 * fpr:g} % false alarms; name {2 * needed:,}."
    )
    return None, None


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
        f"{few([ids[at] for at in odd])} If they have defects, take them out: they raise the threshold."
    ]


def few(names: Sequence[str]) -> str:
    """List some names, and say how many more there are."""
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
