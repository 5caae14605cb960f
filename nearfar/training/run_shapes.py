"""What the JSON files of a run folder hold, as `core.shapes` checks it."""

from __future__ import annotations

from typing import Any

from ..core.shapes import COUNT

_ANY = {str: object}
_SIDE = range(1, 1 << 20)
_SPENT = (float, None)
_FIGURE = (float, None, bool, str, [object], {str: object})  # what no code reads by its name
_DATA = {"name": str, "images": COUNT, "holdout?": COUNT, "listed?": COUNT, "fingerprint": str}
_SCORE = {
    "accuracy": float,
    "low": float,
    "high": float,
    "confusion?": [[COUNT]],
    "per_class?": {str: {"images": COUNT, "recall": _SPENT}},
}
_POINT = {"labels": float, "mean": float, "std?": _SPENT}

CARD: dict[Any, Any] = {
    "modality": str,
    "encoder": {
        "name": str,
        "stem": str,
        "dim": _SIDE,
        "size": _SIDE,
        "mean?": [float],
        "std?": [float],
        "args?": _ANY,
        "projection?": bool,
    },
    "preprocess": _ANY,
    "parts": [str],
    "text?": bool,
    "decode_side?": _SIDE,
    "steps?": [str],
    "provenance": {
        "method?": str,
        "recipe?": str,
        "data?": {"images?": COUNT, "holdout?": COUNT, str: object},
        "steps?": COUNT,
        "batch_size?": COUNT,
        "weights?": (str, None),
        "licence?": str,
        "teacher?": {"name": str, "licence": str},
        "of?": [{"name": str, "licence": str, "sha256": str, "provenance": _ANY}],
    },
}
"""`encoder.json`."""

CONFIG: dict[Any, Any] = {
    "nearfar": str,
    "torch": str,
    "commit?": (str, None),
    "asked": {"data?": (str, None), "method?": str, "recipe?": str, "like?": (str, None)},
    "overwrite?": bool,
    "data": _DATA,
    "method": str,
    "recipe": str,
    "training": {
        "modality": str,
        "seed": int,
        "batch_size": range(1, 1 << 40),
        "optimizer": str,
        "lr": float,
        "device": str,
        "precision": str,
        str: object,
    },
    "views": _ANY,
    "settings": _ANY,
    "cut?": {"crop": float, "short_side": _SIDE, "reduction": str, "fit": str},
    "plan": [[COUNT]],
    "teacher?": (str, None),
    "colours?": ({"colour": str, "images": COUNT, "classes": COUNT, str: object}, None),
}
"""`config.json`."""

LOG: dict[Any, Any] = {
    "step": COUNT,
    "epoch": float,
    "seconds": float,
    "images_per_second?": _SPENT,
    "peak_mib?": _SPENT,
    "waiting?": float,
    str: _FIGURE,
}
"""A line of `log.jsonl`."""

HEALTH: dict[Any, Any] = {
    "step": COUNT,
    "steps": COUNT,
    "images": range(1, 2**53),
    "dim": _SIDE,
    "rankme": float,
    "nesum": float,
    "spread": float,
    "contrastive_accuracy?": float,
    "spread_of_z?": float,
    "deviation_of_z?": float,
    "partner_holdout?": float,
    "partner_trained?": float,
    "partners?": range(1, 2**53),
    "epoch?": float,
    "seconds?": _SPENT,
    "holdout?": bool,
    "task?": {"trained": float, "held?": float, "images": range(1, 2**53), "compared?": range(1, 2**53)},
    str: _FIGURE,
}
"""A line of `health.jsonl`."""

EVALUATION: dict[Any, Any] = {
    "encoder": {"sha256?": (str, None)},
    "data": {"train": (str, None), "test": (str, None)},
    "images?": {str: COUNT},
    "summary?": {
        str: {
            "title": str,
            "sentence?": str,
            "against": [{"baseline": str, "outcome": str, "words": str}],
        }
    },
    "knn?": {str: _SCORE},
    "linear?": {str: _SCORE},
    "ranking?": {
        "sentences?": [str],
        "rows?": [
            {
                "name": str,
                "knn?": _SCORE,
                "linear?": _SCORE,
                "cost?": (
                    None,
                    {"parameters": COUNT, "licence": str, "images_per_second": float, "noun?": str},
                ),
            }
        ],
    },
    "left_out?": {str: str},
    "known?": str,
    "known_is_start?": bool,
    "leaks?": {str: {"images": COUNT, "left": COUNT, "without": {str: {str: {"accuracy": float}}}}},
    "few_labels?": {"rows?": {str: {str: [_POINT]}}, "efficiency?": {"sentence?": (str, None)}},
}
"""`evaluation.json`."""

SAVE: dict[Any, Any] = {
    "step": COUNT,
    "plan": [[COUNT]],
    "numbers": {str: float},
    "seconds": _SPENT,
    "run?": str,
    "world?": range(1, 2**16),
}
"""The facts in `last.safetensors`."""
