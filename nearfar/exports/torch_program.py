"""An encoder as a `torch.export` program: PyTorch opens it without nearfar and without the network's code."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from ..training.run import Run
from .rebuilt import for_one_size

FILE = "encoder.pt2"
LONGEST = 4096  # pixels of a side that may vary, at most


def program(run: Run) -> torch.export.ExportedProgram:
    """Trace the encoder for batches of any number of images.

    Args:
        run: a finished run.

    Returns:
        The program: (n, 3, side, side) floats in [0, 1] to (n, d).
    """
    side = run.preprocess.size
    x = torch.zeros(2, 3, side, side)
    shapes = ({0: torch.export.Dim("batch", min=1, max=1 << 16)},)
    return torch.export.export(for_one_size(run.encoder), (x,), dynamic_shapes=shapes)


def save(made: torch.export.ExportedProgram, path: Path) -> None:
    """Write a program into a file, by way of memory: PyTorch's own writer ends the process on a full disk.

    Args:
        made: the program.
        path: of the file.
    """
    held = io.BytesIO()
    torch.export.save(made, held)
    path.write_bytes(held.getbuffer())


def write(run: Run, folder: Path) -> None:
    """Write encoder.pt2 into a folder."""
    save(program(run), folder / FILE)


def run(opened: Run, folder: Path, x: torch.Tensor) -> torch.Tensor:
    """Encode (n, 3, side, side) with the file."""
    found: torch.Tensor = torch.export.load(folder / FILE).module()(x).detach()
    return found
