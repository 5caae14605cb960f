"""Finds out which settings matter on these images: many short runs, each a point near the recipe.

Optuna proposes the points and keeps them in a file. Every run has a folder of its own and its figures a
file next to it, so that the same call resumes where it stopped.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from ..core import distributed, progress
from ..core.atomic import atomic_write, check_folder_name
from ..core.device import cores, device_named
from ..core.entries import entries
from ..core.errors import NearfarError
from ..data.modalities import modality, modality_of
from ..data.open import open_data
from ..data.source import Source
from ..training import resolve, schedule
from ..training.collection_settings import decided, usual_range, usual_side
from ..training.colour_choice import is_open, with_colour
from ..training.logger import locked
from ..training.method_choice import choose_method
from ..training.options import Options
from ..training.run_config import RunConfig
from ..training.settings import Training
from . import space, view_choice, view_sets
from .findings import Sweep
from .proposals import JOURNAL, Proposals, require
from .trials import SweepSession
from .view_choice import ViewChoice

FEWEST = 10  # runs below which a sweep tells nothing


def sweep(
    data: Any,
    *,
    minutes_each: str | float | None = None,
    budget: str | float | None = None,
    trials: int | None = None,
    method: str = "auto",
    recipe: str = "auto",
    out: str | Path = "runs/sweep",
    train: Any = None,
    over: str = "settings",
    **settings: Unpack[Options],
) -> Sweep | ViewChoice:
    """Vary temperature, batch size, learning rate, crops, colours and head, and tell which of them matter.

    Run the same command again to resume.

    Example: nearfar sweep photos/ --minutes-each 3 --budget 1h

    The first trial is the recipe itself; it is repeated with two more seeds, and so is the best in the end,
    since a difference smaller than that between seeds is none. A setting that is given is not varied.
    Written to `out`: a folder a run, Optuna's journal, sweep.json, sweep.md and sweep.png.

    Args:
        data: images to learn from, as `pretrain` takes them.
        minutes_each: length of each run, in minutes or such as "90s"; or give steps or epochs.
        budget: time for all runs together, in minutes or such as "1h" or "30m".
        trials: number of runs, instead of a budget.
        method, recipe: as in `pretrain`.
        out: the folder for all results.
        train: labelled images: k-NN on a held-out part of them chooses, instead of a label-free metric.
        over: settings; or views, to choose among sets of views by some fifty labelled images (--train): all
            in short runs, the better half again for twice as long, and so on.
        **settings: any other setting, the same for all runs. `seed` names the proposals and the runs.

    Returns:
        What was found.

    Raises:
        NearfarError: something the user can fix; all finished runs are kept.
        KeyboardInterrupt: Ctrl-C; what was found so far is written, and the same call resumes.
    """
    if over not in ("settings", "views"):
        raise NearfarError(f"--over {over} is unknown; type settings or views.")
    _check(over)
    given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    method = choose_method(method, data, given, recipe)
    if minutes_each is not None:
        given["minutes"] = schedule.minutes(minutes_each, "--minutes-each")
    limit = _limit(given, budget, trials) if over == "settings" else None
    seed = given.pop("seed", 0)
    source = open_data(
        data, expected=resolve.expected_kind(given, method), labels=resolve.needs_labels(method, given)
    )
    known = modality(source.modality).encodes or source.modality
    labelled = None if train is None else open_data(train, expected=known, labels=True)
    device = device_named(str(given.get("device", "auto")))
    side = usual_side(source, given.get("max_pixels", Training.max_pixels))
    span = usual_range(source, given)
    settled = decided(source, given)
    wanted = resolve.resolve(
        method, recipe, settled, side=side, device=device, kind=source.modality, value_range=span
    )
    if limit is None:
        return _over_views(data, source, labelled, wanted, given, budget, trials, seed, Path(out))
    if labelled is not None:
        _check_labelled(labelled)
    elif wanted.training.health_checks == 0:
        raise NearfarError(
            "without health checks the runs cannot be ranked; leave out --health-checks 0, or give --train."
        )
    asked = {"method": method, "recipe": recipe, **given}
    if is_open(wanted):  # the strength of colour changes, from none up, is an axis of the sweep itself
        wanted, asked = with_colour(wanted, "change"), {**asked, "colour": "change"}
    axes = space.axes(wanted, given, len(source))
    if not axes:
        raise NearfarError(
            "every setting that a sweep varies is given; leave out some, such as --temperature or --lr."
        )
    folder = _place(out)
    with locked(folder):
        # Both are held in memory, so that no run has to read the images again.
        dataset, labels = _read(source, wanted), None if labelled is None else _read(labelled, wanted)
        proposals = Proposals(folder, axes, seed)
        marks = None if labels is None else labels.fingerprint
        proposals.same({"images": dataset.fingerprint, "labelled images": marks}, wanted)
        session = SweepSession(data, asked, wanted, axes, proposals, limit, labels, seed, folder)
        try:
            session.go()
        finally:
            if (found := session.found()) is not None:
                _write(found)
    assert found is not None
    return found


def _over_views(
    data: Any,
    source: Source,
    labelled: Source | None,
    wanted: RunConfig,
    given: Mapping[str, Any],
    budget: str | float | None,
    trials: int | None,
    seed: int,
    out: Path,
) -> ViewChoice:
    """Choose among sets of views, or go on with it."""
    if labelled is None:
        raise NearfarError("--over views chooses by labelled images; name them with --train.")
    if source.labels is not None:
        raise NearfarError(f"{wanted.method} learns from labels; --over views is for methods without.")
    sets = view_sets.sets_of_views(wanted, given)
    unit, length = view_sets.length_of(given, budget, trials, len(sets))
    folder = _place(out, view_choice.NOTE)
    with locked(folder):
        dataset, labels = _read(source, wanted), _read(labelled, wanted)  # held in memory for all runs
        asked = {"method": wanted.method, "recipe": wanted.recipe, **given}
        halving = view_choice.Halving(data, asked, sets, unit, length, labels, seed, folder)
        halving.same({"images": dataset.fingerprint, "labelled images": labels.fingerprint})
        found = halving.go()
        _write(found)
    return found


def _check(over: str) -> None:
    """Refuse what no sweep can be made of."""
    if distributed.launched() > 1:
        raise NearfarError("a sweep runs in one process; start it without torchrun.")
    if over == "settings":
        require()


def _check_labelled(labelled: Source) -> None:
    """Refuse labelled images by which no run is better than another."""
    counts = Counter(labelled.labels or ())
    if len(counts) < 2:
        raise NearfarError(
            f"the labelled images are all of class {next(iter(counts))!r}; add images of another class."
        )
    if max(counts.values()) < 2:
        raise NearfarError(
            f"every class of {labelled.name} has one image; give at least two of one class with --train."
        )


def _limit(given: Mapping[str, Any], budget: str | float | None, trials: int | None) -> tuple[str, float]:
    """Read how long the sweep may last: ("trials", runs) or ("seconds", seconds)."""
    if (budget is None) == (trials is None):
        raise NearfarError("a sweep needs one total length; give --budget, such as 1h, or --trials.")
    if not any(name in given for name in resolve.LENGTHS):
        raise NearfarError("a sweep's runs need a length; give --minutes-each, --steps or --epochs.")
    if trials is not None:
        if trials < FEWEST:
            raise NearfarError(f"{trials} runs are too few for a sweep; give --trials {FEWEST} or more.")
        return "trials", trials
    assert budget is not None
    most, each = schedule.minutes(budget, "--budget"), given.get("minutes", 0.0)
    if most < FEWEST * each:
        raise NearfarError(
            f"{budget} allows {int(most / each)} runs of {each:g} minutes, which is too few; give "
            f"--budget {math.ceil(FEWEST * each)}m or more, or a shorter --minutes-each."
        )
    return "seconds", 60.0 * most


def _place(out: str | Path, mark: str = JOURNAL) -> Path:
    """Name the folder; refuse one that holds anything but a sweep, which has a file of this name."""
    folder = Path(out)
    check_folder_name(folder)
    others = [name for name in entries(folder) if not name.startswith(".")]
    if others and mark not in others:
        raise NearfarError(
            f"{folder} holds {others[0]!r} and is not the folder of such a sweep; name a new one with --out."
        )
    return folder


def _read(source: Source, wanted: RunConfig) -> Any:
    """Read images as pretraining and evaluation do."""
    training = wanted.training
    return modality_of(source).load(
        source,
        wanted.preprocess,
        limit=training.max_pixels,
        max_bad=training.max_bad,
        threads=cores(),
        decode_once=training.cache or source.labels is not None,
        short_side=training.short_side,
    )


def _write(found: Sweep | ViewChoice) -> None:
    """Write sweep.json, sweep.md and, of settings and with matplotlib, sweep.png."""
    with atomic_write(found.path / "sweep.json") as file:
        file.write((json.dumps(found.to_json(), indent=1) + "\n").encode())
    with atomic_write(found.path / "sweep.md") as file:
        file.write((found.table() + "\n").encode())
    if isinstance(found, ViewChoice):
        return
    try:
        from .charts import draw
    except ImportError:
        progress.say("sweep.png needs matplotlib: pip install 'nearfar[sweep]'.")
        return
    with atomic_write(found.path / "sweep.png") as file:
        draw(found).savefig(file, format="png", dpi=150)
