"""The card of a fine-tuned run, task.json: what `predict` must know beside the weights, and the figures."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import finetuning as tasks
from ..core.config import build, to_json
from ..core.errors import NearfarError
from ..core.shapes import COUNT, check_shape
from ..health.verdict import Verdict
from ..training import checkpoint
from ..training.run import Run, load
from .outcome import Finetuned
from .task import Task
from .task_types import TaskNetwork

CARD, FORMAT = "task.json", 1
_FIGURES = {str: {str: {str: float}}}
SHAPE: dict[Any, Any] = {
    "format": int,
    "task": str,
    "settings": {str: object},
    "card": {str: object},
    "result": {
        "mode": str,
        "classes": [str],
        "figures": _FIGURES,
        "images": {"train": COUNT, str: COUNT},
        "main": str,
        "chosen": {str: object},
        "per_class": {str: {str: float}},
        "verdict": {"name": str, "reason": str, "advice": str, "bad": bool},
        "notes": [str],
    },
}


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned run, ready to predict."""

    run: Run
    task: Task
    network: TaskNetwork


def write_card(folder: Path, task: Task, result: Finetuned) -> None:
    """Write task.json.

    Args:
        folder: the run folder.
        task: trained.
        result: what came of it.
    """
    facts = {"format": FORMAT, "task": task.name, "settings": to_json(task.config), "card": task.card()}
    checkpoint.write_json(folder / CARD, {**facts, "result": result.to_json()})


def asked_of(folder: Path) -> dict[str, Any]:
    """Read what was asked of the run in a folder; "task" is among it if it is a fine-tuning.

    Args:
        folder: it holds config.json.

    Raises:
        NearfarError: that is damaged.
    """
    found = checkpoint.read_json(folder / "config.json", {"asked?": {str: object}, "digest?": str})
    return dict(found.get("asked", {}))


def _read(folder: Path) -> dict[str, Any]:
    where = f"{folder / CARD}: "
    if not (folder / CARD).exists() or not (folder / "encoder.json").exists():
        if (folder / "config.json").exists() and "task" in asked_of(folder):
            if (folder / "encoder.json").exists():
                raise NearfarError(f"{folder} lacks its {CARD}; train again with --overwrite.")
            raise NearfarError(
                f"the run in {folder} is not finished; run its nearfar finetune command again to resume."
            )
        place = shlex.quote(str(folder))
        start, out = (place, "runs/tuned") if (folder / "encoder.json").exists() else ("RUN", place)
        raise NearfarError(
            f"{folder} holds no fine-tuned run; make one: nearfar finetune {start} --train DATA --out {out}"
        )
    card = checkpoint.read_json(folder / CARD)
    if card.get("format") != FORMAT:
        raise NearfarError(
            f"{where}format {card.get('format')!r}, not {FORMAT}; install the nearfar that wrote it."
        )
    check_shape(card, SHAPE, where)
    found = card["result"]
    check_shape(found["images"], dict.fromkeys(found["figures"], COUNT), where, "result.images")
    if not all(found["figures"].values()):
        raise NearfarError(
            f"{where}result.figures has a part without rows; the file is damaged, or of another version of "
            "nearfar."
        )
    return card


def open_result(folder: Path) -> Finetuned:
    """Read what came of a fine-tuning.

    Args:
        folder: of a finished run.

    Raises:
        NearfarError: there is none, or its card is damaged.
    """
    card = _read(folder)
    found = card["result"]
    return Finetuned(
        folder,
        card["task"],
        found["mode"],
        tuple(found["classes"]),
        found["figures"],
        found["images"],
        found["main"],
        found["chosen"],
        found["per_class"],
        Verdict(**found["verdict"]),
        tuple(found["notes"]),
        str(found.get("one", "image")),
    )


def open_tuned(run: Run | str | Path) -> Tuned:
    """Open a fine-tuned run to predict with.

    Args:
        run: its folder.

    Raises:
        NearfarError: it is no fine-tuned run, or its files do not fit together.
    """
    folder = run.folder if isinstance(run, Run) else Path(run)
    card = _read(folder)
    opened = load(run if isinstance(run, Run) else folder)
    where = f"{folder / CARD}: "
    task = tasks.task_class(card["task"])(build(tasks.task_settings(card["task"]), card["settings"], where))
    task.restore(card["card"], where)
    network = task.empty(opened.encoder, opened.preprocess)
    try:
        network.head.load_state_dict(opened.part("head"))
    except RuntimeError as error:
        raise NearfarError(
            f"the head in {folder} does not fit its {CARD}; the files come from different runs."
        ) from error
    return Tuned(opened, task, network.eval())
