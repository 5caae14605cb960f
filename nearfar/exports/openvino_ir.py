"""An encoder as OpenVINO's own files, for CPUs of Intel's and others'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..core.errors import NearfarError
from ..training.run import Run
from . import torch_program

NETWORK = "encoder.xml"  # encoder.bin beside it holds the weights


def needs(run: Run) -> None:
    """Make sure that OpenVINO is installed.

    Raises:
        NearfarError: it is not; says how to install it.
    """
    try:
        import openvino  # noqa: F401
    except ImportError:
        raise NearfarError(
            "an export to OpenVINO needs the package openvino: pip install 'nearfar[openvino]'."
        ) from None


def converted(program: torch.export.ExportedProgram) -> Any:
    """Turn a program into a model of OpenVINO's.

    Args:
        program: as `torch_program.program` makes it.
    """
    import openvino

    return openvino.convert_model(program)


def save(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a program as an .xml file, and its weights, in float32, as a .bin file beside it."""
    import openvino

    openvino.save_model(converted(program), path, compress_to_fp16=False)


def write(run: Run, folder: Path) -> None:
    """Write encoder.xml and encoder.bin into a folder."""
    save(torch_program.program(run), folder / NETWORK)


def run(opened: Run, folder: Path, x: torch.Tensor) -> torch.Tensor:
    """Encode (n, 3, side, side) with the files, in float32."""
    return torch.from_numpy(run_file(folder / NETWORK, x)[0])


def run_file(path: Path, x: torch.Tensor) -> list[Any]:
    """Compute the outputs of (n, 3, h, w) with a file, in float32: OpenVINO takes bfloat16 where it can.

    Args:
        path: the .xml file.
        x: the input.
    """
    import openvino

    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    made = openvino.Core().compile_model(path, "CPU", hint)(x.numpy())
    return [made[at] for at in range(len(made))]
