"""Loads weights from a file into a network that they must fit."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..core import progress
from ..core.errors import NearfarError


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
        raise NearfarError(f"weights {str(path)!r}: give 'pretrained' or a .safetensors file.")
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
    state = {key.removeprefix("net."): value for key, value in state.items()}
    wanted = net.state_dict()
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
    extra = sorted(set(state) - set(wanted))
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
