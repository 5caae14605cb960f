"""What README.md of an export says of where its weights come from: licence, images, start and teacher."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

from ..core.progress import duration
from ..core.text import counted
from ..training.run import Run

# https://huggingface.co/docs/hub/repositories-licenses
HUB_LICENCES = """
apache-2.0 mit openrail openrail++ bigscience-openrail-m creativeml-openrail-m bigcode-openrail-m
bigscience-bloom-rail-1.0 afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear
c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0
cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0
etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research
intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl osl-3.0 postgresql ofl-1.1 ncsa
unlicense zlib pddl deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1
llama3.2 llama3.3 llama4 gemma
"""
NO_LICENCE = "unknown"


def licence_tags(run: Run) -> dict[str, str]:
    """Give the licence as the hub's cards name it.

    Args:
        run: what is exported.

    Returns:
        `license`, an identifier of the hub; with "other" also `license_name`.
    """
    said = str(run.facts()["licence"])
    if said.lower() in HUB_LICENCES.split():
        return {"license": said.lower()}
    told = said.lower().replace("yours", "unspecified")  # whose it is, a reader cannot tell
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", told).strip("-.")}


def licence_words(run: Run) -> str:
    """Say the licence in a sentence or two."""
    made, said = run.provenance, str(run.facts()["licence"])
    own, _, taught = said.removesuffix(")").partition(" (teacher: ")
    if own == NO_LICENCE:
        words = "Not known: nothing that came with the weights names it. Find it out before you pass them on."
    elif own != "yours":
        start = (
            f", as that of the weights it began with ({named(made['weights'])})"
            if made.get("weights")
            else ""
        )
        words = f"{own}{start}."
    else:
        words = "For whoever trained it to say: no weights of others are in it."
    if taught:
        who = (
            f"Its teacher, {named(made['teacher']['name'])},"
            if "teacher" in made
            else "The teacher of its weights"
        )
        words += f" {who} has the licence {taught}."
    return words + (" The images may have terms of their own." if "method" in made else "")


def base_model(run: Run) -> str | None:
    """Give the hub's name of the weights that a training began with, where they come from the hub."""
    start = str(run.provenance.get("weights") or run.provenance.get("source") or "").partition("@")[0]
    return start.removeprefix("hf:") if start.startswith("hf:") else None


def named(place: Any) -> str:
    """Name a run, a collection or a known encoder without a path of the machine: the last part of it.

    Args:
        place: as it was typed.
    """
    text = str(place)
    network, equals, file = text.partition("=")
    if equals and "/" not in network:  # NAME=FILE.safetensors
        return f"{network}={PurePath(file).name}"
    if re.match(r"(hf|timm|torchvision):(?!//)", text):
        return text
    return PurePath(text.rstrip("/")).name or text


def sentence(made: dict[str, Any]) -> str:
    """Say where the encoder comes from.

    Args:
        made: the provenance of a run.
    """
    if "method" not in made:
        return f"A known encoder: {named(made.get('source', 'unknown source'))}."
    batch = f" of {made['batch_size']} images" if "batch_size" in made else ""
    steps = f", {made['steps']:,} steps{batch}" if made.get("steps") else ""
    version = made.get("nearfar", "")
    labels = f"; of labels, {made['labels']}" if "labels" in made else ""
    if made["method"] == "finetune":
        start = named(made.get("weights") or "an encoder")
        return f"Fine-tuned from {start} on {_images(made)} with labels{steps}, with nearfar {version}."
    how = f"Trained by {made['method']} on {_images(made)} without labels{steps}"
    return f"{how}, with nearfar {version}{labels}."


def training(run: Run) -> list[str]:
    """Say what the weights were trained on and how, a line each; nothing of a known encoder.

    Args:
        run: what is exported.
    """
    made, asked = run.provenance, run.config
    if "method" not in made:
        return []
    data, how = made.get("data") or {}, asked.get("training", {})
    name = _collection(run)
    lines = [f"- data: {_images(made)}" + (f" of {name}" if name else "")]
    if data.get("holdout"):
        lines[0] += f", {data['holdout']:,} of them held out"
    if data.get("fingerprint"):
        lines[0] += f"; fingerprint `{data['fingerprint']}`"
    start = f"the weights of {named(made['weights'])}" if made.get("weights") else "random weights"
    if made.get("weights") and made.get("licence"):
        start += f", licence {made['licence']}"
    lines.append(f"- began with: {start}")
    if teacher := made.get("teacher"):
        lines.append(f"- teacher: {named(teacher['name'])}, licence {teacher['licence']}")
    log = run.log()
    last = log[-1] if log else {}
    epochs = last.get("epoch", how.get("epochs"))
    length = [f"epochs: {epochs:,.1f}"] if isinstance(epochs, int | float) else []
    lines.append("- " + "; ".join([*length, f"seed: {made.get('seed', 'unknown')}"]))
    if views := {
        key: value for key, value in asked.get("views", {}).items() if value not in (None, 0, False)
    }:
        lines.append("- views: " + ", ".join(f"{key} {_plain(value)}" for key, value in views.items()))
    if how.get("device"):
        spent = f", {duration(last['seconds'])}" if isinstance(last.get("seconds"), int | float) else ""
        lines.append(f"- computed on: {how['device']}, {how.get('precision', 'float32')}{spent}")
    return lines


def _images(made: dict[str, Any]) -> str:
    count = (made.get("data") or {}).get("images")
    return counted(count, "image") if isinstance(count, int) else "images"


def _collection(run: Run) -> str:
    """Name the collection; a folder that was typed as . has its name in the absolute path."""
    typed = (run.provenance.get("data") or {}).get("name")
    path = run.config.get("data", {}).get("path")
    return next((name for place in (typed, path) if place and (name := named(place)).strip(".")), "")


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes"
    return " to ".join(map(_plain, value)) if isinstance(value, list) else f"{value}"
