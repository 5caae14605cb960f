"""Finds out whether bfloat16 is faster than float32 here, in a few seconds at most, and what views become."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from ..core import distributed, progress
from ..core.device import multiplies_bfloat16
from ..core.errors import NearfarError
from ..core.memory import keep_freed_memory
from ..core.text import counted
from ..core.threads import one_torch_thread
from ..data.loader import DataLoader
from ..methods.base import Loss, Method
from .draws import named_draws
from .engine import TOO_SMALL, autocast, says_too_small
from .turns import FEWEST, SECONDS, Turns

GAIN = 0.9  # share of float32's time that bfloat16 may take to be chosen
_FEW, _MOST = 2, 32  # images that a pass takes
_CLEAR = 3.0  # times float32's, from which on two turns are enough
_LONG = 0.15  # seconds of both precisions together, which need no more images to be told apart


def gains_from_bfloat16(
    method: Method,
    feed: DataLoader,
    device: torch.device,
    *,
    noun: str = "images",
    seconds: float = SECONDS,
    native: bool | None = None,
    clock: Callable[[], float] = time.perf_counter,
    cost: Callable[[], float] = time.thread_time,
) -> bool:
    """Decide by a short measurement whether bfloat16 is faster here, and say what was found.

    Both take turns, and the middle of the turns decides; where turns differ, further ones are taken. What
    counts is the time of the processor, of one thread, which other programs do not lengthen. Two images are
    measured first; only a network that is quick on them is measured on more. A CPU without instructions for
    bfloat16 is not measured: torch then turns every number into float32 and back.

    Args:
        method: on its device; its weights stay what they are.
        feed: gives a real batch.
        device: where the method is.
        noun: what several examples are called.
        seconds: that it takes at most, apart from a pass that has begun.
        native: whether the CPU has instructions for bfloat16; None: as it is here.
        clock: tells the seconds that pass.
        cost: tells the seconds that this thread has computed.

    Returns:
        Whether a forward and backward pass in bfloat16 takes at most 0.9 of float32's time; False if the time
        is over before both are measured.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type != "cpu":
        return False
    if not distributed.same(multiplies_bfloat16() if native is None else native):
        progress.say("float32: this processor has no instructions for bfloat16.")
        return False
    keep_freed_memory()  # as in training
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
        taken = 0.0
        for precision in ("float32", "bfloat16"):
            start, spent = elapsed(), cost()
            if start + taken > seconds:
                break
            with named_draws(batch.key, device=device), autocast(device, precision):
                loss: Loss = method(batch)
            loss.total.backward()
            found[precision] = float(distributed.same(cost() - spent))
            taken = elapsed() - start
        return found

    try:
        with one_torch_thread():
            count, turns = _turns(passes, elapsed, seconds)
    except RuntimeError as error:
        if not says_too_small(error):
            raise
        raise NearfarError(TOO_SMALL) from None
    method.zero_grad(set_to_none=True)
    method.load_state_dict(weights)
    if not turns.pairs:
        progress.say(f"no time to measure bfloat16 in {seconds:g} s; the network computes in float32.")
        return False
    gains = turns.ratio <= GAIN
    slow, quick = (1e3 * value for value in turns.middle)
    progress.say(
        f"{'bfloat16' if gains else 'float32'}: {count} {noun} take {slow:,.1f} ms in float32 and "
        f"{quick:,.1f} ms in bfloat16, the middle of {counted(len(turns.pairs), 'turn')}."
    )
    return gains


def _turns(
    passes: Callable[[int], dict[str, float]], elapsed: Callable[[], float], seconds: float
) -> tuple[int, Turns]:
    """Measure on as many images as time allows; give their number, and what was found."""
    count, turns = _FEW, Turns()
    passes(count)  # not counted: it makes what is made at first use
    turn = elapsed()
    if turn > 1.0:
        progress.say(f"measuring whether bfloat16 is faster than float32 here, for at most {seconds:g} s")
    while count < _MOST and turn < _LONG and 2 * (FEWEST + 1) * turn < seconds - elapsed():
        count, start = 2 * count, elapsed()
        passes(count)
        turn = elapsed() - start
    while not turns.enough and elapsed() + turn <= seconds:
        start, found = elapsed(), passes(count)
        if len(found) < 2:
            break
        turns.add(found["float32"], found["bfloat16"])
        if len(turns.pairs) > 1 and min(turns.ratios) > _CLEAR:
            break
        turn = elapsed() - start
    return count, turns


def views_dtype(device: torch.device, precision: str) -> torch.dtype:
    """Choose the type in which views travel to the network.

    Args:
        device: where the network is.
        precision: of the network.

    Returns:
        bfloat16 to halve the way to a GPU; float32 on a CPU, where the network's own threads convert
        faster than the feed's, which would fight them for the cores.
    """
    return torch.bfloat16 if device.type == "cuda" and precision == "bfloat16" else torch.float32
