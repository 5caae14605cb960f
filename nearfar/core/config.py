"""One source for each fact: a setting's name, type, default, meaning and source are one line.

A settings class is a frozen dataclass whose fields are made with `setting`. The command line's flags,
their help, the docs' tables and `config.json` all come from it, so they always agree.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from .errors import NearfarError, nearest

T = TypeVar("T")


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    source: str = "",
) -> Any:
    """Declare one setting: a dataclass field that knows its meaning, range and source.

    Args:
        default: its value when nothing is said.
        help: what it means, with its unit, in a few words.
        low, high: the least and the greatest value allowed, both included.
        choices: the words allowed, for a setting that is a word.
        source: the paper and section, or the implementation, that the default comes from.

    Returns:
        A `dataclasses.field`.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "source": source}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is known of one setting, as `--help` and the docs show it."""

    name: str
    type: type
    optional: bool
    many: bool
    default: Any
    help: str
    low: float | None
    high: float | None
    choices: tuple[str, ...] | None
    source: str

    @property
    def flag(self) -> str:
        """The command-line flag."""
        return flag_of(self.name)


def flag_of(name: str) -> str:
    """Name the flag of a setting: `weight_decay` is `--weight-decay`, `lambda_` is `--lambda`.

    Args:
        name: of the setting.
    """
    return "--" + name.rstrip("_").replace("_", "-")


def settings_of(cls: type) -> list[Setting]:
    """List the settings of a settings class, in order.

    Args:
        cls: a dataclass whose fields were made with `setting`.

    Returns:
        One `Setting` a field. `Optional` and tuple types are unwrapped into `optional` and `many`.
    """
    hints = typing.get_type_hints(cls)
    found = []
    for field in dataclasses.fields(cls):
        kind, optional, many = hints[field.name], False, False
        if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
            inner = [arm for arm in typing.get_args(kind) if arm is not type(None)]
            kind, optional = inner[0], True
        if typing.get_origin(kind) is tuple:
            kind, many = typing.get_args(kind)[0], True
        meta = field.metadata
        found.append(
            Setting(
                name=field.name,
                type=kind,
                optional=optional,
                many=many,
                default=field.default,
                help=meta["help"],
                low=meta["low"],
                high=meta["high"],
                choices=meta["choices"],
                source=meta["source"],
            )
        )
    return found


def peek(path: Path, name: str = "Config") -> type:
    """Read a settings class out of a source file without running the rest of the file.

    A method's settings are in the file of the method, which imports torch; this lets `--help` show
    them in a tenth of a second.

    Args:
        path: the Python file.
        name: the class to read; it may use nothing but `dataclass` and `setting`.

    Returns:
        The class.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    body = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    namespace: dict[str, Any] = {"dataclass": dataclasses.dataclass, "setting": setting, "__name__": __name__}
    exec(compile(ast.Module(body=list(body), type_ignores=[]), str(path), "exec"), namespace)
    return typing.cast(type, namespace[name])


def _one(item: Setting, value: Any, where: str) -> Any:
    """Check one plain value against a setting, and convert an int to a float where one is meant."""
    if item.type is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**63 else math.inf
    if not isinstance(value, item.type) or (item.type is not bool and isinstance(value, bool)):
        raise NearfarError(f"{where}{item.flag} takes a {item.type.__name__}, not {value!r}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise NearfarError(f"{where}{item.flag} must be a finite number, not {value!r}.")
    if item.choices and value not in item.choices:
        raise NearfarError(f"{where}{item.flag} {value!r} is not known; {nearest(str(value), item.choices)}")
    number: Any = value
    if (item.low is not None and number < item.low) or (item.high is not None and number > item.high):
        lowest, highest = item.low, item.high
        if highest is None:
            allowed = f"at least {lowest}"
        elif lowest is None:
            allowed = f"at most {highest}"
        else:
            allowed = f"from {lowest} to {highest}"
        raise NearfarError(f"{where}{item.flag} is {value!r}; it must be {allowed}.")
    return value


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Make a settings object from plain values, strictly: nothing unknown, nothing out of range.

    Args:
        cls: the settings class.
        values: name to value, as read from JSON or from flags; missing names take their defaults.
        where: how an error names the place, such as "runs/a/config.json: ".

    Returns:
        The settings object.

    Raises:
        NearfarError: a name is unknown, or a value has the wrong type or lies outside its range.
    """
    if not isinstance(values, Mapping):
        raise NearfarError(f"{where}settings are {values!r}, not an object of names and values.")
    items = {item.name: item for item in settings_of(cls)}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in items:
            raise NearfarError(f"{where}there is no setting {name!r}; {nearest(name, items)}")
        item = items[name]
        if value is None and item.optional:
            checked[name] = None
        elif item.many:
            parts = value if isinstance(value, (list, tuple)) else [value]
            checked[name] = tuple(_one(item, part, where) for part in parts)
        else:
            checked[name] = _one(item, value, where)
    return cls(**checked)


def to_json(settings: Any) -> dict[str, Any]:
    """Turn a settings object into plain values; `build` turns them back into an equal one.

    Args:
        settings: an instance of a settings class.

    Returns:
        Name to number, string, bool, None or list.
    """
    plain = dataclasses.asdict(settings)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
