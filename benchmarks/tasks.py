"""Segmentation and detection with few labels: the same head on an encoder, on the same network from scratch,
and, for segmentation, colour features without a network.

Prints a line of JSON a run; the tables made of these lines are in benchmarks/tasks.md. Whatever is chosen is
chosen on training images: `--hold` trains on three quarters of them and measures on the rest.

    python -m benchmarks.tasks segment wbc/"Dataset 1" known --labels 10 --turns
    python -m benchmarks.tasks detect bccd/train known --test bccd/test --labels 20

Without `--test`, a third of the images are for testing, drawn by numpy's generator of seed 0.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nearfar.core import rng
from nearfar.core.config import build
from nearfar.features import probes
from nearfar.finetuning import detect, segment, sheet
from nearfar.finetuning.segment_baseline import ColourFeatures
from nearfar.finetuning.task_types import Labelled, Setup, Where
from nearfar.training import engine
from nearfar.training.run import load
from nearfar.training.schedule import StepPlan

TASKS: dict[str, Any] = {"segment": segment.Segmentation, "detect": detect.Detection}
COLOURS = "colours"


def parts(task: Any, given: argparse.Namespace, preprocess: Any) -> tuple[Labelled, Labelled]:
    """Read images, and choose those to train on and those to test on."""
    where = Where(max_bad=0.0)
    data = task.read(given.data, preprocess, where)
    order = np.random.default_rng(0).permutation(len(data))
    if given.test:
        train, test = order, None
    else:
        third = len(data) // 3
        train, test = order[:-third], order[-third:]
    if given.hold:
        mixed = np.random.default_rng(99).permutation(train)
        train, test = mixed[: 3 * len(mixed) // 4], mixed[3 * len(mixed) // 4 :]
    tests = task.read_test(given.test, preprocess, where) if test is None else data.take(test)
    chosen = np.random.default_rng(given.seed).permutation(train)[: given.labels]
    return data.take(np.sort(chosen)), tests


def trained(
    task: Any, encoder: Any, fit: Labelled, given: argparse.Namespace, preprocess: Any
) -> tuple[Any, int]:
    """Train as `nearfar finetune` does, with all labels."""
    recipe = task.recipe("full", len(fit), task.side, None)
    steps, cpu = given.steps or recipe.steps, torch.device("cpu")
    setup = Setup(preprocess, cpu, seed=given.seed)
    network = task.network(encoder, fit, setup, frozen=False)
    lr = recipe.lrs[0] * recipe.batch_size / 256
    setup = replace(setup, seed=rng.fold(given.seed, "tuning"))
    feed = task.feed(fit, setup, batch_size=recipe.batch_size, start=0)
    plan = StepPlan(((0, steps),))
    optimizer = task.optimizer(network, lr)
    how: dict[str, Any] = {"plan": plan, "lr": lr, "warmup": recipe.warmup, "device": cpu}
    for _ in engine.train(network, feed, optimizer, **how, precision=given.precision):
        pass
    feed.close()
    return network, steps


def draw(task: Any, test: Labelled, answers: Any, path: Path) -> None:
    """Draw the first test images."""
    rows = range(min(len(test), sheet.SHOWN))
    drawn = [(*task.draw(test.dataset[row].copy(), answers[row]), test.dataset.ids[row]) for row in rows]
    sheet.write(path, drawn)


def main() -> None:
    """Measure one run and print its line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("data", type=Path)
    parser.add_argument("encoder", help=f"a run, a known encoder, or {COLOURS}: colour features alone")
    parser.add_argument("--scratch", action="store_true", help="the same network from random weights")
    parser.add_argument("--test", type=Path)
    parser.add_argument("--labels", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--side", type=int)
    parser.add_argument("--decoder", default="unet")
    parser.add_argument("--detector", default="fcos")
    parser.add_argument("--turns", action="store_true")
    parser.add_argument("--hold", action="store_true")
    parser.add_argument("--sheet", type=Path, help="a .png: test images with what is predicted of them")
    parser.add_argument("--precision", default="float32")
    given = parser.parse_args()
    own: dict[str, Any] = {"side": given.side, "turns": given.turns}
    own |= {"decoder": given.decoder} if given.task == "segment" else {"detector": given.detector}
    kind = TASKS[given.task]
    task = kind(build({"segment": segment.Config, "detect": detect.Config}[given.task], own))
    run = load("known" if given.encoder == COLOURS else given.encoder)
    fit, test = parts(task, given, run.preprocess)
    began, steps = time.process_time(), 0
    if given.encoder == COLOURS:
        fitted = ColourFeatures(task.side, len(task.classes), given.seed).fit(fit.dataset, fit.targets)
        seconds = time.process_time() - began
        answers: Any = [segment.Pixels(classes, 1.0) for classes in fitted.predict(test.dataset)]
    else:
        encoder: Any = run.encoder
        if given.scratch:
            encoder = probes.untrained(encoder, fit.dataset, run.preprocess, given.seed, "cpu")
        network, steps = trained(task, encoder, fit, given, run.preprocess)
        seconds = time.process_time() - began
        setup = Setup(run.preprocess, torch.device("cpu"))
        answers = task.answers(network, test.dataset, setup, batch_size=8)
    if given.sheet:
        draw(task, test, answers, given.sheet)
    found = task.measure(answers, test)
    told = {name: round(value, 4) for name, value in found.values.items()}
    own_class = {name: {k: round(v, 4) for k, v in some.items()} for name, some in found.per_class.items()}
    words = {name: value for name, value in vars(given).items() if name not in ("data", "test", "sheet")}
    line = {**words, "trained": len(fit), "tested": len(test), "steps": steps, **told}
    print(json.dumps({**line, "per_class": own_class, "core_minutes": round(seconds / 60, 2)}), flush=True)


if __name__ == "__main__":
    main()
