"""Sets of views that suit different collections, of which a sweep chooses one; and how long its runs are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..core.config import settings_of
from ..core.errors import NearfarError
from ..images.view_settings import Views
from ..training import resolve, schedule
from ..training.run_config import RunConfig

LARGER = 0.4  # least area of larger crops
STAIN = 0.02  # turn of the colour wheel between slides of one stain


def sets_of_views(wanted: RunConfig, typed: Collection[str]) -> dict[str, dict[str, Any]]:
    """List the sets of views that are tried; the first is the usual one.

    Args:
        wanted: the recipe, with what the user typed.
        typed: names of the settings that the user typed, which stay as they are.

    Returns:
        Settings by the name of the set.

    Raises:
        NearfarError: the data are no images, or everything is typed.
    """
    if not isinstance(wanted.views, Views):
        raise NearfarError("--over views is for images; leave it out for other data.")
    change, keep = {"colour": "change"}, {"colour": "keep"}
    colours: dict[str, dict[str, Any]] = {"colours changed": change, "colours kept": keep}
    if any(item.name == "keep_colour" for item in settings_of(type(wanted.settings))):
        colours["colours kept in every fourth image"] = {**change, "keep_colour": True}
    colours["hues hardly changed"] = {**change, "hue": STAIN, "grayscale": 0.0}
    both = {"colours changed": change, "colours kept": keep}
    if {"colour", "keep_colour"} & set(typed):
        colours = both = {"colours as given": {}}  # so that the forms below are combined, too
    forms: dict[str, dict[str, Any]] = {}
    if wanted.views.crop_min < LARGER <= wanted.views.crop_max:
        forms["larger crops"] = {"crop_min": LARGER}
    if wanted.views.flip:
        forms["never mirrored"] = {"flip": 0.0}
    for form, more in forms.items():
        colours |= {f"{name}, {form}": {**settings, **more} for name, settings in both.items()}
    found = {name: settings for name, settings in colours.items() if not set(settings) & set(typed)}
    if len(found) < 2:
        raise NearfarError(
            "every setting that --over views varies is given; leave out --colour, --crop-min or --flip."
        )
    return found


def length_of(
    given: Mapping[str, Any], budget: str | float | None, trials: int | None, count: int
) -> tuple[str, float]:
    """Read how long the runs of the first round are.

    Args:
        given: what the user typed; minutes, steps or epochs among it.
        budget: time for all runs together, instead.
        trials: must be None, since the rounds decide how many runs there are.
        count: sets of views.

    Returns:
        The unit, and the length in it.

    Raises:
        NearfarError: no length is given, or two.
    """
    if trials is not None:
        raise NearfarError("the sets of views decide how many runs there are; leave out --trials.")
    named = [name for name in resolve.LENGTHS if name in given]
    if (budget is None) != bool(named):
        raise NearfarError(
            "--over views needs one length; give --minutes-each, --steps or --epochs, or --budget."
        )
    if budget is None:
        return named[0], given[named[0]]
    rounds, units = 0, 0.0
    while count > 1:  # as many runs as sets, each as long as 2 to the power of the rounds before
        units += count * 2**rounds
        rounds, count = rounds + 1, (count + 1) // 2
    return "minutes", round(schedule.minutes(budget, "--budget") / units, 3)
