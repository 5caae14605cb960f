"""Encoders for other tools: written, and opened with them to compare the vectors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..core.atomic import check_new_folder, whole_folder
from ..core.errors import NearfarError
from ..data.modalities import IMAGES
from ..training.run import Run, load
from . import card, onnx, openvino_ir, timm_folder, torch_program, transformers_folder, tuned

CLOSE = 1e-4  # of the largest number of a vector, that another tool's answer may differ by
PICTURES = 3  # on which both are compared


@dataclass(frozen=True)
class Format:
    """How one tool gets an encoder.

    Attributes:
        write: writes files into a folder.
        run: encodes (n, 3, side, side) floats in [0, 1] with these files, by the other tool.
        needs: raises where the other tool is not installed, or cannot hold this encoder.
        open_with: how to open the folder, as one types it.
    """

    write: Callable[[Run, Path], None]
    run: Callable[[Run, Path, torch.Tensor], torch.Tensor]
    needs: Callable[[Run], None]
    open_with: str


FORMATS = {
    "onnx": Format(
        onnx.write, onnx.run, onnx.needs, "onnxruntime.InferenceSession('{folder}/pipeline.onnx')"
    ),
    "torch": Format(
        torch_program.write, torch_program.run, lambda run: None, "torch.export.load('{folder}/encoder.pt2')"
    ),
    "timm": Format(
        timm_folder.write,
        timm_folder.run,
        timm_folder.needs,
        "timm.create_model('local-dir:{folder}', pretrained=True)",
    ),
    "transformers": Format(
        transformers_folder.write,
        transformers_folder.run,
        transformers_folder.needs,
        "transformers.AutoModel.from_pretrained('{folder}'{remote})",
    ),
    "openvino": Format(
        openvino_ir.write,
        openvino_ir.run,
        openvino_ir.needs,
        "openvino.compile_model('{folder}/pipeline.xml', 'CPU')",
    ),
}


@dataclass(frozen=True)
class ExportedEncoder:
    """Where an encoder was written, what was found on opening it, and how to open it.

    Attributes:
        path: the folder.
        files: their names.
        difference: the largest difference of a number of a vector, over the largest number, between the other
            tool and ours, on random pictures.
        open_with: a line of Python.
        compared: what was compared.
    """

    path: Path
    files: tuple[str, ...]
    difference: float
    open_with: str
    compared: str = "vectors"

    def to_json(self) -> dict[str, object]:
        """Describe it in plain values."""
        return {
            "path": str(self.path),
            "files": list(self.files),
            "difference": self.difference,
            "open_with": self.open_with,
        }

    def __str__(self) -> str:
        return (
            f"{self.path}: {', '.join(self.files)}; opened again, {self.compared} differ by "
            f"{self.difference:.1g} of their largest number at most\nnext: {self.open_with}"
        )


def export_encoder(run: Run | str | Path, *, to: str, out: str | Path | None = None) -> ExportedEncoder:
    """Write an encoder as files for another tool, open them with that tool, and compare the vectors.

    A fine-tuned run leaves with its head for ONNX, torch and OpenVINO; for the others its encoder alone.

    Args:
        run: a finished run, its folder, or the name of a known encoder.
        to: a name in `FORMATS`.
        out: a new folder; the run's name and the format's if not given.

    Returns:
        What was written.

    Raises:
        NearfarError: the encoder is of no images, the other tool is not installed or cannot hold it, the
            folder exists, or the vectors differ.
    """
    if out is not None:
        check_new_folder(Path(out))  # before anything is loaded
    opened, form = load(run), FORMATS[to]
    if opened.preprocess.modality != IMAGES:
        raise NearfarError(
            f"{opened.name} encodes {opened.preprocess.modality}, and --to {to} takes encoders of images; "
            "use its encoder.safetensors."
        )
    name = opened.path.name if opened.path else opened.name.replace(":", "-").replace("/", "-")
    folder = Path(out) if out is not None else Path(f"{name}-{to}")
    check_new_folder(folder)
    form.needs(opened)
    head = tuned.opened(opened) if to in tuned.FILES and tuned.is_tuned(opened) else None
    with whole_folder(folder) as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what exporters tell their own makers
        if head is None:
            form.write(opened, made)
            difference = _compared(opened, form, made)
        else:
            tuned.write(opened, *head, made, to)
            difference = _close(tuned.compared(head[1], made, to), opened)
        card.write(opened, made, to, None if head is None else head[1])
    files = tuple(sorted(item.name for item in folder.iterdir()))
    remote = ", trust_remote_code=True" if transformers_folder.is_remote(opened) else ""
    how = form.open_with.format(folder=folder, remote=remote) if head is None else tuned.open_with(folder, to)
    what = "vectors" if head is None else "answers"
    return ExportedEncoder(folder, files, difference, how, what)


def _compared(run: Run, form: Format, folder: Path) -> float:
    """Encode random pictures both ways."""
    side = run.preprocess.size
    x = torch.from_numpy(np.random.default_rng(0).random((PICTURES, 3, side, side), np.float32))
    with torch.inference_mode():
        ours = run.encoder.eval()(x)
    theirs = form.run(run, folder, x)
    return _close(float((theirs - ours).abs().max() / ours.abs().max().clamp_min(1e-12)), run)


def _close(difference: float, run: Run) -> float:
    """Refuse a difference that is more than rounding."""
    if not difference <= CLOSE:
        raise NearfarError(
            f"{run.encoder.name} gives other numbers there (a difference of {difference:.2g}); this is a "
            "fault of nearfar or of the other tool: please report it, and export with another --to."
        )
    return difference
