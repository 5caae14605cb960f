"""Measures the runs of a comparison, and the baselines and known encoders beside them; keeps the figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core import progress
from ..core.device import device_named
from ..core.errors import NearfarError
from ..evaluation.evaluate import evaluate
from ..evaluation.known_row import KNOWN, NONE
from ..evaluation.measure import EvaluationOptions, measure
from ..evaluation.result import Evaluation
from ..features.extract import fingerprint
from ..training import checkpoint
from ..training.run import Run, load

BASELINES = ("pixels", "pca", "colours", "patches", "mfcc", "mfcc_course", "untrained")
# Of health.jsonl: no figures of merit.
NOT_FIGURES = ("step", "steps", "epoch", "seconds", "holdout", "images", "dim", "partners", "partner_chance")
_FIGURES = {str: float, "licence?": str}
_MEASURED = {"method": _FIGURES, "baselines": {str: _FIGURES}, "mark?": str}


def last_health(run: Run) -> dict[str, float]:
    """Read the figures of merit of a run's last health check; some methods' hold more than numbers.

    Args:
        run: the run.
    """
    found = (run.health() or [{}])[-1]
    return {
        name: value
        for name, value in found.items()
        if name not in NOT_FIGURES and isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def check_known(names: Sequence[str], labels: bool, kind: str) -> None:
    """Refuse known encoders that cannot be rows, before anything is trained.

    Args:
        names: theirs, or "none".
        labels: whether there are labelled images.
        kind: of data that encoders take.

    Raises:
        NearfarError: one cannot be had, or is of another kind; or there are no labels.
    """
    if names and not labels:
        raise NearfarError("--known is measured on labelled images; give --train and --test too.")
    if NONE in names and len(names) > 1:
        raise NearfarError("--known none is for no known encoder; leave it out beside other names.")
    for name in names:
        if name == NONE:
            continue
        own = load(name).preprocess.modality
        if own != kind:
            raise NearfarError(f"--known {name} is an encoder of {own}, and these are {kind}; leave it out.")


def digest_of(run: Run, parts: Sequence[Any], others: Sequence[str]) -> str:
    """Digest what figures are of.

    Args:
        run: its encoder.
        parts: the labelled images with their labels.
        others: names of known encoders.
    """
    told = json.dumps([fingerprint(run.encoder), *others])
    digest = hashlib.blake2b(told.encode(), digest_size=16)
    for part in parts:
        labels = [part.classes[number] for number in part.labels]
        digest.update(json.dumps([part.fingerprint, labels]).encode())
    return digest.hexdigest()


def figures_of(
    run: Run,
    file: Path,
    labelled: Mapping[str, Any] | None,
    seed: int,
    beside: Sequence[str] | None,
    mark: str,
) -> dict[str, Any]:
    """Measure one run, or read what was measured before.

    Args:
        run: the run.
        file: keeps the figures.
        labelled: training and test images, if there are any.
        seed: of its training, and of the evaluation.
        beside: names of known encoders, empty for the usual one, to be measured with the baselines; None for
            the run alone.
        mark: of what is measured.

    Returns:
        Figures of the method, and of baselines and known encoders by name.
    """
    first = beside is not None
    if file.exists():
        try:
            before: dict[str, Any] = checkpoint.read_json(file, _MEASURED)
        except NearfarError as error:
            progress.say(f"{error} It is measured anew.")
            before = {}
        if before.get("mark") == mark and (before["baselines"] or not first or labelled is None):
            return before
    log = run.log()
    last = log[-1] if log else {}
    figures = {
        "images_per_second": last.get("images_per_second"),
        "epochs": last.get("epoch"),
        "peak_mib": last.get("peak_mib"),
        "seconds": last.get("seconds"),
        **last_health(run),
    }
    baselines: dict[str, dict[str, Any]] = {}
    if labelled is not None:
        names = list(beside or ())
        other = (names[0] if names else None) if first else NONE
        scores = evaluate(run, seed=seed, baselines=BASELINES if first else (), known=other, **labelled)
        figures |= _accuracies(scores, "encoder")
        baselines = {name: _accuracies(scores, name) for name in BASELINES if name in scores.knn}
        if scores.known:
            baselines[scores.known] = _accuracies(scores, KNOWN)
        for name in names[1:]:
            progress.say(f"evaluating {name}")
            how = EvaluationOptions(seed, device_named("auto"), 256, baselines=(), known=NONE)
            baselines[name] = _accuracies(
                measure(load(name), labelled["train"], labelled["test"], how), "encoder"
            )
    made: dict[str, Any] = {"method": {name: value for name, value in figures.items() if value is not None}}
    made |= {"baselines": baselines, "mark": mark}
    checkpoint.write_json(file, made)
    return made


def _accuracies(scores: Evaluation, row: str) -> dict[str, Any]:
    """Give a row's accuracies, and what it costs if it is an encoder."""
    found: dict[str, Any] = {"knn": scores.knn[row].accuracy, "linear": scores.linear[row].accuracy}
    if row in scores.costs:
        cost = scores.costs[row]
        found |= {"parameters": cost.parameters, "licence": cost.licence}
        found["encoded_per_second"] = cost.images_per_second
    return found
