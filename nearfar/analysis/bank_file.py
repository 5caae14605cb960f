"""Keeps a bank of normal patches as a file: tensors, and beside it a card that says what they are of."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from ..core.atomic import atomic_write
from ..core.errors import NearfarError
from ..core.shapes import COUNT, check_shape, loads
from ..core.version import __version__
from ..features.extract import fingerprint
from ..models import Encoder
from .part_detector import DETECTORS, HeldOut, PartDetector
from .patch_features import patch_features

FORMAT = 3
_CARD = {
    "sha256": str,
    "encoder": {"name": str, "sha256": str},
    "strides": [range(1, 1 << 16)],
    "size": (COUNT, None),
    "shape": ([COUNT], None),
    "range": ([float], None),
    "seed": int,
    "turned": bool,
    "seen": [COUNT],
    "held_out": [{"digest": str, "score": float, "peak": float}],
    "pictures": ([object], {str: object}, COUNT),
}


def card_of(path: Path) -> Path:
    """Name the card of a bank: the file's own name, ending in .json.

    Args:
        path: the bank's file.
    """
    return path.with_suffix(".json")


def check_name(path: Path) -> None:
    """Refuse a name that is no bank's.

    Args:
        path: the bank's file.

    Raises:
        NearfarError: it does not end in .safetensors.
    """
    if path.suffix != ".safetensors":
        raise NearfarError(
            f"--bank {path} does not end in .safetensors; name it so, as {path.with_suffix('.safetensors')}"
        )


def save(path: Path, detector: PartDetector, held_out: list[HeldOut]) -> None:
    """Write a bank and then its card, each whole or not at all.

    Args:
        path: ends in .safetensors.
        detector: with its normal pictures.
        held_out: normal pictures that are not in it.
    """
    assert detector.detector is not None, "add normal pictures first"
    state = {name: value.contiguous() for name, value in detector.detector.state().items()}
    content = to_bytes(state)
    encoder, preprocess = detector.features.encoder, detector.preprocess
    card = {
        "format": FORMAT,
        "nearfar": __version__,
        "sha256": hashlib.sha256(content).hexdigest(),
        "method": detector.method,
        "encoder": {"name": encoder.name, "sha256": fingerprint(encoder)},
        "strides": list(detector.features.strides),
        "size": detector.side,
        "shape": detector.shape,
        "range": preprocess.value_range,
        "seed": detector.seed,
        "normal": len(detector.pictures),
        "turned": detector.turned,
        "seen": detector.seen,
        "held_out": [vars(one) for one in held_out],
        "pictures": detector.pictures,
    }
    with atomic_write(path, folders=True) as file:
        file.write(content)
    with atomic_write(card_of(path), folders=True) as file:
        file.write(json.dumps(card, indent=1).encode() + b"\n")


def load(path: Path, encoder: Encoder, preprocess: Any) -> tuple[PartDetector, list[HeldOut]]:
    """Read a bank.

    Args:
        path: as `save` took it.
        encoder: the one that it was made with.
        preprocess: the encoder's.

    Returns:
        The detector, and normal pictures that are not in it.

    Raises:
        NearfarError: the bank is another encoder's, or one of its files is missing or damaged.
    """
    try:
        content = path.read_bytes()
        card: dict[str, Any] = loads(card_of(path).read_bytes())
        if card["format"] != FORMAT or card["method"] not in DETECTORS:
            raise NearfarError(f"the bank {path} is of another nearfar ({card['nearfar']}); make it again.")
        check_shape(card, _CARD, f"{card_of(path)}: ")
        if card["sha256"] != hashlib.sha256(content).hexdigest():
            raise NearfarError(f"{path} and {card_of(path)} do not belong together; make the bank again.")
        state = from_bytes(content)
        own, name = card["encoder"]["sha256"], card["encoder"]["name"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise NearfarError(f"the bank {path} is damaged or not whole ({error}); make it again.") from error
    if own != fingerprint(encoder):
        raise NearfarError(
            f"the bank {path} was made with another encoder ({name}); name its run with --run, or another "
            "file with --bank."
        )
    span = card["range"] or (None, None)
    preprocess = replace(preprocess, low=span[0], high=span[1])
    features = patch_features(encoder, preprocess.size, card["strides"])
    shape = None if card["shape"] is None else (int(card["shape"][0]), int(card["shape"][1]))
    grid = (0, 0) if shape is None else (shape[0] // features.strides[0], shape[1] // features.strides[0])
    made = DETECTORS[card["method"]](grid, card["seed"])
    made.load(state)
    detector = PartDetector(
        features,
        preprocess,
        card["size"],
        card["method"],
        card["seed"],
        shape,
        card["turned"],
        (int(card["seen"][0]), int(card["seen"][1])),
        card["pictures"],
        made,
    )
    held = [HeldOut(one["digest"], float(one["score"]), float(one["peak"])) for one in card["held_out"]]
    return detector, held
