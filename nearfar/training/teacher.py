"""An encoder used as a teacher: loaded in one place, checked, and identified by a digest.

A method that learns from a run or a known encoder has "teacher" in its `requires`, a setting `teacher` in
its `Config`, which is the flag --teacher, and takes a `Teacher` as the argument `teacher` of its class. One
that wants the teacher's vectors of whole images in each batch has "targets" there too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.errors import NearfarError
from ..features.extract import fingerprint
from ..methods.base import Method
from ..models import Encoder
from .run import PARTS, Run, load


@dataclass(frozen=True)
class Teacher:
    """A run or a known encoder, in eval mode and without gradients, and what its method saved with it."""

    run: Run
    parts: dict[str, dict[str, Tensor]]  # by name, as `Run.part` gives them
    digest: str  # of every weight of the encoder and the parts

    @property
    def encoder(self) -> Encoder:
        """The encoder that is learnt from."""
        return self.run.encoder

    @property
    def size(self) -> int:
        """Side of its input, in pixels."""
        return int(self.run.preprocess.size)

    def facts(self) -> dict[str, str]:
        """Say for a run's card who it is."""
        return {"name": self.run.name, "licence": self.run.facts()["licence"], "sha256": self.digest}


def open_teacher(path: str | Path) -> Teacher:
    """Load an encoder to learn from.

    Args:
        path: a run's folder, or a known encoder as `run.load` takes it.

    Returns:
        The teacher, on the CPU.

    Raises:
        NearfarError: there is no finished run or known encoder, or its files are damaged.
    """
    run = load(path)
    run.encoder.requires_grad_(False)
    digest = hashlib.sha256(fingerprint(run.encoder).encode())
    parts = {name: run.part(name) for name in run.parts}
    if parts:
        digest.update((run.folder / PARTS).read_bytes())
    return Teacher(run, parts, digest.hexdigest())


def teacher_of(method: type[Method], config: Any) -> Teacher | None:
    """Open the encoder that a method, with these settings, learns from.

    Args:
        method: the method's class.
        config: its own settings.

    Returns:
        The teacher; None for a method that needs none.

    Raises:
        NearfarError: none was named, or there is no such encoder.
    """
    if "teacher" not in method.requires(config):
        return None
    if config.teacher is None:
        raise NearfarError(
            f"{method.__name__} learns from another encoder; name it with --teacher: {method.teachers}."
        )
    return open_teacher(config.teacher)
