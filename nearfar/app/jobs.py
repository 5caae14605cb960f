"""Long work that pages wait for: how far it is, and its end at the press of a button."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import Any

from ..core.errors import NearfarError
from .worker import Worker, WorkerEnded

AT_ONCE = 2  # processes that work at the same time
PATIENCE = 0.5  # seconds that an answer waits for work that is nearly done
REMEMBERED = 50  # jobs that were cancelled


class Cancelled(Exception):
    """A user has cancelled the work."""


class Unfinished(Exception):
    """The work goes on; `told` says how far it is."""

    def __init__(self, told: dict[str, Any]) -> None:
        """Say how far.

        Args:
            told: what the page is told.
        """
        super().__init__()
        self.told = told


class LongJob:
    """Some work, done in a thread of its own, which may have a process do the most of it."""

    def __init__(self, work: Callable[[], Any], of: str = "") -> None:
        """Begin.

        Args:
            work: gives the result.
            of: the state that it is of.
        """
        self.of = of
        self.id, self.started = secrets.token_hex(8), time.monotonic()
        self.stage: tuple[str, int, int] = ("starting", 0, 0)
        self.early: Any = None
        self.cancelled = False
        self.finished = threading.Event()
        self._worker: Worker | None = None
        self._work, self._lock = work, threading.Lock()
        self._result: Any = None
        self._error: Exception | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        _running.job = self
        try:
            self._result = self._work()
        except Exception as error:
            self._error = error
        finally:
            self.finished.set()

    def result(self) -> Any:
        """Give what came of it, once it is finished."""
        if self._error is not None:
            raise self._error
        return self._result

    def told(self) -> dict[str, Any]:
        """Say how far it is."""
        what, done, total = self.stage
        return {
            "job": self.id,
            "what": what,
            "done": done,
            "total": total,
            "seconds": round(time.monotonic() - self.started, 1),
            "early": self.early is not None,
        }

    def cancel(self) -> None:
        """End it."""
        with self._lock:
            self.cancelled = True
            if self._worker is not None:
                self._worker.end()

    @contextmanager
    def using(self, worker: Worker) -> Any:
        """Let a process be ended with this."""
        with self._lock:
            self._worker = worker
        try:
            yield
        finally:
            with self._lock:
                self._worker = None


_running = threading.local()


class Jobs:
    """The long work of a server; safe in threads."""

    def __init__(self, address: str) -> None:
        """Begin with none.

        Args:
            address: the store's.
        """
        self.address = address
        self._jobs: dict[str, LongJob] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._lock, self._room = threading.Lock(), threading.Semaphore(AT_ONCE)
        self._idle: list[Worker] = []

    def ask(
        self, key: str, work: Callable[[], Any], known: str = "", wait: float = PATIENCE, of: str = ""
    ) -> Any:
        """Give the result of work, which is begun unless it goes on already.

        Args:
            key: names the work.
            work: does it.
            known: the job that the caller waits for already, or "".
            wait: seconds.
            of: the state that the result is to be of; work on another one is ended, and begun anew.

        Raises:
            Unfinished: it goes on.
            Cancelled: the job was cancelled, here or in another page.
        """
        with self._lock:
            if known in self._gone:
                raise Cancelled
            job = old = self._jobs.get(key)
            if job is None or job.cancelled or job.of != of:
                job = self._jobs[key] = LongJob(work, of)
        if old is not None and old is not job:
            old.cancel()
        if not job.finished.wait(wait):
            raise Unfinished(job.told())
        with self._lock:
            if self._jobs.get(key) is job:
                del self._jobs[key]
        return job.result()

    def early(self, known: str) -> Any:
        """Give what can be shown until a job is finished; None if there is nothing."""
        with self._lock:
            return next((job.early for job in self._jobs.values() if job.id == known), None)

    def cancel(self, known: str) -> bool:
        """End a job.

        Args:
            known: its id.

        Returns:
            Whether it went on.
        """
        with self._lock:
            key, job = next(((key, job) for key, job in self._jobs.items() if job.id == known), ("", None))
            if job is None or job.finished.is_set():
                return False
            del self._jobs[key]
            self._gone[known] = None
            while len(self._gone) > REMEMBERED:
                self._gone.popitem(last=False)
        job.cancel()
        return True

    def elsewhere(self, name: str, arguments: dict[str, Any]) -> Any:
        """Have a process do one of `TASKS`, as a part of the job of this thread.

        Args:
            name: of the task.
            arguments: of the task.

        Raises:
            NearfarError: it was refused.
            Cancelled: it was cancelled.
        """
        job: LongJob = _running.job
        while not self._room.acquire(timeout=PATIENCE):
            job.stage = ("waiting for other work", 0, 0)
            if job.cancelled:
                raise Cancelled
        try:
            return self._done(job, name, arguments)
        finally:
            self._room.release()

    def _done(self, job: LongJob, name: str, arguments: dict[str, Any]) -> Any:
        def told(kind: str, what: Any) -> None:
            if kind == "stage":
                job.stage = what
            else:
                job.early = what

        with self._lock:
            worker = self._idle.pop() if self._idle else None
        worker = worker or Worker()
        with job.using(worker):
            try:
                if job.cancelled:
                    raise WorkerEnded
                found = worker.run((self.address, name, arguments), told)
            except WorkerEnded:
                worker.end()
                if job.cancelled:
                    raise Cancelled from None
                raise NearfarError(
                    "the process that did this has ended; the machine may have too little memory for it."
                ) from None
            except NearfarError:
                self._rest(worker)
                raise
        self._rest(worker)
        return found

    def _rest(self, worker: Worker) -> None:
        """Keep one process for what comes next, since a new one takes seconds to start."""
        with self._lock:
            if not self._idle:
                return self._idle.append(worker)
        return worker.end()

    def close(self) -> None:
        """End everything."""
        with self._lock:
            jobs, idle, self._idle = list(self._jobs.values()), self._idle, []
        for job in jobs:
            with suppress(OSError):
                job.cancel()
        for worker in idle:
            worker.end()
