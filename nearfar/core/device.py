"""Where to compute: the device by its name, and the number of CPU cores."""

from __future__ import annotations

import os

import torch

from .errors import NearfarError


def cores() -> int:
    """Count the CPU cores this process may use: within its affinity, and a container's quota."""
    import joblib  # a tenth of a second, which not every command needs

    return int(joblib.cpu_count())


def compute_threads() -> int:
    """Count the threads to compute with: torch's number, which OMP_NUM_THREADS sets, within the cores."""
    return min(torch.get_num_threads(), cores())


def device_named(name: str) -> torch.device:
    """Find the device to compute on.

    Args:
        name: "auto", "cpu", "cuda" or "mps".

    Returns:
        The device; under torchrun, this process's own GPU.

    Raises:
        NearfarError: it is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = "cuda" if there["cuda"] else "mps" if there["mps"] else "cpu"
    if not there[name]:
        raise NearfarError(
            f"there is no {name} device here; use --device {'cuda' if there['cuda'] else 'cpu'}."
        )
    if name != "cuda":
        return torch.device(name)
    several = os.environ.get("WORLD_SIZE", "1") != "1"  # a LOCAL_RANK left over from a launch means nothing
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) if several else 0)
