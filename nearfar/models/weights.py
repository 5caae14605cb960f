"""Loads weights from a file into a network that they must fit."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.errors import NearfarError
from ..core.shapes import check_shape, loads, optional_object
from . import embedded, hf_networks, libraries
from .input_config import PREPROCESSOR, InputConfig, remark

CLASSIFIERS = ("classifier", "fc", "head", "head_dist", "last_linear")  # which libraries name so; left out
INDEX = ".safetensors.index.json"  # the end of the name of a list of files that hold one network
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".tar")


def refusal(path: Path) -> str:
    """Say why a file of weights is not read, and how a pickle is converted.

    Args:
        path: a file that is no .safetensors file.
    """
    if not path.suffix:
        return (
            f"weights {str(path)!r} are no known encoder, no finished run and no .safetensors file; give one "
            "of these, such as known, timm:resnet18 or runs/a."
        )
    if path.suffix not in PICKLES:
        return f"weights {str(path)!r} are in no file that nearfar reads; give a .safetensors file."
    return (
        f"weights {str(path)!r} are a pickle, which can run any code when it is read; convert it where you "
        f"trust its maker: {conversion([path], path.with_suffix('.safetensors'))}"
    )


def conversion(pickled: Sequence[Path], made: Path) -> str:
    """Give the command that converts a pickle, without running code from it.

    Args:
        pickled: the file, or all files of one network.
        made: the .safetensors file to write.
    """
    read = f"torch.load({str(pickled[0])!r}, weights_only=True)"
    if len(pickled) > 1:
        files = [str(path) for path in pickled]
        read = f"{{k: v for f in {files} for k, v in torch.load(f, weights_only=True).items()}}"
    code = f"import torch, safetensors.torch as s; s.save_file({read}, {str(made)!r})"
    return f'python -c "{code}"' if not set('"$`\\') & {*code} else f"python -c {shlex.quote(code)}"


def _resample_positions(net: Any, state: dict[str, torch.Tensor]) -> None:
    """Bring the learnt positions of a timm vision transformer to the grid of patches that `net` has."""
    own, theirs = getattr(net, "pos_embed", None), state.get("pos_embed")
    if theirs is None or not isinstance(own, torch.Tensor) or not hasattr(net, "patch_embed"):
        return
    if own.shape != theirs.shape and own.dim() == theirs.dim() == 3 and own.shape[2] == theirs.shape[2]:
        from timm.layers import resample_abs_pos_embed

        prefix = 0 if getattr(net, "no_embed_class", False) else getattr(net, "num_prefix_tokens", 0)
        grid = list(net.patch_embed.grid_size)
        state["pos_embed"] = resample_abs_pos_embed(theirs, new_size=grid, num_prefix_tokens=prefix)


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy an encoder's weights into one of the same make, which may be for images of another side.

    Args:
        source, target: encoders; the target is changed in place.
    """
    state = {key: value for key, value in source.state_dict().items() if not key.startswith("net.")}
    inner = {
        key.removeprefix("net."): value
        for key, value in source.state_dict().items()
        if key.startswith("net.")
    }
    _resample_positions(getattr(target, "net", None), inner)
    target.load_state_dict(state | {f"net.{key}": value for key, value in inner.items()})


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read weights from a .safetensors file, or from all those that an index names.

    Args:
        path: the file, or a model.safetensors.index.json, whose files lie beside it.

    Returns:
        By the names in the file.

    Raises:
        NearfarError: a file is missing or broken, or an index leads elsewhere.
    """
    import safetensors.torch

    state: dict[str, torch.Tensor] = {}
    for file in _shards(path) if path.name.endswith(INDEX) else [path]:
        if not file.is_file():
            whose = "check the path" if file == path else f"{path.name} names it, so give the whole folder"
            raise NearfarError(f"weights {str(file)!r}: there is no such file; {whose}.")
        try:
            state |= safetensors.torch.load_file(file)
        except Exception as error:
            raise NearfarError(
                f"weights {str(file)!r} cannot be read ({error}); give a complete file, or a whole folder."
            ) from error
    return state


def _shards(index: Path) -> list[Path]:
    """Read which files hold a network; they lie in the folder of their index, and nowhere else."""
    try:
        said = loads(index.read_bytes())
    except (OSError, ValueError) as error:
        raise NearfarError(f"{index} cannot be read ({error}); give a whole folder of a model.") from error
    check_shape(said, {"weight_map": {str: str}}, f"{index}: ")
    names = sorted({*said["weight_map"].values()})
    for name in names:
        if Path(name).name != name or "\\" in name or Path(name).suffix != ".safetensors":
            raise NearfarError(
                f"{index} names {name!r}, which is no .safetensors file beside it; give a whole folder of a "
                "model."
            )
    return [index.parent / name for name in names]


def input_of(path: Path, library: str, name: str) -> InputConfig:
    """Say what the images of weights in a file are, unless an `Encoder` wrote it, which knows itself.

    Args:
        path: the file, of the plain network.
        library: "torchvision" or "timm".
        name: the network's there.

    Returns:
        What the embedded known encoder's are, if the weights are its; what a config.json of timm's or a
        preprocessor_config.json beside the file says; else, `assumed`, what its library says of the network.
    """
    usual = replace(libraries.input_config(library, name), licence="")  # the weights may be anybody's
    if (
        f"{library}:{name}" == embedded.NAME
        and path.is_file()
        and embedded.digest_of(tensors(path)) == embedded.TENSORS
    ):
        return embedded.CONFIG
    said = optional_object(path.parent / "config.json")
    if str(said.get("architecture")).split(".")[0] == name.split(".")[0]:
        config = InputConfig.of_timm(said.get("pretrained_cfg") or said)
        if not config.assumed:
            return config
    how = optional_object(path.parent / PREPROCESSOR)
    mean, std = hf_networks.figures(how)
    if mean is None or std is None:
        return replace(usual, assumed=True)
    own = hf_networks.input_config({}, how) if {"size", "crop_size"} & {*how} else usual
    return replace(own, mean=mean, std=std)


def read(
    net: nn.Module, name: str, stem: str, path: Path
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Fill a network from a .safetensors file; what belongs to a classifier is left out.

    Args:
        net: the plain network, without its classifier; changed in place.
        name: its name, for errors.
        stem: its stem, for errors.
        path: the file, or the index of several, whose names may begin with "net." as an `Encoder`'s do.

    Returns:
        The mean and deviation of the `Encoder` that wrote the file; None for a file of the plain network.

    Raises:
        NearfarError: the file is missing, broken, of another network, or holds NaN or infinite values.
    """
    if path.suffix != ".safetensors" and not path.name.endswith(INDEX):
        raise NearfarError(refusal(path))
    state = tensors(path)
    ours = all(f"net.{key}" in state for key in net.state_dict())
    normalization = state.pop("normalization", None) if ours else None
    state = {key.removeprefix("net.").removeprefix("timm_model."): value for key, value in state.items()}
    state = hf_networks.renamed(state, net)
    wanted = net.state_dict()
    _resample_positions(net, state)
    unfit = [key for key, value in wanted.items() if key not in state or state[key].shape != value.shape]
    if unfit:
        raise NearfarError(
            f"weights {str(path)!r} do not fit {name!r} with stem {stem!r}: {len(unfit)} of {len(wanted)} "
            f"tensors are missing or of another shape, {unfit[0]!r} first; check --encoder, --stem and "
            "--image-size."
        )
    broken = [key for key in wanted if not bool(torch.isfinite(state[key]).all())]
    if broken:
        raise NearfarError(
            f"weights {str(path)!r} hold NaN or infinite values, in {broken[0]!r} first; use another file."
        )
    extra = sorted(key for key in set(state) - set(wanted) if key.split(".")[0] not in CLASSIFIERS)
    if extra:
        remark(f"weights {path}: {len(extra)} tensors not used, {extra[0]} first")
    net.load_state_dict({key: state[key] for key in wanted})
    if not ours:
        return None
    if normalization is None:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    # The shortest numbers that are these in float32: .485, not .48500001.
    mean, std = (tuple(float(str(value)) for value in row) for row in normalization.flatten(1).numpy())
    return mean, std
