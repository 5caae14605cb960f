"""The run that a folder already holds: found, shown to be the one that is asked for, or cleared away."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.entries import entries
from ..core.errors import NearfarError
from ..training import checkpoint
from ..training.run import PARTS
from . import vectors
from .gradient_training import SCRATCH_FILE, STAGES
from .session import CHECKS_FILE
from .tuned import CARD, asked_of

OURS = (  # in the order in which --overwrite removes them
    checkpoint.LAST,
    "encoder.json",  # marks a run as finished
    CARD,
    PARTS,
    "encoder.safetensors",
    "evaluation.json",
    "log.jsonl",
    CHECKS_FILE,
    STAGES,
    SCRATCH_FILE,
    "rejected.csv",
    "config.json",  # last: until then the folder is known as a run's
)


def find_earlier(folder: Path, replacing: dict[str, Any] | None) -> dict[str, Any] | None:
    """Find the run that a folder holds.

    Args:
        folder: of the run.
        replacing: with --overwrite, what was asked: the same words, typed again, resume the unfinished run
            that they began.

    Returns:
        Its config.json; None where there is none, or one that is to be replaced.

    Raises:
        NearfarError: the folder holds something else, or a damaged config.json.
    """
    others = [name for name in entries(folder) if name not in (*OURS, ".lock") and not name.endswith(".part")]
    config = folder / "config.json"
    if others and not config.exists():
        raise NearfarError(
            f"{folder} is not a run folder: it holds {others[0]!r}; name a new or empty folder with --out."
        )
    if not config.exists():
        if (folder / "encoder.json").exists():
            raise NearfarError(f"{folder} holds an adopted encoder; name another folder with --out.")
        return None
    earlier: dict[str, Any] = {}
    try:
        if "task" not in asked_of(folder):
            raise NearfarError(f"{folder} holds the run of a pretraining; name another folder with --out.")
        earlier = checkpoint.read_json(config)
    except NearfarError:
        if replacing is None or not {CARD, STAGES} & {item.name for item in folder.iterdir()}:
            raise  # else a damaged one is replaced too
    begun = earlier.get("overwrite") and earlier.get("asked") == replacing
    return earlier if replacing is None or (begun and not (folder / "encoder.json").exists()) else None


def clear(folder: Path) -> None:
    """Remove a run's files, in an order in which a kill leaves nothing that another run could take."""
    vectors.forget(folder)  # while config.json says whose they are
    for name in OURS:
        (folder / name).unlink(missing_ok=True)


def same_run(earlier: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> bool:
    """Make sure that an earlier run is the one now asked for.

    Args:
        earlier: its config.json.
        asked: what is asked for.
        folder: of the run.

    Raises:
        NearfarError: it is another one.
    """
    before = earlier["asked"]
    other = [name for name in {**before, **asked} if before.get(name) != asked.get(name)]
    if other:
        told = "; ".join(
            f"{name} {before.get(name)!r:.60} before and {asked.get(name)!r:.60} now" for name in other[:3]
        )
        raise NearfarError(
            f"{folder} holds another run ({told}); name another folder with --out, or start over with "
            "--overwrite."
        )
    return True
