"""Distillation: the vectors of a teacher, computed once for each image, and a student that learns them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from small import given, pictures, small
from torch import nn

import nearfar
from nearfar import models
from nearfar.core.errors import NearfarError
from nearfar.data.open import open_data
from nearfar.images.view_settings import Views
from nearfar.models.folding import folded
from nearfar.training import resolve, targets
from nearfar.training.targets import teacher_vectors
from nearfar.training.teacher import open_teacher

TINY: dict[str, Any] = {
    "method": "distill",
    "steps": 4,
    "batch_size": 16,
    "encoder": "resnet10_w16",
    "queue": 32,
    "precision": "float32",
    "workers": 1,
    "threads": 1,
    "health_checks": 0,
    "device": "cpu",
}
HOW: dict[str, Any] = {"device": torch.device("cpu"), "threads": 1, "limit": 10**6}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A known encoder with random weights and a size of its own: 32 px, where the photos have 16."""
    path = tmp_path_factory.mktemp("weights") / "resnet.safetensors"
    with models.seeded(3, "teacher"):
        net = models.encoder("timm:test_resnet", stem="standard", size=32).net
    safetensors.torch.save_file(net.state_dict(), path)
    return f"timm:test_resnet@32={path}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_vector_is_the_teachers_own_of_the_whole_image(known: str, cache: Path, photos: Path) -> None:
    source, teacher = open_data(photos), open_teacher(known)
    found = teacher_vectors(teacher, source, source.ids[10:20], **HOW).gather(np.arange(10))
    truth = torch.from_numpy(teacher.run.encode([photos / name for name in source.ids[10:20]]))
    np.testing.assert_allclose(found, F.normalize(truth, dim=1), atol=1e-3)
    assert len(np.unique(found, axis=0)) == 10


def test_a_pass_that_is_stopped_goes_on_and_is_not_done_twice(
    known: str, cache: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "BLOCK", 32)
    source, teacher, asked = open_data(photos), open_teacher(known), []
    encode = targets.features
    monkeypatch.setattr(targets, "features", lambda *a, **k: asked.append(len(a[1])) or encode(*a, **k))
    part = teacher_vectors(teacher, source, source.ids, **HOW, seconds=0.0, least=40)
    reached = part.places >= 0
    assert asked == [32, 32] and reached.sum() == 64 and not reached[:64].all()  # 40 fill two blocks
    whole = teacher_vectors(teacher, source, source.ids, **HOW)
    assert asked == [32, 32, 32] and (whole.places >= 0).all()
    rows = np.flatnonzero(reached)
    assert np.array_equal(part.gather(rows), whole.gather(rows))
    teacher_vectors(teacher, source, source.ids, **HOW)
    assert len(asked) == 3
    (note,) = cache.glob("teachers/*/done.json")
    note.write_text(json.dumps({"done": 32}))  # a kill before the others were written
    again = teacher_vectors(teacher, source, source.ids, **HOW)
    assert len(asked) == 5 and np.array_equal(again.gather(rows), whole.gather(rows))


def test_an_image_that_cannot_be_read_moves_no_other(known: str, cache: Path, tmp_path: Path) -> None:
    from conftest import picture
    from PIL import Image

    folder = tmp_path / "some"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(picture(number)).save(folder / f"{number}.png")
    source, teacher = open_data(folder), open_teacher(known)
    before = teacher_vectors(teacher, source, source.ids, **HOW).gather(np.arange(6))
    (folder / "2.png").write_bytes(b"no image")
    source = open_data(folder)
    usable = [name for name in source.ids if name != "2.png"]
    found = teacher_vectors(teacher, source, usable, **HOW).gather(np.arange(5))
    np.testing.assert_allclose(found, np.delete(before, 2, axis=0), atol=1e-6)


def test_an_image_that_was_too_large_before_is_asked_about_now(
    known: str, cache: Path, tmp_path: Path
) -> None:
    from conftest import picture
    from PIL import Image

    for number in range(3):
        large = Image.fromarray(picture(number)).resize((40, 40) if number == 1 else (16, 16))
        large.save(tmp_path / f"{number}.png")
    source, teacher = open_data(tmp_path), open_teacher(known)
    for limit, usable in ((1000, source.ids[::2]), (10_000, source.ids)):
        found = teacher_vectors(teacher, source, usable, **HOW | {"limit": limit})
        lengths = np.linalg.norm(found.gather(np.arange(len(usable))), axis=1)
        np.testing.assert_allclose(lengths, 1.0, atol=1e-2)


def test_a_student_comes_near_its_teacher_and_its_card_names_it(
    known: str, cache: Path, photos: Path, tmp_path: Path
) -> None:
    how = TINY | {"teacher": known, "steps": 30, "lr": 0.02, "jitter": 0.0, "crop_min": 0.8}
    run = nearfar.pretrain(photos, out=tmp_path / "a", **how | {"health_checks": 1})
    log = run.log()
    assert log[-1]["loss"] < 0.5 * log[0]["loss"] and log[-1]["teacher_cosine"] > log[0]["teacher_cosine"]
    # It is judged by its task: its views are so alike that any network finds their partners.
    looked = run.health()[-1]["task"]
    assert looked["trained"] > 2 / looked["compared"] and "held" not in looked
    assert run.verdict() is not None and run.verdict().name != "views too easy"
    said = run.provenance["teacher"]
    assert said == {"name": known, "licence": "unknown", "sha256": open_teacher(known).digest}
    assert run.encoder.name == "resnet10_w16" and run.facts()["licence"] == "yours (teacher: unknown)"


def test_a_run_of_ones_own_is_a_teacher_too_and_may_see_the_views(
    cache: Path, photos: Path, tmp_path: Path
) -> None:
    first = TINY | {"method": "simclr", "head": (16, 8)}
    first.pop("queue")
    nearfar.pretrain(photos, out=tmp_path / "first", **first)
    how = TINY | {"teacher": str(tmp_path / "first"), "teacher_input": "view"}
    run = nearfar.pretrain(photos, out=tmp_path / "second", **how)
    assert run.facts()["licence"] == "yours" and not list(cache.glob("teachers/*"))


def test_a_run_that_is_resumed_has_the_same_images(
    known: str, cache: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "BLOCK", 32)
    monkeypatch.setattr("nearfar.training.inputs.TEACHER_SHARE", 0.0)
    how = TINY | {"teacher": known, "steps": None, "minutes": 0.05, "out": tmp_path / "a", "holdout": 0.0}
    run = nearfar.pretrain(photos, **how)
    assert run.config["data"]["images"] == 32  # two batches are one block
    for name in ("encoder.json", "encoder.safetensors", "last.ckpt"):
        (tmp_path / "a" / name).unlink(missing_ok=True)
    again = nearfar.pretrain(photos, **how)
    assert again.config["data"]["images"] == 32
    (note,) = cache.glob("teachers/*/done.json")
    assert json.loads(note.read_text())["done"] == 32  # the teacher is not asked about the others now
    (tmp_path / "a" / "encoder.json").unlink()
    source = open_data(photos)
    teacher_vectors(open_teacher(known), source, source.ids, **HOW)  # another run has them all
    assert nearfar.pretrain(photos, **how).config["data"]["images"] == 32


def test_what_is_no_teacher_is_refused(cache: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(NearfarError, match="name it with --teacher: known, timm:NAME, or a run's folder"):
        nearfar.pretrain(photos, out=tmp_path / "a", **TINY)
    with pytest.raises(NearfarError, match="no run in"):
        nearfar.pretrain(photos, out=tmp_path / "a", **TINY, teacher=str(tmp_path))


def test_the_teacher_sees_the_view_at_its_own_size() -> None:
    module = small("distill", teacher_input="view")
    seen: list[torch.Size] = []
    (teacher,) = module._teacher  # type: ignore[misc]
    teacher.size = 24  # type: ignore[attr-defined]
    teacher.encoder.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape))
    z, t = module.embed(pictures(4, views=1))
    assert seen == [torch.Size([4, 3, 24, 24])] and not t.requires_grad and z.shape == t.shape
    assert not [name for name in module.state_dict() if "teacher" in name]


def test_each_weight_leaves_one_form() -> None:
    for cosine, names in ((1.0, {"cosine"}), (0.0, {"neighbours"}), (0.5, {"cosine", "neighbours"})):
        module = small("distill", cosine=cosine)
        found = module(given(module, 8))
        live = {name for name, term in found.terms.items() if float(term.detach()) != 0.0}
        assert live == names
    z = F.normalize(torch.randn(8, module.memory.rows.shape[1]), dim=1)  # type: ignore[union-attr]
    same = small("distill", teacher_temperature=0.2)
    assert float(same.loss(z, z).total) == pytest.approx(0.0, abs=1e-5)  # nothing to learn is a loss of 0


def test_views_need_no_teacher() -> None:
    wanted = resolve.resolve("distill", "cpu", {"steps": 1}, side=16, device=torch.device("cpu"))
    assert resolve.views_of(wanted) == (wanted.views,)
    assert isinstance(wanted.views, Views)


def test_a_folded_network_is_the_same_and_one_that_would_not_be_is_left() -> None:
    net = models.encoder("timm:test_resnet", stem="standard", size=32).net
    x = torch.rand(8, 3, 32, 32)
    with torch.no_grad():
        net.train()(x)
    made = folded(net.eval(), x[:2])
    norms = [part for part in made.modules() if isinstance(part, nn.BatchNorm2d)]
    assert made is not net and not norms
    torch.testing.assert_close(made(x), net(x), rtol=1e-3, atol=1e-4)

    class Crossed(nn.Module):
        """Its batch norm does not follow the convolution that stands before it."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.norm = nn.BatchNorm2d(3)
            nn.init.constant_(self.norm.running_var, 4.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.two(self.norm(self.one(x)).relu())
            return found

    crossed = Crossed().eval()
    assert folded(crossed, x) is crossed
