"""Interrupts a pretraining, as Ctrl-C and other signals do, for tests of resuming."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import forkserver
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


def stopped_by_signals(process: forkserver.Process, folder: Path, *signs: int) -> str:
    """Wait for the first line of the log, send the signals, and give what was said."""
    while not (folder / "log.jsonl").exists() or (folder / "log.jsonl").stat().st_size == 0:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    for sign in signs:
        process.send_signal(sign)
    return process.communicate(timeout=60)[1]
