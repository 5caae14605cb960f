"""Seeds torch's random numbers inside a step (dropout, stochastic depth) by the seed and the step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode

from ..core import distributed, rng


def _seed(key: int, rank: int, *names: int | str) -> int:
    return rng.fold(key, "step", rank, *names) >> 1


@contextmanager
def named_draws(key: int, *names: int | str, device: torch.device) -> Iterator[None]:
    """Seed torch's generators, the CPU's and the device's, by a name; put them back after.

    Args:
        key: of the batch.
        names: what is drawn, if there is more than one draw a step; the process's number is added.
        device: where the network is.
    """
    seed = _seed(key, distributed.rank(), *names)
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


class ThreadDraws(TorchDispatchMode):
    """`named_draws` for one of several threads of a CPU: its draws are its own, whatever the others draw.

    torch's operations draw from one generator, which all threads share. Each operation that draws is
    therefore given this thread's state of it, under a lock.
    """

    _lock = threading.Lock()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is compiled, and to tell torch's compiler so takes an import of seconds."""
        return False

    def __init__(self, key: int, rank: int, *names: int | str) -> None:
        """Name the draws.

        Args:
            key: of the batch.
            rank: takes the place of the process's number; the numbers of all threads of all processes differ.
            names: as for `named_draws`.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.state = torch.Generator().manual_seed(_seed(key, rank, *names)).get_state()

    def __enter__(self) -> ThreadDraws:
        """Begin, in this thread; torch's own way notes it where all threads look, who would mix it up."""
        _push_mode(self)
        return self

    def __exit__(self, *error: object) -> None:
        """End."""
        _pop_mode()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation."""
        if torch.Tag.nondeterministic_seeded not in func.tags:  # type: ignore[attr-defined]
            return func(*args, **(kwargs or {}))
        generator = torch.default_generator
        with self._lock:
            before = generator.get_state()
            generator.set_state(self.state)
            try:
                return func(*args, **(kwargs or {}))
            finally:
                self.state = generator.get_state()
                generator.set_state(before)
