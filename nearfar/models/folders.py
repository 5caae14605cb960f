"""Folders of models that timm, transformers or sentence-transformers wrote, local or from a hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.dynamo import import_without_compiler
from ..core.errors import NearfarError
from ..core.shapes import check_shape, loads
from . import hf_networks
from .input_config import PREPROCESSOR, InputConfig, say_assumed
from .weights import INDEX, PICKLES, conversion

FILES = ("model.safetensors", f"model{INDEX}", "open_clip_model.safetensors")
PICKLED = re.compile(r"pytorch_model|model|open_clip_pytorch_model")  # usual names of weights
NO_WEIGHTS = re.compile(r"training_args|optimizer|scheduler|scaler|rng_state|random_states")  # also pickles
_SIDED = re.compile(r"(.+)@(\d+)", re.DOTALL)


@dataclass(frozen=True)
class ModelFolder:
    """What a folder says of its model.

    Attributes:
        name: as `encoder` takes it.
        weights: the file, or the index of several.
        config: what its input is.
        args: what else the library builds the network with.
    """

    name: str
    weights: Path
    config: InputConfig
    args: Mapping[str, Any] = field(default_factory=dict)


def is_model(folder: Path) -> bool:
    """Tell whether a folder is a model of another library; a run of nearfar has a config.json of its own.

    Args:
        folder: any path.
    """
    if (folder / "modules.json").is_file() or (folder / "open_clip_config.json").is_file():
        return True
    try:
        held = loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and "nearfar" not in held and bool({"architecture", "model_type"} & {*held})


def sided(text: str | Path) -> tuple[Path, int | None]:
    """Split FOLDER@SIDE into the folder of a model and the side of images that is asked for.

    Args:
        text: what a user typed.

    Returns:
        The folder and the side; the whole text as a folder, and None, where it is one or names none.
    """
    found = _SIDED.fullmatch(str(text))
    if found is None or Path(text).exists() or not is_model(Path(found[1])):
        return Path(text), None
    return Path(found[1]), int(found[2])


def fetch(repository: str) -> Path:
    """Fetch a repository of the Hugging Face hub: its weights and what it says of them.

    Args:
        repository: "org/name".

    Returns:
        Its folder on this machine.

    Raises:
        NearfarError: it cannot be fetched, or its weights are a pickle.
    """
    from huggingface_hub import snapshot_download

    if repository.count("/") != 1:
        raise NearfarError(f"'hf:{repository}' is no repository of the hub; write hf:ORG/NAME.")
    try:
        folder = Path(snapshot_download(repository, allow_patterns=["*.json", "*.safetensors", "README.md"]))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NearfarError(
            f"'hf:{repository}' could not be fetched ({reason}); check the name and the network, "
            "or give a folder that holds it."
        ) from error
    place = inner(folder)
    if not any((place / name).is_file() for name in FILES):  # since a pickle is not fetched
        _refuse_pickle(repository, place.relative_to(folder))
    return folder


def _refuse_pickle(repository: str, start: Path) -> None:
    """Say how to convert the weights of a repository, if they are a pickle."""
    from huggingface_hub import HfApi

    held: list[str] = []
    with suppress(Exception):  # the hub is out of reach, and all that is here is what was fetched before
        held = HfApi().list_repo_files(repository)
    pickled = _pickled([path for name in held if (path := Path(name)).parent == start])
    if pickled:
        own = Path(repository.split("/")[1])
        told = conversion([own / path for path in pickled], own / start / _made(pickled))
        raise NearfarError(
            f"the weights of 'hf:{repository}' are a pickle ({pickled[0]}), which can run any code when it "
            f"is read; where you trust its maker, fetch it: hf download {repository} --local-dir {own}; "
            f"convert it: {told}; and give the folder {own} in place of the name"
        )


def weights_of(place: Path) -> Path:
    """Find the weights in a folder.

    Args:
        place: the folder of the network itself.

    Returns:
        A .safetensors file, or the index of several.

    Raises:
        NearfarError: there are none, or they are a pickle.
    """
    for name in FILES:
        if (place / name).is_file():
            return place / name
    pickled = _pickled(sorted(place.iterdir()) if place.is_dir() else [])
    if pickled:
        raise NearfarError(
            f"the weights in {place} are a pickle ({pickled[0].name}), which can run any code when it is "
            f"read; convert it where you trust its maker: {conversion(pickled, place / _made(pickled))}"
        )
    others = sorted(place.glob("*.safetensors"))
    told = f"rename {others[0].name} if these are its weights" if others else "give a whole folder of a model"
    raise NearfarError(f"{place} holds no {FILES[0]}; {told}.")


def _made(pickled: Sequence[Path]) -> str:
    """Name the file that a pickle is converted to."""
    return FILES[-1] if pickled[0].name.startswith("open_clip") else FILES[0]


def _pickled(files: Sequence[Path]) -> list[Path]:
    """Choose the file of weights among a folder's, or all files of one network, where they are pickles."""
    found = [path for path in files if path.suffix in PICKLES and not NO_WEIGHTS.match(path.name)]
    found.sort(key=lambda path: (PICKLED.match(path.name) is None, path.name))
    parts = [path for path in found if re.search(r"-\d{5}-of-\d{5}\.", path.name)]
    return parts if found[:1] == parts[:1] else found[:1]


def inner(folder: Path) -> Path:
    """Give the folder of the network itself, to which a modules.json of sentence-transformers leads.

    Args:
        folder: of a model.

    Raises:
        NearfarError: the modules.json is damaged.
    """
    if not (folder / "modules.json").is_file():
        return folder
    return folder / _first_module(folder / "modules.json")  # the network is the first module


def read(folder: Path) -> ModelFolder:
    """Read what a folder says of its model.

    Args:
        folder: it holds config.json and model.safetensors; or modules.json, which leads to such a folder.

    Returns:
        How to build the network, and what its input is.

    Raises:
        NearfarError: something is missing, or the weights are a pickle.
    """
    place = inner(folder)
    said = _json(place / "config.json")
    weights, how = weights_of(place), _optional_json(place / PREPROCESSOR)
    if "architecture" not in said:
        name, args = hf_networks.network(said, str(place / "config.json"))
        config = hf_networks.input_config(said, how)
        if config.assumed:
            say_assumed(config, str(place), f"those of most {said['model_type']} networks", place)
        return ModelFolder(f"timm:{name}", weights, replace(config, licence=licence(folder)), args)
    args = dict(said.get("model_args") or {})
    size = args.pop("img_size", None)
    if "global_pool" not in args and (pool := _other_pool(str(said["architecture"]), said, args)):
        args["global_pool"] = pool
    config = InputConfig.of_timm(said.get("pretrained_cfg") or said)
    if config.assumed:
        mean, std = hf_networks.figures(how)
        if mean is None or std is None:
            say_assumed(config, str(place), "ImageNet's, timm's default,", place)
        else:
            config = replace(config, mean=mean, std=std)
    if isinstance(size, int):
        config = replace(config, size=size)
    if not config.licence:
        config = replace(config, licence=licence(folder))
    name = f"timm:{said['architecture']}"
    return ModelFolder(name, weights, config, args)


def _other_pool(name: str, said: Mapping[str, Any], args: Mapping[str, Any]) -> str:
    """Give the pooling that a folder names, where timm would build the network with another one."""
    import_without_compiler("timm")
    import timm
    import torch

    pool = said.get("global_pool")
    if not pool or not timm.is_model(name):
        return ""
    with torch.device("meta"):
        usual = getattr(timm.create_model(name, **args), "global_pool", None)
    return str(pool) if isinstance(usual, str) and usual != pool else ""


def _first_module(path: Path) -> str:
    """Read in which folder the network of sentence-transformers is; it lies within the model's."""
    try:
        found = loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise NearfarError(f"{path} cannot be read ({error}); give a whole folder of a model.") from error
    check_shape(found, [{"path": str}], f"{path}: ")
    place = Path(found[0]["path"]) if found else Path("..")
    if place.is_absolute() or ".." in place.parts:
        raise NearfarError(f"{path} names no folder of the model; give a whole folder of a model.")
    return str(place)


def _json(path: Path) -> dict[str, Any]:
    try:
        held = loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise NearfarError(f"{path} cannot be read ({error}); give a whole folder of a model.") from error
    if not isinstance(held, dict):
        raise NearfarError(f"{path} holds no JSON object; give a whole folder of a model.")
    return held


def _optional_json(path: Path) -> dict[str, Any]:
    """Read a file of settings; {} where there is none."""
    return _json(path) if path.is_file() else {}


def licence(folder: Path) -> str:
    """Read the licence that a model card's head names."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*(\S+)", head[1], re.MULTILINE) if head else None
    return found[1] if found else ""
