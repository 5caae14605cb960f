"""A run as an input of another: opened in one place, known by its digest, refused where it is another."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import nearfar
from nearfar import methods, models
from nearfar.cli.main import main
from nearfar.core.config import setting
from nearfar.core.errors import NearfarError
from nearfar.methods.base import Batch, Loss, Method
from nearfar.training import checkpoint
from nearfar.training.teacher import Teacher, open_teacher

TINY: dict[str, Any] = {
    "steps": 4,
    "batch_size": 16,
    "encoder": "resnet10_w16",
    "precision": "float32",
    "workers": 1,
    "health_checks": 0,
    "device": "cpu",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """One setting."""

    teacher: str | None = setting(None, "a finished run to learn from")


class Copies(Method):
    """Learns to give what the teacher's encoder and head give."""

    needs = frozenset({"teacher"})

    def __init__(self, f: models.Encoder, config: Config, teacher: Teacher) -> None:
        super().__init__(f, config)
        self.q = nn.Linear(f.dim, 8)
        self.teacher = teacher
        self.g = models.mlp(teacher.encoder.dim, 16, 8).requires_grad_(False)
        self.g.load_state_dict(teacher.parts["g"])

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            wanted = self.g.eval()(self.teacher.encoder(batch.views[0]))
        return self.q(self.f(batch.views[1])), wanted

    def loss(self, z: Tensor, wanted: Tensor) -> Loss:
        return Loss({"distance": (z - wanted).square().mean()})


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the method into the table."""
    method, settings, kind = methods.method, methods.settings, methods.kind
    monkeypatch.setitem(methods.METHODS, "copies", "Copies")
    monkeypatch.setattr(methods, "method", lambda name: Copies if name == "copies" else method(name))
    monkeypatch.setattr(methods, "kind", lambda name: None if name == "copies" else kind(name))
    monkeypatch.setattr(methods, "settings", lambda name: Config if name == "copies" else settings(name))


@pytest.fixture
def teachers(photos: Path, tmp_path: Path) -> list[Path]:
    folders = [tmp_path / "first", tmp_path / "second"]
    for seed, folder in enumerate(folders):
        nearfar.pretrain(photos, out=folder, head=(16, 8), seed=seed, **TINY)
    return folders


def test_a_teacher_is_its_encoder_and_parts_and_their_digest(teachers: list[Path]) -> None:
    one, again, other = open_teacher(teachers[0]), open_teacher(teachers[0]), open_teacher(teachers[1])
    assert one.digest == again.digest != other.digest and len(one.digest) == 64
    assert not one.encoder.training and not any(p.requires_grad for p in one.encoder.parameters())
    assert set(one.parts) == {"g"} and one.parts["g"]["0.weight"].shape == (16, one.encoder.dim)
    head = safetensors.torch.load_file(teachers[0] / "parts.safetensors")
    checkpoint.save(teachers[0] / "parts.safetensors", {key: x + 1 for key, x in head.items()}, {})
    assert open_teacher(teachers[0]).digest != one.digest


def test_a_run_learns_from_a_teacher_and_from_no_other(
    copies: None, teachers: list[Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "pupil"
    how = {**TINY, "method": "copies", "out": out}
    with pytest.raises(NearfarError, match="Copies learns from another encoder; name it with --teacher"):
        nearfar.pretrain(photos, **how)
    with pytest.raises(NearfarError, match="no run in"):
        nearfar.pretrain(photos, **how, teacher=str(tmp_path / "nothing"))
    run = nearfar.pretrain(photos, **how, teacher=str(teachers[0]))
    assert run.config["teacher"] == open_teacher(teachers[0]).digest
    whole = (out / "encoder.safetensors").read_bytes()
    # Unfinished, it goes on with the same teacher, and with no other.
    for name in ("encoder.json", "encoder.safetensors"):
        (out / name).unlink()
    with pytest.raises(NearfarError, match="--teacher .*first became .*second"):
        nearfar.pretrain(photos, **how, teacher=str(teachers[1]))
    teachers[0].rename(tmp_path / "aside")
    teachers[1].rename(teachers[0])
    with pytest.raises(NearfarError, match="has another teacher than .*first now holds"):
        nearfar.pretrain(photos, **how, teacher=str(teachers[0]))
    teachers[0].rename(teachers[1])
    (tmp_path / "aside").rename(teachers[0])
    nearfar.pretrain(photos, **how, teacher=str(teachers[0]))
    assert (out / "encoder.safetensors").read_bytes() == whole
    assert np.isfinite(run.log()[-1]["loss"])


def test_a_method_that_learns_from_no_run_refuses_one(
    teachers: list[Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NearfarError, match="no setting 'teacher'"):
        nearfar.pretrain(photos, out=tmp_path / "no", teacher=str(teachers[0]), **TINY)
    assert main(["pretrain", str(photos), "--teacher", str(teachers[0])]) == 2
    assert "--teacher" in capsys.readouterr().err
    assert nearfar.pretrain(photos, out=teachers[0], head=(16, 8), **TINY).config["teacher"] is None
