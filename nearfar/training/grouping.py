"""Groups of images whose views belong together: read for a run, checked, and what health means under them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import methods
from ..core import distributed, progress
from ..core.errors import NearfarError
from ..data.groups import FOLDERS, Partners, number_groups, read_groups
from ..data.source import Source
from ..methods.base import Expects
from .run_config import RunConfig

GROUPED = Expects(
    task="group_accuracy",
    at_chance="train longer, or look whether images of a group have anything in common: nearfar explore",
)


def expects_of(method: str, settings: Any, grouped: bool) -> Expects:
    """Say what a run's health figures mean: under groups, that images of a group should be near each other.

    Args:
        method: one of `methods.METHODS`.
        settings: its own.
        grouped: whether the run has groups.

    Returns:
        The method's own answer, if there are no groups.
    """
    return GROUPED if grouped else methods.method(method).expects(settings)


def check_groups(wanted: RunConfig, views: int) -> None:
    """Refuse groups before anything takes time.

    Args:
        wanted: the run's settings.
        views: of each image that the method takes.

    Raises:
        NearfarError: the method does not compare views, or the list cannot be read.
    """
    if (words := wanted.training.groups) is None:
        return
    cls = methods.method(wanted.method)
    needs = cls.requires(wanted.settings) & {"labels", "teacher"}
    unlike = cls.modality == "pairs"  # an image and its caption are two views of different kinds
    if needs or unlike or cls.expects(wanted.settings).task or views < 2:
        raise NearfarError(
            f"--groups is for methods that bring views together, and {wanted.method} does not; choose one "
            "that does, such as simclr, or leave --groups out."
        )
    if words != FOLDERS:
        read_groups(words)


def read_groups_of(wanted: RunConfig, source: Source, ids: Sequence[str]) -> Partners | None:
    """Read the groups of all images, those held out too; see `check_groups`.

    Args:
        wanted: the run's settings.
        source: the images as the user named them.
        ids: of those that can be used.

    Returns:
        Their groups; None where the run has none.

    Raises:
        NearfarError: the list cannot be read, or has no groups of two.
    """
    words = wanted.training.groups
    if words is None:
        return None
    noun = wanted.kind.noun
    found = Partners(number_groups(words, source, ids))
    alone = found.share_alone()
    if alone == 1:
        raise NearfarError(
            f"--groups {words} puts each {noun[:-1]} into a group of its own; name groups of two or more."
        )
    if len(np.unique(found.groups)) == 1:
        raise NearfarError(
            f"--groups {words} puts all {noun} into one group, so there is nothing to tell apart; name two "
            "groups or more."
        )
    if distributed.first():
        count, note = len(np.unique(found.groups)), ""
        if alone:
            note = f"; {alone:.0%} of the {noun} are alone in theirs, and have both views of themselves"
        progress.say(f"{count:,} groups: the other view is of another {noun[:-1]} of the group{note}")
    return found


def groups_digest(groups: npt.NDArray[np.int64]) -> str:
    """Name groups by their content."""
    return hashlib.blake2b(np.ascontiguousarray(groups).tobytes(), digest_size=16).hexdigest()
