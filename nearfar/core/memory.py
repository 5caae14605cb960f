"""Measures peak memory: the GPU's if one is used, else that of this process."""

from __future__ import annotations

from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak() -> None:
    """Reset the peak, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        _CLEAR.write_text("5")  # proc(5): resets the peak resident set size
    except OSError:
        pass


def peak(device: torch.device) -> int | None:
    """Tell the most memory in use at once since `forget_peak`, or since the start where that is impossible.

    Args:
        device: where the computing is done.

    Returns:
        MiB: of the GPU's memory, or else what this process held resident; None where it is not known.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM:")), None)
