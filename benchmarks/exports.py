"""Each export opened with the other tool, on pictures that are not square; and engines on one CPU thread.

    python -m benchmarks.exports trips
    python -m benchmarks.exports heads
    python -m benchmarks.exports engines

`trips` prepares pictures as README.md of the export says, with Pillow and NumPy alone, and as the tool itself
prepares them, and compares the vectors with `encode`. It needs the extras onnx, transformers, openvino and
known, and takes sentence-transformers where it is installed. `heads` does the same with a fine-tuned run of
each task, trained for a moment on drawn images. `engines` counts images per second of CPU time,
in rounds that alternate, and takes the best of each. Networks have random weights, but for `known`.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import nearfar
from benchmarks import measure
from nearfar import models
from nearfar.images.views import Preprocess
from nearfar.models import every_scale
from nearfar.training.run import Run, export, load

SHAPES = [(90, 61), (40, 100), (33, 32), (20, 27), (301, 452), (640, 333)]  # heights and widths
NETWORKS = [  # name, side, stem
    ("resnet8", 32, "standard"),
    ("vit_w192_d6", 32, "standard"),
    ("torchvision:resnet18", 64, "small"),
    ("timm:vit_tiny_patch16_224", 224, "standard"),
    ("timm:convnext_atto", 224, "standard"),
    ("known", 224, ""),
]
TIMED = [
    ("resnet8", 32, "standard"),
    ("resnet8", 64, "standard"),
    ("resnet10_w16", 64, "standard"),
    ("torchvision:resnet18", 224, "standard"),
    ("known", 224, ""),
    ("timm:vit_small_patch16_224", 224, "standard"),
]
FORMATS = ("onnx", "torch", "timm", "transformers", "sentence-transformers", "openvino")
HEADS = ("classify", "reidentify", "segment", "detect")
Vectors = Any


def a_run(name: str, size: int, stem: str, folder: Path) -> Run:
    """Give a run of random weights whose batch norms have seen something."""
    if name == "known":
        return load(name)
    encoder = every_scale.finished(models.encoder(name, size=size, stem=stem, seed=3)).train()
    with torch.no_grad():
        encoder(torch.rand(8, 3, size, size, generator=torch.Generator().manual_seed(0)))
    folder.mkdir(parents=True)
    how = Preprocess.of(size, "bilinear")
    export(folder, encoder.eval(), how, {"nearfar": "0", "source": "random weights"})
    return load(folder)


def pictures() -> list[np.ndarray]:
    """Draw coloured shapes and a grain on pictures that are not square."""
    draw, found = np.random.default_rng(0), []
    for high, wide in SHAPES:
        coarse = Image.fromarray(draw.integers(0, 256, (7, 7, 3), np.uint8))
        smooth = np.asarray(coarse.resize((wide, high), Image.Resampling.BICUBIC), np.float32)
        grain = draw.normal(0, 12, (high, wide, 1))
        found.append((smooth + grain).clip(0, 255).astype(np.uint8))
    return found


def cosines(found: Vectors, wanted: Vectors) -> Vectors:
    """Compare rows."""
    return (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)


def prepared_by_the_card(text: str, picture: np.ndarray) -> np.ndarray:
    """Do what README.md of an export says, with Pillow and NumPy alone: (3, side, side)."""
    most, share, side, how = (
        re.search(pattern, text)[1]  # type: ignore[index]
        for pattern in (
            r"short side is over (\d+) px",
            r"centred square of ([\d.]+) of the short side",
            r"Resize it to (\d+) x",
            r"Resize it to \d+ x \d+ px, antialiased (\w+)",
        )
    )
    image = Image.fromarray(picture)
    short = min(image.size)
    if short > int(most):
        wide, high = (round(one * int(most) / short) for one in image.size)
        image = image.resize((wide, high), Image.Resampling.BICUBIC)
    square = round(min(image.size) * float(share))
    left, top = ((one - square) // 2 for one in image.size)
    image = image.crop((left, top, left + square, top + square))
    planes = [
        Image.fromarray(np.asarray(plane, np.float32)) for plane in image.split()
    ]  # floats: not rounded
    planes = [plane.resize((int(side), int(side)), Image.Resampling[how.upper()]) for plane in planes]
    x = np.stack([np.asarray(plane) for plane in planes]).clip(0, 255) / 255
    said = re.search(r"Subtract the mean \[(.+?)\] and divide by the deviation \[(.+?)\]", text)
    if said:
        mean, std = (np.array(row.split(", "), np.float32).reshape(3, 1, 1) for row in said.groups())
        x = (x - mean) / std
    return x


def opened(to: str, folder: Path) -> tuple[Callable[[np.ndarray], Vectors], Callable[..., Vectors] | None]:
    """Open an export: a function of prepared pictures, and one of pictures as they are, if there is one."""
    code = {"trust_remote_code": True} if list(folder.glob("modeling_*.py")) else {}
    if to == "onnx":
        import onnxruntime

        names = ("encoder.onnx", "pipeline.onnx")
        net, whole = (onnxruntime.InferenceSession(str(folder / name)) for name in names)
        return (
            lambda x: net.run(None, {"images": x})[0],
            lambda some: np.concatenate([whole.run(None, {"picture": one[None]})[0] for one in some]),
        )
    if to == "torch":
        program = torch.export.load(folder / "encoder.pt2").module()
        return lambda x: program(torch.from_numpy(x)).detach().numpy(), None
    if to == "openvino":
        import openvino

        hint = {"INFERENCE_PRECISION_HINT": "f32"}
        files = ("encoder.xml", "pipeline.xml")
        alone, entire = (openvino.Core().compile_model(folder / name, "CPU", hint) for name in files)
        return (
            lambda x: alone(x)[0],
            lambda some: np.concatenate([entire(one[None])[0] for one in some]),
        )
    if to == "timm":
        import timm

        made = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(made))
        return (
            lambda x: made(torch.from_numpy(x)).detach().numpy(),
            lambda some: made(torch.stack([prepare(Image.fromarray(one)) for one in some])).detach().numpy(),
        )
    if to == "sentence-transformers":
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(folder), device="cpu", **code)
        return lambda x: None, lambda some: model.encode([Image.fromarray(one) for one in some])
    from transformers import AutoImageProcessor, AutoModel

    network = AutoModel.from_pretrained(folder, **code).eval()
    processor = AutoImageProcessor.from_pretrained(folder, **code)

    def own(some: list[np.ndarray]) -> Vectors:
        x = processor([Image.fromarray(one) for one in some], return_tensors="pt")
        return network(**x).pooler_output.detach().numpy()

    return lambda x: network(torch.from_numpy(x)).pooler_output.detach().numpy(), own


def trips(only: str) -> Iterator[str]:
    """Write a row for each network and format."""
    yield "| network | `--to` | difference | cosine, by the card | cosine, by the tool | MB | CPU s |"
    yield "|---|---|---|---|---|---|---|"
    drawn = pictures()
    for name, size, stem in NETWORKS:
        if only not in name:
            continue
        with tempfile.TemporaryDirectory() as place:
            run = a_run(name, size, stem, Path(place) / "run")
            wanted = run.encode(drawn)
            for to in FORMATS:
                began, folder = time.process_time(), Path(place) / to
                try:
                    made = nearfar.export(run, to=to, out=folder)
                except nearfar.NearfarError as error:
                    yield f"| {name}, {size} px | {to} | {str(error).partition(';')[0]} | | | | |"
                    continue
                seconds = time.process_time() - began
                text = (folder / "README.md").read_text(encoding="utf-8")
                x = np.stack([prepared_by_the_card(text, one) for one in drawn])
                ready, own = opened(to, folder)
                carded = ready(x)
                cells = [
                    "" if carded is None else f"{cosines(carded, wanted).min():.6f}",
                    "" if own is None else f"{cosines(own(drawn), wanted).min():.6f}",
                ]
                yield (
                    f"| {name}, {size} px | {to} | {made.difference:.0e} | {' | '.join(cells)} | "
                    f"{megabytes(folder):.1f} | {seconds:.1f} |"
                )


def megabytes(folder: Path) -> float:
    """Weigh a folder."""
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


def labelled(folder: Path, task: str) -> Path:
    """Draw a red disc or a blue one on grey: a folder for each, or both with masks or boxes."""
    draw = np.random.default_rng(0)
    for at in range(16):
        pixels = draw.integers(100, 140, (48, 64, 3)).astype(np.uint8)
        down, across = np.mgrid[:48, :64]
        y, x, kind = int(draw.integers(10, 38)), int(draw.integers(10, 54)), at % 2
        disc = (down - y) ** 2 + (across - x) ** 2 < 64
        pixels[disc] = ((200, 40, 40), (40, 40, 200))[kind]
        whole = task in ("classify", "reidentify")
        image = folder / (f"k{kind}" if whole else "images") / f"{at}.png"
        for place in (image.parent, *(() if whole else (folder / "masks", folder / "labels"))):
            place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(image)
        if task == "segment":
            Image.fromarray((disc * (127 * (kind + 1))).astype(np.uint8)).save(folder / "masks" / image.name)
        elif task == "detect":
            sides = zip(("xmin", "ymin", "xmax", "ymax"), (x - 8, y - 8, x + 8, y + 8), strict=True)
            box = "".join(f"<{name}>{value}</{name}>" for name, value in sides)
            told = f"<annotation><object><name>k{kind}</name><bndbox>{box}</bndbox></object></annotation>"
            (folder / "labels" / f"{at}.xml").write_text(told)
    for unused in ("masks", "labels"):
        if (folder / unused).is_dir() and not any((folder / unused).iterdir()):
            (folder / unused).rmdir()
    return folder


def heads(only: str) -> Iterator[str]:
    """Write a row for each task and format."""
    yield "| head | `--to` | files | difference | cosine, whole pictures | MB | CPU s |"
    yield "|---|---|---|---|---|---|---|"
    words: dict[str, Any] = {"device": "cpu", "workers": 1, "precision": "float32"}
    dense = {"side": 48, "epochs": 1, "holdout": 0, "batch_size": 3}
    for task in HEADS:
        if only not in task:
            continue
        with tempfile.TemporaryDirectory() as place:
            start = a_run("resnet10_w16", 32, "standard", Path(place) / "start")
            data = labelled(Path(place) / "images", task)
            how = dense if task in ("segment", "detect") else {"mode": "linear"}
            run = nearfar.finetune(
                start.folder, train=data, out=Path(place) / "run", task=task, **how, **words
            ).path
            for to in ("onnx", "torch", "openvino"):
                began, folder = time.process_time(), Path(place) / to
                made = nearfar.export(run, to=to, out=folder)
                seconds = time.process_time() - began
                graphs = ", ".join(name for name in made.files if name.endswith((".onnx", ".pt2", ".xml")))
                whole = "" if made.pipeline_cosine is None else f"{made.pipeline_cosine:.6f}"
                yield (
                    f"| {task} | {to} | {graphs} | {made.difference:.0e} | {whole} | "
                    f"{megabytes(folder):.1f} | {seconds:.1f} |"
                )


def engines(only: str) -> Iterator[str]:
    """Write a row for each network: images per second of CPU time, and the cosine of bfloat16 to torch."""
    import onnxruntime
    import openvino

    from nearfar.exports import onnx, openvino_ir, torch_program
    from nearfar.exports.rebuilt import for_one_size

    torch.set_num_threads(1)
    one = onnxruntime.SessionOptions()
    one.intra_op_num_threads = one.inter_op_num_threads = 1
    yield "| network | torch | its bfloat16 | ONNX Runtime | OpenVINO | its bfloat16 | cosine |"
    yield "|---|---|---|---|---|---|---|"
    for name, size, stem in TIMED:
        if only not in name:
            continue
        with tempfile.TemporaryDirectory() as place:
            run = a_run(name, size, stem, Path(place) / "run")
            count = 64 if size <= 64 else 16
            x = torch.rand(count, 3, size, size)
            path = Path(place) / "encoder.onnx"
            shapes = {0: torch.export.Dim("batch", min=1, max=1 << 16)}
            onnx.graph(for_one_size(run.encoder), x[:2], shapes, path, "images", ("features",))
            session = onnxruntime.InferenceSession(str(path), one, providers=["CPUExecutionProvider"])
            model = openvino_ir.converted(torch_program.program(run))
            how = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
            full, half = (
                openvino.Core().compile_model(model, "CPU", {**how, "INFERENCE_PRECISION_HINT": kind})
                for kind in ("f32", "bf16")
            )

        def plain(run: Run = run, x: torch.Tensor = x) -> Vectors:
            with torch.inference_mode():
                return run.encoder(x).numpy()

        def mixed(run: Run = run, x: torch.Tensor = x) -> Vectors:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                return run.encoder(x.contiguous(memory_format=torch.channels_last)).float().numpy()

        works = {
            "torch": plain,
            "bfloat16": mixed,
            "onnx": lambda: session.run(None, {"images": x.numpy()})[0],
            "full": lambda: full(x.numpy())[0],
            "half": lambda: half(x.numpy())[0],
        }
        rates = {who: measure.rate(work, count, 0.3) for who, work in works.items()}
        found = measure.alternate(rates, 3, warm=1)
        best = [f"{max(values):,.0f}" for values in found.values()]
        close = cosines(works["half"](), plain()).min()
        yield f"| {name}, {size} px | {' | '.join(best)} | {close:.5f} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("trips", "heads", "engines"))
    parser.add_argument("--only", default="", help="a part of the names of networks")
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {os.cpu_count()} cores", flush=True)
    for line in {"trips": trips, "heads": heads, "engines": engines}[given.what](given.only):
        print(line, flush=True)


if __name__ == "__main__":
    main()
