"""Interrupts a pretraining, as Ctrl-C does, for tests of resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import nearfar
from nearfar.training import checkpoint
from nearfar.training.logger import RunLogger


def pretrain_until(number: int, data: Any, *, out: Path, **settings: Any) -> None:
    """Save after every step, and interrupt at a step, before it is saved."""

    def stop(self: RunLogger, step: Any) -> None:
        if step.number == number:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLogger, "due", lambda self: True)
        patch.setattr(RunLogger, "note", stop)
        with pytest.raises(KeyboardInterrupt):
            nearfar.pretrain(data, out=out, **settings)
    assert checkpoint.read(out / checkpoint.LAST)[1]["step"] == number - 1
