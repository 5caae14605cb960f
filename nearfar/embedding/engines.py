"""What computes an encoder's vectors on a CPU: torch, or another engine, which is held against torch."""

from __future__ import annotations

import copy
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core import progress
from ..core.device import compute_threads, device_named
from ..core.errors import NearfarError
from ..data.modalities import IMAGES
from ..exports import onnx, openvino_ir, torch_program
from ..stores import VectorStore
from ..training.run import Run

ENGINES = ("torch", "onnx", "openvino")
SAMPLE = 16  # of the first images, which both compute
REPEATS, CHECK_SECONDS = (
    4,
    4.0,
)  # of these, the first of which starts an engine up; seconds after which to stop
COSINE = "cosine_to_torch"  # what is kept with the vectors
NOTED = "digest"  # the column of a store whose notes have it: the vectors themselves can have none
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
    """An encoder that another engine computes; torch computes the first images too.

    Attributes:
        least: the least cosine of the first vectors to torch's; None before there are any.
        times: how many times as fast as torch it computed them.
    """

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
        self.least: float | None = None
        self.times: float | None = None
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        """Encode images: (n, 3, side, side) in [0, 1] to (n, dim).

        Raises:
            NearfarError: the first vectors are not torch's.
        """
        if self.least is None:
            with self.lock:  # the other threads wait, so that they do not disturb the clock
                if self.least is None:
                    self._check(x[:SAMPLE])
        return self._encode(x)

    def _encode(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.compute(x.contiguous().numpy()))

    def _check(self, x: Tensor) -> None:
        """Have both compute images, and say how close and how fast the engine is."""
        with torch.inference_mode():
            spent: dict[str, list[float]] = {"torch": [], self.engine: []}
            found = wanted = x
            for _ in range(REPEATS):
                if sum(map(sum, spent.values())) > CHECK_SECONDS and len(spent["torch"]) > 1:
                    break
                wanted = _timed(self.by_torch, x, spent["torch"])
                found = _timed(self._encode, x, spent[self.engine])
            least = float(nn.functional.cosine_similarity(found, wanted).min().clamp(max=1))
        if not least >= CLOSE:
            raise NearfarError(
                f"--engine {self.engine} computes in {self.precision} and gives other vectors than torch (a "
                f"cosine of {least:.4f} on the first images); use --engine "
                f"{'torch' if self.engine == 'onnx' else 'onnx'}."
            )
        self.times = min(spent["torch"]) / max(min(spent[self.engine]), 1e-9)
        advice = f"; it is slower: leave --engine {self.engine} out" if self.times < 1 else ""
        progress.say(
            f"--engine {self.engine} computes in {self.precision}: {self.times:.1f} times as fast as torch, "
            f"cosine to torch's vectors at least {least:.5f}, on the first {len(x)} images{advice}"
        )
        self.least = least


def _timed(compute: Callable[[Tensor], Tensor], x: Tensor, spent: list[float]) -> Tensor:
    began = time.perf_counter()
    found = compute(x)
    spent.append(time.perf_counter() - began)
    return found


def closeness(net: nn.Module) -> dict[str, float]:
    """Say for a file how close an engine's vectors were to torch's.

    Args:
        net: from `network`, after it has encoded.

    Returns:
        `cosine_to_torch`, the least one of the first images; nothing of torch itself, nor where nothing was
        encoded.
    """
    least = getattr(net, "least", None)
    return {COSINE: least} if isinstance(least, float) else {}


def note_closeness(store: VectorStore, found: Mapping[str, float]) -> None:
    """Keep in a store how close its engine's vectors are to torch's: the least that was ever found.

    Args:
        store: whose vectors were written.
        found: from `closeness`.
    """
    before = store.notes(NOTED)
    worse = {name: value for name, value in found.items() if not value >= before.get(name, 2.0)}
    if worse:
        store.set_notes(NOTED, {**before, **worse})


def _onnx(run: Run) -> tuple[Callable[[Any], Any], str]:
    """Write the network as a graph, and open it with ONNX Runtime."""
    onnx.needs(run)
    with tempfile.TemporaryDirectory() as folder:
        onnx.write_network(run, Path(folder))
        session = onnx.session(Path(folder) / onnx.NETWORK, threads=1)  # each thread asks for its own batches
    return lambda x: session.run(None, {"images": x})[0], "float32"


def _openvino(run: Run) -> tuple[Callable[[Any], Any], str]:
    """Compile the network in OpenVINO, in bfloat16 where the CPU computes that faster."""
    openvino_ir.needs(run, ("openvino",))
    import openvino

    threads = compute_threads()
    how = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads}
    model = openvino_ir.converted(torch_program.program(run))
    compiled = openvino.Core().compile_model(model, "CPU", how)
    own = threading.local()

    def compute(x: Any) -> Any:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        return own.request.infer(x)[0].copy()  # the next answer takes the same memory

    return compute, openvino_ir.precision(compiled)
