"""The table of methods. Nothing here imports torch until a method is used.

To add a method: write one file next to `simclr.py`, with its `Config` and its class, and add its line to
`METHODS`. Its flags, its help, its pages and its tests are generated from that. Its docstring has the paper, a
line "Choose it when ...", the shapes, and the equation as plain loops, which a test runs. The loops take the
arguments of the method's `loss`, and then settings of the method, by name.
"""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.config import peek
from ..core.errors import NearfarError, nearest

if TYPE_CHECKING:
    from .base import Method

METHODS = {
    "simclr": "SimCLR",
    "moco": "MoCo",
    "mocov3": "MoCoV3",
    "nnclr": "NNCLR",
    "cola": "COLA",
    "supcon": "SupCon",
    "triplet": "Triplet",
    "drlim": "DrLIM",
    "byol": "BYOL",
    "byol_a": "BYOLA",
    "simsiam": "SimSiam",
    "barlow_twins": "BarlowTwins",
    "vicreg": "VICReg",
    "swav": "SwAV",
    "dino": "DINO",
    "ibot": "IBOT",
    "lejepa": "LeJEPA",
    "npid": "NPID",
    "pirl": "PIRL",
    "deep_infomax": "DeepInfoMax",
    "cpc": "CPC",
    "cpc_images": "CPCImages",
    "mae": "MAE",
    "simmim": "SimMIM",
    "ijepa": "IJEPA",
    "beit": "BEiT",
    "dvae": "DVAE",
    "dae": "DAE",
    "vae": "VAE",
    "bigan": "BiGAN",
    "rotnet": "RotNet",
    "jigsaw": "Jigsaw",
    "relative_position": "RelativePosition",
    "cutpaste": "CutPaste",
    "csi": "CSI",
    "simcse": "SimCSE",
    "tsdae": "TSDAE",
    "multiple_negatives": "MultipleNegatives",
    "inverse_cloze": "InverseCloze",
    "mlm": "MLM",
    "clip": "CLIP",
    "siglip": "SigLIP",
    "coca": "CoCa",
    "blip": "BLIP",
    "distill": "Distill",
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
def kind(name: str) -> str | None:
    """Read the one kind of data that a method is for, without importing torch.

    Args:
        name: one of `METHODS`.

    Returns:
        The class's `modality`; None for any kind.

    Raises:
        NearfarError: there is no such method.
    """
    found: str | None = _said(name, "modality")
    return found


def usual(kind_of_data: str, batch_size: int) -> str | None:
    """Name the method that learns from a kind of data where none is named.

    Args:
        kind_of_data: by its name.
        batch_size: examples a step.

    Returns:
        Of the methods for this kind alone the one whose class's `usual_from` is the last that the batch reaches; None
        where there is none.
    """
    starts = {name: _said(name, "usual_from") for name in METHODS if kind(name) == kind_of_data}
    reached = {name: start for name, start in starts.items() if start is not None and start <= batch_size}
    return max(reached, key=lambda name: reached[name], default=None)


def _said(name: str, what: str) -> Any:
    """Read an attribute of a method's class that is a plain value; None where the class does not have its own."""
    tree = ast.parse(Path(__file__).with_name(f"{_known(name)}.py").read_text(encoding="utf-8"))
    body = next(
        node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == METHODS[name]
    )
    for node in body:
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == what and node.value:
            return ast.literal_eval(node.value)
    return None


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


@functools.cache
def own_recipes(name: str) -> Mapping[str, Mapping[str, Any]]:
    """Read in what a method differs from each recipe, without importing torch.

    Args:
        name: one of `METHODS`.

    Returns:
        The class's `recipes`: by name of a recipe, the settings in which the method differs from it.
    """
    tree = ast.parse(Path(__file__).with_name(f"{_known(name)}.py").read_text(encoding="utf-8"))
    names: dict[str, Any] = {"dict": dict}
    found: dict[str, dict[str, Any]] = {}
    for node in [
        *tree.body,
        *(part for top in tree.body if isinstance(top, ast.ClassDef) for part in top.body),
    ]:
        if isinstance(node, ast.ImportFrom) and (node.level, node.module) == (1, "recipes"):
            shared = importlib.import_module(".recipes", __name__)
            names |= {alias.name: getattr(shared, alias.name) for alias in node.names}
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        to = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
        try:
            value = eval(compile(ast.Expression(node.value), name, "eval"), {"__builtins__": {}}, names)
        except Exception:  # made of what is not read here: not a table of settings
            continue
        if to == "recipes":
            found = value
        else:
            names[to] = value
    return found
