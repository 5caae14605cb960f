"""Says in one sentence what came of a run, for who reads no further, and what the report cannot say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.errors import NearfarError
from ..evaluation.known_row import COMBINED
from ..evaluation.summary import BASELINES
from . import scoring

LIMITS = "What does this not say?"  # the question that every report answers


def sentence(learnt: str, kind: str, scores: scoring.Scores | None, verdict: Any) -> str:
    """Sum up one run.

    Args:
        learnt: what it learnt from, such as "3,240 images".
        kind: what it is tested on: "images".
        scores: its evaluation.json, if there is one.
        verdict: on its health, if there is one.

    Returns:
        One sentence without terms of the field.
    """
    found = scoring.main(scores) if scores else None
    learnt = f"learnt from {learnt}"
    if scores is None or found is None:
        health = f"; its health while training says: {verdict.name}" if verdict else ""
        return f"An encoder {learnt}; how good it is was not measured on labelled {kind} yet{health}."
    key, own = found
    # What this encoder and the known one give together is no other encoder to hold it against.
    others = {
        way: score["accuracy"] for way, score in scores[key].items() if way in BASELINES and way != COMBINED
    }
    share = scoring.percent(own["accuracy"])
    says = f"With this encoder, {learnt}, {share} of the test {kind} get their right class"
    if not others:
        return f"{says}."
    best = max(others, key=lambda way: others[way])
    than = f"{BASELINES[best]} ({scoring.percent(others[best])})"
    apart = own["accuracy"] - others[best]
    by = f"{100 * abs(apart):.1f} points {'more' if apart > 0 else 'fewer'} than with {than}"
    if own["low"] <= others[best] <= own["high"]:
        return (
            f"{says}, {by}, which may be chance." if round(apart, 3) else f"{says}, as many as with {than}."
        )
    return f"{says}, {by}."


def compared(runs: Mapping[str, scoring.Scores | None], noun: str = "images") -> str:
    """Sum up several runs.

    Args:
        runs: name to evaluation.json, if there is one.
        noun: what they learnt from.

    Returns:
        One sentence: which run is best, if all were measured on the same test images.
    """
    found = {name: scoring.main(scores) for name, scores in runs.items() if scores}
    scored = {name: one for name, one in found.items() if one is not None}
    missing = [name for name in runs if name not in scored]
    if missing:
        were = f"{' and '.join(missing)} {'was' if len(missing) == 1 else 'were'}"
        return f"{len(runs)} runs; {were} not measured on labelled {noun}, so no run is called the best."
    tests = {str((scores or {}).get("data", {}).get("test")) for scores in runs.values()}
    if len(tests) > 1 or len({key for key, _ in scored.values()}) > 1:
        return f"{len(runs)} runs, measured on different test {noun}, so no run is called the best."
    order = sorted(scored, key=lambda name: -scored[name][1]["accuracy"])
    first, second = (scored[name][1] for name in order[:2])
    shares = (
        f"{scoring.percent(first['accuracy'])} of the test {noun} right, against "
        f"{scoring.percent(second['accuracy'])} for {order[1]}"
    )
    which = f"Of {len(runs)} runs {order[0]} is"
    if second["high"] >= first["low"]:
        return f"{which} ahead, but by less than these test {noun} can tell: {shares}."
    return f"{which} the best: {shares}."


def limits(
    scores: scoring.Scores | None, sampled: int | None, expected: int, noun: str = "images", runs: int = 1
) -> str:
    """Say what the figures of a run, or of several, do not tell.

    Args:
        scores: its evaluation.json, if there is one.
        sampled: images that the galleries are of; None where there are none.
        expected: images of the collection.
        noun: what these are called.
        runs: how many there are; 0 for an encoder that was not trained here.
    """
    told: list[str] = []
    if scores is None:
        told.append(f"Without labelled {noun}, how good the features are is unknown.")
        if runs:
            told.append("Health only tells whether training worked.")
    else:
        sources = "cameras" if noun == "images" else "sources"
        like = f"{noun} like the {scores.get('images', {}).get('test', 0):,} test {noun}"
        told.append(f"The accuracy holds for {like}, not for other {sources}, places or years.")
        if "leaks" not in scores:
            told.append(f"Whether test {noun} are also among the training {noun} was not looked for.")
    if runs:
        what = "It is one run" if runs == 1 else "Each is one run"
        order = "" if runs == 1 else ", and the order of the runs may be another"
        told.append(f"{what}: with another seed, figures differ by a point or more{order}.")
    if sampled is not None and sampled < expected:
        told.append(f"Galleries, map and near-duplicates are of {sampled:,} of {expected:,} {noun}.")
    return " ".join(told)


def names_of(given: Sequence[str], own: Sequence[str]) -> list[str]:
    """Name runs as the user does, or else as their folders are called.

    Args:
        given: the user's names, as many as there are runs; none to take the folders'.
        own: the folders' names.

    Raises:
        NearfarError: there are too few or too many, or two are the same.
    """
    if not given:
        return list(own)
    if len(given) != len(own) or len(set(given)) != len(given):
        raise NearfarError(f"--names needs a name of its own for each of the {len(own)} runs.")
    return list(given)
