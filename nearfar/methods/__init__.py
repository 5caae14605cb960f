"""The methods, in one table. Nothing here imports torch until a method is asked for.

To add a method: write one file beside `simclr.py`, with its `Config` and its class, and add its line to
`METHODS`. Its flags, its help, its pages and its tests follow from that. In its docstring stand the paper, a
line "Choose it when ...", the shapes, and the equation as plain loops, which a test runs: they take what the
method's `loss` takes, and then settings of the method, by name.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.config import peek
from ..core.errors import NearfarError, nearest

if TYPE_CHECKING:
    from .base import Method

METHODS = {
    "simclr": "SimCLR",
    "moco": "MoCo",
    "mocov3": "MoCoV3",
    "nnclr": "NNCLR",
    "supcon": "SupCon",
    "triplet": "Triplet",
    "drlim": "DrLIM",
    "byol": "BYOL",
    "simsiam": "SimSiam",
    "barlow_twins": "BarlowTwins",
    "vicreg": "VICReg",
    "swav": "SwAV",
    "dino": "DINO",
    "rotnet": "RotNet",
    "supervised": "Supervised",
}
"""Name, which is also the file's, to the class in it."""


def _known(name: str) -> str:
    if name not in METHODS:
        raise NearfarError(f"method {name!r} is not known; {nearest(name, METHODS)}")
    return name


def method(name: str) -> type[Method]:
    """Find a method's class.

    Args:
        name: one of `METHODS`.

    Returns:
        The class.

    Raises:
        NearfarError: there is no such method.
    """
    found: type[Method] = getattr(importlib.import_module(f".{_known(name)}", __name__), METHODS[name])
    return found


@functools.cache
def settings(name: str) -> type:
    """Find a method's own settings, without importing torch.

    Args:
        name: one of `METHODS`.

    Returns:
        Its `Config`, for `config.build` and `config.settings_of`; a method's class takes what it builds.

    Raises:
        NearfarError: there is no such method.
    """
    return peek(Path(__file__).with_name(f"{_known(name)}.py"))
