"""Measures how long a step will take; where one takes long, from small ones, so that nobody waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..core import distributed
from ..data.loader import DataLoader
from ..data.sampler import Shuffled
from ..methods.base import Method
from . import engine

SHARE = 8  # a small step has one of so many images of a batch, and the next one twice as many
LEAST = 32  # images of a small step: with fewer, an image costs more than in a whole one
PART = 0.25  # of the time to measure for, that each of the two sizes takes


def seconds_a_step(
    method: Method,
    opened: Callable[[int], DataLoader],
    batch: int,
    optimizer: torch.optim.Optimizer,
    *,
    seconds: float,
    device: torch.device,
    chunk: int | None,
    **how: Any,
) -> float:
    """Measure the pace of training on real data, and leave no trace of it in the weights.

    A step costs a part of its own, the optimizer's, and a part for each image. On a CPU on which the batch
    would take longer than there is time for, both are told by steps of an eighth and of a quarter of it;
    where even these take long, by an eighth alone, since the images are nearly all of it then.

    Args:
        method: the method, on its device.
        opened: opens a feed of so many images a batch; it is closed here.
        batch: images a step.
        optimizer: of the method.
        seconds: to measure for, about.
        device, chunk: as in `engine.train`.
        **how: the rest of it.

    Returns:
        Seconds a step of `batch` images.
    """

    def measured(size: int, time: float) -> float:
        feed = opened(size)
        try:
            return engine.seconds_a_step(
                method, feed, optimizer, seconds=time, device=device, chunk=chunk, **how
            )
        finally:
            feed.close()

    small = max(LEAST, batch // SHARE)
    # Draws of classes need their own batch; several processes and chunks have small steps already.
    shuffled = isinstance(method.sampler(method.config), Shuffled)
    whole = chunk is not None or distributed.world() > 1 or not shuffled
    if device.type == "cpu" and not whole and 4 * small <= batch:
        first = measured(small, PART * seconds)
        if first * batch / small > seconds:
            if first > seconds:
                return first * batch / small
            return line(small, first, 2 * small, measured(2 * small, PART * seconds), batch)
        seconds *= 1 - PART
    return measured(batch, seconds)


def line(small: int, first: float, large: int, second: float, batch: int) -> float:
    """Continue a line through the times of two sizes; no size costs less than nothing by itself.

    Args:
        small, large: images.
        first, second: seconds that a step of so many takes.
        batch: images asked for, more than `large`.

    Returns:
        Seconds.
    """
    each = min(max((second - first) / (large - small), 0.0), second / large)
    return second + each * (batch - large)
