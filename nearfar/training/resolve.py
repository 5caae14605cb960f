"""Resolves the settings of a run: a recipe, explicit flags, and every `auto` that needs no measurement."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import methods, models
from ..core.config import build, settings_of, to_json
from ..core.errors import BadImage, NearfarError, nearest
from ..data.modality import IMAGES, Modality, modality, modality_of
from ..data.source import Source
from ..images.view_settings import COLOURS, Views, keeping
from ..methods.base import Method
from ..models.weights import copy_weights
from . import adapting, optim, recipes
from .run import is_run, load
from .settings import Training
from .teacher import teacher_of

LENGTHS = ("epochs", "steps", "minutes")
MAY_CHANGE = (
    "workers",
    "save_minutes",
    "tensorboard",
    "health_checks",
    "stop_on_collapse",
)  # settings that may change when a run is resumed
MEASURED = ("precision", "views_on", "compile", "threads")  # what the first session finds out and records
SAMPLE = 64  # images read to find the usual size of a collection


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run, with nothing left to decide but what has to be measured."""

    method: str
    recipe: str
    training: Training
    views: Any  # the modality's settings of a view
    settings: Any  # the method's own Config

    @property
    def modality(self) -> str:
        """The name of the kind of data that is learnt from."""
        return self.training.modality

    @property
    def kind(self) -> Modality:
        """The kind of data that is learnt from."""
        return modality(self.modality)

    @property
    def image_size(self) -> int:
        """Side of a view in pixels."""
        assert self.training.image_size is not None
        return self.training.image_size

    @property
    def preprocess(self) -> Any:
        """What an example needs before it is encoded."""
        return self.kind.preprocess_for(self.image_size, self.views)

    @property
    def lr(self) -> float:
        """The learning rate at its peak, after the rate rule."""
        return optim.base_rate(self.training)

    def to_json(self) -> dict[str, Any]:
        """Write all settings as plain values."""
        return {
            "method": self.method,
            "recipe": self.recipe,
            "training": to_json(self.training),
            "views": to_json(self.views),
            "settings": to_json(self.settings),
        }

    @staticmethod
    def from_json(values: Mapping[str, Any], where: str) -> RunConfig:
        """Read what `to_json` wrote.

        Args:
            values: the content of a `config.json`.
            where: how an error names the place.
        """
        try:
            method, training = values["method"], build(Training, values["training"], where)
            return RunConfig(
                method,
                values["recipe"],
                training,
                build(modality(training.modality).views, values["views"], where),
                build(methods.settings(method), values["settings"], where),
            )
        except KeyError as error:
            raise NearfarError(
                f"{where}{error.args[0]!r} is missing; start over with --overwrite."
            ) from error

    def digest(self, *more: Any) -> str:
        """Name what a run is by all that may not change while it is resumed.

        Args:
            more: plain values that count too, such as the fingerprint of the images.

        Returns:
            A SHA-256 in hexadecimal.
        """
        free = (*MAY_CHANGE, *MEASURED)
        training = {name: value for name, value in to_json(self.training).items() if name not in free}
        told = [self.method, training, to_json(self.views), to_json(self.settings), *more]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def differences(self, other: RunConfig) -> list[str]:
        """Name the settings in which another run differs, as "--batch-size 256 became 512"."""
        found = []
        for mine, theirs in (
            (self.training, other.training),
            (self.views, other.views),
            (self.settings, other.settings),
        ):
            if type(mine) is not type(theirs):
                continue
            old, new = to_json(mine), to_json(theirs)
            for name in old:
                if name not in MAY_CHANGE and old[name] != new[name]:
                    found.append(f"--{name.replace('_', '-')} {_plain(old[name])} became {_plain(new[name])}")
        if self.method != other.method:
            found.insert(0, f"--method {self.method} became {other.method}")
        return found


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def expected_kind(given: Mapping[str, Any]) -> str | None:
    """Name the kind of data that was asked for, as `open_data` expects it.

    Args:
        given: explicit settings by name.

    Raises:
        NearfarError: there is no such kind.
    """
    name = given.get("modality") or Training.modality
    return None if name == Training.modality else modality(name).name


def usual_side(source: Source, max_pixels: int) -> int:
    """Look at a sample of a collection and tell its examples' usual size, such as images' short side.

    Args:
        source: the collection.
        max_pixels: as in `images.decode`.

    Returns:
        The median size, of images the short side in pixels, of the usable ones among up to 64 spread evenly.

    Raises:
        NearfarError: the collection is empty, or none of the sample can be used.
    """
    sides, reason, kind = [], "", modality_of(source)
    for index in np.unique(np.linspace(0, len(source.ids) - 1, SAMPLE).astype(int)):
        try:
            data, _ = kind.fetch(source, int(index), limit=max_pixels)
            sides.append(kind.size_of(kind.decode(data, None, limit=max_pixels).value))
        except BadImage as error:
            reason = str(error)
    if not sides:
        raise NearfarError(
            f"none of the {len(source.ids):,} images of {source.name} that were tried can be used "
            f"({reason}); run: nearfar check"
        )
    return int(np.median(sides))


def usual_range(source: Source, given: Mapping[str, Any]) -> tuple[float, float] | None:
    """Find the values that become black and white: as asked for, or as the collection has them.

    Args:
        source: the collection.
        given: explicit settings by name; `range`, `percentiles` and `max_pixels` count.

    Returns:
        The two values; None where every image of the sample has 8 bits, or nothing is scaled.

    Raises:
        NearfarError: --range or --percentiles is not two rising numbers.
    """
    for name in ("range", "percentiles"):
        pair = given.get(name)
        if pair is not None and (
            not isinstance(pair, (list, tuple)) or len(pair) != 2 or not pair[0] < pair[1]
        ):
            raise NearfarError(f"--{name} is {_plain(pair)}; give a lower and a higher number.")
    if given.get("range") is not None:
        low, high = given["range"]
        return float(low), float(high)
    limit = given.get("max_pixels", Training.max_pixels)
    return modality_of(source).value_range(source, limit=limit, percentiles=given.get("percentiles"))


def decided(source: Source, given: Mapping[str, Any], folders: Sequence[Path] = ()) -> dict[str, Any]:
    """Complete explicit settings by those that the collection decides; see `Modality.decided`.

    Args:
        source: the collection.
        given: explicit settings by name.
        folders: run folders whose files may hold what was decided before.

    Returns:
        Settings by name.
    """
    weights, kind = given.get("weights"), modality_of(source)
    start = load(weights).preprocess if weights is not None and is_run(weights) else None
    start = start if start is not None and start.modality == kind.name else None
    return {**given, **kind.decided(source, given, folders=folders, start=start)}


def resolve(
    method: str,
    recipe: str,
    asked: Mapping[str, Any],
    *,
    side: int,
    device: torch.device,
    kind: str = IMAGES,
    value_range: tuple[float, float] | None = None,
) -> RunConfig:
    """Combine the recipe with explicit settings, which override it.

    Args:
        method: a name in `methods.METHODS`.
        recipe: a name in `recipes.RECIPES`, or "auto".
        asked: explicit settings by name, of the training, the views or the method.
        side: the examples' usual size, such as images' short side in pixels.
        device: where to compute.
        kind: of data, by its name.
        value_range: from `usual_range`; None where nothing is scaled.

    Returns:
        Settings in which only what is in `MEASURED`, and --colour, may still be "auto".

    Raises:
        NearfarError: a name is unknown, a value out of range, two lengths are asked for, or the method is
            for another kind of data.
    """
    config, data = methods.settings(method), modality(kind)
    only = methods.method(method).modality
    if only not in (None, kind):
        raise NearfarError(
            f"--method {method} needs {only}, and these are {kind}; choose another method: see "
            "nearfar methods."
        )
    if recipe == "auto":
        recipe = recipes.choose(device.type, side, asked.get("encoder") or "auto")
    if recipe not in recipes.RECIPES:
        raise NearfarError(f"there is no recipe {recipe!r}; {nearest(recipe, recipes.RECIPES)}")
    encoder = asked.get("encoder") or "auto"
    own_vit = "vit" in methods.method(method).recipes
    if recipe not in ("cpu", "vit") and own_vit and recipes.is_transformer(encoder):
        raise NearfarError(
            f"recipe {recipe} of {method} is for a ResNet, and {encoder} is a vision transformer; add "
            "--recipe vit, or leave --recipe out."
        )
    base = recipes.RECIPES[recipe](side)
    own = to_json(base.views) if isinstance(base.views, data.views) else {}
    groups = {Training: {**to_json(base.training), **data.training}, data.views: own, config: {}}
    homes: dict[str, list[type]] = {}
    for cls in groups:
        for item in settings_of(cls):
            homes.setdefault(item.name, []).append(cls)
    for name, value in methods.method(method).recipes.get(recipe, {}).items():
        for cls in homes.get(name, ()):  # of the views, what this kind of data has a setting for
            groups[cls][name] = list(value) if isinstance(value, tuple) else value
    if len([name for name in LENGTHS if asked.get(name) is not None]) > 1:
        raise NearfarError("training has one length; give one of --epochs, --steps and --minutes.")
    if any(asked.get(name) is not None for name in LENGTHS):
        groups[Training].update(dict.fromkeys(LENGTHS))
    if value_range is not None:
        groups[data.views]["range"] = list(value_range)
    if asked.get("weights") is not None:
        groups[Training] |= adapting.STARTED
    elif asked.get("trainable") not in (None, "all"):
        raise NearfarError("--trainable is for training that starts from weights; name them with --weights.")
    for name, value in asked.items():
        if name not in homes:
            raise NearfarError(f"there is no setting {name!r}; {nearest(name, homes)}")
        if (name, value) == ("encoder", "auto"):  # the recipe's
            continue
        for cls in homes[name]:
            groups[cls][name] = value
    if issubclass(data.views, Views):
        _settle_colours(groups[data.views], asked)
    weights = groups[Training].get("weights")
    if weights is not None and is_run(weights):
        groups[Training] |= _started_from(str(weights), kind, asked.get("encoder"))
    training = build(Training, groups[Training])
    size = training.image_size or data.input_size(side)
    training = replace(training, modality=kind, image_size=size, device=device.type)
    length = next((name for name in LENGTHS if getattr(training, name) is not None), None)
    if length is None or getattr(training, length) <= 0:
        raise NearfarError("training needs a length above zero; give --epochs, --steps or --minutes.")
    views: Any = build(data.views, groups[data.views])
    settings = methods.method(method).fitted(build(config, groups[config]), views)
    return RunConfig(method, recipe, training, views, settings)


def _settle_colours(views: dict[str, Any], asked: Mapping[str, Any]) -> None:
    """Leave `--colour auto` open only where views would change colours and nothing typed says how."""
    kept = to_json(keeping(build(Views, views)))
    if views["colour"] == "auto":
        typed = any(asked.get(name) is not None for name in COLOURS)
        if typed or all(views[name] == kept[name] for name in COLOURS):
            views["colour"] = "change"
    elif views["colour"] == "keep":
        views.update({name: kept[name] for name in COLOURS if asked.get(name) is None})


def _started_from(weights: str, kind: str, encoder: Any) -> dict[str, Any]:
    """Give the network of a run or a known encoder that training starts from.

    Args:
        weights: as `run.load` takes it.
        kind: of the data.
        encoder: what was asked for.

    Raises:
        NearfarError: it is of another kind, or another network was asked for.
    """
    start = load(weights)
    if start.preprocess.modality != kind:
        raise NearfarError(f"--weights {weights} is of {start.preprocess.modality}, and these are {kind}.")
    if encoder not in (None, "auto", start.encoder.name):
        raise NearfarError(
            f"--weights {weights} belong to {start.encoder.name}, not to {encoder}; leave --encoder out."
        )
    return {"encoder": start.encoder.name, "stem": start.encoder.stem}


def needs_labels(method: str, given: Mapping[str, Any]) -> bool:
    """Tell whether a method, with these settings, learns from labels.

    Args:
        method: a name in `methods.METHODS`.
        given: settings by name, its own among them or not.

    Returns:
        Whether images have to be opened with their labels.
    """
    own = methods.settings(method)
    values = {item.name: given[item.name] for item in settings_of(own) if item.name in given}
    return "labels" in methods.method(method).requires(build(own, values))


def with_classes(wanted: RunConfig, classes: int) -> RunConfig:
    """Tell a method with a classifier how many classes there are, if it was not told.

    Args:
        wanted: from `resolve`.
        classes: how many the labels hold.

    Returns:
        Settings in which `classes`, where the method has it, is above 0.

    Raises:
        NearfarError: fewer classes were asked for than there are.
    """
    told = getattr(wanted.settings, "classes", None)
    if told == 0:
        return replace(wanted, settings=replace(wanted.settings, classes=classes))
    if told is not None and told < classes:
        raise NearfarError(f"--classes is {told}, but the labels hold {classes}; leave --classes out.")
    return wanted


def views_of(wanted: RunConfig) -> tuple[Any, ...]:
    """Give the settings of each view of an image, without building a network or opening a teacher.

    Args:
        wanted: from `resolve`.
    """
    cls = methods.method(wanted.method)
    bare = cls.__new__(cls)
    torch.nn.Module.__init__(bare)
    bare.config = wanted.settings
    return bare.views(wanted.views)


def build_method(wanted: RunConfig, images: int = 1) -> Method:
    """Build the encoder and the method around it, the same way for the same seed.

    Args:
        wanted: from `resolve`.
        images: how many are trained on, for a method that keeps something of each.

    Returns:
        The method, in float32 on the CPU.
    """
    training = wanted.training
    start = load(training.weights).encoder if training.weights and is_run(training.weights) else None
    own = {name: value for name in ("mean", "std", "args") if (value := getattr(start, name, None))}
    f = wanted.kind.encoder(
        training.encoder,
        stem=training.stem,
        size=wanted.image_size,
        weights=None if start else training.weights,
        seed=training.seed,
        **own,
    )
    if start is not None:
        copy_weights(start, f)
    with models.seeded(training.seed, "adapting"):
        adapting.choose(f, training.trainable)
    cls = methods.method(wanted.method)
    given: dict[str, Any] = {}
    if (teacher := teacher_of(cls, wanted.settings)) is not None:
        given["teacher"] = teacher
    if "images" in cls.requires(wanted.settings):
        given["images"] = images
    with models.seeded(training.seed, "method"):
        return cls(f, wanted.settings, **given)
