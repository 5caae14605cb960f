"""What a sweep varies: the settings that decide most, each around the recipe's own value, and as flags.

A setting that the user typed is not varied. The recipe's own value always lies on the axis, and leaves the
recipe as it is: only what differs from it becomes a setting of the run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.config import flag_of, settings_of
from ..images.view_settings import Views
from ..training.run_config import RunConfig
from ..training.settings import Training

TAU, RATE, COLOUR = 4.0, 8.0, 2.0  # how many times less or more than the recipe's; colour from 0 up
CROP = (0.04, 0.8)  # of the crop's least area
DEPTHS = 3  # layers of the head, at most, unless the recipe has more
STRENGTHS = ("brightness", "contrast", "saturation", "hue", "grayscale")
DIGITS = 3  # that a value is rounded to, so that a command line repeats it exactly

Value = float | int


@dataclass(frozen=True)
class Axis:
    """One thing that is varied: a range, or the values in order.

    Attributes:
        name: the setting's, or colour, depth or width.
        title: how people call it.
        own: the recipe's value.
        low, high: the ends of a range.
        log: whether the range is one of ratios.
        values: all there are, if they can be listed; else empty.
    """

    name: str
    title: str
    own: Value
    low: Value
    high: Value
    log: bool = False
    values: tuple[Value, ...] = ()

    def distribution(self) -> Any:
        """Say it in Optuna's words."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        if self.values:
            return CategoricalDistribution(self.values)
        return FloatDistribution(self.low, self.high, log=self.log)


def axes(wanted: RunConfig, typed: Collection[str], images: int) -> tuple[Axis, ...]:
    """List what can be varied around a recipe.

    Args:
        wanted: the recipe, with what the user typed.
        typed: the names of the settings that the user typed.
        images: how many there are: no batch is larger.

    Returns:
        The axes; a method without a temperature or a head has none of these.
    """
    training, views, own = wanted.training, wanted.views, wanted.settings
    found = []
    for name in ("temperature", "student_temperature"):  # DINO's is its student's
        if hasattr(own, name):
            found.append(_ratio(type(own), name, "temperature", getattr(own, name), TAU))
    batch = training.batch_size
    found.append(
        _listed(
            "batch_size",
            "batch_size",
            batch,
            [n for n in (batch // 4, batch // 2, 2 * batch) if 2 <= n <= images],
        )
    )
    found.append(_ratio(Training, "lr", "learning rate", training.lr, RATE))
    low, high = min(CROP[0], views.crop_min), max(min(CROP[1], views.crop_max), views.crop_min)
    found.append(Axis("crop_min", "crop floor", views.crop_min, low, high))
    if any(getattr(views, name) for name in STRENGTHS):
        found.append(Axis("colour", "colour strength", 1.0, 0.0, COLOUR))
    head: tuple[int, ...] = getattr(own, "head", ())
    if head:
        depths = range(1, max(DEPTHS, len(head)) + 1)
        found.append(_listed("depth", "head depth", len(head), depths))
    if len(head) > 1:
        found.append(_listed("width", "head width", head[0], [max(1, head[0] // 2), 2 * head[0]]))
    parts = {"colour": STRENGTHS, "depth": ("head",), "width": ("head",)}
    free = [axis for axis in found if not {axis.name, *parts.get(axis.name, ())} & set(typed)]
    return tuple(axis for axis in free if axis.low < axis.high)


def settings(wanted: RunConfig, axes: Collection[Axis], params: Mapping[str, Value]) -> dict[str, Any]:
    """Turn a point of the space into settings, as `pretrain` takes them.

    Args:
        wanted: the recipe.
        axes: from `axes`.
        params: a value for each axis.

    Returns:
        Only what differs from the recipe: none at the recipe's own point.
    """
    changed = {axis.name: params[axis.name] for axis in axes if params[axis.name] != axis.own}
    found: dict[str, Any] = {}
    for name, value in changed.items():
        if name == "colour":
            highest = {item.name: item.high for item in settings_of(Views)}
            for part in STRENGTHS:
                found[part] = min(highest[part] or 1.0, rounded(value * getattr(wanted.views, part)))
        elif name not in ("depth", "width"):
            found[name] = rounded(value)
    if "depth" in changed or "width" in changed:
        head = wanted.settings.head
        width, depth = changed.get("width", head[0]), changed.get("depth", len(head))
        found["head"] = (*[width] * (int(depth) - 1), head[-1])
    return found


def words(settings: Mapping[str, Any]) -> list[str]:
    """Write settings as they are typed: --temperature 0.12 --head 512 128 --no-cache.

    Args:
        settings: values by name, lists among them.

    Returns:
        The words of a command line, none of them quoted yet.
    """
    found = []
    for name, value in settings.items():
        flag = flag_of(name)
        if isinstance(value, bool):
            found.append(flag if value else f"--no-{flag[2:]}")
            continue
        parts = value if isinstance(value, (tuple, list)) else [value]
        found += [flag, *(short(part) for part in parts)]
    return found


def short(value: Any) -> str:
    """Write a value without needless digits, and without losing one."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)


def rounded(value: Value) -> Value:
    """Round to `DIGITS` digits; whole numbers stay as they are."""
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")


def _ratio(cls: type, name: str, title: str, own: float, times: float) -> Axis:
    """Make an axis of ratios, within what the setting may be."""
    (item,) = (item for item in settings_of(cls) if item.name == name)
    low, high = max(own / times, item.low or 0.0), own * times
    return Axis(name, title, own, low, min(high, item.high or high), log=True)


def _listed(name: str, title: str, own: int, others: Collection[int]) -> Axis:
    """Make an axis of a few values."""
    values = tuple(sorted({own, *others}))
    return Axis(name, title, own, values[0], values[-1], values=values)
