"""An encoder as OpenVINO's own files, for CPUs of Intel's and others'."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..core.errors import NearfarError
from ..training.run import Run
from . import onnx, torch_program
from .rebuilt import for_one_size

NETWORK, PIPELINE = "encoder.xml", "pipeline.xml"  # .bin files beside them hold the weights
PACKAGES = ("openvino", "onnx", "onnxscript")


def needs(run: Run, packages: Sequence[str] = PACKAGES) -> None:
    """Make sure that what OpenVINO takes is installed.

    Args:
        run: any.
        packages: the names under which they are imported.

    Raises:
        NearfarError: one is not; says how to install it.
    """
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise NearfarError(f"OpenVINO needs the package {name}: pip install 'nearfar[openvino]'.")


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
    """Write the network, and the way from a picture of any size to its vector, into a folder."""
    save(torch_program.program(run), folder / NETWORK)
    write_pipeline(run, for_one_size(run.encoder), folder, "features")


def write_pipeline(run: Run, network: nn.Module, folder: Path, output: str) -> None:
    """Write pipeline.xml from the ONNX graph: OpenVINO reads its resizing there, and not in a program.

    Args:
        run, network, folder, output: as for `onnx.write_pipeline`.
    """
    import openvino

    with tempfile.TemporaryDirectory() as place:
        onnx.write_pipeline(run, network, Path(place), output)
        model = openvino.convert_model(Path(place) / onnx.PIPELINE)
        _antialias(model)
        openvino.save_model(model, folder / PIPELINE, compress_to_fp16=False)


def _antialias(model: Any) -> None:
    """Put Pillow's resizing in place of ONNX's, whose antialiasing OpenVINO leaves out where it is cubic."""
    from openvino import opset13 as op

    rows = op.constant(np.array([2, 3], np.int64))
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Interpolate":
            continue
        said, x, sides = node.get_attributes(), node.input_value(0), node.input_value(1)
        made = op.interpolate(
            x,
            op.gather(sides, rows, op.constant(np.array(0, np.int64))),
            "bicubic_pillow" if said["mode"] == "cubic" else "bilinear_pillow",
            "sizes",
            cube_coeff=said["cube_coeff"],
            axes=rows,
        )
        for place in node.output(0).get_target_inputs():
            place.replace_source_output(made.output(0))
    model.validate_nodes_and_infer_types()


def run(opened: Run, folder: Path, x: torch.Tensor) -> torch.Tensor:
    """Encode (n, 3, side, side) with encoder.xml, in float32."""
    return torch.from_numpy(run_file(folder / NETWORK, x)[0])


def run_pipeline(folder: Path, pictures: Sequence[Any]) -> torch.Tensor:
    """Answer for pictures with pipeline.xml, in float32.

    Args:
        folder: of the export.
        pictures: (H, W, 3) uint8 each.

    Returns:
        (n, d).
    """
    return answers(compiled(folder / PIPELINE), [one[None] for one in pictures])


def compiled(path: Path, hint: str | None = "f32") -> Any:
    """Open a file.

    Args:
        path: the .xml file.
        hint: the precision to compute in; None for what OpenVINO takes by itself, bfloat16 where it can.
    """
    import openvino

    how = {} if hint is None else {"INFERENCE_PRECISION_HINT": hint}
    return openvino.Core().compile_model(path, "CPU", how)


def answers(model: Any, inputs: Sequence[Any]) -> torch.Tensor:
    """Compute the first output of each input, one after the other.

    Args:
        model: from `compiled`.
        inputs: arrays.

    Returns:
        Them all, joined.
    """
    return torch.cat([torch.from_numpy(model(one)[0].copy()) for one in inputs])  # whose memory is used again


def precision(model: Any) -> str:
    """Say in what numbers a compiled model computes."""
    kind = str(model.get_property("INFERENCE_PRECISION_HINT").get_type_name())
    return {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}.get(kind, kind)


def run_file(path: Path, x: torch.Tensor) -> list[Any]:
    """Compute the outputs of (n, 3, h, w) with a file.

    Args:
        path: the .xml file.
        x: the input.
    """
    made = compiled(path)(x.numpy())
    return [made[at] for at in range(len(made))]
