"""The same on a GPU: a step of ResNet-18 at 32 px, the share of the GPU's peak, the feed, the loss.

Steps are timed in turns, the GPU waited for at both ends. The peak is measured too: the best rate of
square bfloat16 matrix products of 8192. A step's work is counted by torch's own counter, forward and
backward. lightly's step is its example's, float32 with its defaults, and once more under bfloat16 autocast
with channels last, which its example leaves to the user.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from . import feed, loss, measure, pictures, step
from .measure import Spread
from .scoreboard import Asked
from .table import Bar, Row, Section

STEPS = 20
SIZES = (1024, 4096, 16384, 65536)


def timed(work: Callable[[], Any], count: int, device: torch.device) -> Callable[[], float]:
    """Turn a step into a figure: seconds a step over `count` of them, the device waited for."""
    from nearfar.training.engine import synchronise

    def measured() -> float:
        synchronise(device)
        began = time.perf_counter()
        for _ in range(count):
            work()
        synchronise(device)
        return (time.perf_counter() - began) / count

    return measured


def peak(device: torch.device, side: int = 8192) -> float:
    """Measure the best rate of bfloat16 matrix products, operations a second."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    work = timed(lambda: a @ b, 10, device)
    return 2 * side**3 / min(work() for _ in range(5))


def operations(job: step.Job) -> int:
    """Count the operations of one step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        next(job.steps(step.in_memory(job), 1))
    return int(counter.get_total_flops())


def steps(wanted: Asked, device: torch.device, batch: int) -> tuple[list[Row], list[Bar]]:
    """Compare a step on a batch in memory with lightly's, and with the peak."""
    job = step.job("cifar-short", 32, device.type, batch_size=batch)
    count, rows = (2 if wanted.quick else STEPS), []
    mine = job.steps(step.in_memory(job), 1_000_000)
    works = {"nearfar": timed(lambda: next(mine), count, device)}
    try:
        plain = step.lightly(batch, device=device.type)
        works["lightly"] = timed(plain, count, device)

        def cast() -> None:
            with torch.autocast(device.type, torch.bfloat16):
                plain()

        works["lightly, bfloat16 by its user"] = timed(cast, count, device)
    except ImportError as failed:
        rows.append(Row(f"step, batch {batch}", "lightly", None, "images/s", note=measure.reason(failed)))
    found = measure.alternate(works, wanted.rounds)
    used = operations(job) / min(found["nearfar"]) / peak(device, 256 if wanted.quick else 8192)
    for who, values in found.items():
        gain = None if who == "nearfar" else measure.gain(found["nearfar"], values, more_is_better=False)
        note = f"{100 * used:.0f} % of the measured peak" if who == "nearfar" else ""
        figure = Spread.of(batch / value for value in values)
        rows.append(Row(f"step, batch {batch}", who, figure, "images/s", gain, note))
    return rows, []


def losses(wanted: Asked, device: torch.device) -> list[Row]:
    """Compare time and memory of NT-Xent, ours and lightly's."""
    rows = []
    for n in (64,) if wanted.quick else SIZES:
        works, memory = {}, {}
        for who in ("nearfar", "lightly"):
            if (
                who == "lightly"
                and 68.0 * n * n > 0.5 * torch.cuda.get_device_properties(device).total_memory
            ):
                rows.append(Row(f"loss, N = {n:,}", who, None, "ms", note="left out: would not fit"))
                continue
            try:
                criterion = loss.CONTENDERS[who]()
            except ImportError as failed:
                rows.append(Row(f"loss, N = {n:,}", who, None, "ms", note=measure.reason(failed)))
                continue
            pair = [torch.randn(n, loss.WIDTH, device=device, requires_grad=True) for _ in range(2)]

            def work(criterion: Any = criterion, pair: Any = pair) -> None:
                criterion(*pair).backward()

            work()
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            work()
            memory[who] = (torch.cuda.max_memory_allocated(device) - before) / 2**20
            works[who] = timed(work, 5, device)
        found = measure.alternate(works, wanted.rounds)
        for who, values in found.items():
            gain = None if who == "nearfar" else measure.gain(found["nearfar"], values, more_is_better=False)
            note = f"{memory[who]:,.0f} MiB above the inputs"
            figure = Spread.of(1e3 * value for value in values)
            rows.append(Row(f"loss, N = {n:,}", who, figure, "ms", gain, note))
    return rows


def run(wanted: Asked) -> Section:
    """Measure on the first CUDA device; without one, say so."""
    section = Section((__doc__ or "").partition("\n\n")[2].strip().replace("\n", " "))
    if not torch.cuda.is_available():
        section.notes.append("Not measured: there is no CUDA device here.")
        return section
    device = torch.device("cuda", 0)
    section.notes.append(f"GPU: {torch.cuda.get_device_name(device)}.")
    for batch in (8,) if wanted.quick else (256, 512, 2048):
        rows, bars = steps(wanted, device, batch)
        section.rows += rows
        section.bars += bars
    section.rows += losses(wanted, device)
    batch, count = (8, 64) if wanted.quick else (512, 8192)
    with tempfile.TemporaryDirectory() as name:
        folder = pictures.write(Path(name) / "files", pictures.photographs(count, 32, 32))
        store = feed.store(folder, "resident", 37)
        job = step.job("cifar-short", 32, "cuda", store, batch_size=batch)
        warm, several = (1, 2) if wanted.quick else (5, 40)
        rows, bars = feed.share("32 px, GPU", folder, job, warm, several, min(wanted.rounds, 3))
    section.rows += rows
    section.bars += bars
    return section
