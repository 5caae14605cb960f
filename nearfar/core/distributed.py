"""Distributed processes: the rank, the number of processes, and sums and gathers with gradients.

Launched by `torchrun`, every function talks to the other processes. In an ordinary process there is
one rank, and each function is the identity, so that the rest of the code is written once.

The convention over ranks: a method's terms average over ranks to the loss of the global batch. A plain
`.mean()` over a rank's own rows is then right, and the averaging that DistributedDataParallel does gives
the gradient that one process would have found.
"""

from __future__ import annotations

import atexit
import datetime
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from . import progress
from .errors import NearfarError

_NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets beside WORLD_SIZE
_JOINING = 600.0  # seconds in which every process has to come
_NOTE = 60.0  # seconds after which a process that waits says so
_ANSWER = 600.0  # seconds in which every process has to take part in what all do together
_SILENCE = 300.0  # seconds without a sign of life from process 0 that end the wait for it
_BEAT = 5.0  # seconds between its signs of life

_BROKEN = re.compile(r"gloo|nccl|connection (reset|closed|refused)|broken pipe|timed out", re.IGNORECASE)

_alone = False
_store: Any = None  # where the processes leave each other notes
_turns = 0  # how often `first_goes_ahead` was entered


@contextmanager
def alone() -> Iterator[None]:
    """Let this process compute by itself, as if it were the only one; the others need not take part."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def world() -> int:
    """Count the processes that train together: 1 unless launched by `torchrun`."""
    if _alone:
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number this process, from 0 to `world()` - 1."""
    if _alone:
        return 0
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def first() -> bool:
    """Tell whether this is the process that writes files and prints."""
    return rank() == 0


def start(device: torch.device | str) -> torch.device:
    """Join the other processes, if `torchrun` started any; call it once, before the data are read.

    Args:
        device: where to compute; of "cuda" each process takes the GPU of its LOCAL_RANK.

    Returns:
        This process's own device.

    Raises:
        NearfarError: the launch asks for more processes than there are GPUs, or for a device that
            cannot be shared; the environment is not torchrun's, or not every process comes.
    """
    device = torch.device(device)
    count = launched()
    if count == 1:
        return device
    if device.type not in ("cpu", "cuda"):
        raise NearfarError(
            f"{count} processes cannot share {device.type}; add --device cpu, or launch one process."
        )
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise NearfarError(
                f"process {local} has no GPU, there are {torch.cuda.device_count()}; "
                f"launch with torchrun --nproc-per-node={torch.cuda.device_count()}."
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        _join("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", count)
    return device


def launched() -> int:
    """Read from the environment how many processes torchrun launched: 1 where it launched none.

    Raises:
        NearfarError: WORLD_SIZE stands there without the rest, or makes no sense.
    """
    told = {name: os.environ.get(name, "").strip() for name in ("WORLD_SIZE", *_NEEDED)}
    if told["WORLD_SIZE"] in ("", "1"):
        return 1
    lost = [name for name in _NEEDED if not told[name]]
    if lost:
        raise NearfarError(
            f"WORLD_SIZE is {told['WORLD_SIZE']} in the environment, without {' and '.join(lost)}; launch "
            "several processes with torchrun, or run: unset WORLD_SIZE"
        )
    numbers = [told[name] for name in ("WORLD_SIZE", "RANK", "MASTER_PORT")]
    if not all(text.isdecimal() for text in numbers) or int(told["RANK"]) >= int(told["WORLD_SIZE"]):
        said = ", ".join(f"{name}={text}" for name, text in told.items())
        raise NearfarError(f"the environment names no process of a group ({said}); launch with torchrun.")
    return int(told["WORLD_SIZE"])


def _join(backend: str, count: int) -> None:
    """Meet the other processes; say so if they let wait, and give up if they do not come."""
    global _store
    number, place = int(os.environ["RANK"]), f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    unset = "if this was to be one process, run: unset WORLD_SIZE"
    note = f"process {number} of {count} waits at {place} for the others; {unset}\n"
    late = threading.Timer(_NOTE, progress.write, (note,))
    late.daemon = True
    late.start()
    try:
        patience = datetime.timedelta(seconds=_JOINING)
        _store, _, _ = next(rendezvous("env://", number, count, timeout=patience))
        _store.add("nearfar here", 1)
        end = time.monotonic() + _JOINING
        while (here := _store.add("nearfar here", 0)) < count:
            if time.monotonic() > end:
                raise NearfarError(
                    f"{here} of {count} processes came to {place} in {_JOINING:.0f} s; {unset}"
                )
            time.sleep(0.02)
    except (RuntimeError, ValueError) as error:  # torch's errors of a network are such
        reason = str(error).splitlines()[0]
        raise NearfarError(
            f"process {number} of {count} finds no others at {place} ({reason}); {unset}"
        ) from None
    finally:
        late.cancel()
    atexit.register(stop)
    # A process that has ended breaks its connections at once; a machine that is gone may not.
    patience = datetime.timedelta(seconds=_ANSWER)
    dist.init_process_group(backend, store=_store, rank=number, world_size=count, timeout=patience)


@contextmanager
def named_losses() -> Iterator[None]:
    """Turn what torch raises, where another process has ended or does not answer, into one sentence.

    Raises:
        NearfarError: that happened.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error)
        if world() == 1 or not (isinstance(error, dist.DistError) or _BROKEN.search(reason)):
            raise
        late = "tim" in reason.lower() and "out" in reason.lower()
        what = f"has not answered for {_ANSWER:.0f} s" if late else "has ended"
        raise NearfarError(
            f"process {rank()} stops, since another of the {world()} processes {what}; look at the output of "
            "all of them, and run the same command again: with any number of processes it goes on from the "
            "last save."
        ) from None


@contextmanager
def first_goes_ahead(what: str) -> Iterator[None]:
    """Let process 0 do the block before the others, which wait for as long as it shows signs of life.

    Args:
        what: what process 0 does, for those who wait: "reads the images".

    Raises:
        NearfarError: on the others, if it failed or is silent.
    """
    global _turns
    if world() == 1 or _store is None:
        yield
        return
    _turns += 1
    done, beat = f"nearfar done {_turns}", f"nearfar beat {_turns}"
    if not first():
        _wait(done, beat, what)
        yield
        return
    over = threading.Event()

    def signs() -> None:
        while not over.wait(_BEAT):
            _store.add(beat, 1)

    heart = threading.Thread(target=signs, daemon=True)
    heart.start()
    outcome = 2
    try:
        yield
        outcome = 1
    finally:
        over.set()
        heart.join()
        _store.add(done, outcome)


def _wait(done: str, beat: str, what: str) -> None:
    """Wait until process 0 has set `done`: 1 after success, 2 after an error."""
    began = seen = time.monotonic()
    count, said = -1, began
    while not (outcome := _store.add(done, 0)):
        now, beats = time.monotonic(), _store.add(beat, 0)
        if beats != count:
            count, seen = beats, now
        if now - seen > _SILENCE:
            raise NearfarError(
                f"process {rank()} has no sign of life from process 0, which {what}, for {_SILENCE:.0f} s; "
                "look at its output, and run the same command again."
            )
        if now - said > _NOTE:
            said = now
            progress.write(f"process {rank()} waits while process 0 {what}\n")
        time.sleep(0.05)
    if outcome == 2:
        raise NearfarError(f"process 0, which {what}, ended with an error; see its output.")


def stop() -> None:
    """Leave the other processes; harmless where there are none."""
    global _store
    _store = None
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until every process has come here."""
    if world() > 1:
        # A sum on the CPU also works before a process has touched its GPU, unlike NCCL's barrier.
        dist.all_reduce(torch.zeros(1))


def same(value: Any) -> Any:
    """Give every process the value that rank 0 holds.

    Args:
        value: made of numbers, strings, booleans, None, lists and dicts, as JSON has them.

    Returns:
        Rank 0's value as JSON reads it back (tuples become lists), on one process too.
    """
    text = json.dumps(value).encode()
    if world() > 1:
        length = torch.tensor(len(text))
        dist.broadcast(length, 0)
        data = torch.zeros(int(length), dtype=torch.uint8)
        if first():
            data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        dist.broadcast(data, 0)
        text = data.numpy().tobytes()
    return json.loads(text)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _collect(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad)
        return grad.chunk(world())[rank()]


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous().clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad)
        return grad


def _collect(x: Tensor) -> Tensor:
    """Gather equal pieces, in the order of the ranks, without a gradient."""
    pieces = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world())]
    dist.all_gather(pieces, x.contiguous())
    return torch.cat(pieces)


def blocks(x: Tensor) -> Iterator[Tensor]:
    """Give the rows that every process holds, those of one process at a time, in the order of the ranks.

    At most two blocks are in memory besides x, one of them on its way. Every process has to take all blocks.

    Args:
        x: (n, ...), the same shape on every process; no gradient flows back.

    Yields:
        (n, ...), of rank 0, then of rank 1, and so on.
    """
    x = x.detach().contiguous()
    if world() == 1:
        yield x
        return

    def ask(origin: int) -> tuple[Tensor, Any]:
        block = x if origin == rank() else torch.empty_like(x)
        return block, dist.broadcast(block, origin, async_op=True)

    waiting = ask(0)
    for origin in range(world()):
        block, sent = waiting
        sent.wait()
        if origin + 1 < world():
            waiting = ask(origin + 1)
        yield block


def gather(x: Tensor, grad: bool = True) -> Tensor:
    """Stack the rows that every process holds, in the order of the ranks.

    Args:
        x: (n, ...), the same shape on every process.
        grad: whether the gradient flows back: each process then receives, for its own rows, the sum of
            what all processes' losses ask of them.

    Returns:
        (world * n, ...).
    """
    if world() == 1:
        return x if grad else x.detach()
    gathered: Tensor = _Gather.apply(x) if grad else _collect(x.detach())
    return gathered


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return torch.cat([a @ block.T for block in blocks(b)], 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        parts = grads[0].split(len(b), 1)
        of_a, of_b = torch.zeros_like(a), b
        for origin, (part, block) in enumerate(zip(parts, blocks(b), strict=True)):
            of_a += part @ block
            pull = (part.T @ a).contiguous()
            dist.reduce(pull, origin)
            of_b = pull if origin == rank() else of_b
        return of_a, of_b


def products(a: Tensor, b: Tensor) -> Tensor:
    """Multiply own rows with those of all processes, which pass by and are never held together.

    Args:
        a: (n, d), as many on every process.
        b: (m, d), of the same dtype, as many on every process; gradients flow back as they do from `gather`.

    Returns:
        (n, world * m) inner products, columns in the order of the ranks.
    """
    if world() == 1:
        return a @ b.T
    found: Tensor = _Products.apply(a, b)
    return found


def total(x: Tensor) -> Tensor:
    """Add a tensor over all processes; the gradient is added over them too.

    Args:
        x: any shape, the same on every process.

    Returns:
        The sum, the same on every process.
    """
    if world() == 1:
        return x
    summed: Tensor = _Total.apply(x)
    return summed
