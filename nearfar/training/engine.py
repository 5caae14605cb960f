"""The training loop: plain torch, one process or many, as a generator of steps.

Logging, saving, drawing and early stopping are ordinary code in the `for`:

    for step in train(method, feed, optimizer, plan=plan, ...):
        print(step.number, float(step.loss))
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..core import distributed
from ..core.errors import NearfarError
from ..core.memory import keep_freed_memory
from ..data.loader import DataLoader
from ..methods.base import Loss, Method
from ..models.attention import PlainAttention
from . import grad_cache, optim
from .adapting import StartPull
from .draws import named_draws
from .parallel import average_gradients, embeds_in_pieces, is_shared, parallelise
from .replicas import Replicas
from .schedule import EarlySteps, StepPlan, TimeBudget
from .turns import Rounds

TOO_SMALL = (
    "images, or parts of them that the method takes, are too small for the encoder; raise --image-size."
)

ONE_ROW = (
    "batch norm was given one image, of which it can tell no deviation; raise {flag}, or choose an encoder "
    "without batch norm."
)


def says_too_small(error: RuntimeError) -> bool:
    """Tell whether a layer found no pixel left to work on.

    Args:
        error: that torch raised.
    """
    return "Output size is too small" in str(error) or "Kernel size can't be greater" in str(error)


def says_one_row(error: ValueError) -> bool:
    """Tell whether a batch norm was given one row, which has no deviation.

    Args:
        error: that torch raised.
    """
    return "Expected more than 1 value per channel" in str(error)


@dataclass(frozen=True)
class Step:
    """What one step did. Tensors stay on the device: reading them is the caller's choice."""

    number: int  # steps done, this one included
    plan: StepPlan
    loss: Tensor
    terms: Mapping[str, Tensor]
    watched: Mapping[str, Tensor]  # for the method's `metrics`
    lr: float  # learning rate of this step
    waited: float  # seconds spent waiting for data, since the start of this session

    @property
    def last(self) -> bool:
        """Whether training ends here."""
        return self.number >= self.plan.steps


@contextmanager
def autocast(device: torch.device, precision: str, *, cache: bool = True) -> Iterator[None]:
    """Choose the arithmetic of the network.

    Args:
        device: where it runs.
        precision: "float32" or "bfloat16".
        cache: whether weights are converted once in the context; all threads have one cache, so several
            threads need False.

    Yields:
        Nothing; the network runs within.
    """
    small = precision == "bfloat16"
    plain = PlainAttention() if small and device.type == "cpu" else nullcontext()
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=small, cache_enabled=cache), plain:
        yield


def train(
    method: Method,
    feed: DataLoader,
    optimizer: torch.optim.Optimizer,
    *,
    plan: StepPlan,
    lr: float,
    warmup: float,
    device: torch.device,
    precision: str = "float32",
    chunk: int | None = None,
    threads: int = 1,
    head_warmup: float = 0.0,
    pull: StartPull | None = None,
    start: int = 0,
    clock: TimeBudget | None = None,
    early: EarlySteps | None = None,
) -> Iterator[Step]:
    """Train, and yield after every step.

    Args:
        method: what is trained; its terms average over processes to the global loss.
        feed: gives batches from step `start` on.
        optimizer: over the method's parameters.
        plan: how many steps.
        lr: the peak learning rate.
        warmup: share of the steps over which it rises.
        device: where the method is.
        precision: of the network, "float32" or "bfloat16".
        chunk: images in memory at a time, a process; None for all.
        threads: of a CPU, each of which computes a share of the batch; 1 leaves it to torch to divide
            operations among its threads.
        head_warmup: share of the steps in which the encoder keeps its weights.
        pull: of the encoder's features towards those of its start.
        start: steps done before.
        clock: a time budget that may correct the plan.
        early: the first steps, if their views are smaller; the feed knows their side.

    Yields:
        One `Step` a step, after the weights have changed.
    """
    method.train()
    if device.type == "cpu":
        keep_freed_memory()
    replicas = Replicas(method, threads)
    direct = chunk is None and threads == 1
    # Batch norm counts over a share, which is a thread's; if a process has one, over those of all processes.
    whole = parallelise(method, "ddp" if direct else "none") if threads == 1 else method
    shared = is_shared(method)
    if shared and not direct:
        embeds_in_pieces(method)
    number = start
    look = TimeBudget.next_look(start, plan)
    try:
        for batch in feed:
            now = lr * optim.factor(plan.progress(number + 0.5), warmup)  # mid-step: neither end is wasted
            for group in optimizer.param_groups:
                group["lr"] = (lr if group.get("constant_lr") else now) * group.get("lr_scale", 1.0)
            if pull is not None:
                pull.left = 1.0 - plan.progress(number)
            batch = batch.to(device, non_blocking=True)
            with replicas.step():
                optimizer.zero_grad(set_to_none=True)
                if direct:
                    with named_draws(batch.key, device=device), autocast(device, precision):
                        found: Loss = whole(batch)
                    loss = found.total
                    loss.backward()
                    if shared:
                        average_gradients(method)
                else:
                    cast = partial(autocast, device, precision, cache=threads == 1)
                    found = grad_cache.backward(replicas, batch, chunk, cast)
                    loss = found.total
                    average_gradients(method)
                for name in method.frozen_at(plan.progress(number)):
                    method.get_parameter(name).grad = None  # an optimizer passes over what has no gradient
                if plan.progress(number) < head_warmup:
                    method.f.zero_grad(set_to_none=True)
                optim.step(optimizer, replicas.run_all)
                number += 1
                terms, watched = ({name: x.detach() for name, x in some.items()} for some in found)
                method.after_step(plan.progress(number), watched)
            if clock is not None and look <= number < plan.steps:
                total = distributed.same(clock.steps_fitting(number, plan) if distributed.first() else None)
                if total is not None:
                    plan = plan.corrected(number, total)
                look = TimeBudget.next_look(number, plan)
            if early is not None and feed.whole_from is None:
                feed.whole_from = early.whole_from(number, plan)
            yield Step(number, plan, loss.detach(), terms, watched, now, feed.waited)
            if number >= plan.steps:
                return
    except RuntimeError as error:
        if not says_too_small(error):
            raise
        raise NearfarError(TOO_SMALL) from None
    except ValueError as error:
        if not says_one_row(error):
            raise
        flag = "--batch-size" if chunk is None else "--micro-batch or --batch-size"
        raise NearfarError(ONE_ROW.format(flag=flag)) from None
    finally:
        replicas.close()


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all it was asked, so that a clock can be read.

    Args:
        device: any.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds_a_step(
    method: Method,
    feed: DataLoader,
    optimizer: torch.optim.Optimizer,
    *,
    device: torch.device,
    precision: str,
    chunk: int | None,
    threads: int = 1,
    seconds: float = 4.0,
) -> float:
    """Measure the pace of training on real data, and leave no trace of it in the weights.

    Args:
        method, feed, optimizer, device, precision, chunk, threads: as in `train`.
        seconds: to measure for, about, and twice as long where another program disturbs it; at least one step
            is timed, after two that warm up, or one that is slow.

    Returns:
        Seconds a step, of the middle round; by the clock of process 0, which waits for the others.
    """
    weights = {name: value.clone() for name, value in method.state_dict().items()}
    forever = StepPlan(((0, 1_000_000_000),))
    opened = began = time.perf_counter()
    rounds, since = Rounds(seconds), 0
    for step in train(
        method,
        feed,
        optimizer,
        plan=forever,
        lr=0.0,
        warmup=0.0,
        device=device,
        precision=precision,
        chunk=chunk,
        threads=threads,
    ):
        now = time.perf_counter()
        timed = step.number - since
        if since:
            # Half a step more or less than a round takes.
            over = timed >= 1 and (now - began) * (1 + 0.5 / timed) >= rounds.length
        else:
            over = step.number >= 2 or now - opened > seconds / 2
        if not distributed.same(over):
            continue
        # From a full queue to a full queue as many batches are made as steps are done.
        feed.wait_until_ready()
        synchronise(device)
        now = time.perf_counter()
        if since:
            spent = float(distributed.same(now - began))
            rounds.add(spent / timed, spent)
            if rounds.enough:
                break
        since, began = step.number, now
    method.load_state_dict(weights)
    optimizer.state.clear()
    optimizer.zero_grad(set_to_none=True)
    return rounds.middle
