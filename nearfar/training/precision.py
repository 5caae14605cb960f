"""Measures whether bfloat16 is faster than float32 here, in a few seconds at most."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from ..core import distributed, progress
from ..data.loader import DataLoader
from ..methods.base import Loss, Method
from .draws import named_draws
from .engine import autocast

SECONDS = 5.0  # that the measurement takes at most, but for the pass that is running then
_TURNS = 4  # times each precision is measured,
_FEW, _MOST = 2, 32  # on so many images
_CLEAR = 1.5  # times as slow as the other: no further turn is needed


def gains_from_bfloat16(
    method: Method,
    feed: DataLoader,
    device: torch.device,
    *,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> bool:
    """Decide by a short measurement whether bfloat16 is faster here.

    Two images are measured first; only a network that is quick on them is measured on more.

    Args:
        method: on its device; its weights stay what they are.
        feed: gives a real batch.
        device: where the method is.
        seconds: that it takes at most, apart from a pass that has begun.
        clock: tells the seconds.

    Returns:
        Whether a forward and backward pass in bfloat16 takes at most 0.9 of the time in float32; False where
        the time is over before both are measured.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type != "cpu":
        return False
    weights = {name: value.clone() for name, value in method.state_dict().items()}
    whole = feed.make(0)
    method.train()
    began = clock()

    def elapsed() -> float:
        # One process's clock for all, since they have to do the same passes.
        return float(distributed.same(clock() - began))

    def passes(count: int) -> dict[str, float]:
        """Measure both precisions once; a precision that would end after the time is left out."""
        batch = whole.part(slice(count))
        found: dict[str, float] = {}
        for precision in ("float32", "bfloat16"):
            start = elapsed()
            if start + max(found.values(), default=0.0) > seconds:
                break
            with named_draws(batch.key, device=device), autocast(device, precision):
                loss: Loss = method(batch)
            loss.total.backward()
            found[precision] = elapsed() - start
        return found

    best = _best(passes, elapsed, seconds)
    method.zero_grad(set_to_none=True)
    method.load_state_dict(weights)
    return best["bfloat16"] <= 0.9 * best["float32"]


def _best(
    passes: Callable[[int], dict[str, float]], elapsed: Callable[[], float], seconds: float
) -> dict[str, float]:
    """Measure on as many images as time allows, and give the quickest pass of each precision."""
    count = _FEW
    first = passes(count)  # not counted: it makes what is made at first use
    turn = elapsed()
    if turn > 1.0:
        progress.say(f"measuring whether bfloat16 is faster than float32 here, for at most {seconds:g} s")
    while count < _MOST and 2 * (_TURNS + 1) * turn < seconds - elapsed():
        count, start = 2 * count, elapsed()
        first = passes(count)
        turn = elapsed() - start
    best = {"float32": math.inf, "bfloat16": math.inf}
    for _ in range(_TURNS):
        if elapsed() + sum(first.values()) > seconds:
            break
        for precision, taken in passes(count).items():
            best[precision] = min(best[precision], taken)
        if max(best.values()) > _CLEAR * min(best.values()):
            break
    # Where not even one turn fits, the slow first pass tells enough to leave bfloat16 alone.
    return best if math.isfinite(best["bfloat16"]) else {"float32": 0.0, "bfloat16": math.inf}
