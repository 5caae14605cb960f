"""Makes a run folder of a known encoder, so that it can be used, moved and kept like a run of one's own."""

from __future__ import annotations

from pathlib import Path

from ..core.atomic import check_folder_name, check_place, whole_folder
from ..core.entries import entries
from ..core.errors import NearfarError
from .run import Run, export, load


def adopt(encoder: str | Path, *, out: str | Path) -> Run:
    """Make a run folder of a known encoder: weights, normalisation, preprocessing, licence and source.

    Example: nearfar adopt timm:resnet18 --out runs/resnet18

    Args:
        encoder: known, timm:NAME, torchvision:NAME, hf:ORG/NAME, NAME=FILE.safetensors, or a folder that
            timm, transformers or sentence-transformers wrote; @SIDE after a name changes the side of images.
        out: the folder.

    Returns:
        The run; its encoder has the bytes of the known one.

    Raises:
        NearfarError: the encoder cannot be had, is a run already, or the folder holds another one.
    """
    folder = Path(out)
    check_folder_name(folder)
    check_place(folder / "encoder.safetensors")  # before weights are fetched
    if entries(folder):
        raise NearfarError(f"{folder} is not empty; choose another folder with --out.")
    found = load(encoder if isinstance(encoder, Path) else str(encoder))
    if found.path is not None:
        raise NearfarError(f"{found.name} is a run folder already; use it as it is, or copy it.")
    text = None if found.text is None else (found.text.encoder, found.text.preprocess)
    with whole_folder(folder) as made:
        export(made, found.encoder, found.preprocess, found.provenance, text=text)
    return load(folder)
