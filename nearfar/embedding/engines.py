"""What computes an encoder's vectors on a CPU: torch, or another engine, which is held against torch."""

from __future__ import annotations

import copy
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core import progress
from ..core.device import compute_threads, device_named
from ..core.errors import NearfarError
from ..data.modalities import IMAGES
from ..exports import onnx, openvino_ir, torch_program
from ..training.run import Run

ENGINES = ("torch", "onnx", "openvino")
SAMPLE = 16  # of the first images, which both compute
CLOSE = 0.999  # cosine of each of their vectors to torch's, at least


def place(device: str, engine: str) -> torch.device:
    """Find where to compute.

    Args:
        device: "auto", "cpu", "cuda" or "mps".
        engine: one of `ENGINES`.

    Raises:
        NearfarError: there is no such engine, or it is for CPUs and another device is named.
    """
    if engine not in ENGINES:
        raise NearfarError(f"--engine {engine!r} is not known; choose from {', '.join(ENGINES)}.")
    if engine == "torch":
        return device_named(device)
    if device not in ("auto", "cpu"):
        raise NearfarError(f"--engine {engine} computes on the CPU, not on {device}; leave one out.")
    return torch.device("cpu")


def network(run: Run, where: torch.device, engine: str) -> nn.Module:
    """Give what computes a run's vectors.

    Args:
        run: the encoder.
        where: from `place`.
        engine: one of `ENGINES`.

    Returns:
        Prepared images to (n, dim).

    Raises:
        NearfarError: the engine is not installed, or cannot compute this encoder.
    """
    if engine == "torch":
        return run.encoder if where.type == "cpu" else copy.deepcopy(run.encoder).to(where)
    if run.preprocess.modality != IMAGES:
        raise NearfarError(f"{run.name} encodes {run.preprocess.modality}; leave --engine {engine} out.")
    compute, precision = {"onnx": _onnx, "openvino": _openvino}[engine](run)
    return OtherEngine(run.encoder, engine, compute, precision)


class OtherEngine(nn.Module):
    """An encoder that another engine computes; torch computes the first images too."""

    def __init__(
        self, encoder: nn.Module, engine: str, compute: Callable[[Any], Any], precision: str
    ) -> None:
        """Take the engine's function.

        Args:
            encoder: of images, in torch.
            engine: its name.
            compute: (n, 3, side, side) float32 array to (n, dim); called from several threads.
            precision: of its numbers, as a reader knows it.
        """
        super().__init__()
        self.engine, self.compute, self.precision = engine, compute, precision
        self.by_torch: Callable[[Tensor], Tensor] = lambda x: encoder(
            x
        )  # whose weights are not this module's
        self.checked, self.lock = False, threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        """Encode images: (n, 3, side, side) in [0, 1] to (n, dim).

        Raises:
            NearfarError: the first vectors are not torch's.
        """
        made = torch.from_numpy(self.compute(x.contiguous().numpy()))
        with self.lock:
            if not self.checked:
                self._check(made[:SAMPLE], self.by_torch(x[:SAMPLE]))
                self.checked = True
        return made

    def _check(self, found: Tensor, wanted: Tensor) -> None:
        """Hold vectors against torch's, and say how close they are."""
        least = float(nn.functional.cosine_similarity(found, wanted).min())
        if not least >= CLOSE:
            raise NearfarError(
                f"--engine {self.engine} computes in {self.precision} and gives other vectors than torch (a "
                f"cosine of {least:.4f} on the first images); use --engine "
                f"{'torch' if self.engine == 'onnx' else 'onnx'}."
            )
        progress.say(
            f"--engine {self.engine} computes in {self.precision}: cosine to torch's vectors at least "
            f"{least:.5f} on the first {len(found)} images"
        )


def _onnx(run: Run) -> tuple[Callable[[Any], Any], str]:
    """Write the network as a graph, and open it with ONNX Runtime."""
    onnx.needs(run)
    with tempfile.TemporaryDirectory() as folder:
        onnx.write_network(run, Path(folder))
        session = onnx.session(Path(folder) / onnx.NETWORK, threads=1)  # each thread asks for its own batches
    return lambda x: session.run(None, {"images": x})[0], "float32"


def _openvino(run: Run) -> tuple[Callable[[Any], Any], str]:
    """Compile the network in OpenVINO, in bfloat16 where the CPU computes that faster."""
    openvino_ir.needs(run)
    import openvino

    threads = compute_threads()
    how = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads}
    model = openvino_ir.converted(torch_program.program(run))
    compiled = openvino.Core().compile_model(model, "CPU", how)
    kind = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    own = threading.local()

    def compute(x: Any) -> Any:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        return own.request.infer(x)[0].copy()  # the next answer takes the same memory

    return compute, {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}.get(kind, kind)
