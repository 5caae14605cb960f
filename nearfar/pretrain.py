"""Pretraining from start to end: images in, an encoder out, and a run folder that can always go on."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from . import __version__, checkpoint, engine, kernels, methods, optim, parallel, progress, resolve
from .batches import Feed, seconds_a_batch
from .data import pack
from .data.sources import Source, open_source
from .errors import NearfarError, nearest
from .methods.base import Method
from .nets import sync_batchnorm
from .pace import Clock, Plan
from .recorder import Recorder, locked, signals
from .resolve import Wanted
from .run import Run, export, load
from .settings import Training

OURS = ("config.json", "log.jsonl", "rejected.csv", checkpoint.LAST, "encoder.safetensors", "encoder.json")


def pretrain(
    data: Any,
    *,
    out: str | Path | None = None,
    method: str = "simclr",
    recipe: str = "auto",
    like: str | Path | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> Run:
    """Learn an encoder from unlabelled images; the same call again goes on with an unfinished run.

    Args:
        data: a folder, a list of paths, an array (n, h, w, 3) of uint8, or a data set's name.
        out: the run folder; default runs/<data>-<method>.
        method: what to learn by; see `nearfar.methods.METHODS`.
        recipe: settings to start from; "auto" chooses by device and image size.
        like: a run folder whose every setting and number of steps are taken over, to repeat that run.
        overwrite: start anew in a folder that holds another run.
        **settings: any setting of `Training`, `Views` or the method, by name.

    Returns:
        The finished run.

    Raises:
        NearfarError: something the user can mend; what was saved is intact.
        KeyboardInterrupt: Ctrl-C; the run was saved, and goes on when called again.
    """
    if method not in methods.METHODS:
        raise NearfarError(f"There is no method {method!r}; {nearest(method, methods.METHODS)}")
    name = Path(data).stem.replace(":", "-") if isinstance(data, (str, Path)) else type(data).__name__
    folder = Path(out) if out is not None else Path("runs") / f"{name or 'images'}-{method}"
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    given = {key: value for key, value in given.items() if value is not None}
    asked: dict[str, Any] = {"data": str(data) if isinstance(data, (str, Path)) else None}
    asked |= {"method": method, "recipe": recipe}
    asked |= {"like": None if like is None else str(like), **given}
    device = parallel.start(resolve.device_named(str(given.get("device", "auto"))))
    with locked(folder):
        earlier = _earlier(folder, overwrite)
        if earlier and asked["data"] and earlier["asked"] == asked and _finished(folder):
            return load(folder)
        source = open_source(data, labels=_needs_labels(method, like))
        wanted, plan = _wanted(source, method, recipe, like, given, device)
        store = _store(source, wanted)
        wanted, notes = resolve.fitted(resolve.with_classes(wanted, len(store.classes)), len(store))
        if earlier:
            wanted, plan = _same(earlier, wanted, store.fingerprint, len(store), folder)
            if _finished(folder):
                return load(folder)
        for note in notes:
            progress.say(note)
        _train(_prepare(folder, wanted, plan, store, device, follow=like is None), asked, source.name)
        parallel.barrier()
        return load(folder)


@dataclass
class _Job:
    """All that one sitting of training needs."""

    folder: Path
    wanted: Wanted
    store: Any
    device: torch.device
    module: Method
    optimizer: torch.optim.Optimizer
    plan: Plan
    clock: Clock | None
    started: int = 0
    spent: float = 0.0

    @property
    def how(self) -> dict[str, Any]:
        """What the engine must know of the arithmetic."""
        chunk = self.wanted.training.chunk
        share = chunk and max(1, chunk // parallel.world())
        labels = torch.from_numpy(self.store.labels) if "labels" in self.module.needs else None
        precision = self.wanted.training.precision
        return {"device": self.device, "precision": precision, "chunk": share, "labels": labels}

    def feed(self, start: int, views_on: str | None = None) -> Feed:
        """Open the feed at a step; `views_on` overrides the setting."""
        training = self.wanted.training
        there = (views_on or training.views_on) == "device"
        return Feed(
            self.store,
            self.module.views(self.wanted.views),
            size=self.wanted.size,
            batch=training.batch,
            seed=training.seed,
            start=start,
            threads=_threads(self.wanted),
            dtype=views_dtype(self.device, training.precision),
            rank=parallel.rank(),
            world=parallel.world(),
            pin=self.device.type == "cuda" and not there,
            device=self.device if there else None,
        )


def _prepare(
    folder: Path, wanted: Wanted, plan: Plan | None, store: Any, device: torch.device, *, follow: bool
) -> _Job:
    """Build the method and bring it to where training goes on; measure what has to be measured."""
    module = resolve.build_method(wanted).to(device).to(memory_format=torch.channels_last)
    if parallel.world() > 1:
        sync_batchnorm(module)
    if wanted.training.precision == "auto":
        gains = parallel.same(
            engine.gains_from_bfloat16(module, wanted.size, len(module.views(wanted.views)), device)
        )
        precision = "bfloat16" if gains else "float32"
        wanted = replace(wanted, training=replace(wanted.training, precision=precision))
    unplanned = Plan(((0, 1),))
    job = _Job(
        folder,
        wanted,
        store,
        device,
        module,
        optim.optimizer(wanted.training, module),
        plan or unplanned,
        None,
    )
    if (folder / checkpoint.LAST).exists():
        tensors, facts = checkpoint.read(folder / checkpoint.LAST)
        checkpoint.restore(module, job.optimizer, tensors, facts["numbers"])
        job.started, job.spent, job.plan = facts["step"], facts["seconds"] or 0.0, Plan.of(facts["plan"])
    kernels.ready()
    if wanted.training.views_on == "auto":
        job.wanted = replace(wanted, training=replace(wanted.training, views_on=_faster_place(job)))
    if wanted.training.minutes and follow:
        job.clock = Clock(60.0 * wanted.training.minutes, job.spent)
    if plan is None:
        job.plan = _planned(job)
    return job


def _faster_place(job: _Job) -> str:
    """Decide where views are made: by the CPU, unless a GPU makes a real batch faster."""
    if job.device.type != "cuda":
        return "cpu"
    seconds = {place: seconds_a_batch(job.feed(0, place)) for place in ("cpu", "device")}
    return str(parallel.same("device" if seconds["device"] < seconds["cpu"] else "cpu"))


def _planned(job: _Job) -> Plan:
    """Turn epochs, steps or minutes into a number of steps."""
    training = job.wanted.training
    if training.steps is not None:
        return Plan(((0, training.steps),))
    if training.epochs is not None:
        return Plan(((0, max(1, round(training.epochs * (len(job.store) // training.batch)))),))
    assert job.clock is not None
    feed = job.feed(0)
    try:
        seconds = min(8.0, 0.02 * job.clock.seconds)
        pace = engine.seconds_a_step(job.module, feed, job.optimizer, seconds=seconds, **job.how)
    finally:
        feed.close()
    return Plan.of(parallel.same(job.clock.first_plan(pace).stretches))


def _train(job: _Job, asked: dict[str, Any], name: str) -> None:
    """Train to the end, logging and saving on the way, and write the encoder."""
    data = {"name": name, "images": len(job.store), "fingerprint": job.store.fingerprint}
    versions = {"nearfar": __version__, "torch": torch.__version__}
    config = {**versions, "asked": asked, "data": data, **job.wanted.to_json(), "plan": job.plan.stretches}
    _record(job, config)
    _announce(job)
    feed, recorder = (
        job.feed(job.started),
        Recorder(
            job.folder,
            job.module,
            job.optimizer,
            job.wanted.training,
            images=len(job.store),
            plan=job.plan,
            started=job.started,
            seconds=job.spent,
            timed=job.clock is not None,
        ),
    )
    try:
        if job.started < job.plan.steps:
            _steps(job, feed, recorder, config)
    finally:
        feed.close()
        recorder.close()
    if parallel.first():
        training = job.wanted.training
        provenance = {
            "nearfar": __version__,
            "method": job.wanted.method,
            "recipe": job.wanted.recipe,
            "data": data,
            "steps": job.plan.steps,
            "batch": training.batch,
            "seed": training.seed,
            "weights": training.weights,
        }
        pack.write_rejected(job.folder / "rejected.csv", job.store.rejected)
        export(job.folder, job.module.f, job.wanted.preprocess, provenance)
        progress.say(f"Done: {job.plan.steps:,} steps. The encoder is in {job.folder}.")


def _steps(job: _Job, feed: Feed, recorder: Recorder, config: dict[str, Any]) -> None:
    """Run the loop; save now and then, at its end, and when asked to stop."""
    look = 1 if parallel.world() == 1 else 10  # processes agree to stop every so many steps
    steps = engine.train(
        job.module,
        feed,
        job.optimizer,
        plan=job.plan,
        rate=job.wanted.rate,
        warmup=job.wanted.training.warmup,
        start=job.started,
        clock=job.clock,
        **job.how,
    )
    with signals() as caught:
        for step in steps:
            if step.plan is not job.plan:
                job.plan = step.plan
                progress.say(f"The pace has changed: {step.plan.steps:,} steps in all now fit the time.")
                _record(job, {**config, "plan": step.plan.stretches})
            recorder.note(step)
            stop = parallel.same(caught[0] if caught else 0) if step.number % look == 0 else 0
            if step.last or stop or recorder.due():
                recorder.save(step)
            if stop and not step.last:
                at = f"step {step.number:,} of {step.plan.steps:,}"
                progress.say(f"Saved at {at}; the same command goes on from there.")
                if stop == signal.SIGTERM:
                    sys.exit(143)
                raise KeyboardInterrupt


def _record(job: _Job, config: dict[str, Any]) -> None:
    """Write what the run is, and which images it does without."""
    if parallel.first():
        pack.write_rejected(job.folder / "rejected.csv", job.store.rejected)
        checkpoint.write_json(job.folder / "config.json", config)


def _earlier(folder: Path, overwrite: bool) -> dict[str, Any] | None:
    """Find the run that the folder already holds; with `overwrite`, clear it away."""
    if parallel.first():
        for item in folder.glob("*.part"):  # what a kill cut short
            if item.name.startswith(OURS):
                item.unlink()
    parallel.barrier()
    strange = [item.name for item in folder.iterdir() if item.name not in (*OURS, ".lock", "tensorboard")]
    if strange and not (folder / "config.json").exists():
        raise NearfarError(
            f"{folder} is no run folder, and holds {strange[0]!r}; name a new or empty folder with --out."
        )
    if overwrite and parallel.first():
        for name in OURS:
            (folder / name).unlink(missing_ok=True)
    parallel.barrier()
    return checkpoint.read_json(folder / "config.json") if (folder / "config.json").exists() else None


def _finished(folder: Path) -> bool:
    """Tell whether a run has come to its end, and say so."""
    finished = (folder / "encoder.json").exists()
    if finished:
        progress.say(f"The run in {folder} is finished; nothing to do (--overwrite trains it anew).")
    return finished


def _needs_labels(method: str, like: str | Path | None) -> bool:
    """Tell whether the method, or that of the run to repeat, learns from labels."""
    if like is not None:
        method = checkpoint.read_json(Path(like) / "config.json")["method"]
    return "labels" in methods.method(method).needs


def _wanted(
    source: Source,
    method: str,
    recipe: str,
    like: str | Path | None,
    given: dict[str, Any],
    device: torch.device,
) -> tuple[Wanted, Plan | None]:
    """Decide every setting: from another run's folder, or from the recipe and what was asked."""
    if like is None:
        side = resolve.usual_side(source, given.get("max_pixels", Training.max_pixels))
        return resolve.resolve(method, recipe, given, side=side, device=device), None
    extra = [name for name in given if name not in resolve.HARMLESS]
    if extra:
        flag = extra[0].replace("_", "-")
        raise NearfarError(f"--like takes every setting from {like}; leave --{flag} out.")
    config = checkpoint.read_json(Path(like) / "config.json")
    return Wanted.from_json(config, f"{Path(like) / 'config.json'}: "), Plan.of(config["plan"])


def _same(
    earlier: dict[str, Any], wanted: Wanted, fingerprint: str, images: int, folder: Path
) -> tuple[Wanted, Plan]:
    """Make sure that an earlier run is the one now asked for, and take over what it measured."""
    old = Wanted.from_json(earlier, f"{folder / 'config.json'}: ")
    for name in ("precision", "views_on"):
        if getattr(wanted.training, name) == "auto":
            measured = {name: getattr(old.training, name)}
            wanted = replace(wanted, training=replace(wanted.training, **measured))
    found = old.differences(wanted)
    if earlier["data"]["fingerprint"] != fingerprint:
        found.append(f"the images are others, {earlier['data']['images']:,} before and {images:,} now")
    if found:
        raise NearfarError(
            f"{folder} holds a run with other settings ({'; '.join(found)}); "
            "name another folder with --out, or start anew with --overwrite."
        )
    return wanted, Plan.of(earlier["plan"])


def _store(source: Source, wanted: Wanted) -> Any:
    """Read the images; under torchrun one process packs first, and the others find the pack."""
    if not parallel.first():
        parallel.barrier()
    store = pack.load(
        source,
        short_side=wanted.short_side,
        max_pixels=wanted.training.max_pixels,
        max_bad=wanted.training.max_bad,
        threads=_threads(wanted),
        pack=wanted.training.pack,
    )
    if parallel.first():
        parallel.barrier()
        if store.rejected:
            progress.say(f"{len(store.rejected):,} unusable images are set aside; rejected.csv names each.")
    return store


def views_dtype(device: torch.device, precision: str) -> torch.dtype:
    """Choose the type in which views travel to the network.

    Args:
        device: where the network is.
        precision: of the network.

    Returns:
        bfloat16 to halve the way to a GPU; float32 on a CPU, where the network's own threads convert
        faster than the feed's, which would fight them for the cores.
    """
    return torch.bfloat16 if device.type == "cuda" and precision == "bfloat16" else torch.float32


def _threads(wanted: Wanted) -> int:
    """Count the threads that read images and make views."""
    return wanted.training.threads or os.cpu_count() or 1


def _announce(job: _Job) -> None:
    """Print the effective values before the first step."""
    training, plan, f = job.wanted.training, job.plan, job.module.f
    seen = len(job.module.views(job.wanted.views)) * training.batch
    weights = sum(weight.numel() for weight in f.parameters())
    pieces = f", in chunks of {training.chunk:,}" if training.chunk else ""
    place = job.device.type if training.views_on == "device" else "cpu"
    lines = [
        f"{job.wanted.method}, recipe {job.wanted.recipe}, {len(job.store):,} images at {job.wanted.size} px",
        f"into       {job.folder}",
        f"encoder    {f.name}, {f.stem} stem, {weights:,} weights, {f.dim} features",
        f"batch      {training.batch:,} images, {seen:,} views, {seen - 2:,} negatives for each{pieces}",
        f"optimizer  {training.optimizer}, peak rate {job.wanted.rate:.3g}, weight decay {training.decay:g}",
        f"length     {plan.steps:,} steps, {plan.steps * training.batch / len(job.store):,.1f} epochs",
        f"device     {job.device}, {training.precision}, views on {place}, {parallel.world()} process(es)",
    ]
    if job.started:
        lines.append(f"going on from step {job.started:,}")
    progress.say("\n  ".join(lines))
