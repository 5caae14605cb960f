"""What training and embedding lose beside another program, by how the work is divided among threads.

Both ways use every core that this process may use. "Each operation divided" leaves every operation to torch's
own threads, which wait for each other at its end: `--threads 1`, and what nearfar did before it had the flag.
"A share a thread" is what `--threads` does by default. The other program is a loop without end, one process
of it, started here. SimCLR with the recipe for a CPU, a batch of 256 in memory, in the arithmetic that
pretraining chooses here; embedding is of 2,048 images. All take turns. A bar compares the best of the rounds,
which other work on the computer disturbs least.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from nearfar.core.threads import one_torch_thread
from nearfar.data.open import open_data
from nearfar.features import extract
from nearfar.training import engine, optim, resolve
from nearfar.training.precision import gains_from_bfloat16
from nearfar.training.schedule import StepPlan

from . import measure
from .measure import Spread
from .scoreboard import Asked
from .step import Ready
from .table import Bar, Row, Section

FASTER, KEPT = 1.3, 0.4  # alone, times as fast as before; beside a busy process, the share of alone
SECONDS = 2.0  # that a figure is measured for, or one step
WAYS = SHARE, DIVIDED = "a share a thread", "each operation divided"
Work = Callable[[], float]


@contextmanager
def busy(on: bool) -> Iterator[None]:
    """Keep one core busy meanwhile, if asked."""
    if not on:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            time.sleep(0.3)  # it has started
            yield
        finally:
            process.kill()


def rate(work: Callable[[], int], seconds: float) -> float:
    """Tell how many images a second some work treats; it is done once at least, and says how many."""
    done, began = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - began < seconds:
        done += work()
    return done / (time.perf_counter() - began)


class Fixed(Ready):
    """A batch of noise, again and again."""

    def __init__(self, batch: int, side: int) -> None:
        generator = torch.Generator().manual_seed(0)
        views = [torch.rand(batch, 3, side, side, generator=generator) for _ in range(2)]
        like = [view.contiguous(memory_format=torch.channels_last) for view in views]
        super().__init__(like, torch.arange(batch))

    def make(self, step: int) -> Any:
        """Give it once."""
        return next(iter(self))


def trained(side: int, batch: int, threads: int, precision: str | None) -> tuple[Iterator[engine.Step], str]:
    """Prepare SimCLR as pretraining does, and give its steps and the arithmetic."""
    cpu, feed = torch.device("cpu"), Fixed(batch, side)
    wanted = resolve.resolve("simclr", "cpu", {"steps": 1, "batch_size": batch}, side=side, device=cpu)
    module = resolve.build_method(wanted).to(memory_format=torch.channels_last)
    if precision is None:
        with one_torch_thread():
            gains = gains_from_bfloat16(module, feed, cpu)  # type: ignore[arg-type]
        precision = "bfloat16" if gains else "float32"
    steps = engine.train(
        module,
        feed,  # type: ignore[arg-type]
        optim.optimizer(wanted.training, module),
        plan=StepPlan(((0, 10**9),)),
        lr=1e-4,
        warmup=0.0,
        device=cpu,
        precision=precision,
        threads=threads,
    )
    return steps, precision


def training(side: int, batch: int, seconds: float) -> tuple[dict[str, Work], str]:
    """Give a figure's work for both ways to train."""
    works, precision = {}, None
    for who, threads in ((DIVIDED, 1), (SHARE, max(2, measure.cores()))):
        steps, precision = trained(side, batch, threads, precision)

        def step(steps: Iterator[engine.Step] = steps) -> int:
            next(steps)
            return batch

        works[who] = lambda step=step: rate(step, seconds)
    assert precision is not None
    return works, precision


def embedding(images: int, seconds: float) -> dict[str, Work]:
    """Give a figure's work for both ways to embed images of 32 px."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, 32, 32, 3), np.uint8)
    wanted = resolve.resolve("simclr", "cpu", {"steps": 1}, side=32, device=torch.device("cpu"))
    module = resolve.build_method(wanted).to(memory_format=torch.channels_last)
    source = open_data(pixels)
    dataset = wanted.kind.load(
        source, wanted.preprocess, limit=10**8, max_bad=0.0, threads=1, decode_once=True
    )

    def embed(divided: bool) -> int:
        choose = extract.compute_threads
        if divided:
            extract.compute_threads = lambda: 1  # torch's threads then divide the work
        try:
            extract.features(module.f, dataset, wanted.preprocess)
        finally:
            extract.compute_threads = choose
        return images

    return {
        DIVIDED: lambda: rate(lambda: embed(True), seconds),
        SHARE: lambda: rate(lambda: embed(False), seconds),
    }


def run(wanted: Asked) -> Section:
    """Measure training at two sides, and embedding."""
    cores, before = measure.cores(), torch.get_num_threads()
    section = Section((__doc__ or "").partition("\n\n")[2].strip().replace("\n", " "))
    batch, seconds, images = (16, 0.0, 32) if wanted.quick else (256, SECONDS, 2048)
    # In a quick run operations are not divided, which can take minutes beside other programs.
    torch.set_num_threads(1 if wanted.quick else cores)
    try:
        for side in (16,) if wanted.quick else (32, 64):
            works, precision = training(side, batch, seconds)
            compare(section, f"training, {side} px, batch {batch}, {precision}", works, wanted.rounds)
        compare(section, f"embedding, {images:,} images, 32 px", embedding(images, seconds), wanted.rounds)
    finally:
        torch.set_num_threads(before)
    loads = ", ".join(f"{x:.1f}" for x in load())
    section.notes.append(
        f"{cores} cores; the computer's load was {loads} over the last 1, 5 and 15 minutes at the end, this "
        "measurement included."
    )
    return section


def load() -> tuple[float, ...]:
    """Give the system's load averages, where it has them."""
    return os.getloadavg() if hasattr(os, "getloadavg") else ()


def compare(section: Section, case: str, works: dict[str, Work], rounds: int) -> None:
    """Measure both ways alone and beside a busy process, in turns, and add rows and bars."""
    found: dict[tuple[str, bool], list[float]] = {}
    for work in works.values():
        work()  # warms up
    for _ in range(rounds):
        for beside in (False, True):
            for who, work in works.items():
                with busy(beside):
                    found.setdefault((who, beside), []).append(work())
    for beside, place in ((False, "alone"), (True, "beside a busy process")):
        ours, before = found[SHARE, beside], found[DIVIDED, beside]
        gain = measure.gain(ours, before, more_is_better=True)
        section.rows.append(Row(f"{case}, {place}", SHARE, Spread.of(ours), "images/s"))
        section.rows.append(Row(f"{case}, {place}", DIVIDED, Spread.of(before), "images/s", gain))
    best = {key: max(values) for key, values in found.items()}
    faster = best[SHARE, False] / best[DIVIDED, False]
    kept, once = (best[who, True] / best[who, False] for who in (SHARE, DIVIDED))
    text = f"{case}: alone at least {FASTER:g} times each operation divided"
    section.bars.append(Bar(text, faster >= FASTER, f"{faster:.2f} times"))
    text = f"{case}: beside a busy process at least {KEPT:g} of alone"
    section.bars.append(Bar(text, kept >= KEPT, f"{kept:.2f}, each operation divided {once:.2f}"))
