"""Health while training: on images held apart, written as it goes, and without a trace in the weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from interrupted import pretrain_until

import nearfar
from nearfar import models
from nearfar.core import collectives, distributed, rng
from nearfar.data import cache
from nearfar.data.dataset import LEAST_HELD, MOST_HELD, ImageDataset, holdout_split
from nearfar.data.loader import DataLoader
from nearfar.data.sources import open_source
from nearfar.health.measure import partner_found, settled
from nearfar.images.view_settings import Views
from nearfar.images.views import Preprocess
from nearfar.training.engine import Step
from nearfar.training.logger import RunLogger
from nearfar.training.monitor import sample

pytestmark = pytest.mark.usefixtures("whole_looks")

TINY = {"steps": 6, "batch_size": 32, "encoder": "resnet10_w16", "device": "cpu", "precision": "float32"}


def numbered(count: int) -> np.ndarray:
    """Images of one colour each, by which they are known again."""
    k = np.arange(count)
    colours = np.stack([k % 256, k // 256, np.full(count, 9)], 1).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(colours[:, None, None, :], (count, 8, 8, 3)))


def kept(images: np.ndarray) -> ImageDataset:
    return cache.load(open_source(images), short_side=None, max_pixels=10**6, max_bad=0.1, threads=1)


def stored(count: int) -> ImageDataset:
    return kept(numbered(count))


def known(store: object, rows: np.ndarray) -> set[int]:
    block = store.gather(rows)
    return {int(block.image(k)[0, 0, 0]) + 256 * int(block.image(k)[0, 0, 1]) for k in range(len(rows))}


def test_what_is_held_apart_is_never_trained_on() -> None:
    store = stored(700)
    kept, held = holdout_split(store, 0.1, seed=3)
    assert (len(kept), len(held)) == (630, 70)
    ours, theirs = known(kept, np.arange(630)), known(held, np.arange(70))
    assert not ours & theirs and ours | theirs == set(range(700))
    feed = DataLoader(kept, (Views(),), size=8, batch_size=90, seed=0)
    seen = set().union(*(known(kept, feed.make(step).rows.numpy()) for step in range(7)))
    assert seen == ours
    assert kept.fingerprint != store.fingerprint and kept.labels is None


def test_how_many_are_held_apart() -> None:
    store = stored(700)
    assert holdout_split(store, (LEAST_HELD - 1) / 700, 0) == (store, None)
    assert holdout_split(store, 0.0, 0) == (store, None)
    rows = [tuple(holdout_split(store, 0.2, seed)[1].rows) for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2] and len(rows[0]) == 140 < MOST_HELD


def test_short_runs_are_looked_at_with_fewer_images(tmp_path) -> None:
    assert [sample(planned) for planned in (1, 200 * 600, 10**9)] == [96, 600, 1024]
    run = nearfar.pretrain(numbered(1200), out=tmp_path, holdout=0.5, **TINY)
    assert {line["images"] for line in run.health()} == {96}
    assert [round(line["epoch"], 2) for line in run.health()][:: len(run.health()) - 1] == [
        0,
        round(6 / (600 // 32), 2),
    ]


def test_a_run_writes_its_health_and_learns_as_without(tmp_path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (700, 8, 8, 3), np.uint8)
    blind = nearfar.pretrain(images, out=tmp_path / "blind", holdout=0.1, health_checks=0, **TINY)
    run = nearfar.pretrain(images, out=tmp_path / "run", holdout=0.1, health_checks=1000, **TINY)
    bytes_of = [(path / "encoder.safetensors").read_bytes() for path in (blind.path, run.path)]
    assert bytes_of[0] == bytes_of[1]
    assert not blind.health() and run.config["data"] == {
        **blind.config["data"],
        "images": 630,
        "holdout": 70,
    }
    lines = run.health()
    assert [line["step"] for line in lines][-1] == 6 and all(line["holdout"] for line in lines)
    assert lines[0]["step"] == 0 and all(0 <= line["partner_trained"] <= 1 for line in lines)
    assert (
        lines[-1]["images"] == 70
        and lines[-1]["partners"] == 2 * 48
        and 1 <= lines[-1]["rankme"] <= lines[-1]["dim"]
    )
    assert (tmp_path / "run" / "health.jsonl").read_text().count("\n") == len(lines)
    again = nearfar.pretrain(images, out=tmp_path / "run", holdout=0.1, health_checks=1000, **TINY)
    assert again.health() == lines


def test_a_run_that_was_not_looked_at_from_its_start_has_no_verdict(tmp_path) -> None:
    pretrain_until(4, numbered(100), out=tmp_path, health_checks=0, **TINY)
    run = nearfar.pretrain(numbered(100), out=tmp_path, health_checks=20, **TINY)
    steps = [line["step"] for line in run.health()]
    assert steps[0] > 3 and steps[-1] == 6  # trained weights are never taken for untrained ones
    assert run.verdict() is None


def test_a_run_killed_before_its_first_save_looks_at_the_untrained_network_once(
    tmp_path, monkeypatch
) -> None:
    def stop(self: RunLogger, step: Step) -> None:
        if step.number == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunLogger, "note", stop)
        with pytest.raises(KeyboardInterrupt):
            nearfar.pretrain(numbered(100), out=tmp_path, **TINY)
    run = nearfar.pretrain(numbered(100), out=tmp_path, **TINY)
    steps = [line["step"] for line in run.health()]
    assert steps.count(0) == 1 and steps == sorted(set(steps))


def test_few_images_are_all_trained_on_and_looked_at(photos, tmp_path) -> None:
    run = nearfar.pretrain(photos, out=tmp_path / "run", **TINY)
    assert run.config["data"]["holdout"] == 0 and run.config["data"]["images"] == 96
    (line,) = [line for line in run.health() if line["step"] == 6]
    assert line["images"] == 96 and line["holdout"] is False
    assert json.dumps(line, allow_nan=False)


def test_partners_are_found_where_views_are_alike_and_by_chance_where_images_are() -> None:
    encoder = models.encoder("resnet10_w16", size=16, seed=0)
    preprocess = Preprocess.of(16, "bilinear")
    noise = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), np.uint8)
    same = Views(crop_min=1.0, flip=0.0, jitter=0.0, grayscale=0.0)
    found = partner_found(encoder, preprocess, kept(noise), (same, same))
    assert found == 1.0
    copies = np.repeat(noise[:1], 60, 0)  # every view is every other's equal
    assert partner_found(encoder, preprocess, kept(copies), (same, same)) < 0.2
    turns = [partner_found(encoder, preprocess, kept(noise), (Views(), Views()), turns=n) for n in (1, 2, 3)]
    once = [turns[0], 2 * turns[1] - turns[0], 3 * turns[2] - 2 * turns[1]]  # other views at every turn
    assert all(0 <= found <= 1 and abs(120 * found - round(120 * found)) < 1e-4 for found in once)
    assert len({round(found, 6) for found in once}) > 1
    apart = Views(crop_min=0.01, crop_max=0.02)
    assert partner_found(encoder, preprocess, kept(noise), (same, apart)) < 0.5


def test_alone_is_one_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    assert (distributed.world(), distributed.rank()) == (4, 2)
    with distributed.alone(), distributed.alone():
        assert (distributed.world(), distributed.rank()) == (1, 0)
        assert torch.equal(collectives.gather(torch.ones(2)), torch.ones(2))
    assert (distributed.world(), distributed.rank()) == (4, 2)


def test_settling_measures_batch_norms_and_changes_nothing_else() -> None:
    encoder = models.encoder("resnet10_w16", size=16, seed=0).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    store = kept(np.random.default_rng(0).integers(0, 256, (257, 16, 16, 3), np.uint8))
    same = Views(crop_min=1.0, flip=0.0, jitter=0.0, grayscale=0.0)
    found = settled(encoder, Preprocess.of(16, "bilinear"), store, same)
    assert encoder.training and all(
        torch.equal(value, before[name]) for name, value in encoder.state_dict().items()
    )
    after = found.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved and all("running" in name or "num_batches" in name for name in moved)
    # The first norm's mean, by hand, over the 256 images that make whole batches.
    first = next(part for part in found.modules() if isinstance(part, torch.nn.BatchNorm2d))
    rows = np.sort(rng.permutation(rng.fold(0, "settled"), 257)[:256])
    x = torch.from_numpy(np.stack([store[int(row)] for row in rows])).permute(0, 3, 1, 2).float() / 255
    seen = []
    hook = next(part for part in encoder.modules() if isinstance(part, torch.nn.BatchNorm2d))
    hook.register_forward_pre_hook(lambda _, given: seen.append(given[0].mean((0, 2, 3))))
    encoder.eval()(x)
    assert torch.allclose(first.running_mean, seen[0], atol=1e-5)
