"""The run that a folder already holds: found, cleared away, or shown to be the one that is asked for."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import methods
from ..core import distributed, progress
from ..core.config import flag_of
from ..core.entries import entries
from ..core.errors import NearfarError
from ..core.text import counted
from ..data.modalities import modality
from ..data.open import open_data
from . import checkpoint, resolve, run_shapes
from .run import PARTS, TEXT
from .run_config import MEASURED, RunConfig
from .schedule import StepPlan
from .teacher import teacher_of

OURS = (  # in the order in which --overwrite removes them
    checkpoint.LAST,  # first: no kill may leave it to another run
    "encoder.json",  # marks a run as finished
    PARTS,
    "encoder.safetensors",
    "evaluation.json",
    "log.jsonl",
    "health.jsonl",
    "rejected.csv",
    "tokenizer.json",
    *(f"{TEXT}/{name}" for name in ("encoder.json", "encoder.safetensors", "tokenizer.json")),
    "config.json",  # last: until then the folder is known as a run's
)


def find_earlier(folder: Path, replacing: dict[str, Any] | None) -> dict[str, Any] | None:
    """Find the run that the folder already holds.

    Args:
        folder: where the run is to be.
        replacing: with --overwrite, what was asked: a run is then to be cleared away, unless the same words
            began it and it is unfinished, for then it is the one to resume.

    Returns:
        Its config.json; None where there is no run to go on with.

    Raises:
        NearfarError: the folder holds something else, a damaged config.json, or what the new run needs.
    """
    if distributed.first():
        for item in folder.glob("*.part"):  # what a kill cut short
            if item.name.startswith(OURS):
                item.unlink()
    distributed.barrier()
    others = [
        name
        for name in entries(folder)
        if name not in (*OURS, checkpoint.SHARED, TEXT, ".lock", "tensorboard")
    ]
    if others and not (folder / "config.json").exists():
        raise NearfarError(
            f"{folder} is not a run folder: it holds {others[0]!r}; name a new or empty folder with --out."
        )
    if {"task.json", "stages.json"} & {*others}:
        raise NearfarError(f"{folder} holds a run of nearfar finetune; name another folder with --out.")
    if replacing is None:
        config = folder / "config.json"
        return checkpoint.read_json(config, run_shapes.CONFIG) if config.exists() else None
    earlier: dict[str, Any] = {}
    if not (folder / "encoder.json").exists():
        with suppress(NearfarError):  # a damaged one is replaced too
            earlier = checkpoint.read_json(folder / "config.json", run_shapes.CONFIG)
    if earlier.get("overwrite") and earlier.get("asked") == replacing:
        return earlier
    ours = {folder.resolve(), *((folder / name).resolve() for name in OURS)}
    for name in ("weights", "teacher", "text_encoder"):  # which are read when the run is gone
        if (value := replacing.get(name)) and Path(value).resolve() in ours:
            raise NearfarError(
                f"{flag_of(name)} {value} is of the run that --overwrite takes away; name another folder "
                "with --out."
            )
    return None


def clear(folder: Path) -> None:
    """Remove a run's files, in an order in which a kill leaves nothing that another run could take."""
    distributed.barrier()  # all have seen what is there
    if distributed.first():
        for name in OURS:
            (folder / name).unlink(missing_ok=True)
        checkpoint.remove_shares(folder)
    distributed.barrier()


def is_finished(folder: Path, earlier: dict[str, Any] | None = None) -> bool:
    """Tell whether a run has come to its end, and say so.

    Args:
        folder: the run's.
        earlier: its config.json, to say whether the folder it was trained on holds more by now, or less.
    """
    if not (folder / "encoder.json").exists():
        return False
    more, news = _more(earlier) if earlier else 0, "there is nothing to do"
    if earlier and more:
        count = counted(abs(more), modality(earlier["training"]["modality"]).one)
        news = f"{earlier['asked']['data']} now holds {count} {'more' if more > 0 else 'less'}"
    progress.say(f"the run in {folder} is finished; {news} (--overwrite trains it again).")
    return True


def _more(earlier: dict[str, Any]) -> int:
    """Count what was added to the folder of a run's data since it began; 0 where that is not known."""
    data, before = earlier["asked"]["data"], earlier["data"].get("listed")
    if before is None or not Path(data).is_dir():  # others may have to be fetched to be counted
        return 0
    labels = resolve.needs_labels(earlier["method"], earlier["settings"])
    with suppress(NearfarError):  # the run is there all the same
        return len(open_data(data, expected=earlier["training"]["modality"], labels=labels)) - int(before)
    return 0


def same_run(
    earlier: dict[str, Any], wanted: RunConfig, fingerprint: str, images: int, folder: Path
) -> tuple[RunConfig, StepPlan]:
    """Make sure that an earlier run is the one now asked for, and take over what it measured.

    Args:
        earlier: its config.json.
        wanted: the settings asked for.
        fingerprint, images: of the images there are now.
        folder: the run's.

    Returns:
        The settings with what the first session measured, and the plan.

    Raises:
        NearfarError: settings or images differ.
    """
    old = RunConfig.from_json(earlier, f"{folder / 'config.json'}: ")
    for name in MEASURED:
        if getattr(wanted.training, name) in ("auto", None):
            measured = {name: getattr(old.training, name)}
            wanted = replace(wanted, training=replace(wanted.training, **measured))
    found = old.differences(wanted)
    if earlier["data"]["fingerprint"] != fingerprint:
        count = earlier["data"]["images"]
        if count == images and not wanted.training.cache:
            found.append(
                f"the {wanted.kind.noun} differ in size or time, by which they are known without the "
                "cache; where only times changed, give them back with cp -p or rsync -t"
            )
        else:
            found.append(f"the {wanted.kind.noun} differ: {count:,} before and {images:,} now")
    if found:
        raise NearfarError(
            f"{folder} holds a run with other settings ({'; '.join(found)}); "
            "name another folder with --out, or start over with --overwrite."
        )
    return wanted, StepPlan.of(earlier["plan"])


def teacher_digest(wanted: RunConfig) -> str | None:
    """Give the digest of the run that the method learns from, if it learns from one."""
    teacher = teacher_of(methods.method(wanted.method), wanted.settings)
    return None if teacher is None else teacher.digest


def same_teacher(earlier: dict[str, Any], wanted: RunConfig, folder: Path) -> None:
    """Make sure that the run that is learnt from is the one it was, whatever its folder is called.

    Raises:
        NearfarError: it is another one.
    """
    if earlier.get("teacher") != teacher_digest(wanted):
        raise NearfarError(
            f"the run in {folder} has another teacher than {wanted.settings.teacher} now holds; name "
            "another folder with --out, or start again with --overwrite."
        )
