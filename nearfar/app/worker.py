"""A process that does the page's long work, so that the page goes on answering and the work can be ended.

It imports nothing of the program that started it, reads what to do from its standard input, and tells how far
it is, and what came of it, on its standard output. It ends with the program that started it.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..core import progress
from ..core.errors import NearfarError
from ..core.redact import redact_text

NICE = 5  # of 19: answers of the page come before its long work
BEAT = 0.2  # seconds from one stage that is told to the next
CODE = "from nearfar.app.worker import main; main()"


class WorkerEnded(Exception):
    """The process was ended, or ended by itself."""


class Worker:
    """One such process, as the program that started it sees it; for one thread at a time."""

    def __init__(self) -> None:
        """Start the process."""
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-c", CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
        )

    def run(self, job: tuple[str, str, dict[str, Any]], told: Callable[[str, Any], None]) -> Any:
        """Have work done.

        Args:
            job: a store's address, the name of one of `TASKS`, and its arguments.
            told: hears of "stage" and "early", and what they hold.

        Raises:
            NearfarError: the work was refused.
            WorkerEnded: the process was ended meanwhile.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(job, self._process.stdin)
            self._process.stdin.flush()
            while True:
                kind, what = pickle.load(self._process.stdout)
                if kind == "done":
                    return what
                if kind == "refused":
                    raise NearfarError(what)
                told(kind, what)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError):
            raise WorkerEnded from None

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # something was still to be written
                    pipe.close()


def main() -> None:
    """Be the process."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    if hasattr(os, "nice"):
        os.nice(NICE)
    jobs: queue.SimpleQueue[tuple[str, str, dict[str, Any]]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    from ..stores import open_store
    from .tasks import TASKS

    def tell(kind: str, what: Any) -> None:
        pickle.dump((kind, what), out)
        out.flush()

    last, at = "", 0.0

    def stage(what: str, done: int, total: int) -> None:
        nonlocal last, at
        now = time.monotonic()
        if what != last or now - at > BEAT:
            last, at = what, now
            tell("stage", (what, done, total))

    progress.follow(stage)
    while True:
        address, name, arguments = jobs.get()
        try:
            found = TASKS[name](open_store(address), lambda what: tell("early", what), **arguments)
        except NearfarError as error:
            tell("refused", str(error))
        except MemoryError:
            tell("refused", "there is not enough memory for this; set some aside, or give a condition.")
        except Exception as error:
            reason = redact_text(f"{type(error).__name__}: {error}", address)
            tell("refused", f"this failed ({reason}).")
        else:
            tell("done", found)


def _listen(jobs: queue.SimpleQueue[tuple[str, str, dict[str, Any]]]) -> None:
    """Take what to do, and end with who asks for it."""
    while True:
        try:
            jobs.put(pickle.load(sys.stdin.buffer))
        except EOFError:
            os._exit(0)
