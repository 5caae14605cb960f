"""`nearfar learning-curve`: the same training with more and more labels, from each encoder and from scratch.

Every training is a run of `nearfar finetune` in a folder of its own, so the same call again resumes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import finetuning
from ..core import progress
from ..core.atomic import atomic_write, check_folder_name, check_place
from ..core.entries import entries
from ..core.errors import NearfarError
from ..data.modalities import modality_of
from ..evaluation.known_row import open_row
from ..finetuning.finetune import finetune
from ..finetuning.outcome import FROZEN, SCRATCH, TUNED, Finetuned
from ..finetuning.task_types import TooFewError
from ..training import checkpoint
from ..training.run import Run, load
from .label_curves import LearningCurve, Point, draw

SHARES = (0.01, 0.05, 0.1, 0.25, 1.0)
SET = {
    "seed": "give how many with seeds",
    "share": "give shares",
    "mode": "the encoder is always trained too",
    "scratch": "training from scratch is always there to compare",
}
"""Settings of a fine-tuning that are no settings of a curve, and why."""
OURS = re.compile(r".+-0?\.?\d+(e-\d+)?-\d+|curve\..*")


def learning_curve(
    *runs: Run | str | Path,
    train: Any,
    test: Any = None,
    out: str | Path = "runs/curve",
    task: str = "classify",
    shares: Sequence[float] = SHARES,
    seeds: int = 1,
    known: str | None = None,
    labels: str | Path | None = None,
    label_level: int | None = None,
    groups: str | Path | None = None,
    **settings: Any,
) -> LearningCurve:
    """Fine-tune with more and more of the labels: did pretraining help, and by how many labels?

    Example: nearfar learning-curve runs/a --task detect --train boxes/train --test boxes/test

    Each encoder is fine-tuned with each share of the labels, and so is its network from random weights. What
    a seed draws for a small share is in every larger one. Run the same command again to resume.

    Args:
        runs: the encoders: folders of runs, or known encoders such as timm:resnet18.
        train: labelled images, as nearfar finetune takes them.
        test: labelled images to test on; if not given, a fifth of the training images is held out for it.
        out: the folder for all runs, and for curve.json, curve.md and curve.png.
        task: what is learnt; classify, segment, detect or reidentify.
        shares: of the labelled images, above 0, up to 1.
        seeds: number of draws of labels and weights, with seeds 0, 1, ...
        known: a known encoder as one more row, or none; if not given, the one that is installed.
        labels: where all labels are, as nearfar finetune takes it.
        label_level: which folder on the way to an image names its class.
        groups: a .csv of images and their groups, which are drawn whole.
        **settings: any setting of `finetuning.Tuning` or the task but seed, share, mode and scratch.

    Returns:
        The curves.

    Raises:
        NearfarError: something the user can fix; finished runs are kept.
    """
    wanted = _check(runs, shares, seeds, settings)
    finetuning.task_class(task)
    folder = _place(out)
    encoders = _encoders(runs, known)
    how: dict[str, Any] = {"labels": labels, "label_level": label_level, "groups": groups, "task": task}
    how |= {**settings, "mode": "full"}
    random, slugs = _networks(encoders), _slugs([*encoders])
    made = _Curves([*encoders], random)
    # Few labels first, and every encoder: what was cut short has a figure for each.
    for seed in range(seeds):
        for share in wanted:
            for name, run in encoders.items():
                place = folder / f"{slugs[name]}-{share:g}-{seed}"
                progress.say(f"{name}, {100 * share:g} % of the labels, seed {seed}: {place}")
                own = {**how, "seed": seed, "share": share, "scratch": name in random.values()}
                try:
                    made.add(name, share, seed, finetune(run, train=train, test=test, out=place, **own))
                except TooFewError as error:
                    progress.say(str(error))
                    made.few.setdefault(share, error)
    found = made.result(folder, task, modality_of(next(iter(encoders.values())).preprocess).one)
    _write(found)
    return found


class _Curves:
    """Gathers the figures of finished runs."""

    def __init__(self, encoders: Sequence[str], random: dict[str, str]) -> None:
        self.encoders = encoders
        several = len(set(random.values())) > 1
        self.random = {name: f"{owner}, {SCRATCH}" if several else SCRATCH for name, owner in random.items()}
        self.values: dict[str, dict[float, dict[int, tuple[int, float, tuple[float, float] | None]]]] = {}
        self.figure, self.test = "", 0
        self.few: dict[float, TooFewError] = {}  # shares with which nothing can be trained

    def add(self, name: str, share: float, seed: int, found: Finetuned) -> None:
        """Take the figures of a run: fine-tuned, frozen, from scratch, and of baselines."""
        counts = checkpoint.read_json(found.path / "config.json")["data"]
        labels = int(counts["images"]) + int(counts["holdout"])
        self.figure, self.test = found.main, found.images["test"]
        called = {TUNED: name, FROZEN: f"{name}, frozen", SCRATCH: self.random.get(name, SCRATCH)}
        for row, values in found.figures["test"].items():
            low, high = values.get("low"), values.get("high")
            interval = None if low is None or high is None else (float(low), float(high))
            points = self.values.setdefault(called.get(row, row), {})
            points.setdefault(share, {}).setdefault(seed, (labels, float(values[found.main]), interval))

    def result(self, folder: Path, task: str, one: str) -> LearningCurve:
        """Put the curves together.

        Raises:
            TooFewError: nothing was trained at all.
        """
        if not self.values:
            raise next(iter(self.few.values()))
        rows = {}
        usual = [*self.encoders, *self.random.values()]
        for name in sorted(self.values, key=lambda each: usual.index(each) if each in usual else len(usual)):
            points = sorted(self.values[name].items())
            rows[name] = [
                Point(
                    # Of whole groups, one seed draws more images than another.
                    round(sum(labels for labels, _, _ in seeds.values()) / len(seeds)),
                    share,
                    {seed: value for seed, (_, value, _) in seeds.items()},
                    {seed: interval for seed, (_, _, interval) in seeds.items()},
                )
                for share, seeds in points
            ]
        notes = [f"{100 * share:g} % of the labels: {error}" for share, error in self.few.items()]
        scratch = {name: row for name, row in self.random.items() if name in rows and row in rows}
        return LearningCurve(folder, task, self.figure, rows, scratch, self.test, one, tuple(notes))


def _check(runs: Sequence[Any], shares: Sequence[float], seeds: int, settings: dict[str, Any]) -> list[float]:
    """Refuse what is no curve; give the shares in order."""
    if not runs:
        raise NearfarError("name an encoder, for example: nearfar learning-curve runs/a --train labelled/")
    wanted = sorted(set(shares))
    if not wanted or not 0 < wanted[0] <= wanted[-1] <= 1:
        raise NearfarError("--shares are above 0 and up to 1, for example --shares 0.05 0.25 1")
    if seeds < 1:
        raise NearfarError(f"--seeds {seeds} is no number of seeds; give 1 or more.")
    for name, instead in SET.items():
        if settings.get(name) is not None:
            raise NearfarError(f"a learning curve sets {name} itself: {instead}.")
    return wanted


def _place(out: str | Path) -> Path:
    """Name the folder; refuse one that holds other things and no curve."""
    folder = Path(out)
    check_folder_name(folder)
    check_place(folder / "curve.json")
    others = [name for name in entries(folder) if not name.startswith(".") and not OURS.fullmatch(name)]
    if others:
        raise NearfarError(
            f"{folder} holds {others[0]!r} and is no folder of a learning curve; name a new one with --out."
        )
    return folder


def _encoders(runs: Sequence[Run | str | Path], known: str | None) -> dict[str, Run]:
    """Open the encoders, and the known one that stands beside them; each has a name of its own."""
    opened = [load(run) for run in runs]
    pictures = modality_of(opened[0].preprocess).pictures
    row, _ = open_row(opened[0], known, 0) if pictures or known is not None else (None, "")
    opened += [row] if row is not None and row.name not in {run.name for run in opened} else []
    short = [Path(run.name).name if run.path else run.name for run in opened]
    names = short if len(set(short)) == len(short) else [run.name for run in opened]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise NearfarError(f"{twice} is named twice; name each encoder once.")
    return dict(zip(names, opened, strict=True))


def _networks(encoders: dict[str, Run]) -> dict[str, str]:
    """Find for each encoder the first one of the same network: both have one training from scratch."""
    first: dict[str, str] = {}
    own = {}
    for name, run in encoders.items():
        shapes = [(key, tuple(value.shape)) for key, value in run.encoder.state_dict().items()]
        own[name] = first.setdefault(repr((shapes, run.preprocess)), name)
    return own


def _slugs(names: Sequence[str]) -> dict[str, str]:
    """Name each encoder's folders: by its own name, and a few digits of it where another's looks the same."""
    plain = {name: re.sub(r"[^\w.-]+", "_", name).strip("_") or "encoder" for name in names}
    alike = Counter(plain.values())
    digits = {name: hashlib.sha256(name.encode()).hexdigest()[:6] for name in names}
    return {name: slug if alike[slug] == 1 else f"{slug}-{digits[name]}" for name, slug in plain.items()}


def _write(found: LearningCurve) -> None:
    """Write curve.json, curve.md and curve.png."""
    with atomic_write(found.path / "curve.json") as file:
        file.write(json.dumps(found.to_json(), indent=1).encode())
    with atomic_write(found.path / "curve.md") as file:
        file.write(f"{found}\n".encode())
    try:
        figure = draw(found)
    except ImportError:
        progress.say("curve.png needs matplotlib: pip install 'nearfar[plots]'.")
        return
    with atomic_write(found.path / "curve.png") as file:
        figure.savefig(file, format="png", dpi=150)
