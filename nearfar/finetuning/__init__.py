"""Training with labels. Nothing here imports torch until a task is used.

To add a task to `nearfar finetune` and `nearfar predict`: write one file next to `classify.py`, with its
`Config` and its class, a `task.Task`, and add its line to `TASKS`. Its flags and help come from its `Config`.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.config import peek
from ..core.errors import NearfarError, nearest

if TYPE_CHECKING:
    from .task import Task

TASKS = {
    "classify": "Classification",
    "segment": "Segmentation",
    "detect": "Detection",
    "reidentify": "Reidentification",
}
"""Name, which is also the file's, to the class in it."""


def _known(name: str) -> str:
    if name not in TASKS:
        raise NearfarError(f"--task {name!r} is not known; {nearest(name, TASKS)}")
    return name


def task_class(name: str) -> type[Task]:
    """Find a task's class.

    Args:
        name: one of `TASKS`.

    Raises:
        NearfarError: there is no such task.
    """
    found: type[Task] = getattr(importlib.import_module(f".{_known(name)}", __name__), TASKS[name])
    return found


@functools.cache
def task_settings(name: str, which: str = "Config") -> type:
    """Find a task's own settings, without importing torch.

    Args:
        name: one of `TASKS`.
        which: "Config", which a training takes, or "Predicting", which a prediction takes.

    Raises:
        NearfarError: there is no such task.
    """
    return peek(Path(__file__).with_name(f"{_known(name)}.py"), which)
