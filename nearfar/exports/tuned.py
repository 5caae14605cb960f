"""Fine-tuned runs for other tools: encoder and head as one network, opened again and compared."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..finetuning.task_types import HeadExport
from ..finetuning.tuned import Tuned, open_tuned
from ..training.run import Run
from . import onnx, openvino_ir, torch_program
from .rebuilt import for_one_size

NOTE = "model.json"
FILES = {"onnx": "model.onnx", "torch": "model.pt2", "openvino": "model.xml"}
OPENED = {
    "onnx": "onnxruntime.InferenceSession('{folder}/model.onnx')",
    "torch": "torch.export.load('{folder}/model.pt2')",
    "openvino": "openvino.compile_model('{folder}/model.xml')",
}
BATCHES = (1, 3)  # sizes of the batches on which both are compared


def is_tuned(run: Run) -> bool:
    """Tell whether a run has a head of `nearfar finetune`."""
    return "task" in run.provenance and "head" in run.parts


def opened(run: Run) -> tuple[Tuned, HeadExport]:
    """Open a fine-tuned run, its network ready to be traced.

    Args:
        run: for which `is_tuned` holds.
    """
    found = open_tuned(run)
    made = found.task.exported(found.network, run.preprocess)
    module = made.module if made.step else for_one_size(made.module)
    module = copy.deepcopy(module).cpu().eval()
    for weight in module.parameters():
        weight.requires_grad_(False)
    made.module = module
    return found, made


def write(run: Run, found: Tuned, made: HeadExport, folder: Path, to: str) -> None:
    """Write the network, and what a program must know to use it, into a folder.

    Args:
        run, found, made: from `opened`.
        folder: where.
        to: a name in `FILES`.
    """
    example, dims = _example(made), _dims(made)
    if to == "onnx":
        onnx.graph(made.module, example, dims, folder / FILES[to], "images", made.outputs)
        if made.square:
            onnx.write_pipeline(run, made.module, folder, made.outputs[0])
    else:
        program = torch.export.export(made.module, (example,), dynamic_shapes=(dims,))
        if to == "openvino":
            openvino_ir.save(program, folder / FILES[to])
            if made.square:
                openvino_ir.write_pipeline(run, made.module, folder, made.outputs[0])
        else:
            torch_program.save(program, folder / FILES[to])
    told = {"task": found.task.name, "classes": list(found.task.classes), **made.facts}
    note = {**told, "input": "images", "outputs": list(made.outputs), "multiple": made.step or None}
    (folder / NOTE).write_text(json.dumps(note, indent=1), encoding="utf-8")
    for name in made.beside:
        shutil.copyfile(Path(__file__).with_name(name), folder / name)


def compared(made: HeadExport, folder: Path, to: str) -> float:
    """Give what the file says and what the network says of random images, and how far they are apart.

    Returns:
        The largest difference of a number, over the largest number of its output.
    """
    draw, found, theirs = np.random.default_rng(0), [], program_of(folder, to)
    for count in BATCHES:
        high, wide = made.shape
        sides = (high + made.step, wide) if count == 1 else (high, wide)
        x = torch.from_numpy(draw.random((count, 3, *sides), np.float32))
        with torch.inference_mode():
            ours = _several(made.module(x))
        for mine, other in zip(ours, theirs(x), strict=True):
            found.append(float((mine - other).abs().max() / mine.abs().max().clamp_min(1e-12)))
    return float(np.max(found))  # NaN where one is


def program_of(folder: Path, to: str) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
    """Open the file with the other tool; what is returned computes the outputs of (n, 3, h, w)."""
    path = folder / FILES[to]
    if to == "onnx":
        session = onnx.session(path)
        return lambda x: tuple(map(torch.from_numpy, session.run(None, {"images": x.numpy()})))
    if to == "openvino":
        return lambda x: tuple(map(torch.from_numpy, openvino_ir.run_file(path, x)))
    loaded: nn.Module = torch.export.load(path).module()
    return lambda x: tuple(some.detach() for some in _several(loaded(x)))


def _several(outputs: Any) -> tuple[torch.Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _example(made: HeadExport) -> torch.Tensor:
    high, wide = made.shape
    return torch.zeros(2, 3, high + made.step, wide + 2 * made.step)


def _dims(made: HeadExport) -> dict[int, Any]:
    """Say which sides of the input may vary: the batch, and where it is possible height and width."""
    dims: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=1 << 16)}
    if made.step:
        names = {2: "rows", 3: "columns"}
        dims |= {
            at: made.step * torch.export.Dim(name, min=1, max=torch_program.LONGEST // made.step)
            for at, name in names.items()
        }
    return dims
