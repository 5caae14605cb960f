"""README.md of an exported encoder: what it is, how pictures are prepared, its figures and its limits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..finetuning.task_types import HeadExport
from ..finetuning.tuned import open_result
from ..training.run import Run
from . import onnx, openvino_ir, origin, timm_folder, transformers_folder, tuned

LIBRARIES = ("timm", "transformers", "sentence-transformers", "onnx", "openvino")  # as the hub names them
TRANSFORMERS = """```python
from transformers import AutoImageProcessor, AutoModel

prepare = AutoImageProcessor.from_pretrained("FOLDER"REMOTE)
model = AutoModel.from_pretrained("FOLDER"REMOTE).eval()
vectors = model(**prepare(pictures, return_tensors="pt")).pooler_output
```"""
CLASSIFIER = """```python
from transformers import AutoImageProcessor, AutoModelForImageClassification

prepare = AutoImageProcessor.from_pretrained("FOLDER")
model = AutoModelForImageClassification.from_pretrained("FOLDER").eval()
logits = model(**prepare(pictures, return_tensors="pt")).logits
```"""
FOLDERS = ("transformers", "sentence-transformers")  # which are the same
SENTENCES = """```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("FOLDER"REMOTE).encode(pictures)
```"""


def write(
    run: Run, folder: Path, to: str, head: HeadExport | None = None, checks: Sequence[str] = ()
) -> None:
    """Write the card.

    Args:
        run: what is exported.
        folder: where.
        to: the format.
        head: what leaves with the encoder of a fine-tuned run, if anything.
        checks: what was compared with nearfar, and how close it is, a line each.
    """
    (folder / "README.md").write_text(text(run, to, head, checks), encoding="utf-8")


def text(run: Run, to: str, head: HeadExport | None = None, checks: Sequence[str] = ()) -> str:
    """Write the card's text: a block of YAML as the Hugging Face hub reads it, then plain words.

    Args:
        run: what is exported.
        to: the format.
        head: of a fine-tuned run.
        checks: as for `write`.

    Returns:
        Markdown.
    """
    made = run.provenance
    kind = "image-feature-extraction" if head is None else head.tag
    tags = [kind, *([] if head else ["self-supervised"]), "nearfar", str(made.get("method", "known"))]
    block: dict[str, Any] = {
        "library_name": to if to in LIBRARIES else "pytorch",
        "pipeline_tag": kind,
        "tags": tags,
    }
    if base := origin.base_model(run):
        block["base_model"] = base
    licence = (f"{name}: {value}" for name, value in origin.licence_tags(run).items())
    lines = ["---", *(f"{name}: {json.dumps(value)}" for name, value in block.items()), *licence, "---", ""]
    what = f"{run.encoder.dim} features" if head is None else str(made["task"])
    lines += [f"# {run.encoder.name}, {what}", ""]
    lines += [origin.sentence(made), "", f"Licence: {origin.licence_words(run)}", ""]
    lines += _opened(run, to) if head is None else [CLASSIFIER, ""] if to == "transformers" else []
    lines += _prepared(run, to, head)
    if head is not None:
        beside = ["`model.json` has the classes in their order.", ""] if to in tuned.FILES else []
        lines += ["## What it answers", *head.says, "", *beside]
    if checks:
        lines += ["## Compared with nearfar when it was exported", *checks, ""]
    if trained := origin.training(run):
        lines += ["## Data and training", *trained, ""]
    lines += ["## Figures", *(_figures(run.evaluation()) if head is None else _of_task(run)), ""]
    lines += [
        "## Limits",
        "It suits images like those it was trained on; on others, measure before you rely on it. "
        "Nothing here was tested for fairness or for use in decisions about people.",
        "",
    ]
    return "\n".join(lines)


def _opened(run: Run, to: str) -> list[str]:
    """Say how either library opens the folder of transformers, and what it asks first."""
    if to not in FOLDERS:
        return []
    remote = transformers_folder.is_remote(run)
    flag = ", trust_remote_code=True" if remote else ""
    asked = "This network is not part of transformers: its code is in `modeling_nearfar.py` and "
    asked += "`image_processing_nearfar.py`, which transformers runs with `trust_remote_code=True` alone."
    code = (TRANSFORMERS if to == "transformers" else SENTENCES).replace("REMOTE", flag)
    other = "AutoModel.from_pretrained" if to != "transformers" else "SentenceTransformer"
    also = f'`{other}("FOLDER"{flag})` opens the same folder.'
    return ["## How to open it", code, "", *([asked] if remote else []), also, ""]


def _prepared(run: Run, to: str, head: HeadExport | None) -> list[str]:
    """Say how a picture becomes the network's input."""
    plan, encoder = run.preprocess, run.encoder
    inside = "The exported network subtracts the mean and divides by the deviation itself."
    if head is not None and head.prepared:
        told = (f"{at}. {line}" for at, line in enumerate(head.prepared, start=1))
        return ["## How a picture is prepared", *told, "", inside, ""]
    if to in ("timm", *FOLDERS):
        inside = f"Subtract the mean {list(encoder.mean)} and divide by the deviation {list(encoder.std)}."
    lines = [
        "## How a picture is prepared",
        f"1. {plan.reduced}",
        f"2. {plan.cut}",
        f"3. Resize it to {plan.size} x {plan.size} px, antialiased {plan.interpolation}; do not "
        "round, and cut off what is below 0 or above 255.",
        f"4. Divide by 255. {inside}",
        "",
        "Of a file, nearfar does step 1, to sides of w and h, as Pillow does it fastest: `image.draft(None, "
        "(2 * w, 2 * h))` for a JPEG, then `image.resize((w, h), "
        f"Image.Resampling.{plan.reduction.upper()}, reducing_gap=3)`. "
        "Without `draft` and `reducing_gap` a vector differs a little (cosines above 0.9997 on 16 images).",
        "",
    ]
    if to in ("onnx", "openvino"):
        file = {"onnx": onnx.PIPELINE, "openvino": openvino_ir.PIPELINE}[to]
        what = "RGB, upright, over white where it is transparent"
        lines += [f"`{file}` does all four steps for one uint8 picture (1, H, W, 3), {what}.", ""]
    elif to in FOLDERS and transformers_folder.is_remote(run):
        what = "and lays a picture over white where it is transparent"
        lines += [f"The image processor of this folder does all four steps, {what}.", ""]
    elif timm_folder.resized_once(plan):
        lines += [
            "Of a larger picture, step 2 gives a square of this size; tools that resize once do the same.",
            "",
        ]
    else:
        lines += [
            "Tools that resize once, without step 1, give slightly other vectors (cosine about 0.995).",
            "",
        ]
    if to == "openvino":
        how = '`{"INFERENCE_PRECISION_HINT": "f32"}` forbids it.'
        lines += [
            f"OpenVINO computes in bfloat16 where the CPU can, which changes a vector a little; {how}",
            "",
        ]
    return lines


def _of_task(run: Run) -> list[str]:
    """Put the figures of a fine-tuning into tables, and its verdict below."""
    result = open_result(run.folder)
    lines = []
    for part, rows in result.figures.items():
        names = [name for name in next(iter(rows.values())) if name != "chance"]
        lines += [f"{result.images[part]:,} {part} images:", "", f"| | {' | '.join(names)} |"]
        lines.append(f"|---{'|---' * len(names)}|")
        for row, found in rows.items():
            lines.append(f"| {row} | {' | '.join(f'{found[name]:.3f}' for name in names)} |")
        lines.append("")
    return [*lines, f"Verdict: {result.verdict}"]


def _figures(found: dict[str, Any] | None) -> list[str]:
    """Put the last evaluation into a table, with its baselines."""
    if not found:
        return ["It was not evaluated."]
    parts = {name: found[name] for name in ("knn", "linear") if isinstance(found.get(name), dict)}
    rows = list(dict.fromkeys(row for part in parts.values() for row in part))
    lines = [f"| features | {' | '.join(parts)} |", f"|---{'|---' * len(parts)}|"]
    for row in rows:
        cells = (part.get(row, {}).get("accuracy") for part in parts.values())
        shown = " | ".join("-" if cell is None else f"{100 * cell:.1f} %" for cell in cells)
        lines.append(f"| {row} | {shown} |")
    return lines
