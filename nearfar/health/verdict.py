"""The verdict on a run: whether it works, from its health checks, and what to try if not.

Thresholds come from recorded runs, healthy ones and ones broken on purpose: benchmarks/verdicts.py makes such
runs anew and counts how often the verdict is right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COLLAPSED = ("full collapse", "dimensional collapse")

EARLY = 0.1  # share of the steps before which nothing is said against a run
MIN_CHANGE = 0.05  # share by which features must have moved from those of the untrained network
MIN_SPREAD = 0.3  # spread, as a share of the untrained network's, below which images are all the same
MIN_SPREAD_Z = 0.05  # spread of z, or deviation, at which the head's outputs are
ONE_WAY = 1.35  # NESum below which one direction holds nearly all
LEARNT = 0.02  # share of partners found beyond the untrained network's that tells learning from chance
ERRORS = 2.0  # standard errors that a difference must have besides: they matter where few images are checked
EASY = 0.9  # share of partners that an untrained network finds where views are too similar
HARD = 0.02  # share of partners found under the run's own views that is as few as by chance, at least
GAP = 0.1  # more partners found among images trained on than among others: over-fitting,
TWICE = 2.0  # which nothing is that was seen less than twice
LATE, GAIN = 0.6, 0.1  # a run still improves if this last part of it brought such a share of all it gained


@dataclass(frozen=True)
class Verdict:
    """A name out of a few, the figures behind it, and what to try."""

    name: str
    reason: str
    advice: str
    bad: bool = True

    def __str__(self) -> str:
        """Write it in a line."""
        return f"{self.name.capitalize()}: {self.reason}; {self.advice}."

    def to_json(self) -> dict[str, Any]:
        """Write it in plain values."""
        return {"name": self.name, "reason": self.reason, "advice": self.advice, "bad": self.bad}


def judge(lines: Sequence[Mapping[str, Any]]) -> Verdict | None:
    """Judge a run by its health checks so far.

    Args:
        lines: of `health.jsonl`, in order; the first, of step 0, shows the untrained network.

    Returns:
        The verdict: full collapse, dimensional collapse, not learning, views too easy, views too hard,
        over-fitting, still improving, saturating or healthy; None where there is too little to judge by.
    """
    if len(lines) < 2 or lines[0]["step"] != 0:
        return None
    start, now = lines[0], lines[-1]
    if now["step"] < EARLY * now["steps"]:
        return None
    for rule in (_collapsed, _hard, _narrow, _unchanged, _easy, _over_fitting, _not_learning):
        found = rule(start, now)
        if found is not None:
            return found
    return _progress(lines)


def _collapsed(start: Mapping[str, Any], now: Mapping[str, Any]) -> Verdict | None:
    z = min(now.get("spread_of_z", 1.0), now.get("deviation_of_z", 1.0))
    if now["spread"] >= MIN_SPREAD * start["spread"] and z >= MIN_SPREAD_Z:
        return None
    return Verdict(
        "full collapse",
        f"all images look the same to it (spread {now['spread']:.2f}, of the head's outputs {z:.2f})",
        "lower --lr, and use a method's own recipe: a setting that prevents collapse may be off",
    )


def _hard(start: Mapping[str, Any], now: Mapping[str, Any]) -> Verdict | None:
    chance = now.get("partner_chance", 0.0)
    few = max(HARD, chance + ERRORS * math.sqrt(chance / now.get("partners", 1)))
    # What a network forgot in training, the views are not to blame for.
    if max(check.get("partner_holdout", 1.0) for check in (start, now)) > few or _learnt(start, now):
        return None
    return Verdict(
        "views too hard",
        f"among holdout images it finds {now['partner_holdout']:.1%} of the partners and the untrained "
        f"network {start['partner_holdout']:.1%}, no more than by chance",
        "raise --crop-min and lower --jitter and the strengths of colour, or raise --temperature",
    )


def _narrow(start: Mapping[str, Any], now: Mapping[str, Any]) -> Verdict | None:
    if now["nesum"] >= ONE_WAY or _learnt(start, now):
        return None
    return Verdict(
        "dimensional collapse",
        f"one direction of {now['dim']} holds nearly all the variance (NESum {now['nesum']:.2f})",
        "lower --lr, raise --batch-size, or choose a method that spreads features, such as simclr or vicreg",
    )


def _unchanged(start: Mapping[str, Any], now: Mapping[str, Any]) -> Verdict | None:
    moved = any(abs(now[name] - start[name]) > MIN_CHANGE * abs(start[name]) for name in ("rankme", "spread"))
    if moved or _learnt(start, now):  # these two may come back to where they were
        return None
    return Verdict(
        "not learning", "features have not changed from the untrained network", "raise --lr, or train longer"
    )


def _easy(start: Mapping[str, Any], now: Mapping[str, Any]) -> Verdict | None:
    if start.get("partner_holdout", 0.0) < EASY:
        return None
    return Verdict(
        "views too easy",
        f"even the untrained network finds {start['partner_holdout']:.0%} of the partners",
        "lower --crop-min and raise --jitter and the strengths of colour",
    )


def _over_fitting(start: Mapping[str, Any], now: Mapping[str, Any]) -> Verdict | None:
    trained, held = now.get("partner_trained", 0.0), now.get("partner_holdout", 0.0)
    chance = _error(trained, held, now.get("partners", now["images"]))
    if now.get("epoch", TWICE) < TWICE or trained - held < max(GAP, ERRORS * chance):
        return None
    return Verdict(
        "over-fitting",
        f"it finds {trained:.0%} of the partners among training images, and {held:.0%} among holdout images",
        "add images, train for fewer --epochs, or make views differ more",
    )


def _not_learning(start: Mapping[str, Any], now: Mapping[str, Any]) -> Verdict | None:
    if _learnt(start, now):
        return None
    return Verdict(
        "not learning",
        f"it finds {now['contrastive_accuracy']:.1%} of the partners, the untrained network "
        f"{start['contrastive_accuracy']:.1%}",
        "try a --lr three times lower or higher, --temperature from 0.1 to 0.5, and train longer",
    )


def _progress(lines: Sequence[Mapping[str, Any]]) -> Verdict:
    """Tell whether a run that works has come to its end."""
    start, now = lines[0], lines[-1]
    earlier = [line for line in lines[1:-1] if line["step"] <= LATE * now["step"]]
    told = (
        f"it finds {now['contrastive_accuracy']:.0%} of the partners, the untrained network "
        f"{start['contrastive_accuracy']:.0%}, in {now['rankme']:.0f} directions"
    )
    if not earlier:
        return Verdict("healthy", told, "no action needed", bad=False)
    gained = now["contrastive_accuracy"] - start["contrastive_accuracy"]
    share = (now["contrastive_accuracy"] - earlier[-1]["contrastive_accuracy"]) / gained
    if share > GAIN:
        last = 1 - earlier[-1]["step"] / now["step"]
        late = f"the last {last:.0%} of the steps brought {min(share, 1):.0%} of it"
        return Verdict("still improving", f"{told}, and {late}", "a longer run would bring more", bad=False)
    return Verdict(
        "saturating",
        f"{told}, and has stopped improving",
        "more time brings little; more images might",
        bad=False,
    )


def _learnt(start: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Tell whether views of an image lie nearer than in the untrained network, under fixed views."""
    before, after = start["contrastive_accuracy"], now["contrastive_accuracy"]
    return bool(after > before + max(LEARNT, ERRORS * _error(before, after, 2 * now["images"])))


def _error(one: float, other: float, views: int) -> float:
    """Compute the standard error of the difference of two shares, each of so many views."""
    share = (one + other) / 2
    return math.sqrt(2 * share * (1 - share) / views)
