"""Distributed processes: how they find each other, wait and agree; the rank, and how many there are.

Launched by `torchrun`, every function talks to the other processes. In an ordinary process there is
one rank, and nothing is waited for, so that the rest of the code is written once. What tensors they exchange
is in `collectives.py`.
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
