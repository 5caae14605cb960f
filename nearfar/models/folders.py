"""Folders of models that timm, transformers or sentence-transformers wrote, local or from a hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.dynamo import import_without_compiler
from ..core.errors import NearfarError
from ..core.shapes import check_shape, loads
from . import hf_networks
from .libraries import InputConfig
from .weights import refusal

FILES = ("model.safetensors", "open_clip_model.safetensors")
PICKLED = ("pytorch_model.bin", "open_clip_pytorch_model.bin", "model.pth")


@dataclass(frozen=True)
class ModelFolder:
    """What a folder says of its model.

    Attributes:
        name: as `encoder` takes it.
        weights: the file.
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


def fetch(repository: str) -> Path:
    """Fetch a repository of the Hugging Face hub: its weights and what it says of them.

    Args:
        repository: "org/name".

    Returns:
        Its folder on this machine.

    Raises:
        NearfarError: it cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    if repository.count("/") != 1:
        raise NearfarError(f"'hf:{repository}' is no repository of the hub; write hf:ORG/NAME.")
    try:
        return Path(snapshot_download(repository, allow_patterns=["*.json", "*.safetensors", "README.md"]))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NearfarError(
            f"'hf:{repository}' could not be fetched ({reason}); check the name and the network, "
            "or give a folder that holds it."
        ) from error


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
    weights = next((place / name for name in FILES if (place / name).is_file()), None)
    if weights is None:
        pickled = next((place / name for name in PICKLED if (place / name).is_file()), None)
        raise NearfarError(
            f"{place} holds no model.safetensors" if pickled is None else refusal(pickled).rstrip()
        )
    if "architecture" not in said:
        name, args = hf_networks.network(said, str(place / "config.json"))
        config = hf_networks.input_config(said, _optional_json(place / "preprocessor_config.json"))
        return ModelFolder(f"timm:{name}", weights, replace(config, licence=licence(folder)), args)
    args = dict(said.get("model_args") or {})
    size = args.pop("img_size", None)
    if "global_pool" not in args and (pool := _other_pool(str(said["architecture"]), said, args)):
        args["global_pool"] = pool
    config = InputConfig.of_timm(said.get("pretrained_cfg") or said)
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
        text = (folder / "README.md").read_text(encoding="utf-8")
    except OSError:
        return ""
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*(\S+)", head[1], re.MULTILINE) if head else None
    return found[1] if found else ""
