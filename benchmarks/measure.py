"""How everything here is measured: in turns, so that noise affects all, and in fresh processes for memory.

A figure is a spread: least, middle, greatest. A gain is a spread too, taken round by round: in each round
ours and the peer ran right after one another, and their ratio is one value.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from . import child

ROOT = Path(__file__).resolve().parent.parent
# Peers that ask the network whether they are new, or report that they ran, are told not to.
SILENT = {
    "LIGHTLY_TRAIN_EVENTS_DISABLED": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
}


class Failed(Exception):
    """A contender could not be measured; the text says why, and becomes its row."""


@dataclass(frozen=True)
class Spread:
    """The least, the middle and the greatest of some values."""

    low: float
    middle: float
    high: float

    @staticmethod
    def of(values: Iterable[float]) -> Spread:
        found = sorted(values)
        return Spread(found[0], statistics.median(found), found[-1])


def cores() -> int:
    """Count the CPU cores this process may use."""
    from nearfar.core.device import cores as ours  # imports torch, which what is measured may not need

    return ours()


def alternate(
    works: Mapping[str, Callable[[], float]], rounds: int, *, warm: int = 1
) -> dict[str, list[float]]:
    """Measure several contenders in turns: a, b, c, a, b, c, ...

    Args:
        works: name to a function that works once and returns its figure.
        rounds: figures wanted of each.
        warm: turns before them that do not count.

    Returns:
        Name to its figures, in the order of the rounds.
    """
    found: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(-warm, rounds):
        for name, work in works.items():
            value = work()
            if turn >= 0:
                found[name].append(value)
    return found


def gain(ours: list[float], peer: list[float], *, more_is_better: bool) -> Spread:
    """Say how many times better ours is, round by round: 2 is twice the rate, or half the time or memory.

    Args:
        ours, peer: figures of the same rounds.
        more_is_better: true of rates, false of seconds and bytes.
    """
    pairs = zip(ours, peer, strict=True)
    return Spread.of(a / b if more_is_better else b / a for a, b in pairs)


def rate(work: Callable[[], object], count: int, seconds: float) -> Callable[[], float]:
    """Turn some work into a figure: how much of it a second of CPU time does, all threads counted.

    Args:
        work: treats `count` things.
        count: how many.
        seconds: of CPU time to fill, at least.
    """

    def measured() -> float:
        done, began = 0, time.process_time()
        while done == 0 or time.process_time() - began < seconds:
            work()
            done += count
        return done / max(time.process_time() - began, 1e-9)

    return measured


def clocked(work: Callable[[], object]) -> Callable[[], float]:
    """Turn some work into a figure: the seconds it takes by the clock."""

    def measured() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return measured


def _memory(key: str) -> int:
    """Read a line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def peak_above(work: Callable[[], object]) -> float:
    """Run some work and tell how far the process's memory rose above what it held before, in MiB.

    Exact on Linux, where the mark can be reset; elsewhere it counts from the highest mark so far.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _memory("VmRSS")
    except OSError:
        before = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        work()
        return (1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    work()
    return (_memory("VmHWM") - before) / 2**20


def environment(threads: int | None) -> dict[str, str]:
    """Give the variables of a fresh process: so many threads for every library, no word to the network.

    Compiled modules are kept, as they are where nobody forbids it: else each start compiles them again.
    """
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    left = (*limits, "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if name not in left}
    return kept | SILENT | (dict.fromkeys(limits, str(threads)) if threads else {})


def fresh(subject: str, *, threads: int | None = None, timeout: float = 600.0, **arguments: Any) -> Any:
    """Run `benchmarks.<subject>.child(**arguments)` in a process of its own and give what it returns.

    Args:
        subject: a file of this folder.
        threads: of every library in it; None leaves them their own choice.
        timeout: seconds.
        arguments: plain values.

    Raises:
        Failed: it did not come to its end.
    """
    process, heard = child.start(subject, arguments, threads, environment(threads))
    try:
        if not heard.poll(timeout):
            raise Failed(f"took more than {timeout:g} s")
        good, found = heard.recv()
    except EOFError:
        process.join()
        raise Failed(f"ended with {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
        heard.close()
    if not good:
        raise Failed(found[:160])
    return found


# A process starts with its parent's peak memory as its own, so a small one stands between.
LAUNCH = """
import json, os, subprocess, sys, time
quiet = {name: subprocess.DEVNULL for name in ("stdin", "stdout", "stderr")}
began = time.perf_counter()
try:
    process = subprocess.Popen(json.loads(sys.argv[1]), **quiet)
except OSError as error:
    print(json.dumps(["cannot be started: " + error.strerror, 0, 0, 0]))
    raise SystemExit
_, status, use = os.wait4(process.pid, 0)
code = process.returncode = os.waitstatus_to_exitcode(status)
end = time.perf_counter()
print(json.dumps([code, use.ru_utime + use.ru_stime, end - began, use.ru_maxrss / 1024]))
"""


def finished(command: list[str], threads: int | None = None) -> tuple[float, float, float]:
    """Run a command to its end: its seconds of CPU, its seconds by the clock, and its peak memory in MiB.

    Raises:
        Failed: it is not there, or ended badly.
    """
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", LAUNCH, json.dumps(command)],
        cwd=ROOT,
        env=environment(threads),
        capture_output=True,
        text=True,
        check=True,
    )
    code, cpu, clock, memory = json.loads(done.stdout)
    if code:
        how = code if isinstance(code, str) else f"ended with {code}"
        raise Failed(f"{' '.join(Path(word).name for word in command)[:60]} {how}")
    return cpu, clock, memory


def reason(error: Exception) -> str:
    """Say in a few words why a peer has no figure."""
    if isinstance(error, ImportError):
        failed = ROOT / ".bench" / "failed.json"
        known: dict[str, str] = json.loads(failed.read_text()) if failed.exists() else {}
        module = (error.name or "").partition(".")[0]
        why = known.get(module.replace("_", "-"), f"no module {module!r}" if module else str(error))
        return f"not installed: {why}"
    return str(error) if isinstance(error, Failed) else f"failed: {type(error).__name__}: {error}"[:160]


def version(package: str) -> str:
    """Give an installed package's version, or a dash."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return "-"


def vectors() -> str:
    """Say which instructions the processor has that decide most of the figures."""
    import torch

    from nearfar.core.device import multiplies_bfloat16

    return f"({torch.backends.cpu.get_cpu_capability()}, {'' if multiplies_bfloat16() else 'no '}bfloat16)"


def machine() -> dict[str, str]:
    """Describe the machine and what is installed, for the head of the table."""
    model = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = (
        "nearfar torch torchvision numpy numba pillow lightly lightly-train pytorch-metric-learning kornia "
        "albumentations scikit-learn faiss-cpu"
    )
    return {
        "machine": f"{model} {vectors()}, {cores()} cores, {memory:.0f} GiB of memory",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in packages.split()),
    }
