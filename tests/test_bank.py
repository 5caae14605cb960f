"""The memory bank, and the methods that compare images with it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from small import given, loops, pictures, small, total

import nearfar
from nearfar.core.errors import NearfarError
from nearfar.methods.base import Batch
from nearfar.models.bank import Bank
from nearfar.training import checkpoint, optim
from nearfar.training.logger import RunLogger
from nearfar.training.settings import Training


def test_rows_are_halves_of_length_one_that_move_with_their_images() -> None:
    bank = Bank(9, 4)
    before = bank.rows.float()
    assert bank.rows.dtype == torch.float16
    torch.testing.assert_close(before.norm(dim=1), torch.ones(9), rtol=2e-3, atol=0)
    v = torch.nn.functional.normalize(torch.randn(2, 4), dim=1)
    bank.update(torch.tensor([7, 2]), v, 0.5)
    for row, wanted in ((7, v[0]), (2, v[1])):
        moved = torch.nn.functional.normalize(before[row] + wanted, dim=0)
        torch.testing.assert_close(bank.rows[row].float(), moved, rtol=0, atol=1e-3)
    others = [0, 1, 3, 4, 5, 6, 8]
    assert torch.equal(bank.rows[others].float(), before[others])


@pytest.mark.parametrize("name", ["npid", "pirl"])
def test_nce_is_the_loops_of_the_docstring_too(name: str) -> None:
    module = small(name, bank_negatives=6).double()
    batch = given(module, 5)
    batch.views[:] = [view.double() for view in batch.views]
    module.after_step(0.5, module(batch).watched)
    found = module.embed(batch)
    assert found[-1].shape == (5, 6)
    words = {"bank": module.bank, "tau": module.tau, "z": module.z}
    words |= {"lambda_": module.config.lambda_} if name == "pirl" else {}
    names = ("v", "rows", "drawn") if name == "npid" else ("v", "t", "rows", "drawn")
    truth = loops(name)(**dict(zip(names, found, strict=True)), **words)
    torch.testing.assert_close(total(module.loss(*found)), truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["npid", "pirl"])
def test_nce_holds_at_the_lowest_temperature(name: str) -> None:
    module = small(name, bank_negatives=6, temperature=0.003)
    batch = given(module, 5)
    v, rows = module.embed(batch)[0], batch.rows
    module.memory.update(rows, v.detach(), 0.0)  # as near as features come to their rows: exp(1 / 0.003)
    found = module(batch)
    module.after_step(0.5, found.watched)
    total(module(batch)).backward()
    assert torch.isfinite(total(found)) and torch.isfinite(module.log_normalizer)
    assert all(torch.isfinite(one.grad).all() for one in module.parameters() if one.grad is not None)


def test_nces_z_is_the_mean_of_the_first_ten_batches_and_then_fixed() -> None:
    module = small("npid", bank_negatives=6)
    means = []
    for step in range(12):
        batch = Batch(pictures(8, seed=step, views=1).views, torch.arange(8), None, step)
        watched = module(batch).watched
        means.append(math.exp(watched["log_mean"]))
        module.after_step(0.5, watched)
    assert math.exp(module.log_normalizer) == pytest.approx(np.mean(means[:10]), rel=1e-5)
    assert float(module.z) == pytest.approx(32 * np.mean(means[:10]), rel=1e-5)


def test_every_image_knows_its_own_row_after_thirty_epochs() -> None:
    module = small("npid")
    maker = optim.optimizer(Training(optimizer="adamw", lr=5e-3), module)
    x = pictures(32, views=1).views[0]
    for step in range(60):
        rows = torch.arange(16) + 16 * (step % 2)
        found = module(Batch([x[rows]], rows))
        maker.zero_grad()
        total(found).backward()
        maker.step()
        module.after_step(step / 60, found.watched)
    found = module(Batch([x], torch.arange(32)))
    assert float(module.metrics(found.watched)["own_row_first"]) > 0.95


def test_a_bank_is_as_long_as_the_collection_and_belongs_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (400, 16, 16, 3), np.uint8)
    words = {"method": "npid", "encoder": "resnet10_w16", "precision": "float32", "workers": 1}
    words |= {"steps": 6, "batch_size": 8, "holdout": 0.3, "device": "cpu", "recipe": "cpu"}

    save = RunLogger.save

    def stop(self: RunLogger, step: object) -> None:
        save(self, step)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunLogger, "due", lambda self: True)
        patch.setattr(RunLogger, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            nearfar.pretrain(pixels, out=tmp_path / "run", **words)
    tensors, _ = checkpoint.read(tmp_path / "run" / checkpoint.LAST)
    bank = tensors["method.memory.rows"]
    data = checkpoint.read_json(tmp_path / "run" / "config.json")["data"]
    assert data["holdout"] > 0 and bank.shape == (data["images"], 128)  # none of the holdout images
    assert bank.dtype == torch.float16
    with pytest.raises(NearfarError, match="the images differ"):
        nearfar.pretrain(pixels[::-1].copy(), out=tmp_path / "run", **words)


def test_pirl_shows_tiles_in_any_order() -> None:
    module, seen = small("pirl"), []
    module.f.register_forward_pre_hook(lambda _, words: seen.append(words[0]))
    batch = given(module, 6)
    module.embed(batch)
    module.embed(Batch(batch.views, batch.rows, None, 1))
    image, tiles, _, others = seen
    assert torch.equal(image, batch.views[0]) and tiles.shape == (24, 3, 6, 6)
    assert not torch.equal(tiles, others)
