"""Where to compute: the device by its name, and the number of CPU cores."""

from __future__ import annotations

import functools
import math
import os
import sys
from pathlib import Path, PurePosixPath

import torch

from .errors import NearfarError, nearest

PROC, MOUNTS = Path("/proc/self"), Path("/sys/fs/cgroup")


def cores(proc: Path = PROC, mounts: Path = MOUNTS) -> int:
    """Count the CPU cores this process may use: within its affinity, and a container's quota.

    Args:
        proc, mounts: as for `cpu_quota`; a fraction of a core counts as a whole one.
    """
    import joblib  # a tenth of a second, which not every command needs

    found = _own_quota() if (proc, mounts) == (PROC, MOUNTS) else cpu_quota(proc, mounts)
    quota = math.ceil(found) if math.isfinite(found) else sys.maxsize
    return max(1, min(int(joblib.cpu_count()), quota))


@functools.cache
def multiplies_bfloat16() -> bool:
    """Tell whether the CPU has instructions that multiply bfloat16; without them torch is slow in it."""
    if hasattr(torch.cpu, "get_capabilities"):
        return any(name.endswith("bf16") and there for name, there in torch.cpu.get_capabilities().items())
    return torch.cpu._is_avx512_bf16_supported()  # of an older torch


@functools.cache
def _own_quota() -> float:
    """Read it once: a batch asks, and a dozen small files take as long as a small batch."""
    return cpu_quota()


def cpu_quota(proc: Path = PROC, mounts: Path = MOUNTS) -> float:
    """Read how many cores' time the process's control groups, those above them included, leave it.

    Args:
        proc: of the process.
        mounts: where control groups are mounted.

    Returns:
        Cores, a fraction perhaps; infinite where there is no quota, or no control groups.

    Source:
        The kernel's documentation: cpu.max of version 2, cpu.cfs_quota_us and cpu.cfs_period_us of version 1.
    """
    try:
        lines = (proc / "cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    least = math.inf
    for line in lines:
        if line.count(":") < 2:
            continue
        _, controllers, group = line.split(":", 2)
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        # In a container the group's path may be the host's, and the mount the container's own group.
        roots = [mounts, mounts / "unified"] if not controllers else [mounts / controllers, mounts / "cpu"]
        for root in roots:
            for part in (group, *map(str, PurePosixPath(group).parents), "/"):
                least = min(least, _quota(root / part.strip("/")))
    return least


def _quota(group: Path) -> float:
    """Read the quota of one control group, in cores."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = (
                (group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")
            )
        return float(quota) / float(period) if quota not in ("max", "-1") else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def compute_threads() -> int:
    """Count the threads to compute with: torch's number, which OMP_NUM_THREADS sets, within the cores."""
    return min(torch.get_num_threads(), cores())


def device_named(name: str | torch.device) -> torch.device:
    """Find the device to compute on.

    Args:
        name: "auto", "cpu", "cuda" or "mps", or such a device of torch's.

    Returns:
        The device; under torchrun, this process's own GPU.

    Raises:
        NearfarError: it is not there, or there is no such kind.
    """
    name = str(name)
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = "cuda" if there["cuda"] else "mps" if there["mps"] else "cpu"
    if name not in there:
        raise NearfarError(f"--device is {name!r}; {nearest(name, ['auto', *there])}")
    if not there[name]:
        raise NearfarError(
            f"there is no {name} device here; use --device {'cuda' if there['cuda'] else 'cpu'}."
        )
    if name != "cuda":
        return torch.device(name)
    several = os.environ.get("WORLD_SIZE", "1") != "1"  # a LOCAL_RANK left over from a launch means nothing
    local = os.environ.get("LOCAL_RANK", "")
    return torch.device("cuda", int(local) if several and local.isdecimal() else 0)
