"""An encoder as two ONNX graphs: the network alone, and the whole way from a picture to its vector."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.errors import NearfarError
from ..training.run import Run
from .prepared import in_onnx, prepared
from .rebuilt import for_one_size

NETWORK, PIPELINE = "encoder.onnx", "pipeline.onnx"
CLOSE = 0.999  # cosine of an answer of the pipeline to nearfar's, at least; known's differ by 0.0001
OPSET = 18  # the first whose Resize can antialias


class Pipeline(nn.Module):
    """Prepares one picture as `encode` does, and encodes it."""

    def __init__(self, run: Run, network: nn.Module) -> None:
        """Take how a run's pictures are prepared, and what then computes the answer."""
        super().__init__()
        self.network = network
        plan = run.preprocess
        self.most, self.reduction = plan.decode_side, plan.reduction
        self.size, self.mode, self.fit = plan.size, plan.interpolation, plan.fit
        self.crop = list(Fraction(plan.crop).limit_denominator(1000).as_integer_ratio())

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """Answer for a picture.

        Args:
            picture: (1, H, W, 3) uint8, RGB, upright, sides of at least 2.

        Returns:
            What the network gives of it, float32.
        """
        sides = (self.size, self.size)
        x = prepared(picture, self.most, self.reduction, self.crop, self.fit, *sides, self.mode)
        found: torch.Tensor = self.network(x)
        return found


def needs(run: Run) -> None:
    """Make sure that what ONNX takes is installed.

    Raises:
        NearfarError: it is not; says how to install it.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # type: ignore[import-untyped]  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise NearfarError(
            f"an export to ONNX needs the package {error.name}: pip install 'nearfar[onnx]'."
        ) from None


def write(run: Run, folder: Path) -> None:
    """Write both graphs into a folder."""
    write_network(run, folder)
    write_pipeline(run, for_one_size(run.encoder), folder, "features")


def write_network(run: Run, folder: Path) -> None:
    """Write the graph of prepared images."""
    side = run.preprocess.size
    batch = {0: torch.export.Dim("batch", min=1, max=1 << 16)}
    images = torch.zeros(2, 3, side, side)
    graph(for_one_size(run.encoder), images, batch, folder / NETWORK, "images", ("features",))


def write_pipeline(run: Run, network: nn.Module, folder: Path, output: str) -> None:
    """Write the graph from a picture of any size to the answer.

    Args:
        run: says how pictures are prepared.
        network: (n, 3, side, side) floats in [0, 1] to the answer, ready to be traced.
        folder: where to.
        output: the answer's name.
    """
    side = run.preprocess.size
    high, wide = (torch.export.Dim(name, min=2, max=1 << 15) for name in ("height", "width"))
    picture = torch.zeros(1, 2 * side + 3, 3 * side + 5, 3, dtype=torch.uint8)
    dims = {1: high, 2: wide}
    graph(Pipeline(run, network), picture, dims, folder / PIPELINE, "picture", (output,))


def run(opened: Run, folder: Path, x: torch.Tensor) -> torch.Tensor:
    """Encode (n, 3, side, side) with encoder.onnx."""
    return torch.from_numpy(session(folder / NETWORK).run(None, {"images": x.numpy()})[0])


def run_pipeline(folder: Path, pictures: Sequence[Any]) -> torch.Tensor:
    """Answer for pictures with pipeline.onnx.

    Args:
        folder: of the export.
        pictures: (H, W, 3) uint8 each.

    Returns:
        (n, d).
    """
    graph = session(folder / PIPELINE)
    return torch.cat([torch.from_numpy(graph.run(None, {"picture": one[None]})[0]) for one in pictures])


def session(path: Path, threads: int = 0) -> Any:
    """Open a graph on the CPU.

    Args:
        path: the file.
        threads: for one call; 0 for all cores.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def graph(
    module: nn.Module,
    example: torch.Tensor,
    dims: dict[int, Any],
    path: Path,
    name: str,
    outputs: Sequence[str],
) -> None:
    """Trace a module into one file, its weights inside.

    Args:
        module: ready to be traced.
        example: an input.
        dims: which of its sides may vary.
        path: the file.
        name: of the input.
        outputs: their names.
    """
    with _quiet():
        program = torch.export.export(module.eval(), (example,), dynamic_shapes=(dims,))
        torch.onnx.export(
            program,
            (),
            path,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            input_names=[name],
            output_names=list(outputs),
            custom_translation_table=in_onnx(),
            verbose=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter tells its makers from the user."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
