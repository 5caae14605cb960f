"""Encoders for other tools: written, and opened with them to compare the vectors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..core.atomic import check_new_folder, whole_folder
from ..core.entries import entries
from ..core.errors import NearfarError
from ..data.modalities import IMAGES
from ..finetuning.task_types import HeadExport
from ..finetuning.tuned import open_tuned
from ..training.run import Run, load
from . import (
    card,
    onnx,
    openvino_ir,
    pipeline_check,
    sentence_folder,
    timm_classifier,
    timm_folder,
    torch_program,
    transformers_folder,
    tuned,
)
from .pipeline_check import Picture, PictureAgreement

CLOSE = 1e-5  # of the largest number of a vector, that another tool's answer may differ by
RANDOM = 3  # inputs of noise on which both are compared, beside pictures


@dataclass(frozen=True)
class OwnPipeline:
    """How the other tool prepares pictures by itself.

    Attributes:
        name: the file that does it, or what else.
        run: (H, W, 3) uint8 pictures to (n, d), by the other tool.
        close: the least cosine to nearfar's own vectors that passes.
    """

    name: str
    run: Callable[[Run, Path, Sequence[Picture]], torch.Tensor]
    close: Callable[[Run], float]


@dataclass(frozen=True)
class Format:
    """How one tool gets an encoder.

    Attributes:
        write: writes files into a folder.
        run: encodes (n, 3, side, side) floats in [0, 1] with these files, by the other tool.
        needs: raises where the other tool is not installed, or cannot hold this encoder.
        open_with: how to open the folder, as one types it.
        pipeline: what prepares pictures there; None where nothing does.
    """

    write: Callable[[Run, Path], None]
    run: Callable[[Run, Path, torch.Tensor], torch.Tensor]
    needs: Callable[[Run], None]
    open_with: str
    pipeline: OwnPipeline | None = None


_PROCESSOR = "the folder's image processor"
FORMATS = {
    "onnx": Format(
        onnx.write,
        onnx.run,
        onnx.needs,
        "onnxruntime.InferenceSession('{folder}/pipeline.onnx')",
        OwnPipeline(
            onnx.PIPELINE, lambda run, folder, some: onnx.run_pipeline(folder, some), lambda run: onnx.CLOSE
        ),
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
        OwnPipeline(_PROCESSOR, transformers_folder.run_pipeline, transformers_folder.close),
    ),
    "sentence-transformers": Format(
        transformers_folder.write,
        sentence_folder.run,
        sentence_folder.needs,
        "sentence_transformers.SentenceTransformer('{folder}'{remote})",
        OwnPipeline(_PROCESSOR, sentence_folder.run_pipeline, transformers_folder.close),
    ),
    "openvino": Format(
        openvino_ir.write,
        openvino_ir.run,
        openvino_ir.needs,
        "openvino.compile_model('{folder}/pipeline.xml', 'CPU')",
        OwnPipeline(
            openvino_ir.PIPELINE,
            lambda run, folder, some: openvino_ir.run_pipeline(folder, some),
            lambda run: onnx.CLOSE,
        ),
    ),
}


@dataclass(frozen=True)
class ExportedEncoder:
    """Where an encoder was written, what was found on opening it, and how to open it.

    Attributes:
        path: the folder.
        files: their names.
        difference: the largest difference of a number of a vector, over the largest number, between the other
            tool and ours, on prepared pictures and noise.
        open_with: a line of Python.
        compared: what was compared.
        pipeline_cosine: the least cosine to ours of what the tool says of pictures that it prepared itself;
            None where it prepares none.
    """

    path: Path
    files: tuple[str, ...]
    difference: float
    open_with: str
    compared: str = "vectors"
    pipeline_cosine: float | None = None

    def to_json(self) -> dict[str, object]:
        """Describe it in plain values."""
        return {
            "path": str(self.path),
            "files": list(self.files),
            "difference": self.difference,
            "pipeline_cosine": self.pipeline_cosine,
            "open_with": self.open_with,
        }

    def __str__(self) -> str:
        said = f"{self.compared} differ by {self.difference:.1g} of their largest number at most"
        if self.pipeline_cosine is not None:
            said += (
                f", and those of whole pictures have a cosine of at least {self.pipeline_cosine:.6f} to ours"
            )
        return f"{self.path}: {', '.join(self.files)}; opened again, {said}\nnext: {self.open_with}"


def export_encoder(run: Run | str | Path, *, to: str, out: str | Path | None = None) -> ExportedEncoder:
    """Write an encoder as files for another tool, open them with that tool, and compare the vectors.

    A fine-tuned run leaves with its head for ONNX, torch and OpenVINO, and where it is a classifier of a
    network of timm's for timm and transformers too; else its encoder alone.

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
    head = _head(opened, to)
    with whole_folder(folder) as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what exporters tell their own makers
        network: Any = opened.encoder.eval() if head is None else head.made.module
        if head is None:
            form.write(opened, made)
            difference = _compared(opened, form, made)
        else:
            head.write(made)
            difference = _close(head.compared(made), opened)
        agreement = None
        if form.pipeline is not None and (head is None or head.made.square):
            agreement = _agreement(opened, network, form.pipeline, made)
        checks = _checks(form, difference, agreement)
        if to == "openvino" and head is None:
            checks += _as_it_opens(opened, made)
        card.write(opened, made, to, None if head is None else head.made, checks)
    files = tuple(entries(folder))
    remote = ", trust_remote_code=True" if transformers_folder.is_remote(opened) else ""
    way = form.open_with if head is None else head.open_with
    how = way.format(folder=folder, remote=remote)
    what, least = "vectors" if head is None else "answers", None if agreement is None else agreement.least
    return ExportedEncoder(folder, files, difference, how, what, least)


@dataclass(frozen=True)
class _Head:
    """A fine-tuned run's encoder and head, how both are written and compared, and how they are opened."""

    made: HeadExport
    write: Callable[[Path], None]
    compared: Callable[[Path], float]
    open_with: str


def _head(run: Run, to: str) -> _Head | None:
    """Say how a run leaves with its head; None where it has none, or the format takes encoders alone."""
    if not tuned.is_tuned(run):
        return None
    if to in tuned.FILES:
        found, made = tuned.opened(run)
        return _Head(
            made,
            lambda folder: tuned.write(run, found, made, folder, to),
            lambda folder: tuned.compared(made, folder, to),
            tuned.OPENED[to],
        )
    found = open_tuned(run)
    layer = timm_classifier.last_layer(run, found)
    if to not in timm_classifier.OPENED or layer is None:
        return None
    return _Head(
        timm_classifier.described(found.task.exported(found.network, run.preprocess)),
        lambda folder: timm_folder.write(run, folder, layer),
        lambda folder: timm_classifier.compared(run, found, layer, folder, to),
        timm_classifier.OPENED[to],
    )


def _compared(run: Run, form: Format, folder: Path) -> float:
    """Encode prepared pictures, which were not square, and noise both ways."""
    side, plan = run.preprocess.size, run.preprocess
    noise = torch.from_numpy(np.random.default_rng(0).random((RANDOM, 3, side, side), np.float32))
    x = torch.cat([pipeline_check.prepared(plan, pipeline_check.pictures(plan)), noise])
    with torch.inference_mode():
        ours = run.encoder.eval()(x)
    theirs = form.run(run, folder, x)
    return _close(float((theirs - ours).abs().max() / ours.abs().max().clamp_min(1e-12)), run)


def _agreement(run: Run, network: nn.Module, pipeline: OwnPipeline, folder: Path) -> PictureAgreement:
    """Have the other tool prepare pictures by itself."""

    def whole(pictures: Sequence[Picture]) -> torch.Tensor:
        return pipeline.run(run, folder, pictures)

    return pipeline_check.compared(network, run.preprocess, whole, pipeline.name, pipeline.close(run))


def _checks(form: Format, difference: float, agreement: PictureAgreement | None) -> list[str]:
    """Say for the card what was compared and what was found."""
    lines = [f"- the network alone: numbers differ by {difference:.1g} of the largest one at most"]
    if agreement is not None and form.pipeline is not None:
        lines.append(f"- {form.pipeline.name}, from a picture to its vector: {agreement}")
    return lines


def _as_it_opens(run: Run, folder: Path) -> list[str]:
    """Say for the card how close OpenVINO is in the precision that it takes by itself."""
    lines, drawn = [], pipeline_check.pictures(run.preprocess)
    ours = torch.from_numpy(run.encode(drawn, device="cpu"))
    x = pipeline_check.prepared(run.preprocess, drawn).numpy()
    for file, inputs in ((openvino_ir.NETWORK, [x]), (openvino_ir.PIPELINE, [one[None] for one in drawn])):
        model = openvino_ir.compiled(folder / file, None)
        least = pipeline_check.least_cosine(ours, openvino_ir.answers(model, inputs))
        what = f"{file} as OpenVINO opens it by itself, here in {openvino_ir.precision(model)}"
        lines.append(f"- {what}: a cosine of at least {least:.6f}")
    return lines


def _close(difference: float, run: Run) -> float:
    """Refuse a difference that is more than rounding."""
    if not difference <= CLOSE:
        raise NearfarError(
            f"{run.encoder.name} gives other numbers there (a difference of {difference:.2g}); this is a "
            "fault of nearfar or of the other tool: please report it, and export with another --to."
        )
    return difference
