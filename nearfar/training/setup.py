"""Builds everything for a session of training, and measures the settings that need a measurement."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .. import models
from ..core import distributed, progress
from ..core.errors import NearfarError
from ..core.text import counted
from ..data.dataset import Subset
from ..data.groups import Partners
from ..data.loader import DataLoader, seconds_a_batch
from ..methods.base import Method
from ..models import every_scale
from . import checkpoint, optim, resolve, run_shapes
from .adapting import StartPull
from .pace import seconds_a_step
from .parallel import gathered, is_shared, parallelise
from .plan import epochs, step_count
from .precision import gains_from_bfloat16, views_dtype
from .run_config import RunConfig
from .schedule import EarlySteps, StepPlan, TimeBudget, measuring
from .targets import TeacherVectors
from .threads import training_threads, with_threads, workers
from .turns import FEWEST, SECONDS, Turns

LONG, LONG_STEPS = 600.0, 2000  # seconds, or steps, that a run must last before compiling is tried


@dataclass
class TrainingSetup:
    """All that one session of training needs."""

    folder: Path
    wanted: RunConfig
    dataset: Any
    device: torch.device
    module: Method
    optimizer: torch.optim.Optimizer
    plan: StepPlan
    clock: TimeBudget | None
    digest: str = ""  # of what the run is, which a save must share
    started: int = 0
    spent: float = 0.0
    threads: int = 1  # that train, a share of the batch each
    probed: float = 0.0  # seconds that measurements have taken
    targets: TeacherVectors | None = None  # of the images, for a method that learns from them
    groups: Partners | None = None  # of all images, those held out too
    pull: StartPull | None = None  # towards the encoder that training starts from
    early: EarlySteps | None = None  # those with smaller views
    plain: Method | None = None  # in process 0, of a module that is sharded: a copy that is not

    def whole(self) -> Method:
        """Give the method with all its weights; every process must call it.

        Returns:
            The method itself; where it is sharded, in process 0 a copy.
        """
        if is_shared(self.module):
            there = {} if self.plain is None else self.plain.state_dict()
            for name, value in gathered(self.module):
                if name in there:
                    there[name].copy_(value)
        return self.module if self.plain is None else self.plain

    @property
    def how(self) -> dict[str, Any]:
        """What the engine must know of the arithmetic."""
        chunk = self.wanted.training.micro_batch
        share = chunk and max(1, chunk // distributed.world())
        return {
            "device": self.device,
            "precision": self.wanted.training.precision,
            "chunk": share,
            "threads": self.threads,
        }

    def feed(
        self,
        start: int,
        views_on: str | None = None,
        part: Any = None,
        batch_size: int | None = None,
        early: bool = False,
    ) -> DataLoader:
        """Open the feed at a step, with the small views of the first steps if asked for.

        The other arguments take the place of what the run has.
        """
        training, dataset = self.wanted.training, self.dataset if part is None else part
        there = (views_on or training.views_on) == "device" and self.wanted.kind.on_device
        needs = self.module.requires(self.module.config)
        return DataLoader(
            dataset,
            self.module.views(self.wanted.views),
            size=self.wanted.image_size,
            batch_size=batch_size or training.batch_size,
            seed=training.seed,
            start=start,
            threads=workers(self.wanted),
            dtype=views_dtype(self.device, training.precision),
            rank=distributed.rank(),
            world=distributed.world(),
            pin=self.device.type == "cuda" and not there,
            device=self.device if there else None,
            labels=dataset.labels if "labels" in needs else None,
            sampler=self.module.sampler(self.module.config),
            targets=self.targets if part is None or part is self.dataset else None,
            groups=self._groups_of(dataset),
            early_size=self.early.size if early and self.early else None,
            whole_from=self.early.whole_from(start, self.plan) if self.early else None,
        )

    def _groups_of(self, dataset: Any) -> npt.NDArray[np.int64] | None:
        """Give the groups of some of the images."""
        if self.groups is None:
            return None
        return self.groups.groups[dataset.rows] if isinstance(dataset, Subset) else self.groups.groups

    def announce(self) -> None:
        """Print the effective values before the first step."""
        training, plan, f, kind = self.wanted.training, self.plan, self.module.f, self.wanted.kind
        seen = len(self.module.views(self.wanted.views)) * training.batch_size
        weights = sum(weight.numel() for weight in f.parameters())
        learn = sum(weight.numel() for weight in f.parameters() if weight.requires_grad)
        learning = f" ({learn:,} learn: {training.trainable})" if training.trainable != "all" else ""
        pieces = f", in chunks of {training.micro_batch:,}" if training.micro_batch else ""
        place = self.device.type if training.views_on == "device" else "cpu"
        code = ", compiled" if training.compile == "yes" else ""
        negatives = self.module.negatives(training.batch_size)
        against = f", {negatives:,} negatives for each" if negatives else ""
        passes = epochs(plan.steps, training, len(self.dataset))
        threads = f", {self.threads} training thread(s)" if self.device.type == "cpu" else ""
        lr, processes = self.wanted.lr, f"{distributed.world()} process(es)"
        early = f", at first at {self.early.size}" if self.early else ""
        whole = every_scale.finished_dim(f)
        scales = f"; once finished {whole:,}, those of every scale" if whole != f.dim else ""
        what = f"{self.wanted.method}, recipe {self.wanted.recipe}"
        lines = [
            f"{what}, {counted(len(self.dataset), kind.one)} at {self.wanted.image_size} {kind.unit}{early}",
            f"into       {self.folder}",
            f"encoder    {f.name}, {f.stem} stem, {weights:,} weights{learning}, {f.dim:,} features{scales}",
            f"batch      {training.batch_size:,} {kind.noun}, {seen:,} views{against}{pieces}",
            f"optimizer  {training.optimizer}, peak rate {lr:.3g}, weight decay {training.weight_decay:g}",
            f"length     {counted(plan.steps, 'step')}, {passes:,.1f} epochs",
            f"device     {self.device}, {training.precision}{code}, views on {place}, {processes}{threads}",
        ]
        if self.started:
            lines.append(f"resuming at step {self.started:,}")
        progress.say("\n  ".join(lines))


def prepare(
    folder: Path,
    wanted: RunConfig,
    plan: StepPlan | None,
    dataset: Any,
    device: torch.device,
    *,
    follow: bool,
    digest: str = "",
    targets: TeacherVectors | None = None,
    groups: Partners | None = None,
) -> TrainingSetup:
    """Build the method and bring it to the step at which training resumes; measure what has to be measured.

    Args:
        folder: the run folder.
        wanted: every setting, some perhaps "auto" as `run_config.MEASURED` allows.
        plan: the steps, where they are known from before.
        store: the images.
        device: this process's own.
        follow: whether a time budget is watched.
        digest: of the run, as `RunConfig.digest` gives it; a save with another one is another run's.
        targets: a teacher's vectors of the images, for a method that learns from them.
        groups: of all images, those held out too, if views are of two images of a group.

    Returns:
        What one session needs, ready to train.

    Raises:
        NearfarError: the save in the folder is another run's.
    """
    module = resolve.build_method(wanted, len(dataset)).to(device).to(memory_format=torch.channels_last)
    sharing = wanted.training.parallel == "fsdp" and distributed.world() > 1
    if wanted.training.compile == "yes" and sharing:
        raise NearfarError("--compile yes is not for --parallel fsdp; leave one of the two out.")
    if wanted.training.start_pull and sharing:
        raise NearfarError("--start-pull is not for --parallel fsdp; leave one of the two out.")
    if wanted.training.checkpoint_activations:
        models.checkpoint_activations(module)
    unplanned = StepPlan(((0, 1_000_000_000),))
    job = TrainingSetup(
        folder,
        wanted,
        dataset,
        device,
        module,
        optim.optimizer(wanted.training, module),
        plan or unplanned,
        None,
        digest,
        targets=targets,
        groups=groups,
    )
    if wanted.training.start_pull:
        share = wanted.training.batch_size // distributed.world()
        job.pull = StartPull(module.f, wanted.training.start_pull, share)
    wanted.kind.ready()
    if wanted.training.precision == "auto":
        began = time.perf_counter()
        found = gains_from_bfloat16(module, job.feed(0, "cpu"), device, noun=wanted.kind.noun)
        gains = distributed.same(found)
        job.probed += time.perf_counter() - began
        precision = "bfloat16" if gains else "float32"
        wanted = job.wanted = replace(wanted, training=replace(wanted.training, precision=precision))
    if sharing:
        job.plain = copy.deepcopy(module) if distributed.first() else None
        parallelise(module, "fsdp", wanted.training.precision)
        job.optimizer = optim.optimizer(wanted.training, module)
    if (folder / checkpoint.LAST).exists():
        tensors, facts = checkpoint.read(folder / checkpoint.LAST, run_shapes.SAVE)
        if facts.get("run") != digest:
            raise NearfarError(
                f"{folder / checkpoint.LAST} is the save of another run than config.json describes; "
                "start over with --overwrite."
            )
        try:
            checkpoint.restore(module, job.optimizer, tensors, facts["numbers"])
        except (RuntimeError, KeyError, IndexError, ValueError) as error:
            raise NearfarError(
                f"{folder / checkpoint.LAST} does not fit this run ({str(error).splitlines()[0]}); start "
                "over with --overwrite."
            ) from None
        job.started, job.spent, job.plan = facts["step"], facts["seconds"] or 0.0, StepPlan.of(facts["plan"])
    job.spent += targets.seconds if targets else 0.0
    if wanted.training.threads is None:
        wanted = job.wanted = replace(wanted, training=with_threads(wanted.training, device))
    if wanted.training.views_on == "auto":
        job.wanted = replace(wanted, training=replace(wanted.training, views_on=_faster_place(job)))
    if wanted.training.compile == "auto":
        pays = "yes" if _compiling_pays(job) else "no"
        job.wanted = replace(job.wanted, training=replace(job.wanted.training, compile=pays))
    module.f.compiled(job.wanted.training.compile == "yes")
    job.threads = training_threads(module, job.wanted.training, device)
    if (side := job.wanted.early_size) is not None:
        job.early = EarlySteps.timed(side, wanted.image_size, wanted.training.early_steps)
    if wanted.training.minutes and follow:
        job.clock = TimeBudget(60.0 * wanted.training.minutes, job.spent, early=job.early)
    if plan is None:
        job.plan = _planned(job)
    return job


def _faster_place(job: TrainingSetup) -> str:
    """Decide where views are made: by the CPU, unless a GPU makes a real batch faster."""
    if job.device.type != "cuda" or not job.wanted.kind.on_device:
        return "cpu"
    turns, began = Turns(), time.perf_counter()
    while not turns.enough and time.perf_counter() - began < SECONDS:
        turns.add(*(seconds_a_batch(job.feed(0, place), tries=1) for place in ("cpu", "device")))
        if distributed.world() > 1:
            break  # each process for itself, since the first decides
    cpu, there = (1e3 * value for value in turns.middle)
    place = str(distributed.same("device" if turns.ratio < 1.0 else "cpu"))
    progress.say(f"views on {place}: a batch takes the CPU {cpu:,.1f} ms and the device {there:,.1f} ms.")
    return place


def _compiling_pays(job: TrainingSetup) -> bool:
    """Decide whether a compiled network saves more over the run than compiling and this measurement take."""
    training = job.wanted.training
    if job.device.type != "cuda" or distributed.world() > 1:
        return False
    seconds = 60.0 * training.minutes if training.minutes else None
    steps = 0 if seconds else _planned(job).steps
    if (seconds or LONG) < LONG or (not seconds and steps < LONG_STEPS):
        return False
    net, began = job.module.f, time.perf_counter()
    try:
        net.compiled()
        _pace(job, 0.0)  # at the first call the compiler works
        code = net.__dict__["_code"]
        cost = time.perf_counter() - began
        turns = Turns()
        while len(turns.pairs) < FEWEST:
            net.compiled(False)
            plain = _pace(job, SECONDS / FEWEST / 2)
            net.__dict__["_code"] = code
            turns.add(plain, _pace(job, SECONDS / FEWEST / 2))
    except Exception:  # no compiler here, or a network it cannot take: plain torch is right too
        return False
    plain, quick = turns.middle
    pays = cost < (seconds or steps * plain) * (1.0 - turns.ratio)
    progress.say(
        f"{'compiled' if pays else 'not compiled'}: a step takes {1e3 * plain:,.1f} ms and compiled "
        f"{1e3 * quick:,.1f} ms, after {cost:.0f} s of compiling."
    )
    return pays


def _pace(job: TrainingSetup, seconds: float, early: bool = False) -> float:
    """Measure seconds a step on real data."""
    batch = job.wanted.training.batch_size
    return seconds_a_step(
        job.module,
        lambda size: job.feed(0, batch_size=size, early=early),
        batch,
        job.optimizer,
        seconds=seconds,
        **job.how,
    )


def _planned(job: TrainingSetup) -> StepPlan:
    """Turn epochs, steps or minutes into a number of steps."""
    training = job.wanted.training
    if (steps := step_count(training, len(job.dataset))) is not None:
        return StepPlan(((0, steps),))
    assert job.clock is not None
    left = distributed.same(max(1.0, SECONDS - job.probed))  # of what all measurements may take
    seconds = min(measuring(job.clock.seconds), left)
    progress.say(f"timing training steps for about {seconds:.0f} s, to plan their number")
    pace = _pace(job, seconds if job.early is None else seconds / 2)
    if job.early is not None:
        small = _pace(job, seconds / 2, early=True)
        cost = float(distributed.same(small / pace))
        size, share = job.early.size, job.early.share
        job.early = job.clock.early = EarlySteps.timed(size, job.wanted.image_size, share, cost)
    plan = StepPlan.of(distributed.same(job.clock.first_plan(pace).stretches))
    first = "" if job.early is None else f", with views of {job.early.size} px {1e3 * small:,.0f} ms"
    progress.say(f"a step takes {1e3 * pace:,.0f} ms now{first}, so {plan.steps:,} fit into the time.")
    return plan
