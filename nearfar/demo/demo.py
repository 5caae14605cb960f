"""The demo on pictures it draws itself: check, pretrain, evaluate, embed and report.

What is written, all under one folder:

    photos/           unlabelled pictures in no order, with broken files, copies and odd ones among them
    labelled/         train/ and test/, in each a folder a class
    answers.json      which of the photos are broken, copied or odd
    pictures.png      a few of every class, to look at
    run/              the run folder of the trained encoder
    photos.parquet    a vector for every photo
    report.html       a report on one page
"""

from __future__ import annotations

import math
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core import progress
from ..core.atomic import check_folder_name, check_place
from ..core.config import build
from ..core.errors import NearfarError
from ..embedding.embed import Embeddings, embed
from ..evaluation.evaluate import evaluate
from ..evaluation.result import Evaluation
from ..features.knn import top_k
from ..reports.report import report
from ..training import checkpoint, run_shapes
from ..training.check import check
from ..training.pretrain import pretrain
from ..training.settings import Training
from . import gallery

MINUTES = 2.5


@dataclass(frozen=True)
class Demo:
    """The result of the demo, and where its files are."""

    path: Path
    evaluation: Evaluation
    broken: tuple[int, int]  # broken files that were rejected, of how many
    copies: tuple[int, int]  # near copies whose nearest neighbour is the original, of how many
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Write it as plain values."""
        return {
            "path": str(self.path),
            "evaluation": self.evaluation.to_json(),
            "broken": {"found": self.broken[0], "of": self.broken[1]},
            "near_copies": {"found": self.copies[0], "of": self.copies[1]},
            "seconds": round(self.seconds, 1),
        }

    def __str__(self) -> str:
        plain = self.evaluation.to_json()
        knn = plain["knn"]
        figures = [
            f"{name} {knn[name]['accuracy']:.1%}" for name in ("encoder", "pixels", "untrained", "chance")
        ]
        places = {
            "pictures.png": "a few pictures of each class",
            "photos/": "training images, without labels",
            "labelled/": "labelled images, to evaluate on",
            "answers.json": "which photos are broken, copied or odd",
            "run/": "the encoder, its settings and its log",
            "photos.parquet": "a vector for every photo",
            "report.html": "a report on one page: open it in a browser",
        }
        return "\n".join(
            [
                self.evaluation.table(),
                "",
                *(item["sentence"] for item in plain["summary"].values()),
                f"k-NN accuracy on test pictures: {', '.join(figures)}",
                f"broken files rejected: {self.broken[0]} of {self.broken[1]}",
                f"near copies found as nearest neighbours: {self.copies[0]} of {self.copies[1]}",
                "",
                f"Done in {progress.duration(self.seconds)}. In {self.path}/:",
                *(f"  {name:<16}{what}" for name, what in places.items()),
            ]
        )


def demo(*, out: str | Path = "demo", seed: int = 0, minutes: float = MINUTES) -> Demo:
    """Draw a few thousand small pictures, then check, pretrain, evaluate, embed and report on them.

    Run the same command again to resume.

    Example: nearfar demo

    Args:
        out: the folder everything goes to.
        seed: random seed, of the pictures and of the training.
        minutes: time to train, in minutes.

    Returns:
        The figures and the places.

    Raises:
        NearfarError: the folder holds other files, or a demo of another length.
    """
    started = time.monotonic()
    folder = Path(out)
    check_folder_name(folder)
    check_place(folder / "answers.json")
    if not 0 < minutes < math.inf:
        raise NearfarError(f"--minutes is {minutes:g}; give a number above zero.")
    build(Training, {"seed": seed})  # refuses what no training takes, before anything is drawn
    answers = gallery.there(folder, seed)
    photos, train, test = folder / "photos", folder / "labelled" / "train", folder / "labelled" / "test"
    run, vectors = folder / "run", folder / "photos.parquet"
    seeded = ("--seed", seed) if seed else ()

    _same_length(run, minutes)
    if answers is None:
        progress.say(f"drawing pictures into {folder}/")
        folder.mkdir(parents=True, exist_ok=True)
        answers = gallery.write(folder, seed)

    _typed("check", photos)
    progress.say(str(check(photos, minutes=minutes, seed=seed)))
    _typed("pretrain", photos, "--out", run, "--minutes", f"{minutes:g}", *seeded)
    trained = pretrain(photos, out=run, minutes=minutes, seed=seed)
    _typed("evaluate", run, "--train", train, "--test", test, *seeded)
    evaluation = evaluate(trained, train=train, test=test, seed=seed)
    _typed("embed", run, photos, "--out", vectors)
    embeddings = embed(trained, photos, out=vectors)
    page = folder / "report.html"
    _typed("report", run, "--out", page, "--train", train, "--test", test)
    try:
        report(trained, out=page, train=train, test=test)
    except NearfarError as error:  # without the drawing library everything else still works
        progress.say(f"no report: {error}")

    bad = {item.id for item in embeddings.rejected} & set(answers["broken"])
    return Demo(
        folder,
        evaluation,
        broken=(len(bad), len(answers["broken"])),
        copies=(_found(embeddings, answers["near_copies"]), len(answers["near_copies"])),
        seconds=time.monotonic() - started,
    )


def _same_length(run: Path, minutes: float) -> None:
    """Refuse another length than that of the run which is there, before anything takes time."""
    config = run / "config.json"
    before = (
        checkpoint.read_json(config, run_shapes.CONFIG)["training"].get("minutes")
        if config.exists()
        else None
    )
    if before not in (None, minutes):
        raise NearfarError(
            f"{run.parent} holds a demo of {before:g} minutes; give --minutes {before:g}, or choose a new "
            "folder with --out."
        )


def _typed(*words: object) -> None:
    """Show a step as the command that does the same."""
    progress.say(f"\n$ {shlex.join(['nearfar', *map(str, words)])}")


def _found(embeddings: Embeddings, pairs: list[list[str]]) -> int:
    """Count the copies whose nearest neighbour among all other photos is their original."""
    row = {name: index for index, name in enumerate(embeddings.ids)}
    vectors = torch.from_numpy(embeddings.vectors)
    copies = torch.tensor([row[copy] for _, copy in pairs])
    # The nearest of all is the copy itself, so the second is used.
    nearest = top_k(vectors[copies], vectors, 2)[1].tolist()
    return sum(row[original] in found for (original, _), found in zip(pairs, nearest, strict=True))
