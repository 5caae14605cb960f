"""Fresh processes for tests, each a copy of one that has imported torch and nearfar and has run nothing but
what loads the kernel of views.

A new interpreter takes seconds to import torch; a copy starts in milliseconds. `start(code, ...)` does what
`python -c code ...` does and `start(NEARFAR, "pretrain", ...)` what `nearfar pretrain ...` does, with pipes,
signals and statuses as `subprocess.Popen` has them. A test of what an interpreter imports, or of what it
reads from the environment as it starts, needs a real one.

The server of copies begins with the first call. It ends with the process that called, and kills what still
runs then.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
NEARFAR = "import runpy; runpy.run_module('nearfar', run_name='__main__', alter_sys=True)"

# Not LanceDB and pyarrow, which start threads as they are imported, nor Triton, which then reads the
# environment.
LOADED = [
    "torch.nn.parallel",
    "torch.distributed.fsdp",
    "torch.distributed.run",
    "torch.utils.checkpoint",
    "numba",
    "joblib",
    "scipy.optimize",
    "pydantic",
    "safetensors.torch",
    "nearfar.training.pretrain",
    "nearfar.embedding.fill",
    "nearfar.experiments.sweep",
    "nearfar.cli.main",
]
NUMBER = struct.Struct("q")


class Process:
    """A copy that runs: the part of `subprocess.Popen` that the tests use."""

    def __init__(
        self,
        code: str,
        *words: object,
        env: Mapping[str, str] | None = None,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        text: bool = True,
    ) -> None:
        env = os.environ if env is None else env
        assert env.get("OMP_NUM_THREADS") == "1", "a copy has the number of threads of its original"
        self.args = [os.fsdecode(word) if isinstance(word, bytes) else str(word) for word in words]
        self.returncode: int | None = None
        self.stdout, out = _stream(stdout, text)
        self.stderr, err = _stream(stderr, text)
        self._status, status = os.pipe()
        request = {"code": code, "words": self.args, "env": dict(env), "cwd": os.getcwd()}
        data = json.dumps(request).encode()
        socket.send_fds(_server(), [NUMBER.pack(len(data))], [out, err, status])
        _server().sendall(data)
        for descriptor in (out, err, status):
            os.close(descriptor)
        self.pid = self._told()

    def _told(self) -> int:
        data = os.read(self._status, NUMBER.size)
        assert data, "the server of copies has ended"
        return int(NUMBER.unpack(data)[0])

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = os.waitstatus_to_exitcode(self._told())
            os.close(self._status)
        return self.returncode

    def poll(self) -> int | None:
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        status = self._wait(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        """Read what comes until the streams end, and wait for the process."""
        until = None if timeout is None else time.monotonic() + timeout
        said: list[Any] = [None, None]

        def read(place: int, stream: IO[Any]) -> None:
            with stream:
                said[place] = stream.read()

        readers = []
        for place, stream in enumerate((self.stdout, self.stderr)):
            if stream:
                readers.append(threading.Thread(target=read, args=(place, stream), daemon=True))
                readers[-1].start()
        for reader in readers:
            reader.join(until and until - time.monotonic())
        self.wait(until and max(0.0, until - time.monotonic()))
        return said[0], said[1]

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait()
        for stream in (self.stdout, self.stderr):
            if stream:
                stream.close()


start = Process


def run(
    code: str, *words: object, check: bool = False, timeout: float = 300, **how: Any
) -> subprocess.CompletedProcess[Any]:
    """Start a copy and wait until it ends."""
    with start(code, *words, **how) as process:
        out, err = process.communicate(timeout)
        done = subprocess.CompletedProcess(process.args, process.wait(), out, err)
    assert not check or done.returncode == 0, done.stderr
    return done


def _stream(wanted: int, text: bool) -> tuple[IO[Any] | None, int]:
    """The end that the caller reads, and the descriptor that the copy writes to."""
    if wanted == subprocess.DEVNULL:
        return None, os.open(os.devnull, os.O_WRONLY)
    ours, theirs = os.pipe()
    return (open(ours, encoding="utf-8") if text else open(ours, "rb")), theirs


@functools.cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        server = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C in the tests' terminal is not for it
        )

    def end() -> None:
        ours.close()  # which a caller that is killed does too
        server.wait()

    atexit.register(end)
    return ours


# What runs in the server.


def serve(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Make a copy for each request; give the request to the copy. Never comes back in the server itself."""
    statuses: dict[int, int] = {}
    ended, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker)
    while True:
        ready = select.select([connection, ended], [], [])[0]
        if ended in ready:
            os.read(ended, 4096)
            for pid in list(statuses):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    tell(statuses[pid], status)
                    os.close(statuses.pop(pid))
        if connection in ready:
            size, descriptors, _, _ = socket.recv_fds(connection, NUMBER.size, 3)
            if not size:
                for pid in statuses:
                    os.kill(pid, signal.SIGKILL)
                sys.exit()
            data = b""
            while len(data) < NUMBER.unpack(size)[0]:
                data += connection.recv(65536)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for descriptor in (ended, waker, *statuses.values(), descriptors.pop()):
                    os.close(descriptor)
                connection.close()
                return json.loads(data), descriptors
            statuses[pid] = descriptors.pop()
            tell(statuses[pid], pid)
            for descriptor in descriptors:
                os.close(descriptor)


def tell(descriptor: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it
        os.write(descriptor, NUMBER.pack(number))


def become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Make this copy look like a process that has just been started as the request says."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored
    for number, descriptor in enumerate([os.open(os.devnull, os.O_RDONLY), *descriptors]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    # The streams of the original have a buffer and an encoding of their own.
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    encoding = encoding or "utf-8"
    now = bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdin = open(0, encoding=encoding, closefd=False)
    sys.stdout = open(1, "w", encoding=encoding, errors=errors or "strict", closefd=False)
    sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False)
    sys.stdout.reconfigure(write_through=now)
    sys.stderr.reconfigure(line_buffering=True)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    sys.path[:1] = ["", *(path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path)]
    sys.argv = ["-c", *request["words"]]


def leave(status: int) -> None:
    """End as an interpreter does, but leave the memory to the system: to free each object takes a second."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for the threads that are no daemons
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)


if __name__ == "__main__":
    for module in LOADED:
        with contextlib.suppress(ImportError):  # what is not installed is left out
            importlib.import_module(module)
    kernels = importlib.import_module("nearfar.images.kernels")
    kernels.ready()  # half a second, which each copy that makes a view would need
    for thread in threading.enumerate()[1:]:
        thread.join()
    tasks, until = Path("/proc/self/task"), time.monotonic() + 10
    while tasks.exists() and len(os.listdir(tasks)) > 1:  # one that was joined may be on its way out
        assert time.monotonic() < until, "threads"
        time.sleep(0.02)
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    asked, streams = serve(socket.socket(fileno=int(sys.argv[1])))
    become(asked, streams)
    try:
        exec(compile(asked["code"], "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            raise
        leave(end.code or 0)
    leave(0)
