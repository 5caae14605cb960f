"""Checks what JSON holds before it is used: files of strangers, of other versions, and damaged ones.

A shape is one of
- `str`, `int`, `bool`, `None`, `object` (anything), or `float`, which is any number, NaN included;
- `range(low, high)`: a whole number in it;
- a tuple: one of several shapes;
- a list of one shape: any number of such values;
- a dict: for each name its shape. A name that ends in "?" may be missing, and the key `str` gives the shape
  of all other names. Names that the shape does not know are let through, as a later version may write them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import NearfarError

COUNT = range(2**53)
"""A whole number from 0 on, as large as JSON keeps exactly."""
_WORDS = {str: "a text", int: "a whole number", bool: "true or false", float: "a number", None: "null"}


def check_shape(value: Any, shape: Any, where: str, name: str = "") -> None:
    """Make sure that a value has a shape.

    Args:
        value: as JSON gives it.
        shape: as the module says.
        where: how an error names the file, such as "runs/a/config.json: ".
        name: of the value within the file.

    Raises:
        NearfarError: it has another shape; the sentence names the place.
    """
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            _refuse(value, "an object", where, name)
        rest = shape.get(str)
        known = {key.removesuffix("?"): key for key in shape if isinstance(key, str)}
        for key, marked in known.items():
            if key in value:
                check_shape(value[key], shape[marked], where, f"{name}.{key}" if name else key)
            elif not marked.endswith("?"):
                raise NearfarError(
                    f"{where}{f'{name}.{key}' if name else key} is missing; the file is damaged, or of "
                    "another version of nearfar."
                )
        if rest is not None:
            for key, item in value.items():
                if key not in known:
                    check_shape(item, rest, where, f"{name}.{key}" if name else str(key))
    elif isinstance(shape, list):
        if not isinstance(value, list):
            _refuse(value, "a list", where, name)
        for at, item in enumerate(value):
            check_shape(item, shape[0], where, f"{name}[{at}]")
    elif not _fits(value, shape):
        _refuse(value, _word(shape), where, name)
    elif isinstance(shape, tuple):  # the first of its kind, checked to its depth
        inner = next(one for one in shape if _fits(value, one))
        if isinstance(inner, (dict, list)):
            check_shape(value, inner, where, name)


def _fits(value: Any, shape: Any) -> bool:
    """Tell whether a value is of a shape's kind."""
    if isinstance(shape, tuple):
        return any(_fits(value, one) for one in shape)
    if isinstance(shape, (dict, list)):
        return isinstance(value, type(shape))
    if shape is object:
        return True
    if shape is None:
        return value is None
    if isinstance(value, bool):
        return shape is bool
    if isinstance(shape, range):
        return isinstance(value, int) and value in shape
    if shape is float:
        return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
    return isinstance(value, shape)


def _word(shape: Any) -> str:
    """Say a shape in words."""
    if isinstance(shape, tuple):
        return " or ".join(_word(one) for one in shape)
    if isinstance(shape, range):
        return f"a whole number from {shape.start} to {shape.stop - 1}"
    if isinstance(shape, (dict, list)):
        return "an object" if isinstance(shape, dict) else "a list"
    return _WORDS[shape]


def _refuse(value: Any, wanted: str, where: str, name: str) -> None:
    shown = json.dumps(value, default=str)
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    raise NearfarError(
        f"{where}{name or 'the file'} is {shown}, not {wanted}; the file is damaged, or of another "
        "version of nearfar."
    )


def loads(text: str | bytes) -> Any:
    """Read JSON.

    Args:
        text: of the file.

    Raises:
        ValueError: it is none, or is nested too deep to be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def optional_object(path: Path) -> dict[str, Any]:
    """Read a JSON file of settings that may be missing, damaged or no object; {} then.

    Args:
        path: the file.
    """
    try:
        held = loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}
