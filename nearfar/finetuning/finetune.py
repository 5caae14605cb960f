"""`nearfar finetune`: from an encoder and labelled images to a run that predicts; it resumes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .. import finetuning as tasks
from ..core import progress
from ..core.atomic import check_folder_name, check_place
from ..core.config import build, settings_of, to_json
from ..core.device import cores, device_named
from ..core.errors import NearfarError, nearest
from ..data.labels import splits
from ..data.open import open_data
from ..features.extract import fingerprint
from ..training.logger import locked
from ..training.run import Run, load
from .earlier_run import find_earlier, same_run
from .job import Job
from .outcome import Finetuned
from .settings import Tuning
from .task_types import Where
from .tuned import open_result

MAY_CHANGE = ("device", "workers", "save_minutes")


def finetune(
    run: Run | str | Path,
    *,
    train: Any,
    test: Any = None,
    out: str | Path,
    task: str = "classify",
    labels: str | Path | None = None,
    label_level: int | None = None,
    groups: str | Path | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> Finetuned:
    """Train on classes, masks or boxes of images. Run the same command again to resume an unfinished run.

    Example: nearfar finetune runs/a --train labelled/train --test labelled/test --out runs/c

    Args:
        run: the encoder to start from: a run's folder, or a known encoder such as timm:resnet18.
        train: labelled images; without --test, a folder may hold train and test.
        test: labelled images, read once, at the end.
        out: the folder of the new run.
        task: what is learnt; classify, segment, detect or reidentify.
        labels: where all labels are, if not beside the images: a list with the columns path and label; of
            other tasks a folder of masks or of label files, a COCO file, or a list with path and identity.
        label_level: which folder on the way to an image names its class: 1 the first, -1 the innermost.
        groups: a .csv of images and their groups, such as patients; a group stays on one side.
        overwrite: replace the run that is in the folder; typed again after an interruption, resume the new
            one.
        **settings: any setting of `Tuning` or the task, by name.

    Returns:
        The figures and the verdict; the run is in the folder.

    Raises:
        NearfarError: something the user can fix; what was saved is intact.
        KeyboardInterrupt: Ctrl-C; the run resumes when called again.
    """
    kind = tasks.task_class(task)
    tuning, own = _settings(task, settings)
    folder = Path(out)
    check_folder_name(folder)
    check_place(folder / "config.json")  # before weights are fetched
    started = load(run)
    side = started.preprocess.modality
    if kind.modalities is not None and side not in kind.modalities:
        raise NearfarError(
            f"--task {task} is for {' or '.join(kind.modalities)}, and {started.name} for {side}."
        )
    train, test = _parts(train, test)
    for data in (train, test):  # before the folder is made, which would else stand among what is there
        if isinstance(data, str) and not Path(data).exists():
            open_data(data, expected=side)
    asked = _asked(started, train, test, task, labels, label_level, groups, tuning, own)
    with locked(folder):
        earlier = find_earlier(folder, asked if overwrite else None)
        if earlier and same_run(earlier, asked, folder) and (folder / "encoder.json").exists():
            progress.say(f"the run in {folder} is finished; --overwrite trains it again.")
            return open_result(folder)
        where = Where(labels, label_level, tuning.max_bad, tuning.workers or cores(), folder)
        job = Job(folder, kind(own), started, tuning, where, asked, overwrite, device_named(tuning.device))
        return job.run(train, test, groups, earlier)


def _settings(task: str, given: Mapping[str, Any]) -> tuple[Tuning, Any]:
    """Sort settings into those of every task and those of this one."""
    own = tasks.task_settings(task)
    shared = {item.name for item in settings_of(Tuning)}
    theirs = {item.name for item in settings_of(own)}
    plain = {name: value for name, value in given.items() if value is not None}
    for name in plain:
        if name not in shared | theirs:
            raise NearfarError(f"there is no setting {name!r} of {task}; {nearest(name, shared | theirs)}")
    return (
        build(Tuning, {name: value for name, value in plain.items() if name in shared}),
        build(own, {name: value for name, value in plain.items() if name in theirs}),
    )


def _parts(train: Any, test: Any) -> tuple[Any, Any]:
    """Take train and test of one folder, if it holds them."""
    if test is None and isinstance(train, (str, Path)) and Path(train).is_dir():
        with suppress(NearfarError):
            train, test = splits(train)
            progress.say(f"training on {train}, testing on {test}")
    return train, test


def _asked(
    run: Run,
    train: Any,
    test: Any,
    task: str,
    labels: Any,
    label_level: int | None,
    groups: Any,
    tuning: Tuning,
    own: Any,
) -> dict[str, Any]:
    """Gather what decides a run, in plain values."""
    words = {"train": train, "test": test, "labels": labels, "groups": groups}
    named = {name: str(value) if isinstance(value, (str, Path)) else None for name, value in words.items()}
    plain = {name: value for name, value in to_json(tuning).items() if name not in MAY_CHANGE}
    start = {"run": run.name, "start": fingerprint(run.encoder), "preprocess": to_json(run.preprocess)}
    return {**start, **named, "label_level": label_level, "task": task, **plain, **to_json(own)}
