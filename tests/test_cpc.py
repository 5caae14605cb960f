"""Contrastive predictive coding: what is told is never seen before, and what follows is learnt."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import small_sounds
import torch
from interrupted import pretrain_until
from small import given, loops, small, total

import nearfar
from nearfar.core.config import build
from nearfar.data import modalities
from nearfar.methods import method, prediction, settings
from nearfar.methods.base import Batch
from nearfar.methods.cpc_images import RowsAbove
from nearfar.training import optim
from nearfar.training.settings import Training


def cpc(**values: object) -> torch.nn.Module:
    torch.manual_seed(0)
    f = modalities.modality("sound").encoder("mel_cnn_w32", size=48)
    return method("cpc")(f, build(settings("cpc"), {"width": 12, "predicted": 2, **values}))


def sounds(count: int, frames: int = 48) -> Batch:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 1, 4, frames // 4, generator=generator)
    x = torch.nn.functional.interpolate(coarse, (16, frames), mode="bilinear")
    return Batch([x], torch.arange(count))


@pytest.mark.parametrize("negatives", ["all", "own", "others"])
def test_the_loss_on_sound_is_the_loops(negatives: str) -> None:
    module = cpc(negatives=negatives).double()
    batch = sounds(3)
    z, predicted = module.embed(Batch([batch.views[0].double()], batch.rows))
    z, predicted = z.detach().requires_grad_(), predicted.detach().requires_grad_()
    truth = loops("cpc")(z, predicted, module.first, negatives)
    loss = total(module.loss(z, predicted))
    torch.testing.assert_close(loss, truth, rtol=1e-12, atol=1e-12)
    for one, two in zip(*(torch.autograd.grad(x, (z, predicted)) for x in (loss, truth)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def test_a_step_and_the_first_that_is_predicted_from_it_share_no_frame() -> None:
    module = cpc().eval()  # as in evaluation: batch norm joins all frames
    x = sounds(1).views[0].requires_grad_()
    z, predicted = module.embed(Batch([x], torch.arange(1)))

    def seen(y: torch.Tensor) -> set[int]:
        (grad,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        return set(torch.nonzero(grad.abs().sum((0, 1, 2)))[:, 0].tolist())

    assert not seen(predicted[0, 0, 5]) & seen(z[0, 5 + module.first])
    assert seen(predicted[0, 0, 5]) & seen(z[0, 5 + module.first - 1])


def sequences(count: int, seed: int, shuffled: bool) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """Steps of two bands that turn slowly and of two that are noise; shuffled, over all of all sequences."""
    draw = torch.Generator().manual_seed(seed)
    turn = 2 * math.pi * (torch.rand(count, 1, generator=draw) + torch.arange(24) / 24)
    wide = 0.5 + 0.5 * torch.rand(count, 1, 1, generator=draw)
    slow = torch.stack([turn.cos(), turn.sin()], 2) * wide + 0.1 * torch.randn(count, 24, 2, generator=draw)
    x = torch.cat([slow, torch.randn(count, 24, 2, generator=draw)], 2)
    if shuffled:
        x = x.flatten(0, 1)[torch.randperm(count * 24, generator=draw)].unflatten(0, (count, 24))
    bands = (0.5 + 0.15 * x).repeat_interleave(4, 2).transpose(1, 2).repeat_interleave(4, 2)
    return Batch([bands[:, None]], torch.arange(count)), x[..., :2], x[..., 2:]


def explained(z: torch.Tensor, x: torch.Tensor) -> float:
    """The share of the variance of x that z tells linearly, step by step."""
    known, x = torch.nn.functional.pad(z, (0, 1), value=1.0).flatten(0, 1), x.flatten(0, 1)
    left = x - known @ torch.linalg.lstsq(known, x).solution
    return float(1 - left.square().sum() / (x - x.mean(0)).square().sum())


def test_the_slow_state_of_a_sequence_is_found_and_of_shuffled_steps_nothing_is_told() -> None:
    told = []
    for shuffled in (False, True):
        module = cpc(width=8, predicted=1)
        maker = optim.optimizer(Training(optimizer="adamw", lr=3e-3), module)
        for step in range(80):
            batch, *_ = sequences(16, step, shuffled)
            maker.zero_grad()
            total(module(batch)).backward()
            maker.step()
        module.eval()
        batch, slow, fast = sequences(128, 1000, shuffled)
        with torch.no_grad():
            z, predicted = module.embed(batch)
            watched = module.loss(z, predicted).watched
        ahead = explained(predicted[:, 0, : -module.first], slow[:, module.first :])
        told.append(float(module.metrics(watched)["step_accuracy"] * watched["compared"]))  # times chance
        if shuffled:
            assert ahead < 0.1
        else:
            assert explained(z, slow) > 0.85 and explained(z, fast) < 0.4 and ahead > 0.85
    assert told[0] > 12 and told[1] < 4, told  # the ends of a sequence are known, and never asked about


def test_sound_that_follows_is_learnt_and_the_run_resumes(tmp_path: Path) -> None:
    clips = small_sounds.folder(tmp_path / "clips", each=5)
    how = {
        "method": "cpc",
        "steps": 8,
        "batch_size": 8,
        "rate": 8000,
        "mels": 16,
        "width": 16,
        "predicted": 1,
    }
    how |= {"precision": "float32", "workers": 1, "device": "cpu", "health_checks": 2}
    nearfar.pretrain(clips, out=tmp_path / "whole", **how)
    pretrain_until(4, clips, out=tmp_path / "again", **how)
    run = nearfar.pretrain(clips, out=tmp_path / "again", **how)
    same = [(tmp_path / name / "encoder.safetensors").read_bytes() for name in ("whole", "again")]
    assert same[0] == same[1]
    log = run.log()
    assert log[-1]["loss"] < log[0]["loss"] and run.health()[-1]["task"]["trained"] > 0


def test_chance_is_one_of_all_that_a_prediction_is_compared_with(photos: Path, tmp_path: Path) -> None:
    how = {"steps": 2, "batch_size": 16, "encoder": "resnet10_w16", "precision": "float32", "workers": 1}
    how |= {"device": "cpu", "colour": "change", "health_checks": 1, "image_size": 16}
    for name, places in (("cpc_images", 9), ("deep_infomax", 1)):
        run = nearfar.pretrain(photos, out=tmp_path / name, method=name, **how)
        task = run.health()[-1]["task"]
        assert task["compared"] == places * task["images"]  # one batch
    z = torch.randn(4, 5, 3)
    assert [int(prediction.choices(z, negatives)) for negatives in ("all", "own", "others")] == [20, 5, 16]
    for negatives in ("all", "own", "others"):  # of equal scores, that is what is left of the loss
        loss, _ = prediction.tell(torch.zeros(4, 1, 3), z, torch.tensor([2]), negatives)
        assert float(loss.exp()) == pytest.approx(float(prediction.choices(z, negatives)))


def test_rows_see_nothing_below_them() -> None:
    torch.manual_seed(0)
    net = RowsAbove(6, 3)
    z = torch.randn(1, 4, 5, 6, requires_grad=True)
    (grad,) = torch.autograd.grad(net(z)[0, 1, 2].sum(), z)
    touched = grad.abs().sum(3)[0] > 0
    assert touched[:2].all() and not touched[2:].any()


def test_what_is_predicted_from_overlaps_with_nothing_that_is_predicted() -> None:
    module = small("cpc_images").eval()
    x = given(module, 1).views[0].requires_grad_()
    z, predicted = module.embed(Batch([x], torch.arange(1)))
    above, below = (
        torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for y in (predicted[0, 0, 0], z[0, 2])
    )
    assert not ((above != 0) & (below != 0)).any()
