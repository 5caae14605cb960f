"""On a GPU: a step of ResNet-18 at 32 px and of ResNet-50 at 224 px, the feed, the loss, embedding.

Steps are timed in turns, the GPU waited for at both ends. The peak is measured too: the best rate of
square bfloat16 matrix products of 8192. A step's work is counted by torch's own counter, forward and
backward. lightly's step is its example's, float32 with its defaults, and once more under bfloat16 autocast
with channels last, which its example leaves to the user. The plain loop at 224 px is torchvision's
ResNet-50 with a head of two layers, the loss by a matrix of all pairs, bfloat16 autocast, channels last.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nearfar import models

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


def plain_loop(batch: int, side: int, device: torch.device) -> Callable[[], None]:
    """Build SimCLR with ResNet-50 as one would write it in thirty lines; the function takes one step."""
    import torchvision

    net = torchvision.models.resnet50()
    net.fc = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(inplace=True), nn.Linear(2048, 128))
    net = net.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), 1e-4, momentum=0.9)
    views = torch.rand(2 * batch, 3, side, side, device=device).to(memory_format=torch.channels_last)
    partner = torch.arange(2 * batch, device=device).roll(batch)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            z = net(views)
        z = F.normalize(z.float())
        loss = F.cross_entropy((z @ z.T / 0.1).fill_diagonal_(-1e9), partner)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def large(wanted: Asked, device: torch.device) -> list[Row]:
    """Compare a step of ResNet-50 with a plain loop's."""
    batch, side, count = (4, 64, 1) if wanted.quick else (256, 224, 10)
    asked = {"encoder": "resnet50", "batch_size": batch, "precision": "bfloat16"}
    job = step.job("imagenet", side, device.type, **asked)
    mine, plain = job.steps(step.in_memory(job), 1_000_000), plain_loop(batch, side, device)
    works = {"nearfar": timed(lambda: next(mine), count, device), "a plain loop": timed(plain, count, device)}
    found = measure.alternate(works, wanted.rounds)
    rows = []
    for who, values in found.items():
        gain = None if who == "nearfar" else measure.gain(found["nearfar"], values, more_is_better=False)
        figure = Spread.of(batch / value for value in values)
        rows.append(Row(f"step, ResNet-50 at {side} px, batch {batch}", who, figure, "images/s", gain))
    return rows


def embedding(wanted: Asked, device: torch.device) -> list[Row]:
    """Measure how many images on the device encoders take a second, in evaluation mode."""
    rows, batch = [], 8 if wanted.quick else 1024
    for name, side in (("resnet18", 32), ("resnet50", 224)):
        net = models.encoder(name, size=side).to(device, memory_format=torch.channels_last).eval()
        x = torch.rand(batch, 3, side, side, device=device).to(memory_format=torch.channels_last)
        for precision in ("float32", "bfloat16"):

            def work(net: Any = net, x: Any = x, cast: bool = precision == "bfloat16") -> None:
                with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=cast):
                    net(x)

            work()
            seconds = timed(work, 10, device)
            figure = Spread.of(batch / seconds() for _ in range(wanted.rounds))
            rows.append(Row(f"encoding, {name} at {side} px, batch {batch}", precision, figure, "images/s"))
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
    section.rows += large(wanted, device)
    section.rows += losses(wanted, device)
    section.rows += embedding(wanted, device)
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
