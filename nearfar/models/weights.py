"""Loads weights from a file into a network that they must fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core import progress
from ..core.errors import NearfarError
from . import hf_networks

CLASSIFIERS = ("classifier", "fc", "head", "head_dist", "last_linear")  # which libraries name so; left out
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
    made = path.with_suffix(".safetensors").name
    return (
        f"weights {str(path)!r} are a pickle, which can run any code when it is read; convert it where you "
        f'trust its maker: python -c "import torch, safetensors.torch as s; '
        f"s.save_file(torch.load('{path.name}', weights_only=True), '{made}')\""
    )


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


def read(
    net: nn.Module, name: str, stem: str, path: Path
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Fill a network from a .safetensors file; what belongs to a classifier is left out.

    Args:
        net: the plain network, without its classifier; changed in place.
        name: its name, for errors.
        stem: its stem, for errors.
        path: the file, whose names may begin with "net." as an `Encoder`'s do.

    Returns:
        The mean and deviation of the `Encoder` that wrote the file; None for a file of the plain network.

    Raises:
        NearfarError: the file is missing, broken, of another network, or holds NaN or infinite values.
    """
    import safetensors.torch

    if path.suffix != ".safetensors":
        raise NearfarError(refusal(path))
    if not path.is_file():
        raise NearfarError(f"weights {str(path)!r}: there is no such file; check the path.")
    try:
        state = safetensors.torch.load_file(path)
    except Exception as error:
        raise NearfarError(
            f"weights {str(path)!r} cannot be read ({error}); give a complete .safetensors file."
        ) from error
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
        progress.say(f"weights {path}: {len(extra)} tensors not used, {extra[0]} first")
    net.load_state_dict({key: state[key] for key in wanted})
    if not ours:
        return None
    if normalization is None:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    # The shortest numbers that are these in float32: .485, not .48500001.
    mean, std = (tuple(float(str(value)) for value in row) for row in normalization.flatten(1).numpy())
    return mean, std
