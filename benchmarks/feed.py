"""Whether data keeps up with training: the rate with real images over the same step on a batch in memory.

JPEG files are made, then trained on with ResNet-18: 32 px with the small stem, and 500 x 375 px at 224 px
with blur. Sources take turns with the batch that lies in memory; the share is with data over without, round
by round. Peers feed the very same step (ours) through a DataLoader with as many workers as there are
cores. On these CPUs the step and the feed share the cores, so a feed that costs nothing would have 1.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from nearfar.data import cache
from nearfar.data.batch import Batch
from nearfar.data.sources import open_source
from nearfar.images import kernels
from nearfar.training.settings import Training

from . import measure, pictures, step
from .measure import Spread
from .scoreboard import Asked
from .table import Bar, Row, Section

SOURCES = {"resident": 0.98, "packed on disk": 0.98, "JPEG files, --no-cache": 0.95}
PATHS = 1_000_000
# Runs a command until it says that its first step is done.
FIRST_STEP = """
import subprocess, sys
with subprocess.Popen(sys.argv[1:], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
    done = any("first step is done" in line for line in process.stderr)
    process.kill()
sys.exit(not done)
"""


def store(folder: Path, kind: str, short_side: int) -> Any:
    """Open a folder of images as pretraining does, in one of three ways; caches go next to the folder."""
    return cache.load(
        open_source(str(folder)),
        short_side=short_side,
        max_pixels=Training.max_pixels,
        max_bad=Training.max_bad,
        threads=measure.cores(),
        decode_once=not kind.startswith("JPEG"),
        memory=0 if kind.startswith("packed") else None,
        folder=folder.parent / "cache",
    )


def ours(images: Any, job: step.Job, warm: int, timed: int) -> Callable[[], float]:
    """Measure the speed with our data loader, opened again each time."""

    def measured() -> float:
        opened = job.feed(images)
        try:
            return job.pace(opened, warm, timed)
        finally:
            opened.close()

    return measured


class _TwoViews:
    """Two views of each JPEG file by torchvision's v1 transforms, as a data set for a DataLoader."""

    def __init__(self, folder: Path, job: step.Job) -> None:
        from torchvision import transforms

        settings, size = job.wanted.views, job.wanted.image_size
        self.paths = sorted((folder / "images").iterdir())
        jitter = transforms.ColorJitter(
            settings.brightness, settings.contrast, settings.saturation, settings.hue
        )
        steps = [
            transforms.RandomResizedCrop(size, (settings.crop_min, settings.crop_max)),
            transforms.RandomHorizontalFlip(settings.flip),
            transforms.RandomApply([jitter], settings.jitter),
            transforms.RandomGrayscale(settings.grayscale),
        ]
        if settings.blur:
            blur = transforms.GaussianBlur(2 * (size // 20) + 1, (0.1, 2.0))
            steps.append(transforms.RandomApply([blur], settings.blur))
        self.make = transforms.Compose([*steps, transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        from PIL import Image

        with Image.open(self.paths[index]) as opened:
            image = opened.convert("RGB")
        return [self.make(image), self.make(image)]


class _Loaded:
    """Gives a DataLoader's batches in the form in which the engine takes them."""

    waited = 0.0

    def __init__(self, loader: Any, rows: torch.Tensor) -> None:
        self.loader, self.rows = loader, rows

    def __iter__(self) -> Iterator[Batch]:
        while True:
            for batch in self.loader:
                yield Batch(batch[0] if isinstance(batch[0], list) else batch, self.rows)


def peer(who: str, folder: Path, job: step.Job, warm: int, timed: int) -> Callable[[], float]:
    """Measure the speed with a peer's data set in a DataLoader."""
    from torch.utils.data import DataLoader

    training, settings, size = job.wanted.training, job.wanted.views, job.wanted.image_size
    data: Any
    if who == "lightly":
        from lightly.data import LightlyDataset
        from lightly.transforms import SimCLRTransform

        transform = SimCLRTransform(
            input_size=size,
            cj_strength=settings.brightness / 0.8,
            min_scale=settings.crop_min,
            gaussian_blur=settings.blur,
            normalize=None,
        )
        data = LightlyDataset(str(folder), transform=transform)
    else:
        data = _TwoViews(folder, job)
    rows = torch.arange(training.batch_size)

    def measured() -> float:
        loader: Any = DataLoader(
            data, training.batch_size, shuffle=True, drop_last=True, num_workers=measure.cores()
        )
        return job.pace(_Loaded(loader, rows), warm, timed)

    return measured


def share(
    case: str, folder: Path, job: step.Job, warm: int, timed: int, rounds: int
) -> tuple[list[Row], list[Bar]]:
    """Measure one size of images: every source compared with the batch in memory."""
    memory = step.in_memory(job)
    works: dict[str, Callable[[], float]] = {"batch in memory": lambda: job.pace(memory, warm, timed)}
    rows, bars = [], []
    for kind in SOURCES:
        images = store(folder, kind, job.wanted.preprocess.decode_side)
        works[f"nearfar, {kind}"] = ours(images, job, warm, timed)
    for who in ("torchvision", "lightly"):
        try:
            works[f"{who}, DataLoader"] = peer(who, folder, job, warm, timed)
        except ImportError as failed:
            rows.append(Row(case, f"{who}, DataLoader", None, "", note=measure.reason(failed)))
    found = measure.alternate(works, rounds, warm=0)
    alone, files = found["batch in memory"], found["nearfar, JPEG files, --no-cache"]
    for who, values in found.items():
        shares = Spread.of(a / b for a, b in zip(values, alone, strict=True))
        gain = None
        if "DataLoader" in who:
            gain = measure.gain(files, values, more_is_better=True)
        note = "" if who == "batch in memory" else f"share {shares.low:.3f} - **{shares.middle:.3f}** - "
        note += f"{shares.high:.3f}" if note else ""
        rows.append(Row(case, who, Spread.of(values), "images/s", gain, note))
        kind = who.partition(", ")[2]
        if kind in SOURCES:
            text = f"{case}, {kind}: at least {SOURCES[kind]:g} of the rate on a batch in memory"
            told = f"{shares.low:.3f} - {shares.middle:.3f} - {shares.high:.3f}"
            bars.append(Bar(text, shares.middle >= SOURCES[kind], told))
    return rows, bars


def child(folder: str, kind: str, size: int, batch: int) -> float:
    """Measure in this process how much memory the feed takes above the store, in MiB."""
    recipe = "cifar-short" if size <= 64 else "imagenet"
    job = step.job(recipe, size, batch_size=batch, encoder="resnet8", image_size=size, precision="float32")
    images = store(Path(folder), kind, job.wanted.preprocess.decode_side)
    job.feed(images).make(0)  # whatever is loaded at first use is no part of the feed

    def work() -> None:
        opened = job.feed(images)
        try:
            for number, _ in enumerate(opened):
                time.sleep(0.2)  # a step: the feed fills up meanwhile
                if number == 7:
                    break
        finally:
            opened.close()

    return measure.peak_above(work)


def start(folder: Path, count: int, wanted: Asked) -> tuple[list[Row], list[Bar]]:
    """Measure how long it takes from the command to the end of the first step, on a list of many paths."""
    listed = pictures.many(folder, count)
    case = f"{count:,} paths, command to first step"
    rows: list[Row] = []
    nearfar = [sys.executable, "-m", "nearfar", "pretrain", str(listed), "--no-cache", "--epochs", "1"]
    nearfar += ["--batch-size", "32", "--overwrite", "--recipe", "cpu", "--out", str(folder / "run")]
    code = (
        "import sys, torch; from lightly.data import LightlyDataset;"
        "from lightly.transforms import SimCLRTransform as T;"
        "data = LightlyDataset(sys.argv[1], transform=T(input_size=32));"
        "next(iter(torch.utils.data.DataLoader(data, 32, shuffle=True, num_workers=2)))"
    )
    stat = "import os, sys; os.chdir(sys.argv[1]); [os.stat(line[:-1]) for line in open('list.txt')]"
    loaded = "import torch, nearfar.images.kernels as kernels; kernels.ready()"
    whole, blind = "nearfar pretrain --no-cache", "the same with --health-checks 0"
    peers = {whole: [sys.executable, "-c", FIRST_STEP, *nearfar]}
    peers[blind] = [*peers[whole], "--health-checks", "0"]
    peers["of that: import torch"] = [sys.executable, "-c", "import torch"]
    peers["of that: import torch, and load the view kernel"] = [sys.executable, "-c", loaded]
    peers["of that: os.stat of each path, nothing else"] = [sys.executable, "-c", stat, str(folder)]
    peers["lightly, to the first batch"] = [sys.executable, "-c", code, str(folder / "files")]
    found: dict[str, list[tuple[float, float, float]]] = {who: [] for who in peers}
    for _ in range(2 if wanted.thorough else 1):
        for who, command in peers.items():
            try:
                found[who].append(measure.finished(command))
            except measure.Failed as failed:
                rows.append(Row(case, who, None, "s", note=str(failed)))
    bars = []
    seconds = {who: [clock for _, clock, _ in values] for who, values in found.items() if values}
    for who, values in seconds.items():
        mine = seconds.get(whole, [])
        paired = who.startswith("lightly") and len(mine) == len(values)
        gain = measure.gain(mine, values, more_is_better=False) if paired else None
        note = f"peak memory {max(peak for _, _, peak in found[who]):,.0f} MiB"
        rows.append(Row(case, who, Spread.of(values), "s", gain, note))
        if who == whole:
            told = f"{Spread.of(values).middle:.1f} s, without the check of the untrained network "
            told += f"{Spread.of(seconds[blind]).middle:.1f} s" if blind in seconds else "unknown"
            bars.append(Bar(f"start on {count:,} paths within 10 s", Spread.of(values).middle <= 10.0, told))
    return rows, bars


def run(wanted: Asked) -> Section:
    """Measure both sizes, the memory, and the start."""
    torch.set_num_threads(measure.cores())
    kernels.ready()
    section = Section((__doc__ or "").partition("\n\n")[2].strip().replace("\n", " "))
    # Case, recipe, side, images, copies of each, batch.
    plans = [("32 px", "cifar-short", 32, 4096, 1, 32), ("224 px", "imagenet", 256, 48, 8, 16)]
    if wanted.quick:
        plans = [("32 px", "cifar-short", 32, 48, 1, 4), ("224 px", "imagenet", 256, 4, 1, 2)]
    warm, timed = (1, 1) if wanted.quick else (2, 5) if wanted.thorough else (1, 3)
    with tempfile.TemporaryDirectory() as name:
        for case, recipe, side, count, copies, batch in plans:
            high, wide = (32, 32) if side == 32 else (375, 500)
            folder = pictures.write(
                Path(name) / case / "files", pictures.photographs(count, high, wide), copies
            )
            encoder = "resnet8" if wanted.quick else "resnet18"
            rounds = 1 if wanted.quick else 2
            job = step.job(recipe, side, batch_size=batch, encoder=encoder)
            rows, bars = share(case, folder, job, warm, timed, rounds)
            section.rows += rows
            section.bars += bars
            size, several = (32, 256) if side == 32 else (224, 64)
            several = min(several, count * copies)
            for kind in SOURCES:
                used = measure.fresh("feed", folder=str(folder), kind=kind, size=size, batch=several)
                views = 2 * several * 3 * size * size * 4 / 2**20
                note = f"a batch's views are {views:,.1f} MiB, of which five may be ready or in the making"
                memory = f"memory of the feed, {case}, batch {several}"
                section.rows.append(Row(memory, f"nearfar, {kind}", Spread.of([used]), "MiB", None, note))
            shutil.rmtree(Path(name) / case)
        rows, bars = start(Path(name) / "many", 500 if wanted.quick else PATHS, wanted)
        section.rows += rows
        section.bars += bars
    section.notes.append(
        "Where the start goes: torch's own import, the view kernel's, and one question to the file system "
        "for each path, by which a changed file is noticed, are rows of their own, and the check of the "
        "untrained network (1,024 images in so long a run), against which health is judged later, is the "
        "difference of two; what remains is the list, the network and the step. Importing torch and asking "
        "for a million files leave little of ten seconds, and doing without either is not worth it."
    )
    section.notes.append(
        "What the feed costs where the step uses every core: a batch of 16 at 224 px takes some 16 ms of one "
        "core of packed images and 44 ms of JPEG files (see Views), while the other cores wait at the step's "
        "next barrier: 1.7 and 4.6 % of a step of 0.96 s on two cores. That is most of what the shares at "
        "224 px lack; a core to spare would hide it."
    )
    section.notes.append(
        f"The images are smooth noise, JPEG quality {pictures.QUALITY}; the files of the long list are "
        "hard links to 64 of 32 px."
    )
    return section
