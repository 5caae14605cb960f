"""Which settings the recipes decide, and to what: for the help and the docs. Nothing here imports torch."""

from __future__ import annotations

import functools
from typing import Any

from .. import methods
from ..core.config import flag_of, settings_of, to_json
from ..images.view_settings import SMALL_SIDE, Views
from .recipes import RECIPES
from .settings import Training

LARGE_SIDE = 1000  # px; stands for images that are not small
OWN = "own"  # a view as large as the image itself


@functools.cache
def defaults(method: str | None) -> dict[str, Any]:
    """Give the default of every setting, where no recipe is used.

    Args:
        method: a name in `methods.METHODS`; None for the settings that all methods share.

    Returns:
        Name to value.
    """
    own = [] if method is None else settings_of(methods.settings(method))
    return {item.name: item.default for item in [*settings_of(Training), *settings_of(Views), *own]}


@functools.cache
def values(recipe: str, method: str | None) -> dict[str, Any]:
    """Give the value of every setting under a recipe.

    Args:
        recipe: a name in `RECIPES`.
        method: as in `defaults`.

    Returns:
        Name to value; `image_size` in words, such as "own, 224 for large images".
    """
    small, large = (RECIPES[recipe](side) for side in (SMALL_SIDE, LARGE_SIDE))
    found = defaults(method) | to_json(small.training) | to_json(small.views)
    if method is not None:
        found |= methods.own_recipes(method).get(recipe, {})
    sides = [found["image_size"] or OWN, large.training.image_size or 224]
    found["image_size"] = str(sides[0]) if sides[0] == sides[1] else f"{sides[0]} or {sides[1]}"
    return found


@functools.cache
def by_recipe(method: str | None) -> frozenset[str]:
    """Name the settings whose value depends on the recipe.

    Args:
        method: as in `defaults`; None for the settings in which any method depends on it.

    Returns:
        Their names.
    """
    if method is None:
        shared = {item.name for item in [*settings_of(Training), *settings_of(Views)]}
        return frozenset(name for each in methods.METHODS for name in by_recipe(each) if name in shared)
    plain = defaults(method)
    found = [values(recipe, method) for recipe in RECIPES]
    return frozenset(name for name in plain if any(_listed(v[name]) != _listed(plain[name]) for v in found))


def rows(method: str | None) -> list[tuple[str, ...]]:
    """Lay the settings that recipes decide out as a table.

    Args:
        method: as in `defaults`.

    Returns:
        Rows of words: the flag, and its value under each recipe in the order of `RECIPES`. A dash where the
        recipe leaves it unset.
    """
    chosen = by_recipe(method)
    found = [values(recipe, method) for recipe in RECIPES]
    return [
        (flag_of(name), *(_shown(each[name]) for each in found))
        for name in defaults(method)
        if name in chosen
    ]


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    """Write a value the way it is typed."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return " ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
