"""Calibrates the networks of a fine-tuning on held-out images, and measures them there and on the test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..data.modalities import modality
from .outcome import TUNED
from .task import Task
from .task_types import Figures, Labelled, TaskNetwork

Answers = Callable[[TaskNetwork, Labelled], Any]
Baselines = Callable[[Labelled], Mapping[str, Figures]]


@dataclass
class Measured:
    """Figures by part of the images and by network; how many images a part has; what a user has to know."""

    figures: dict[str, dict[str, Figures]] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def part(self) -> str:
        """The part that is judged by."""
        return "test" if "test" in self.figures else next(iter(self.figures))


def measure(
    task: Task,
    networks: Mapping[str, TaskNetwork],
    answers: Answers,
    fit: Labelled,
    held: tuple[Labelled, Labelled] | None,
    tests: Labelled | None,
    baselines: Baselines,
    crossed: Any = None,
) -> Measured:
    """Measure every network on the same images; the test is read here, and nowhere else.

    Args:
        task: left calibrated for TUNED.
        networks: TUNED, and those that it is compared with.
        answers: predicts labelled images.
        fit: what was trained on.
        held: images held out, to choose and to measure on.
        tests: test images.
        baselines: measures on labelled images what the task compares with.
        crossed: answers for `fit` by cross-validation, where nothing was held out.
    """
    found = Measured()
    parts = {"held-out": None if held is None else held[1], "test": tests}
    there = {name: part for name, part in parts.items() if part is not None}
    if not there and crossed is None:
        noun = modality(fit.dataset.modality).noun
        found.notes.append(f"no {noun} were held out, so nothing tells how good it is; give --test.")
        there = {"training": fit}
    for name in sorted(networks, key=lambda each: each == TUNED):  # what is calibrated last stays so
        network = networks[name]
        told: tuple[str, ...] = ()
        known: dict[str, Any] = {}
        if held is not None:
            choice, known["held-out"] = (answers(network, part) for part in held)
            told = task.calibrate((choice, held[0]), (known["held-out"], held[1]))
        elif crossed is not None:
            told = task.calibrate((crossed, fit), (crossed, fit))
            found.figures["cross-validated"] = {TUNED: task.measure(crossed, fit)}
            found.images["cross-validated"] = len(fit)
        found.notes += told if name == TUNED else ()
        for part, images in there.items():
            said = known[part] if part in known else answers(network, images)
            found.figures.setdefault(part, {})[name] = task.measure(said, images)
            found.images[part] = len(images)
    for part, images in there.items():
        found.figures[part].update(baselines(images))
    # The network that was trained is the first row of a table.
    found.figures = {
        part: {name: rows[name] for name in sorted(rows, key=lambda each: each != TUNED)}
        for part, rows in found.figures.items()
    }
    return found
