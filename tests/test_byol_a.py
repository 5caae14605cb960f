"""BYOL-A: its views are those of slow loops, its memory is the same for all, and it learns and resumes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import small_sounds
import torch
from interrupted import pretrain_until
from small import loops, total

import nearfar
from nearfar.core import rng
from nearfar.core.config import build
from nearfar.data import modalities
from nearfar.methods import method, settings
from nearfar.methods.base import Batch
from nearfar.methods.byol_a import LARGEST, PLANE, SMALLEST, cropped, mixed
from nearfar.models.queue import PastExamples


def byol_a(**values: object) -> torch.nn.Module:
    torch.manual_seed(0)
    f = modalities.modality("sound").encoder("mel_cnn_w32", size=24)
    small = {"head": [16, 8], "predictor": 16, "memory": 6}
    return method("byol_a")(f, build(settings("byol_a"), {**small, **values})).double()


def clips(count: int, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 4, 6, generator=generator, dtype=torch.float64)
    return Batch(
        [torch.nn.functional.interpolate(coarse, (16, 24), mode="bilinear")], torch.arange(count), key=3
    )


def slow_crop(x: np.ndarray, u: np.ndarray) -> np.ndarray:
    """A box of the plane, place by place, each blended of the nearest four; counted in frames and bands."""
    bands, frames = x.shape
    wide = min(SMALLEST + (LARGEST - SMALLEST) * u[0], PLANE[0]) * frames
    high = min(SMALLEST + (LARGEST - SMALLEST) * u[1], PLANE[1]) * bands
    left = u[2] * (PLANE[0] * frames - wide) - (PLANE[0] - 1) / 2 * frames  # the clip begins at 0
    low = u[3] * (PLANE[1] * bands - high) - (PLANE[1] - 1) / 2 * bands
    found = np.zeros_like(x)
    for i in range(bands):
        for j in range(frames):
            row, column = low + (i + 0.5) * high / bands - 0.5, left + (j + 0.5) * wide / frames - 0.5
            for a in (math.floor(row), math.floor(row) + 1):
                for b in (math.floor(column), math.floor(column) + 1):
                    if 0 <= a < bands and 0 <= b < frames:
                        found[i, j] += (1 - abs(row - a)) * (1 - abs(column - b)) * x[a, b]
    return found


def test_crops_are_boxes_of_the_plane_around_a_clip() -> None:
    x, u = torch.randn(12, 1, 9, 14, dtype=torch.float64), torch.rand(12, 4, dtype=torch.float64)
    u[0] = torch.tensor([1.0, 0.5, 0.0, 0.3])  # as wide as the plane, and as high as the clip
    for one, box, made in zip(x, u, cropped(x, u), strict=True):
        assert np.allclose(made[0].numpy(), slow_crop(one[0].numpy(), box.numpy()), atol=1e-9)
    assert (cropped(x, u)[0, 0, :, :2] == 0).all()


def test_what_is_mixed_adds_as_powers_do() -> None:
    x, earlier, share = torch.randn(3, 1, 4, 5), torch.randn(3, 1, 4, 5), torch.tensor([0.0, 0.3, 1.0])
    slow = loops("byol_a").__globals__["mixed"]
    for at in range(3):
        truth = x[at] if at == 0 else earlier[at] if at == 2 else slow(x[at], earlier[at], 0.3)
        torch.testing.assert_close(mixed(x, earlier, share)[at], truth)


def test_views_are_normalised_mixed_cropped_and_normalised_again() -> None:
    module, batch, earlier = byol_a(), clips(5), clips(4, seed=7).views[0]
    module.memory.push(earlier)
    seen: list[torch.Tensor] = []
    module.f.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    found = module.embed(batch)
    x = batch.views[0]
    mean, deviation = x.mean(), x.var(correction=0).add(module.before.eps).sqrt()
    torch.testing.assert_close(found[4], (x - mean) / deviation)
    both = []
    for number in range(2):
        u = rng.uniform(rng.fold(3, "view", number), range(5), 6).astype(np.float64)
        for at in range(5):
            past, share = earlier[int(u[at, 1] * 4)], 0.4 * u[at, 0]
            view = torch.log((1 - share) * torch.exp(found[4][at]) + share * torch.exp(past))
            both.append(slow_crop(view[0].numpy(), u[at, 2:]))
    views = torch.from_numpy(np.stack(both))
    views = (views - views.mean()) / views.var(correction=0).add(module.after.eps).sqrt()
    views = views * x.var().sqrt() + mean  # what is kept of the clips is their unbiased variance
    torch.testing.assert_close(torch.cat(seen)[:, 0], views, rtol=1e-6, atol=1e-6)
    one = module.eval().embed(Batch([x[3:4]], torch.tensor([3]), key=3))
    assert len(one) == 5 and not found[4].requires_grad


def test_the_loss_is_the_loops_and_reaches_every_weight() -> None:
    module, batch = byol_a(), clips(5)
    module.after_step(0.5, module(batch).watched)
    found = [z.detach().requires_grad_() for z in module.embed(batch)]
    torch.testing.assert_close(
        total(module.loss(*found)), loops("byol_a")(*found[:4]), rtol=1e-12, atol=1e-12
    )
    loss, watched = module(batch), module(batch).watched
    total(loss).backward()
    for key, p in module.named_parameters():
        assert not p.requires_grad or p.grad.abs().max() > 0, key
    assert set(module.metrics(watched)) == {"spread", "contrastive_accuracy"}


def test_the_memory_keeps_the_newest_clips_and_is_saved() -> None:
    memory = PastExamples(5)
    for step in range(3):
        memory.push(torch.full((2, 1, 2, 3), float(step)) + torch.tensor([0.0, 0.5]).view(2, 1, 1, 1))
    assert memory.rows[:, 0, 0, 0].tolist() == [0.5, 1.0, 1.5, 2.0, 2.5]
    assert memory.take(torch.tensor([0.0, 0.5, 1.0]))[:, 0, 0, 0].tolist() == [0.5, 1.5, 2.5]
    other = PastExamples(5)
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.rows, memory.rows) and other.rows is not memory.rows
    small = PastExamples(2)  # fewer than a batch
    small.push(torch.arange(5.0))
    assert small.rows.tolist() == [3.0, 4.0]


def test_a_run_learns_its_task_and_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    folder = small_sounds.folder(tmp_path / "clips", each=5)
    how = {
        "method": "byol_a",
        "steps": 16,
        "batch_size": 16,
        "rate": 8000,
        "mels": 16,
        "memory": 24,
        "lr": 0.3,
    }
    how |= {"head": (32, 16), "predictor": 32, "precision": "float32", "workers": 1, "device": "cpu"}
    how |= {"health_checks": 2, "recipe": "cpu"}
    whole = nearfar.pretrain(folder, out=tmp_path / "whole", **how)
    pretrain_until(9, folder, out=tmp_path / "again", **how)
    nearfar.pretrain(folder, out=tmp_path / "again", **how)
    for name in ("encoder.safetensors", "last.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    losses = [line["loss"] for line in whole.log()]
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4]) and "task" in whole.health()[-1]
