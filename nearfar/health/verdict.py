"""The verdict on a run: what labels or, without them, its health checks show, and what to try.

Thresholds come from recorded runs, healthy ones and ones broken on purpose: benchmarks/verdicts.py makes such
runs again and counts how often the verdict is right.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..core.text import counted
from ..data.modalities import IMAGES, modality
from ..data.modality import Modality
from ..methods.base import Expects

Line = Mapping[str, Any]

TOO_EARLY = "too early to tell"
COLLAPSED = ("full collapse", "dimensional collapse")

EARLY = 0.1  # share of the steps before which nothing is said against a run
MIN_CHANGE = 0.05  # share by which features must have moved from those of the untrained network
MIN_SPREAD = 0.3  # spread, as a share of the untrained network's, below which images are all the same
MIN_SPREAD_Z = 0.05  # spread of z, or deviation, at which the head's outputs are
ONE_WAY = 1.35  # NESum below which one direction holds nearly all
LEARNT = 0.02  # share of partners found beyond the untrained network's that tells learning from chance
ERRORS = 2.0  # standard errors that a difference must have besides: they matter where few images are checked
EASY = 0.9  # share of partners that an untrained network finds where views are too similar
HARD = 0.04  # share of partners that even an untrained network finds under views that can be learnt from
GAP = 0.1  # more partners found among images trained on than among others: over-fitting,
TWICE = 2.0  # which nothing is that was seen less than twice
SOLVED = 0.99  # share of its own task that a method solves where something trivial gives the answer away
SHORT = 100  # steps below which neither health nor collapse nor a lack of learning is told from a start,
SHORT_PASSES = 200  # nor below these where no image was seen twice: recorded runs so long are judged rightly
CHECKS = 4  # health checks, with the untrained network's, from which a trend is told
EASIER, HARDER = "{easier}", "{harder}"  # views: stand for what the kind of data says of its settings
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
        return f"{self.name}: {self.reason}; {self.advice}."

    def to_json(self) -> dict[str, Any]:
        """Write it in plain values."""
        return {"name": self.name, "reason": self.reason, "advice": self.advice, "bad": self.bad}


def judge(
    lines: Sequence[Line],
    expects: Expects = Expects(),
    evaluation: Mapping[str, Any] | None = None,
    start: str = "",
    kind: Modality | None = None,
) -> Verdict | None:
    """Judge a run by its evaluation on labelled images, if there is one, and its health checks so far.

    Args:
        lines: of `health.jsonl`, in order; the first, of step 0, shows the untrained network, or what
            training started from.
        expects: what the method says that the figures mean.
        evaluation: of its encoder, as in `evaluation.json`.
        start: the encoder that training started from, if it did from one.
        kind: of the data; images if not given.

    Returns:
        The verdict: worse than its start, not better than an untrained network, too early to tell, full
        collapse, dimensional collapse, not learning, views too easy, views too hard, task too easy,
        over-fitting, still improving, saturating or healthy; None where there is too little to judge by.
    """
    kind = kind or modality(IMAGES)
    seen = _seen(lines, expects)
    if seen is not None:
        seen = replace(seen, reason=_in_words_of(kind, seen.reason), advice=_in_words_of(kind, seen.advice))
    if seen is not None and start:
        seen = replace(seen, reason=seen.reason.replace("the untrained network", "its start"))
    if start and (worse := _worse(evaluation or {}, start, expects)):
        return worse
    against = _against(evaluation or {}, "untrained")
    if not against:
        return seen
    outcomes = _outcomes(evaluation or {}, "untrained", expects)
    said = "; ".join(f"{title} {item['words']}" for title, item in against.items())
    said = f"on {(evaluation or {})['data']['test']}, {said}"
    if "better" in outcomes and "worse" not in outcomes:
        # What health has found wrong stands, also where labels show a gain.
        return seen if seen is None or seen.bad else replace(seen, reason=f"{seen.reason}; {said}")
    advice = f"choose views that keep what your classes differ by, such as {kind.differ_by}, or train longer"
    if seen is not None and (seen.bad or seen.name == TOO_EARLY):
        said, advice = f"{said}; health: {seen.name}, {seen.reason}", seen.advice
    return Verdict("not better than an untrained network", said, advice)


def _in_words_of(kind: Modality, text: str) -> str:
    """Say of one kind of data what is written of images, and which of its settings change views."""
    text = text.replace(EASIER, kind.easier).replace(HARDER, kind.harder)
    return re.sub(r"\bimages\b", kind.noun, text)


def _worse(evaluation: Mapping[str, Any], start: str, expects: Expects) -> Verdict | None:
    """Say if training has made an encoder worse than the one that it started from."""
    named = str(evaluation.get("known") or "")
    same = bool(named) and os.path.normpath(named) == os.path.normpath(start)
    against = _against(evaluation, "known") if evaluation.get("known_is_start", same) else {}
    outcomes = _outcomes(evaluation, "known", expects) if against else set()
    if "worse" not in outcomes or "better" in outcomes:
        return None
    said = "; ".join(f"{title} {item['words']}" for title, item in against.items())
    return Verdict(
        "worse than its start",
        f"on {evaluation['data']['test']}, {said}",
        f"keep {start} as it is, or change less of it: --trainable last:1, or a lower --encoder-rate",
    )


def _outcomes(evaluation: Mapping[str, Any], baseline: str, expects: Expects) -> set[str]:
    """Find how the encoder compares with a baseline, by the classifiers that its method is judged by."""
    summary = evaluation.get("summary", {})
    judged = {name: summary[name] for name in expects.judged if name in summary}
    return {item["outcome"] for item in _against({"summary": judged or summary}, baseline).values()}


def _against(evaluation: Mapping[str, Any], baseline: str) -> dict[str, Mapping[str, Any]]:
    """Find the encoder's comparison with a baseline, by the classifier's title."""
    return {
        found["title"]: item
        for found in evaluation.get("summary", {}).values()
        for item in found["against"]
        if item["baseline"] == baseline
    }


def _seen(lines: Sequence[Line], expects: Expects) -> Verdict | None:
    """Judge a run by its health checks alone."""
    if len(lines) < 2 or lines[0]["step"] != 0:
        return None
    start, now = lines[0], lines[-1]
    if ("task" if expects.task else "contrastive_accuracy") not in now:
        return None
    if now["step"] < EARLY * now["steps"]:
        return None
    if expects.chance is None:
        expects = replace(expects, chance=1 / now["task"].get("compared", now["task"]["images"]))
    partners = (_collapsed, _hard, _narrow, _easy, _unchanged, _over_fitting, _not_learning)
    task = (_collapsed, _narrow, _unchanged, _solved, _over_fitting, _not_learning)
    for rule in task if expects.task else partners:
        found = rule(start, now, expects)
        if found is not None:
            early = rule in (_collapsed, _hard, _narrow, _unchanged, _not_learning) and _short(now, expects)
            return _too_early(now, found) if early else found
    found = _progress(lines, expects)
    return _too_early(now, found) if _short(now, Expects()) else found


def _short(now: Line, expects: Expects) -> bool:
    steps, passes = now["step"], now.get("epoch", max(TWICE, expects.passes))
    return bool(steps < SHORT or (steps < SHORT_PASSES and passes < TWICE) or passes < expects.passes)


def _too_early(now: Line, found: Verdict) -> Verdict:
    """Say how short the run was, instead of what is told only of longer ones."""
    passes = f"{now['epoch']:.1f} passes, " if "epoch" in now else ""
    return Verdict(
        TOO_EARLY, f"{passes}{counted(now['step'], 'step')}; so far {found.reason}", "train longer", bad=False
    )


def _collapsed(start: Line, now: Line, expects: Expects) -> Verdict | None:
    z = min(now.get("spread_of_z", 1.0), now.get("deviation_of_z", 1.0))
    if now["spread"] >= MIN_SPREAD * start["spread"] and z >= MIN_SPREAD_Z:
        return None
    return Verdict(
        "full collapse",
        f"all images look the same to it (spread {now['spread']:.2f}, of the head's outputs {z:.2f})",
        "lower --lr, and use a method's own recipe: a setting that prevents collapse may be off",
    )


def _hard(start: Line, now: Line, expects: Expects) -> Verdict | None:
    chance = now.get("partner_chance", 0.0)
    few = max(HARD, chance + ERRORS * math.sqrt(chance / now.get("partners", 1)))
    # What a network forgot in training, the views are not to blame for.
    (before, _), (after, images) = (_partners(check, 1.0) for check in (start, now))
    if max(before, after) > few or _learnt(start, now, expects):
        return None
    return Verdict(
        "views too hard",
        f"among {images} it finds {after:.1%} of the partners and the untrained network {before:.1%}, "
        f"hardly more than by chance",
        f"{EASIER}, or raise --temperature",
    )


def _narrow(start: Line, now: Line, expects: Expects) -> Verdict | None:
    if now["nesum"] >= ONE_WAY or _learnt(start, now, expects):
        return None
    return Verdict(
        "dimensional collapse",
        f"one direction of {now['dim']} holds nearly all the variance (NESum {now['nesum']:.2f})",
        "lower --lr, raise --batch-size, or choose a method that spreads features, such as simclr or vicreg",
    )


def _unchanged(start: Line, now: Line, expects: Expects) -> Verdict | None:
    moved = any(abs(now[name] - start[name]) > MIN_CHANGE * abs(start[name]) for name in ("rankme", "spread"))
    if moved or _learnt(start, now, expects):  # these two may come back to where they were
        return None
    return Verdict(
        "not learning", "features have not changed from the untrained network", "raise --lr, or train longer"
    )


def _easy(start: Line, now: Line, expects: Expects) -> Verdict | None:
    found, _ = _partners(start, 0.0)
    if found < EASY:
        return None
    return Verdict(
        "views too easy",
        f"even the untrained network finds {found:.0%} of the partners",
        HARDER,
    )


def _partners(line: Line, default: float) -> tuple[float, str]:
    """Read how many partners are found under the run's own views, and among which images."""
    if "partner_holdout" in line:
        return line["partner_holdout"], "holdout images"
    return line.get("partner_trained", default), "training images"


def _over_fitting(start: Line, now: Line, expects: Expects) -> Verdict | None:
    if expects.task:
        looked = now["task"]
        trained, count = looked["trained"], looked["images"]
        held = looked.get("held", trained)
        what = f"its {_words(expects.task)} is {trained:.0%} on"
    else:
        trained = now.get("partner_trained", 0.0)
        held = now.get("partner_holdout", trained)
        count = now.get("partners", now["images"])
        what = f"it finds {trained:.0%} of the partners among"
    told = f"{what} training images, and {held:.0%} {what.split()[-1]} holdout images"
    chance = _error(trained, held, count)
    if now.get("epoch", TWICE) < TWICE or trained - held < max(GAP, ERRORS * chance):
        return None
    return Verdict("over-fitting", told, "add images, train for fewer --epochs, or make views differ more")


def _solved(start: Line, now: Line, expects: Expects) -> Verdict | None:
    if not expects.solved or _share(now, expects) < SOLVED:
        return None
    return Verdict("task too easy", _told(start, now, expects), expects.solved)


def _not_learning(start: Line, now: Line, expects: Expects) -> Verdict | None:
    if _learnt(start, now, expects):
        return None
    advice = "try a --lr three times lower or higher, --temperature from 0.1 to 0.5, and train longer"
    return Verdict("not learning", _told(start, now, expects, 1), expects.at_chance or advice)


def _progress(lines: Sequence[Line], expects: Expects) -> Verdict:
    """Tell whether a run that works has come to its end."""
    start, now = lines[0], lines[-1]
    earlier = [line for line in lines[1:-1] if line["step"] <= LATE * now["step"]]
    told = f"{_told(start, now, expects)}, no collapse ({now['rankme']:.0f} directions)"
    if not earlier or len(lines) < CHECKS:
        return Verdict("healthy", told, "only labels tell what it is good for: nearfar evaluate", bad=False)
    gained = _share(now, expects) - _share(start, expects)
    share = (_share(now, expects) - _share(earlier[-1], expects)) / gained
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


def _share(line: Line, expects: Expects) -> float:
    """Read how well the run does what its method is after: find partners, or solve its own task."""
    if not expects.task:
        return float(line["contrastive_accuracy"])
    found = line.get("task", {"trained": expects.chance})  # the untrained network has learnt no task
    return float(found.get("held", found["trained"]))


def _told(start: Line, now: Line, expects: Expects, digits: int = 0) -> str:
    """Write this share, and what it is measured by."""
    before, after = (f"{_share(line, expects):.{digits}%}" for line in (start, now))
    if expects.task:
        if "task" in start:
            return f"its {_words(expects.task)} is {after}, the untrained network's {before}"
        return f"its {_words(expects.task)} is {after}, where {before} is chance"
    return f"it finds {after} of the partners, the untrained network {before}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _learnt(start: Line, now: Line, expects: Expects) -> bool:
    """Tell whether the share has risen, beyond chance: for partners, under the common views."""
    before, after = _share(start, expects), _share(now, expects)
    count = now["task"]["images"] if expects.task else 2 * now["images"]
    return bool(after > before + max(LEARNT, ERRORS * _error(before, after, count)))


def _error(one: float, other: float, views: int) -> float:
    """Compute the standard error of the difference of two shares, each of so many views."""
    share = (one + other) / 2
    return math.sqrt(2 * share * (1 - share) / views)
