"""Seeds torch's random numbers inside a step (dropout, stochastic depth) by the seed and the step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..core import distributed, rng


@contextmanager
def named_draws(key: int, *names: int | str, device: torch.device) -> Iterator[None]:
    """Seed torch's generators, the CPU's and the device's, by a name; put them back after.

    Args:
        key: of the batch.
        names: what is drawn, if there is more than one draw a step; the process's number is added.
        device: where the network is.
    """
    seed = rng.fold(key, "step", distributed.rank(), *names) >> 1
    cpu = torch.default_generator
    before = cpu.get_state()
    there: torch.Tensor | None = None
    if device.type == "cuda":
        there = torch.cuda.get_rng_state(device)
        # The generator itself: torch.cuda.manual_seed takes the current device's.
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
    elif device.type == "mps":
        there = torch.mps.get_rng_state()
        torch.mps.manual_seed(seed)
    cpu.manual_seed(seed)
    try:
        yield
    finally:
        cpu.set_state(before)
        if device.type == "cuda" and there is not None:
            torch.cuda.set_rng_state(there, device)
        elif there is not None:
            torch.mps.set_rng_state(there)
