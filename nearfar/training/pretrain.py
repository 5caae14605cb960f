"""Pretraining from start to end: images in, an encoder out, in a run folder that can be resumed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Unpack

import torch

from .. import methods
from ..core import distributed, progress
from ..core.atomic import check_folder_name
from ..core.commit import commit
from ..core.device import device_named
from ..core.errors import NearfarError
from ..core.own_mark import mark_of
from ..core.text import counted
from ..core.version import __version__
from ..data.dataset import FileDataset, ImageDataset, Subset, holdout_split
from ..data.loader import DataLoader
from ..data.modalities import IMAGES
from ..data.open import open_data
from ..data.reading import write_rejected
from ..data.source import Source
from ..features.whitening import whiten
from ..models import every_scale
from . import adapting, checkpoint, engine, grouping, inputs, known_check, resolve, threads
from .colour_choice import is_open, with_colour
from .earlier_run import clear, find_earlier, is_finished, same_run, same_teacher, teacher_digest
from .logger import RunLogger, end_by, locked, signals
from .method_choice import AUTO
from .monitor import HealthMonitor
from .options import Options
from .plan import plan_run
from .run import Run, export, is_run, load
from .setup import TrainingSetup, prepare
from .teacher import teacher_of

CHANGE = 0.2  # of the number of steps, from which on a correction is said
ShouldStop = Callable[[Mapping[str, Any], float], str]
"""Gets a line of health.jsonl and the share of the training done; gives why to stop, or an empty text."""


class Ended(Exception):
    """`should_stop` ended the run early; the text is its reason."""


def pretrain(
    data: Any,
    *,
    out: str | Path | None = None,
    method: str = "auto",
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
        method: the self-supervised method, of `nearfar.methods.METHODS`; "auto" is SimCLR, and of images with
            captions SigLIP, or CLIP from batches of 512 on.
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
        SystemExit: SIGTERM or SIGHUP, likewise; SIGUSR1 saves, and training goes on.
        Ended: `should_stop` said so.
    """
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    given = {key: value for key, value in given.items() if value is not None}
    said, method = method, inputs.method_of(method, data, like, given, recipe)
    name = Path(data).stem.replace(":", "-") if isinstance(data, (str, Path)) else type(data).__name__
    folder = Path(out) if out is not None else Path("runs") / f"{name or 'images'}-{method}"
    check_folder_name(folder)
    asked: dict[str, Any] = {"data": str(data) if isinstance(data, (str, Path)) else None}
    asked |= {"method": method, "recipe": recipe}
    asked |= {"like": None if like is None else str(like), **given}
    device = distributed.start(device_named(str(given.get("device", "auto"))))
    with distributed.named_losses(), locked(folder):
        earlier = find_earlier(folder, asked if overwrite else None)
        begun = overwrite if earlier is None else bool(earlier.get("overwrite"))
        kept = [] if overwrite and earlier is None else [folder]
        if earlier and asked["data"] and earlier["asked"] == asked and is_finished(folder, earlier):
            return load(folder)
        kind = resolve.expected_kind(given, method)
        source = open_data(data, expected=kind, labels=inputs.learns_from_labels(method, like, given))
        wanted, plan = inputs.decide_settings(source, method, recipe, like, given, device, kept)
        inputs.check_stopping(wanted)
        grouping.check_groups(wanted, len(resolve.views_of(wanted)))
        colours = None
        if is_open(wanted):
            colours = inputs.decide_colours(data, source, wanted, earlier)
            wanted = with_colour(wanted, colours["colour"])
        whole = inputs.read_images(source, wanted)
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
                earlier = None
            if is_finished(folder):
                return load(folder)
        if wanted.kind.by_method and said == AUTO:
            size = wanted.training.batch_size
            progress.say(
                f"method {method}, for images with captions and batches of {size:,}; --method simclr leaves "
                "captions out."
            )
        for note in planned.notes:
            progress.say(note)
        groups = grouping.read_groups_of(wanted, source, whole.ids)
        named = [] if groups is None else [grouping.groups_digest(groups.groups)]
        digest = wanted.digest(whole.fingerprint, teacher_digest(wanted), *named)
        reached = earlier["data"]["images"] if earlier else None
        dataset, targets = inputs.ask_teacher(wanted, source, dataset, device, reached, plan is None)
        if overwrite and earlier is None:  # only now: a mistake in what was typed costs no run
            clear(folder)
        job = prepare(
            folder,
            wanted,
            plan,
            dataset,
            device,
            follow=like is None,
            digest=digest,
            targets=targets,
            groups=groups,
        )
        asks = distributed.first() and _asks_known(job)
        how: dict[str, Any] = {
            "limit": wanted.training.max_pixels,
            "device": device,
            "threads": threads.workers(wanted),
        }
        if asks and not earlier and (there := known_check.check_known(data, **how)):
            progress.say(str(there))
        try:
            _train(job, whole, held, asked, begun, source, should_stop, colours)
        except NearfarError:
            _leave_nothing(folder)
            raise
        if asks and (beside := known_check.compare_known(data, load(folder), **how)):
            progress.say(str(beside))
        distributed.barrier()
        return load(folder)


def _asks_known(job: TrainingSetup) -> bool:
    """Say whether the known encoder is measured beside the run: of images, without labels, and long."""
    wanted = job.wanted
    labels = "labels" in methods.method(wanted.method).requires(wanted.settings)
    seen = job.plan.steps * wanted.training.batch_size
    fits = seen >= known_check.LONG and len(job.dataset) <= known_check.LARGEST
    return wanted.training.modality == IMAGES and not labels and fits


def _train(
    job: TrainingSetup,
    whole: ImageDataset | FileDataset,
    held: Subset | None,
    asked: dict[str, Any],
    overwrite: bool,
    source: Source,
    should_stop: ShouldStop | None,
    colours: dict[str, Any] | None,
) -> None:
    """Train to the end, logging and saving on the way, and write the encoder."""
    data = {"name": source.name, "images": len(job.dataset), "holdout": 0 if held is None else len(held)}
    data["fingerprint"] = whole.fingerprint
    versions = {"nearfar": __version__, "commit": commit(), "torch": torch.__version__}
    place = _place(asked.get("data"))
    config = {
        **versions,
        "asked": asked,
        "overwrite": overwrite,
        "data": {**data, "listed": len(source), "path": place, "mark": mark_of([place])},
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
        job.feed(job.started, early=True),
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
            noun=job.wanted.kind.noun,
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
    trained = job.whole()
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
        parts = {name: trained.get_submodule(name) for name in trained.keep}
        merged = adapting.merged(trained.encoder)
        encoder = every_scale.finished(merged)
        if encoder is not merged:
            progress.say("whitening the vectors")
        whiten(encoder, job.dataset, job.wanted.preprocess, seed=training.seed, device=str(job.device))
        preprocess, of_text = job.wanted.kind.towers(job.wanted.preprocess)
        tower = trained.text_tower
        text = None if tower is None else (tower, of_text)
        export(job.folder, encoder, preprocess, provenance, parts, text=text)
        progress.say(f"done: {counted(job.plan.steps, 'step')}; the encoder is in {job.folder}.")


def _leave_nothing(folder: Path) -> None:
    """Clear away what a run wrote that ended before its first figures: it would refuse what mends it."""
    with suppress(OSError):  # of a folder that has vanished
        nothing = not (folder / checkpoint.LAST).exists() and not (folder / "log.jsonl").stat().st_size
        if nothing and distributed.world() == 1:
            clear(folder)


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
        pull=job.pull,
        start=job.started,
        clock=job.clock,
        early=job.early,
        **job.how,
    )
    told = job.plan.steps
    with signals() as caught, _compiler(job.wanted.training.compile):
        for step in steps:
            if step.plan is not job.plan:
                job.plan = step.plan
                if abs(step.plan.steps - told) > CHANGE * told:
                    told = step.plan.steps
                    progress.say(
                        f"the speed has changed: {counted(told, 'step')} in total now fit into the time."
                    )
                _record(job.folder, whole, {**config, "plan": step.plan.stretches})
            if job.pull is not None and not job.pull.acts:
                raise NearfarError(
                    f"--start-pull is for methods that compare features, which {job.wanted.method} does not; "
                    "leave it out."
                )
            recorder.note(step)
            figures = watch.note(step)
            # Together, since the processes may have to bring weights together for a save.
            stop, save, due = 0, False, False
            if step.number % look == 0:
                stop, save, due = distributed.same([*caught.told(), recorder.due()])
            hopeless = step.number % look == 0 and not step.last and watch.stops()
            if step.last or stop or save or hopeless or due:
                recorder.save(step)
            if hopeless:
                raise NearfarError(
                    f"stopped at step {step.number:,} of {step.plan.steps:,}, and saved there, as "
                    f"--stop-on-collapse asks: {watch.verdict or 'the run has collapsed'}"
                )
            if stop and not step.last:
                at = f"step {step.number:,} of {step.plan.steps:,}"
                end_by(stop, f"saved at {at}; run the same command again to resume.")
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
