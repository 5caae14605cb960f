"""Pretraining from start to end: images in, an encoder out, in a run folder that can be resumed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch

from .. import methods, models
from ..core import distributed, progress
from ..core.commit import commit
from ..core.device import device_named
from ..core.errors import NearfarError, nearest
from ..core.version import __version__
from ..data.dataset import Dataset, FileDataset, ImageDataset, Subset, holdout_split
from ..data.loader import DataLoader
from ..data.modality import open_data
from ..data.reading import write_rejected
from ..data.source import Source
from . import adapting, checkpoint, engine, resolve, run_shapes
from .colour_choice import choose_colour, is_open, with_colour
from .earlier_run import clear, find_earlier, is_finished, same_run, same_teacher, teacher_digest
from .logger import RunLogger, locked, signals
from .monitor import HealthMonitor
from .options import Options
from .plan import plan_run
from .resolve import RunConfig
from .run import Run, export, is_run, load
from .schedule import StepPlan
from .settings import Training
from .setup import TrainingSetup, prepare, workers
from .targets import TeacherVectors, teacher_vectors
from .teacher import teacher_of

TEACHER_SHARE = 0.5  # of the time that a teacher may take to see the images
CHANGE = 0.2  # of the number of steps, from which on a correction is said
ShouldStop = Callable[[Mapping[str, Any], float], str]
"""Gets a line of health.jsonl and the share of the training done; gives why to stop, or an empty text."""


class Ended(Exception):
    """`should_stop` ended the run early; the text is its reason."""


def pretrain(
    data: Any,
    *,
    out: str | Path | None = None,
    method: str = "simclr",
    recipe: str = "auto",
    like: str | Path | None = None,
    overwrite: bool = False,
    should_stop: ShouldStop | None = None,
    **settings: Unpack[Options],
) -> Run:
    """Learn an encoder from unlabelled images. Run the same command again to resume an unfinished run.

    Example: nearfar pretrain photos/ --out runs/a --minutes 10

    Args:
        data: a folder, a list of paths, an array (n, h, w, 3), or a data set's name.
        out: the run's folder; runs/DATA-METHOD if not given.
        method: the self-supervised method; see `nearfar.methods.METHODS`.
        recipe: settings to start from; "auto" chooses by device and image size.
        like: a run to repeat: its settings and its number of steps.
        overwrite: replace the run that is in the folder; typed again after an interruption, resume the new
            run.
        should_stop: is called after each health check, to end the run there; see `ShouldStop`.
        **settings: any setting of `Training`, `Views` or the method, by name.

    Returns:
        The finished run.

    Raises:
        NearfarError: something the user can fix; what was saved is intact.
        KeyboardInterrupt: Ctrl-C; the run was saved, and resumes when called again.
        SystemExit: SIGTERM or SIGHUP, likewise.
        Ended: `should_stop` said so.
    """
    if method not in methods.METHODS:
        raise NearfarError(f"there is no method {method!r}; {nearest(method, methods.METHODS)}")
    name = Path(data).stem.replace(":", "-") if isinstance(data, (str, Path)) else type(data).__name__
    folder = Path(out) if out is not None else Path("runs") / f"{name or 'images'}-{method}"
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    given = {key: value for key, value in given.items() if value is not None}
    asked: dict[str, Any] = {"data": str(data) if isinstance(data, (str, Path)) else None}
    asked |= {"method": method, "recipe": recipe}
    asked |= {"like": None if like is None else str(like), **given}
    device = distributed.start(device_named(str(given.get("device", "auto"))))
    with locked(folder):
        earlier = find_earlier(folder, asked if overwrite else None)
        begun = overwrite if earlier is None else bool(earlier.get("overwrite"))
        if earlier and asked["data"] and earlier["asked"] == asked and is_finished(folder):
            return load(folder)
        kind = resolve.expected_kind(given)
        source = open_data(data, expected=kind, labels=_needs_labels(method, like, given))
        wanted, plan = _wanted(source, method, recipe, like, given, device, folder)
        colours = None
        if is_open(wanted):
            colours = _colours(data, source, wanted, earlier)
            wanted = with_colour(wanted, colours["colour"])
        whole = _read(source, wanted)
        dataset, held = holdout_split(whole, wanted.training.holdout, wanted.training.seed)
        planned = plan_run(wanted, len(whole), len(whole.classes))
        wanted = planned.config
        if earlier:
            try:
                known = same_run(earlier, wanted, whole.fingerprint, len(dataset), folder)
                same_teacher(earlier, wanted, folder)
                wanted, plan = known
            except NearfarError:
                if not overwrite:
                    raise
                clear(folder)
                earlier = None
            if is_finished(folder):
                return load(folder)
        for note in planned.notes:
            progress.say(note)
        digest = wanted.digest(whole.fingerprint, teacher_digest(wanted))
        reached = earlier["data"]["images"] if earlier else None
        dataset, targets = _asked_teacher(wanted, source, dataset, device, reached, plan is None)
        job = prepare(
            folder, wanted, plan, dataset, device, follow=like is None, digest=digest, targets=targets
        )
        _train(job, whole, held, asked, begun, source.name, should_stop, colours)
        distributed.barrier()
        return load(folder)


def _train(
    job: TrainingSetup,
    whole: ImageDataset | FileDataset,
    held: Subset | None,
    asked: dict[str, Any],
    overwrite: bool,
    name: str,
    should_stop: ShouldStop | None,
    colours: dict[str, Any] | None,
) -> None:
    """Train to the end, logging and saving on the way, and write the encoder."""
    data = {"name": name, "images": len(job.dataset), "holdout": 0 if held is None else len(held)}
    data["fingerprint"] = whole.fingerprint
    versions = {"nearfar": __version__, "commit": commit(), "torch": torch.__version__}
    config = {
        **versions,
        "asked": asked,
        "overwrite": overwrite,
        "data": {**data, "path": _place(asked.get("data"))},
        **job.wanted.to_json(),
        "plan": job.plan.stretches,
        "colours": colours,
    }
    config["teacher"] = teacher_digest(job.wanted)
    if distributed.first():
        job.wanted.kind.write_files(job.folder, job.wanted.preprocess)
    _record(job.folder, whole, config)
    job.announce()
    feed, recorder = (
        job.feed(job.started),
        RunLogger(
            job.folder,
            job.module,
            job.optimizer,
            job.wanted.training,
            images=len(job.dataset),
            plan=job.plan,
            started=job.started,
            seconds=job.spent,
            timed=job.clock is not None,
            digest=job.digest,
        ),
    )
    watch = HealthMonitor(job, held, should_stop is not None)
    try:
        if job.started < job.plan.steps:
            _steps(job, whole, feed, recorder, watch, config, should_stop)
    finally:
        feed.close()
        watch.close()
        recorder.close()
    if distributed.first():
        training = job.wanted.training
        provenance = {
            "nearfar": __version__,
            "method": job.wanted.method,
            "recipe": job.wanted.recipe,
            "data": data,
            "steps": job.plan.steps,
            "batch_size": training.batch_size,
            "seed": training.seed,
            "weights": training.weights,
        }
        if colours and colours["classes"]:
            provenance["labels"] = f"{colours['images']} told whether views keep colours"
        if training.weights and is_run(training.weights):
            provenance["licence"] = load(training.weights).facts()["licence"]
        if teacher := teacher_of(methods.method(job.wanted.method), job.wanted.settings):
            provenance["teacher"] = teacher.facts()
        write_rejected(job.folder / "rejected.csv", whole.rejected)
        parts = {name: job.module.get_submodule(name) for name in job.module.keep}
        encoder = models.finished(adapting.merged(job.module.encoder))
        export(job.folder, encoder, job.wanted.preprocess, provenance, parts)
        progress.say(f"done: {job.plan.steps:,} steps; the encoder is in {job.folder}.")


def _colours(data: Any, source: Source, wanted: RunConfig, earlier: dict[str, Any] | None) -> dict[str, Any]:
    """Say what becomes of colours, as the earlier run in the folder found it, else by the images."""
    if earlier and earlier.get("colours"):
        found: dict[str, Any] = earlier["colours"]
        return found
    limit, threads = wanted.training.max_pixels, workers(wanted)
    choice = choose_colour(data, source, limit=limit, threads=threads)
    progress.say(str(choice))
    told: dict[str, Any] = distributed.same(choice.to_json())
    return told


def _place(data: str | None) -> str | None:
    """Say where the images are, whatever folder a later command is run in; other sources stay as typed."""
    return os.path.abspath(data) if data and os.path.exists(data) else data


def _steps(
    job: TrainingSetup,
    whole: ImageDataset | FileDataset,
    feed: DataLoader,
    recorder: RunLogger,
    watch: HealthMonitor,
    config: dict[str, Any],
    should_stop: ShouldStop | None,
) -> None:
    """Run the loop; save now and then, at its end, and when asked to stop."""
    look = 1 if distributed.world() == 1 else 10  # processes agree to stop every so many steps
    steps = engine.train(
        job.module,
        feed,
        job.optimizer,
        plan=job.plan,
        lr=job.wanted.lr,
        warmup=job.wanted.training.warmup,
        head_warmup=job.wanted.training.head_warmup,
        start=job.started,
        clock=job.clock,
        **job.how,
    )
    told = job.plan.steps
    with signals() as caught, _compiler(job.wanted.training.compile):
        for step in steps:
            if step.plan is not job.plan:
                job.plan = step.plan
                if abs(step.plan.steps - told) > CHANGE * told:
                    told = step.plan.steps
                    progress.say(f"the speed has changed: {told:,} steps in total now fit into the time.")
                _record(job.folder, whole, {**config, "plan": step.plan.stretches})
            recorder.note(step)
            figures = watch.note(step)
            stop = distributed.same(caught[0] if caught else 0) if step.number % look == 0 else 0
            hopeless = step.number % look == 0 and not step.last and watch.stops()
            if step.last or stop or hopeless or recorder.due():
                recorder.save(step)
            if hopeless:
                raise NearfarError(
                    f"stopped at step {step.number:,} of {step.plan.steps:,}, and saved there, as "
                    f"--stop-on-collapse asks: {watch.verdict or 'the run has collapsed'}"
                )
            if stop and not step.last:
                at = f"step {step.number:,} of {step.plan.steps:,}"
                progress.say(f"saved at {at}; run the same command again to resume.")
                if stop != signal.SIGINT:
                    sys.exit(128 + stop)
                raise KeyboardInterrupt
            done = step.plan.progress(step.number)
            if should_stop and figures and not step.last and (reason := should_stop(figures, done)):
                raise Ended(reason)


@contextmanager
def _compiler(setting: str) -> Iterator[None]:
    """Turn the failure of a compiler that was asked for into one sentence."""
    try:
        yield
    except Exception as error:
        if setting != "yes" or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = (str(error).splitlines() or [""])[0]
        raise NearfarError(f"the network cannot be compiled here ({reason}); set --compile no.") from error


def _record(folder: Path, whole: ImageDataset | FileDataset, config: dict[str, Any]) -> None:
    """Write config.json and rejected.csv."""
    if distributed.first():
        write_rejected(folder / "rejected.csv", whole.rejected)
        checkpoint.write_json(folder / "config.json", config)


def _needs_labels(method: str, like: str | Path | None, given: dict[str, Any]) -> bool:
    """Tell whether the method, or that of the run to repeat, learns from labels."""
    if like is not None:
        config = checkpoint.read_json(Path(like) / "config.json", run_shapes.CONFIG)
        method, given = config["method"], config["settings"]
    return resolve.needs_labels(method, given)


def _wanted(
    source: Source,
    method: str,
    recipe: str,
    like: str | Path | None,
    given: dict[str, Any],
    device: torch.device,
    folder: Path,
) -> tuple[RunConfig, StepPlan | None]:
    """Decide every setting: from another run's folder, or from the recipe and what was asked."""
    if like is None:
        side = resolve.usual_side(source, given.get("max_pixels", Training.max_pixels))
        kind = source.modality
        span = resolve.usual_range(source, given)
        asked = resolve.decided(source, given, [folder])
        return resolve.resolve(
            method, recipe, asked, side=side, device=device, kind=kind, value_range=span
        ), None
    extra = [name for name in given if name not in (*resolve.MAY_CHANGE, "modality")]
    if extra:
        flag = extra[0].replace("_", "-")
        raise NearfarError(f"--like takes every setting from {like}; leave --{flag} out.")
    config = checkpoint.read_json(Path(like) / "config.json", run_shapes.CONFIG)
    wanted = RunConfig.from_json(config, f"{Path(like) / 'config.json'}: ")
    if wanted.modality != source.modality:
        raise NearfarError(
            f"{like} was trained on {wanted.modality}, and {source.name} holds {source.modality}; "
            "leave --like out."
        )
    wanted.kind.read_files(Path(like), wanted.preprocess)
    return wanted, StepPlan.of(config["plan"])


def _asked_teacher(
    wanted: RunConfig,
    source: Source,
    dataset: Dataset,
    device: torch.device,
    reached: int | None,
    planning: bool,
) -> tuple[Dataset, TeacherVectors | None]:
    """Get a teacher's vectors of the images, if the method learns from them; give the images that have one.

    `reached` is how many an earlier session had; a new run with --minutes asks for half of them at most.
    """
    cls = methods.method(wanted.method)
    if "targets" not in cls.requires(wanted.settings):
        return dataset, None
    teacher, training = teacher_of(cls, wanted.settings), wanted.training
    assert teacher is not None
    minutes = training.minutes if planning else None
    found = teacher_vectors(
        teacher,
        source,
        dataset.ids,
        device=device,
        threads=workers(wanted),
        limit=training.max_pixels,
        precision=training.precision,
        seconds=None if minutes is None else TEACHER_SHARE * 60 * minutes,
        least=2 * training.batch_size,
    )
    rows = np.flatnonzero(found.places >= 0)
    rows = np.sort(rows[np.argsort(found.places[rows])[: reached or len(rows)]])
    if len(rows) == len(dataset):
        return dataset, found
    if not reached:
        name = str(wanted.settings.teacher).partition("@")[0]
        progress.say(
            f"the teacher has seen {len(rows):,} of {len(dataset):,} images in half of the time, and these "
            f"are trained on; a smaller side is faster, such as --teacher {name}@96"
        )
    return Subset(dataset, rows), replace(found, places=found.places[rows])


def _read(source: Source, wanted: RunConfig) -> ImageDataset | FileDataset:
    """Read the images; under torchrun one process decodes first, and the others find what it kept."""
    with distributed.first_goes_ahead("reads the images"):
        dataset = wanted.kind.load(
            source,
            wanted.preprocess,
            limit=wanted.training.max_pixels,
            max_bad=wanted.training.max_bad,
            threads=workers(wanted),
            decode_once=wanted.training.cache,
            short_side=wanted.training.short_side,
        )
    if distributed.first() and dataset.rejected:
        progress.say(f"{len(dataset.rejected):,} unusable images are skipped; rejected.csv lists them.")
    return dataset
