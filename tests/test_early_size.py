"""Smaller views in the first steps: which steps have them, exact resuming, and what the time allows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupted import pretrain_until
from test_pace import Fake

import nearfar
from nearfar.core import progress
from nearfar.core.errors import NearfarError
from nearfar.data.loader import AHEAD, DataLoader
from nearfar.training import resolve
from nearfar.training.schedule import LEAD, EarlySteps, StepPlan

HOW: dict[str, Any] = {
    "encoder": "resnet8",
    "precision": "float32",
    "recipe": "cpu",
    "device": "cpu",
    "workers": 1,
    "batch_size": 16,
    "head": (16, 8),
    "health_checks": 0,
    "image_size": 16,
    "early_size": 0.5,
    "early_steps": 0.4,
    "steps": 30,
}
PIXELS = np.random.default_rng(0).integers(0, 256, (48, 16, 16, 3), np.uint8)


def config(**asked: Any) -> Any:
    return resolve.resolve(asked.pop("method", "simclr"), "cpu", asked, side=64, device=torch.device("cpu"))


def content(run: Path) -> bytes:
    return (run / "encoder.safetensors").read_bytes()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A run, and the side of the views of each of its steps."""
    sides: dict[int, int] = {}
    make = DataLoader.make

    def noted(self: DataLoader, step: int) -> Any:
        batch = make(self, step)
        sides[step] = batch.views[0].shape[-1]
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataLoader, "make", noted)
        run = nearfar.pretrain(PIXELS, out=tmp_path_factory.mktemp("runs") / "whole", **HOW)
    return run.folder, [sides[step] for step in range(HOW["steps"])]


def test_the_first_steps_have_small_views_and_the_others_whole_ones(unbroken: tuple[Path, list[int]]) -> None:
    assert unbroken[1] == [8] * 12 + [16] * 18  # 0.4 of 30 steps
    assert nearfar.load(unbroken[0]).preprocess.size == 16
    assert LEAD > AHEAD + 2  # else the feed could have made a batch before its side was decided


@pytest.mark.parametrize("cut", [3, 8, 23])  # with small views; decided, but not yet whole; whole
def test_a_run_resumes_to_the_same_bytes(cut: int, unbroken: tuple[Path, list[int]], tmp_path: Path) -> None:
    pretrain_until(cut, PIXELS, out=tmp_path / "cut", **HOW)
    nearfar.pretrain(PIXELS, out=tmp_path / "cut", **HOW)
    assert content(tmp_path / "cut") == content(unbroken[0])


def test_a_feed_gives_the_views_that_feeds_of_either_side_give() -> None:
    from test_batched import Images

    wanted = config()
    views = [wanted.views, wanted.views]
    how: dict[str, Any] = {"batch_size": 4, "seed": 3}
    mixed = DataLoader(Images(), views, size=24, early_size=16, whole_from=2, **how)
    for step, side in enumerate((16, 16, 24)):
        alone = DataLoader(Images(), views, size=side, **how).make(step)
        assert all(torch.equal(x, y) for x, y in zip(mixed.make(step).views, alone.views, strict=True))


def test_sides_are_multiples_of_8_and_what_takes_one_side_keeps_it() -> None:
    assert [config(image_size=side, early_size=0.75).early_size for side in (64, 48, 32, 28, 24, 16)] == [
        48, 32, 24, 24, 16, None,
    ]  # fmt: skip
    assert config(early_size=1.0).early_size is None
    assert config(early_size=0.5, early_steps=0.0).early_size is None
    assert config(method="distill", image_size=64).early_size == 48  # by its recipe, as SimCLR's
    assert config(method="mae").early_size is None
    assert config(encoder="vit_w64_d2").early_size is None
    for words in ({"method": "mae"}, {"encoder": "vit_w64_d2"}):
        with pytest.raises(NearfarError, match="--early-size is for .* leave it out"):
            config(early_size=0.5, **words)


@given(
    pieces=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 60)), min_size=1, max_size=5),
    share=st.floats(0.05, 1.0),
)
def test_what_was_decided_stays_when_more_steps_are_done_and_the_plan_is_corrected(
    pieces: list[tuple[int, int]], share: float
) -> None:
    early, plan, now, told = EarlySteps(24, share, 0.6), StepPlan(((0, sum(pieces[0])),)), 0, None
    for run, remain in [*pieces[1:], (1000, 0)]:
        for step in range(now, min(now + run, plan.steps - 1)):  # a correction comes before the decision
            found = early.whole_from(step, plan)
            assert told in (None, found)
            if told is None and found is not None:  # decided in time for what the feed prepares
                assert found == 0 if step == 0 else found == step + LEAD
            told = found
        now = min(now + run, plan.steps - 1)
        if remain and now > plan.stretches[-1][0]:  # one correction a step
            plan = plan.corrected(now, now + remain)
            told = early.whole_from(now, plan) if told is None else told
            assert early.whole_from(now, plan) == told


def test_a_share_of_the_steps_has_small_views_and_a_short_run_none() -> None:
    early = EarlySteps(24, 0.8, 0.6)
    for steps in (11, 40, 1000):
        assert early.whole_from(steps, StepPlan(((0, steps),))) == -(-8 * steps // 10)
    assert [early.whole_from(0, StepPlan(((0, steps),))) for steps in (1, 10, 11)] == [0, 0, None]


def follow(
    seconds: float, pace: Callable[[float], float], cost: float, told: float
) -> tuple[float, StepPlan]:
    """Follow a clock; early steps cost a share of `pace`, and the clock was told another."""
    early = EarlySteps(24, 0.8, told)
    clock = Fake(seconds=seconds, early=early)
    plan, step = clock.first_plan(pace(0.0)), 0
    look, whole = clock.next_look(step, plan), None
    while step < plan.steps:
        clock.now += pace(clock.now) * (cost if whole is None or step < whole else 1.0)
        step += 1
        if look <= step < plan.steps:
            total = clock.steps_fitting(step, plan)
            plan = plan if total is None else plan.corrected(step, total)
            look = clock.next_look(step, plan)
        whole = early.whole_from(step, plan)
    return clock.now / seconds, plan


def test_a_step_costs_its_share_of_the_pixels_at_least_however_it_was_timed() -> None:
    costs = [EarlySteps.timed(24, 32, 0.8, cost).cost for cost in (None, 0.2, 0.7, 1.3)]
    assert costs == [0.5625, 0.5625, 0.7, 1.0]


def test_a_plan_counts_the_smaller_cost_of_early_steps() -> None:
    used, plan = follow(600.0, lambda t: 0.2, 0.6, 0.6)
    assert 0.97 <= used <= 1.0 and len(plan.stretches) <= 3
    assert plan.steps == pytest.approx(600 / 0.2 / (0.8 * 0.6 + 0.2), rel=0.03)


@settings(max_examples=30, deadline=None)
@given(told=st.floats(0.4, 0.9), slower=st.floats(0.6, 1.6), start=st.floats(30.0, 500.0))
def test_a_cost_that_was_measured_wrongly_and_a_pace_that_changes_leave_a_run_within_its_time(
    told: float, slower: float, start: float
) -> None:
    used, _ = follow(600.0, lambda t: 0.2 * (slower if t >= start else 1.0), 0.6, told)
    assert 0.94 <= used <= 1.05


def test_check_and_the_announcement_say_the_side_of_the_first_views(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = {
        key: HOW[key] for key in ("recipe", "precision", "device", "image_size", "early_size", "batch_size")
    }
    plan = nearfar.check(PIXELS, **how).plan
    assert plan is not None and plan.early_size == 8 and "views of 16 px, at first of 8" in str(plan)
    progress.show(True)
    try:
        nearfar.pretrain(PIXELS, out=tmp_path / "run", minutes=0.01, **{**HOW, "steps": None})
    finally:
        progress.show(False)
    told = capsys.readouterr().err
    assert "at 16 px, at first at 8" in told and "with views of 8 px" in told
