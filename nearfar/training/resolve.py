"""Resolves the settings of a run: a recipe, explicit flags, and every `auto` that needs no measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from .. import methods, models
from ..core.config import build, flag_of, settings_of, to_json
from ..core.errors import NearfarError, nearest
from ..data.modalities import IMAGES, modality
from ..images.view_settings import COLOURS, Views, check_crops, is_small, keeping
from ..methods.base import Method
from ..models import every_scale, libraries
from ..models.residual import SHAPES
from ..models.weights import copy_weights
from . import adapting, recipes
from .run import Run, is_run, load
from .run_config import RunConfig
from .settings import Training
from .teacher import teacher_of

LENGTHS = ("epochs", "steps", "minutes")


def expected_kind(given: Mapping[str, Any], method: str) -> str | None:
    """Name the kind of data that was asked for, as `open_data` expects it.

    Args:
        given: explicit settings by name.
        method: a name in `methods.METHODS`, which alone may say that images have captions.

    Raises:
        NearfarError: there is no such kind.
    """
    name = given.get("modality") or Training.modality
    if name == Training.modality:
        only = methods.kind(method)
        return only if only is not None and modality(only).by_method else None
    return modality(name).name


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
        value_range: from `collection_settings.usual_range`; None where nothing is scaled.

    Returns:
        Settings in which only what is in `run_config.MEASURED`, and --colour, may still be "auto".

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
        recipe = _chosen(method, device.type, side, asked.get("encoder") or "auto")
    if recipe not in recipes.RECIPES:
        raise NearfarError(f"there is no recipe {recipe!r}; {nearest(recipe, recipes.RECIPES)}")
    encoder = asked.get("encoder") or "auto"
    own_vit = "vit" in methods.method(method).recipes
    fits = recipe in ("cpu", "vit") or _of_transformers(method, recipe, side)
    if not fits and own_vit and recipes.is_transformer(encoder):
        raise NearfarError(
            f"recipe {recipe} of {method} is for a ResNet, and {encoder} is a vision transformer; add "
            "--recipe vit, or leave --recipe out."
        )
    base = recipes.RECIPES[recipe](side)
    own = to_json(base.views if isinstance(base.views, data.views) else data.views())
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
    elif alone := next((name for name in adapting.NEED_START if asked.get(name)), None):
        raise NearfarError(
            f"{flag_of(alone)} is for training that starts from weights; name them with --weights."
        )
    for name, value in asked.items():
        if name not in homes:
            raise NearfarError(f"there is no setting {name!r}; {nearest(name, homes)}")
        if (name, value) == ("encoder", "auto"):  # the recipe's
            continue
        for cls in homes[name]:
            groups[cls][name] = value
    if issubclass(data.views, Views):
        _settle_colours(data.views, groups[data.views], asked)
    weights = groups[Training].get("weights")
    if weights == "pretrained" and kind == IMAGES:
        raise NearfarError(
            "--weights pretrained does not say of which network; write --weights "
            f"{_of_library(encoder)} instead of --encoder, and the size of its images comes with it."
        )
    cut: dict[str, Any] = {}
    if weights is not None and is_run(weights):
        start = _started_from(str(weights), data.encodes or kind, asked)
        own = {"encoder": start.encoder.name, "stem": start.encoder.stem}
        groups[Training] |= own
        if kind == IMAGES and own["encoder"] not in SHAPES:  # which see images at their own size
            usual = {"image_size": _side(start)} | (adapting.ON_CPU if recipe == "cpu" else {})
            groups[Training] |= {name: value for name, value in usual.items() if asked.get(name) is None}
            cut = _cut(start.preprocess, groups[Training]["image_size"])
    training = build(Training, groups[Training])
    size = training.image_size or data.input_size(side)
    training = replace(training, modality=kind, image_size=size, device=device.type)
    training = _with_early_size(training, method, asked.get("early_size"))
    length = next((name for name in LENGTHS if getattr(training, name) is not None), None)
    if length is None or getattr(training, length) <= 0:
        raise NearfarError("training needs a length above zero; give --epochs, --steps or --minutes.")
    views: Any = build(data.views, groups[data.views])
    settings = methods.method(method).fitted(build(config, groups[config]), views)
    made = RunConfig(method, recipe, training, views, settings, cut)
    for view in views_of(made):
        if isinstance(how := getattr(view, "recipe", view), Views):
            check_crops(how)
    return made


def _chosen(method: str, device: str, side: int, encoder: str) -> str:
    """Name the recipe for a method, a device, a size of image and an encoder."""
    named, usual = recipes.choose(device, side, encoder), recipes.choose(device, side)
    # For small images a method's own transformers are small ones, and so are its settings.
    return usual if named == "vit" and is_small(side) and _of_transformers(method, usual, side) else named


def _of_transformers(method: str, recipe: str, side: int) -> bool:
    """Tell whether a recipe of a method trains a vision transformer where no encoder is named."""
    own = methods.method(method).recipes.get(recipe, {}).get("encoder")
    return recipes.is_transformer(own or recipes.RECIPES[recipe](side).training.encoder)


def _with_early_size(training: Training, method: str, typed: float | None) -> Training:
    """Leave the early views whole where the method or the encoder takes one side only."""
    fits = methods.method(method).any_side and training.encoder in SHAPES
    if fits or training.early_size == 1.0:
        return training
    if typed is not None:
        raise NearfarError(
            f"--early-size is for encoders of nearfar's own, such as resnet8, and methods that take views of "
            f"any side, which {method} with {training.encoder} is not; leave it out."
        )
    return replace(training, early_size=1.0)


def _settle_colours(cls: type[Views], views: dict[str, Any], asked: Mapping[str, Any]) -> None:
    """Leave `--colour auto` open only where views would change colours and nothing typed says how."""
    kept = to_json(keeping(build(cls, views)))
    if views["colour"] == "auto":
        typed = any(asked.get(name) is not None for name in COLOURS)
        if typed or all(views[name] == kept[name] for name in COLOURS):
            views["colour"] = "change"
    elif views["colour"] == "keep":
        views.update({name: kept[name] for name in COLOURS if asked.get(name) is None})


def _started_from(weights: str, kind: str, asked: Mapping[str, Any]) -> Run:
    """Open the run or the known encoder that training starts from.

    Args:
        weights: as `run.load` takes it.
        kind: of the data.
        asked: explicit settings by name.

    Raises:
        NearfarError: it is of another kind, or another network was asked for, or other first layers.
    """
    start = load(weights)
    if start.preprocess.modality != kind:
        raise NearfarError(f"--weights {weights} is of {start.preprocess.modality}, and these are {kind}.")
    for name, its in (("encoder", start.encoder.name), ("stem", start.encoder.stem)):
        if (typed := asked.get(name)) not in (None, "auto", its):
            what = its if name == "encoder" else f"the {its} stem"
            raise NearfarError(f"--weights {weights} belong to {what}, not to {typed}; leave --{name} out.")
    return start


def _side(start: Run) -> int:
    """Give the side of images that training starts from, or a smaller one where that is large."""
    largest, usual = adapting.SIDES
    size: int = start.preprocess.size
    return size if size <= largest else usual


def _cut(start: Any, size: int) -> dict[str, Any]:
    """Say what of an image an encoder sees that is trained further at another size: as much as before.

    Args:
        start: the `Preprocess` it has.
        size: of images in training.
    """
    short = max(size, round(start.decode_side * size / start.size))
    return {"crop": start.crop, "short_side": short, "reduction": start.reduction, "fit": start.fit}


def _of_library(encoder: str) -> str:
    """Write an encoder's name with its library before it, or another's where no library has weights of it."""
    library, plain = libraries.find("timm:resnet18" if encoder == "auto" else encoder)
    return "timm:resnet18" if library == "nearfar" else f"{library}:{plain}"


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


def shown_views(wanted: RunConfig) -> list[tuple[int, Any]]:
    """Give the views of an image that are pictures, each with its number among all views.

    Args:
        wanted: from `resolve`.
    """
    return [at for at in enumerate(views_of(wanted)) if getattr(at[1], "picture", True)]


def build_method(wanted: RunConfig, images: int = 1) -> Method:
    """Build the encoder and the method around it, the same way for the same seed.

    Args:
        wanted: from `resolve`.
        images: how many are trained on, for a method that keeps something of each.

    Returns:
        The method, in float32 on the CPU.
    """
    training = wanted.training
    start = None
    if training.weights and is_run(training.weights):
        start = every_scale.as_trained(load(training.weights).encoder)
    own = {name: value for name in ("mean", "std", "args") if (value := getattr(start, name, None))}
    f = wanted.kind.encoder(
        training.encoder,
        stem=training.stem,
        size=wanted.image_size,
        weights=None if start else training.weights,
        seed=training.seed,
        **own,
    )
    f = models.like(f, start)
    if start is not None:
        copy_weights(start, f)
    f.frozen_statistics = training.freeze_statistics
    cls = methods.method(wanted.method)
    with models.seeded(training.seed, "adapting"):
        adapting.choose(f, training.trainable, others="text" in cls.requires(wanted.settings))
    given: dict[str, Any] = {}
    if "text" in cls.requires(wanted.settings):
        from .captions import caption_encoder  # which images alone never read

        given["text"] = caption_encoder(wanted)
    if (teacher := teacher_of(cls, wanted.settings)) is not None:
        given["teacher"] = teacher
    if "images" in cls.requires(wanted.settings):
        given["images"] = images
    with models.seeded(training.seed, "method"):
        return cls(f, wanted.settings, **given)
