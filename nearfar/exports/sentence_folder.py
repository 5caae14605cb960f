"""An encoder as a folder that sentence-transformers opens: that of transformers, opened by the other."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..core.errors import NearfarError
from ..training.run import Run
from . import transformers_folder
from .transformers_folder import quiet

MODULE = "sentence_transformers.base.modules.transformer"  # what modules.json of the folder names


def needs(run: Run) -> None:
    """Make sure that sentence-transformers is installed and that the folder can hold this network.

    Raises:
        NearfarError: it is not, or cannot.
    """
    try:
        there = importlib.util.find_spec(MODULE) is not None
    except ImportError:
        there = False
    if not there:
        raise NearfarError(
            "an export to sentence-transformers needs the package sentence-transformers, 6 or later: "
            "pip install 'sentence-transformers>=6'; --to transformers writes the same folder without it."
        )
    transformers_folder.needs(run)


def run(opened: Run, folder: Path, x: torch.Tensor) -> torch.Tensor:
    """Encode (n, 3, side, side) with what sentence-transformers opens, normalised as its processor says."""
    model = _opened(opened, folder)
    mean, std = transformers_folder.normalisation(model[0].processor, opened)
    with torch.inference_mode():
        found: torch.Tensor = model({"pixel_values": (x - mean) / std, "modality": "image"})[
            "sentence_embedding"
        ]
    transformers_folder.forget_code(model[0].model)
    return found


def run_pipeline(opened: Run, folder: Path, pictures: Sequence[Any]) -> torch.Tensor:
    """Encode pictures, (H, W, 3) uint8 each, with what sentence-transformers opens."""
    model = _opened(opened, folder)
    found: torch.Tensor = model.encode(
        [Image.fromarray(one) for one in pictures], convert_to_tensor=True, show_progress_bar=False
    )
    transformers_folder.forget_code(model[0].model)
    return found


def _opened(opened: Run, folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    remote = transformers_folder.is_remote(opened)
    with quiet():
        return SentenceTransformer(str(folder), device="cpu", trust_remote_code=remote)
