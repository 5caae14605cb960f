"""What a training step costs: ResNet-18 with the stem for small images, two 32 px views in memory.

Ours is the step that `nearfar pretrain --recipe cifar-short` takes: method, optimizer, memory layout and
arithmetic are chosen by the package, bfloat16 where its own measurement finds it faster. The peer is
lightly's SimCLR example: torchvision's ResNet-18 with that stem, its head, its loss, SGD, float32, NCHW,
one pass a view. Both use every core, and take turns.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nearfar.core.device import device_named
from nearfar.core.threads import one_torch_thread
from nearfar.data import cache
from nearfar.data.batch import Batch
from nearfar.data.sources import open_source
from nearfar.training import engine, resolve
from nearfar.training.run_config import RunConfig
from nearfar.training.schedule import StepPlan
from nearfar.training.setup import prepare

from . import measure
from .measure import Spread
from .scoreboard import Asked
from .table import Bar, Row, Section

BAR = 3.0
BATCH = 512  # at least as many images as a recipe puts into a batch
ALONE = "nearfar, the encoder alone"


class Ready:
    """A feed that gives the same batch again and again: data costs nothing."""

    waited = 0.0

    def __init__(self, views: list[torch.Tensor], rows: torch.Tensor) -> None:
        self.views, self.rows = views, rows

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield Batch(list(self.views), self.rows)


@dataclass
class Job:
    """A method, its optimizer and its arithmetic, exactly as pretraining prepares them."""

    prepared: Any

    @property
    def wanted(self) -> RunConfig:
        """All settings, with nothing left to decide."""
        found: RunConfig = self.prepared.wanted
        return found

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        found: torch.device = self.prepared.device
        return found

    def feed(self, images: Any) -> Any:
        """Open a feed on a store of images, as pretraining does."""
        return replace(self.prepared, dataset=images).feed(0)

    def steps(self, feed: Any, count: int) -> Iterator[engine.Step]:
        """Train on a feed for some steps, at a rate that leaves the weights about where they are."""
        return engine.train(
            self.prepared.module,
            feed,
            self.prepared.optimizer,
            plan=StepPlan(((0, count),)),
            lr=1e-4,
            warmup=0.0,
            **self.prepared.how,
        )

    def pace(self, feed: Any, warm: int, timed: int) -> float:
        """Take some steps and tell how many images a second were learnt from, the first few not counted."""
        began = 0.0
        for step in self.steps(feed, warm + timed):
            if step.number == warm:
                engine.synchronise(self.device)
                began = time.perf_counter()
        engine.synchronise(self.device)
        return timed * self.wanted.training.batch_size / (time.perf_counter() - began)


def job(recipe: str, side: int, device: str = "cpu", store: Any = None, **asked: Any) -> Job:
    """Prepare what `nearfar pretrain` prepares for a recipe and settings, measurements included.

    Args:
        recipe: a name in `nearfar.training.recipes.RECIPES`.
        side: short side of the images.
        device: where to compute.
        store: images, for what is measured with them on a GPU.
        asked: settings that override the recipe's.
    """
    where = device_named(device)
    if store is None:
        asked.setdefault("views_on", "cpu")
        count = asked.get("batch_size", BATCH)  # a whole batch, by which the arithmetic is chosen
        noise = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
        store = cache.load(open_source(noise), short_side=None, max_pixels=1 << 24, max_bad=0, threads=1)
    wanted = resolve.resolve("simclr", recipe, {"steps": 1, **asked}, side=side, device=where)
    images = () if store is None else store  # without a store there is nothing to count
    with tempfile.TemporaryDirectory() as folder:
        return Job(prepare(Path(folder), wanted, StepPlan(((0, 1),)), images, where, follow=False))


def in_memory(job: Job) -> Ready:
    """Make a batch of noise in the layout in which the feed gives views."""
    training, size = job.wanted.training, job.wanted.image_size
    generator = torch.Generator().manual_seed(0)
    made = [torch.rand(training.batch_size, 3, size, size, generator=generator) for _ in range(2)]
    views = [view.contiguous(memory_format=torch.channels_last).to(job.device) for view in made]
    return Ready(views, torch.arange(training.batch_size))


def lightly(batch: int, size: int = 32, device: str = "cpu") -> Callable[[], float]:
    """Build lightly's example; the function takes one step and gives its loss."""
    import torchvision
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from torch import nn

    torch.manual_seed(0)
    net = torchvision.models.resnet18()
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    net.fc = nn.Identity()
    model = nn.Sequential(net, SimCLRProjectionHead(512, 512, 128)).to(device)
    criterion = NTXentLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    views = [torch.rand(batch, 3, size, size, device=device) for _ in range(2)]

    def step() -> float:
        loss = criterion(model(views[0]), model(views[1]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def ours(job: Job) -> Callable[[], float]:
    """Take one step of ours a call, and give its loss."""
    steps = job.steps(in_memory(job), 1_000_000)
    return lambda: float(next(steps).loss)


def network(job: Job) -> Callable[[], float]:
    """Only send our batch through the encoder, forward and backward: what no loop around it can save."""
    views, net = torch.cat(in_memory(job).views), job.prepared.module.f
    low = job.wanted.training.precision == "bfloat16"

    def work() -> float:
        with torch.autocast(job.device.type, dtype=torch.bfloat16, enabled=low):
            h = net(views)
        h.float().square().mean().backward()
        return float(h.detach()[0, 0])

    return work


def profile(work: Callable[[], float]) -> str:
    """Tell which operations of torch's library a pass takes its time for, on one core."""
    from torch.profiler import ProfilerActivity, profile

    kinds = {"convolutions": "convolution", "batch norm": "batch_norm", "ReLU": "threshold clamp_min relu"}
    work()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        work()
    spent = {event.key: event.self_cpu_time_total for event in seen.key_averages()}
    shares = [
        sum(value for key, value in spent.items() if any(word in key for word in words.split()))
        / sum(spent.values())
        for words in kinds.values()
    ]
    return ", ".join(f"{name} {share:.0%}" for name, share in zip(kinds, shares, strict=True))


def run(wanted: Asked) -> Section:
    """Measure two batch sizes."""
    torch.set_num_threads(measure.cores())
    section = Section((__doc__ or "").partition("\n\n")[2].strip().replace("\n", " "))
    for batch in (4,) if wanted.quick else (64, 256):
        mine = job("cifar-short", 32, batch_size=batch)
        works = {"nearfar": measure.clocked(ours(mine)), ALONE: measure.clocked(network(mine))}
        case, missing = f"batch {batch}, {2 * batch} views", ""
        try:
            works["lightly"] = measure.clocked(lightly(batch))
        except ImportError as failed:
            missing = measure.reason(failed)
        found = measure.alternate(works, min(wanted.rounds, 5 if batch < 256 else 3))
        rates = {who: [batch / seconds for seconds in values] for who, values in found.items()}
        note = f"{mine.wanted.training.precision}, channels last"
        section.rows.append(Row(case, "nearfar", Spread.of(rates["nearfar"]), "images/s", None, note))
        share = Spread.of(a / b for a, b in zip(found[ALONE], found["nearfar"], strict=True))
        note = f"forward and backward take {share.middle:.0%} of the step"
        section.rows.append(Row(case, ALONE, Spread.of(rates[ALONE]), "images/s", None, note))
        if missing:
            section.rows.append(Row(case, "lightly", None, "images/s", note=missing))
            continue
        gain = measure.gain(rates["nearfar"], rates["lightly"], more_is_better=True)
        note = "float32, NCHW"
        section.rows.append(Row(case, "lightly", Spread.of(rates["lightly"]), "images/s", gain, note))
        views = 2 * Spread.of(rates["nearfar"]).middle / measure.cores()
        told = f"{gain.low:.2f} - {gain.middle:.2f} - {gain.high:.2f} times; {views:,.1f} views/s a core"
        text = f"batch {batch}: at least {BAR:g} times lightly's step"
        section.bars.append(Bar(text, gain.middle >= BAR, told))
    with one_torch_thread():  # in which torch's profiler counts no waiting
        told = profile(network(job("cifar-short", 32, batch_size=4 if wanted.quick else 64)))
    section.notes.append(
        "Nearly all of the step is the network's own, in torch's library on both sides: the gain is that of "
        f"bfloat16 and of the layout, and it grows with the batch. Of a pass forward and backward: {told}. "
        "So batch norm fused with ReLU and an optimizer in one kernel could save no more than these shares "
        "and what lies beside the encoder; three times lightly's step needs convolutions in less than half "
        "the time, which bfloat16 gives on processors that have instructions for it."
    )
    return section
