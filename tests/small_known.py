"""What tests of known weights share: a small network's state, folders of it, the figures that are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from nearfar import models
from nearfar.core import progress
from nearfar.training.run import load

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # what timm says of this network


OWN = ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Progress is shown, as on the command line."""
    progress.show(True)
    yield
    progress.show(False)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    with models.seeded(3, "resnet"):
        found: dict[str, torch.Tensor] = timm.create_model("test_resnet", num_classes=5).state_dict()
    return found


def folder_of(place: Path, state: Mapping[str, torch.Tensor], **said: Any) -> Path:
    """Write a folder as timm does, with what `said` says of its images."""
    place.mkdir()
    safetensors.torch.save_file(dict(state), place / "model.safetensors")
    (place / "config.json").write_text(
        json.dumps({"architecture": "test_resnet", "num_classes": 5, "pretrained_cfg": said})
    )
    return place


def figures(named: str | Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    encoder = load(named).encoder
    return encoder.mean, encoder.std
