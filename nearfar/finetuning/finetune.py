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
from ..core.entries import entries
from ..core.errors import NearfarError, nearest
from ..data.labels import splits
from ..data.open import open_data
from ..features.extract import fingerprint
from ..training import checkpoint
from ..training.logger import locked
from ..training.run import PARTS, Run, load
from . import vectors
from .gradient_training import SCRATCH_FILE, STAGES
from .job import Job
from .outcome import Finetuned
from .session import CHECKS_FILE
from .settings import Tuning
from .task_types import OtherImagesError, Where
from .tuned import CARD, asked_of, open_result

OURS = (  # in the order in which --overwrite removes them
    checkpoint.LAST,
    "encoder.json",  # marks a run as finished
    CARD,
    PARTS,
    "encoder.safetensors",
    "evaluation.json",
    "log.jsonl",
    CHECKS_FILE,
    STAGES,
    SCRATCH_FILE,
    "rejected.csv",
    "config.json",  # last: until then the folder is known as a run's
)
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
        earlier = _earlier(folder, asked if overwrite else None)
        begun = overwrite if earlier is None else bool(earlier.get("overwrite"))
        if earlier and _same(earlier, asked, folder) and (folder / "encoder.json").exists():
            progress.say(f"the run in {folder} is finished; --overwrite trains it again.")
            return open_result(folder)
        where = Where(labels, label_level, tuning.max_bad, tuning.workers or cores(), folder)
        how = (started, tuning, where, asked, begun, device_named(tuning.device))
        try:
            return Job(folder, kind(own), *how).run(train, test, groups, earlier)
        except OtherImagesError:
            if not overwrite:
                raise
            _clear(folder)
            return Job(folder, kind(own), *how).run(train, test, groups, None)


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


def _earlier(folder: Path, replacing: dict[str, Any] | None) -> dict[str, Any] | None:
    """Find the run that the folder holds; clear it away where it is to be replaced.

    Args:
        folder: of the run.
        replacing: with --overwrite, what was asked: the same words, typed again, resume the unfinished run
            that they began.
    """
    others = [name for name in entries(folder) if name not in (*OURS, ".lock") and not name.endswith(".part")]
    config = folder / "config.json"
    if others and not config.exists():
        raise NearfarError(
            f"{folder} is not a run folder: it holds {others[0]!r}; name a new or empty folder with --out."
        )
    if not config.exists():
        if (folder / "encoder.json").exists():
            raise NearfarError(f"{folder} holds an adopted encoder; name another folder with --out.")
        return None
    earlier: dict[str, Any] = {}
    try:
        if "task" not in asked_of(folder):
            raise NearfarError(f"{folder} holds the run of a pretraining; name another folder with --out.")
        earlier = checkpoint.read_json(config)
    except NearfarError:
        if replacing is None or not {CARD, STAGES} & {item.name for item in folder.iterdir()}:
            raise  # else a damaged one is replaced too
    begun = earlier.get("overwrite") and earlier.get("asked") == replacing
    if replacing is None or (begun and not (folder / "encoder.json").exists()):
        return earlier
    _clear(folder)
    return None


def _clear(folder: Path) -> None:
    """Remove a run's files, in an order in which a kill leaves nothing that another run could take."""
    vectors.forget(folder)  # while config.json says whose they are
    for name in OURS:
        (folder / name).unlink(missing_ok=True)


def _same(earlier: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> bool:
    """Make sure that an earlier run is the one now asked for."""
    before = earlier["asked"]
    other = [name for name in {**before, **asked} if before.get(name) != asked.get(name)]
    if other:
        told = "; ".join(
            f"{name} {before.get(name)!r:.60} before and {asked.get(name)!r:.60} now" for name in other[:3]
        )
        raise NearfarError(
            f"{folder} holds another run ({told}); name another folder with --out, or start over with "
            "--overwrite."
        )
    return True
