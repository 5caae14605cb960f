"""The plan: progress rises to 1, and a budget bends it only when the pace drifts; times as typed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_batched import Images

from nearfar.core.errors import NearfarError
from nearfar.data.loader import DataLoader
from nearfar.training import optim, resolve
from nearfar.training.pace import line, seconds_a_step
from nearfar.training.schedule import AIM, StepPlan, TimeBudget, minutes
from nearfar.training.turns import Rounds


def test_a_single_stretch_is_a_straight_line():
    plan = StepPlan(((0, 8),))
    assert [plan.progress(step) for step in range(9)] == [step / 8 for step in range(9)]


def test_a_correction_keeps_the_progress_made_and_spreads_the_rest():
    plan = StepPlan(((0, 100),)).corrected(50, 75)
    assert plan.steps == 75
    assert plan.progress(25) == 0.25
    assert plan.progress(50) == 0.5
    assert plan.progress(60) == pytest.approx(0.5 + 0.5 * 10 / 25)
    assert plan.progress(75) == 1.0


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 60)), min_size=1, max_size=6))
def test_progress_rises_from_0_to_1_however_often_it_is_corrected(pieces):
    plan, now = StepPlan(((0, sum(pieces[0])),)), 0
    for run, remain in pieces[1:]:
        now = min(now + run, plan.steps - 1)
        plan = plan.corrected(now, now + remain)
    course = [plan.progress(step) for step in range(plan.steps + 1)]
    assert course[0] == 0.0 and course[-1] == 1.0
    assert all(later > earlier for earlier, later in zip(course, course[1:], strict=False))
    assert StepPlan.of([list(stretch) for stretch in plan.stretches]) == plan


class Fake(TimeBudget):
    """A clock that is told the time."""

    now = 0.0

    def elapsed(self) -> float:
        return self.now


def follow(
    seconds: float, pace: Callable[[float], float], first: float | None = None
) -> tuple[float, StepPlan]:
    """Follow a clock as `engine.train` does; give the share of the time that was used, and the last plan."""
    clock = Fake(seconds=seconds)
    plan, step = clock.first_plan(first or pace(0.0)), 0
    look = clock.next_look(step, plan)
    while step < plan.steps:
        clock.now += pace(clock.now)
        step += 1
        if look <= step < plan.steps:
            total = clock.steps_fitting(step, plan)
            plan = plan if total is None else plan.corrected(step, total)
            look = clock.next_look(step, plan)
    return clock.now / seconds, plan


def test_a_steady_pace_leaves_the_plan_alone() -> None:
    used, plan = follow(100.0, lambda t: 0.1)
    assert plan.stretches == ((0, int(100 * AIM / 0.1)),)
    assert used == pytest.approx(AIM, abs=0.002)


@settings(max_examples=30, deadline=None)
@given(slower=st.floats(1.5, 3.0), start=st.floats(60.0, 500.0))
def test_a_change_that_stays_is_followed_without_a_jump(slower: float, start: float) -> None:
    used, plan = follow(600.0, lambda t: 0.2 * (slower if t >= start else 1.0))
    assert 0.95 <= used <= 1.02
    # No correction changes what a step is worth by more than a third, until few steps are left.
    early = [at for at, total in plan.stretches if total - at >= 50]
    worth = [plan.progress(at + 1) - plan.progress(at) for at in early]
    assert len(worth) > 5
    for before, after in itertools.pairwise(worth):
        assert 3 / 4 < after / before < 4 / 3


def test_a_check_among_the_first_steps_is_no_pace() -> None:
    clock = Fake(seconds=120.0)
    plan, totals = clock.first_plan(1.0), []
    for step in range(1, 40):
        clock.now += 1.0
        if step == 1:  # health is measured once training works
            clock.now += 7.0
            clock.aside += 7.0
        total = clock.steps_fitting(step, plan)
        plan = plan if total is None else plan.corrected(step, total)
        totals.append(plan.steps)
    assert set(totals) == {int(120 * AIM), int(120 * AIM) - 7}  # only what the check took is missing


def test_a_run_that_obeys_its_clock_ends_within_the_budget_at_any_pace() -> None:
    for pace in (lambda t: 0.1, lambda t: 0.1 + 0.002 * t, lambda t: 0.3 if 20 < t < 60 else 0.1):
        used, _ = follow(100.0, pace)
        assert 0.95 < used <= 1.05


@settings(max_examples=60, deadline=None)
@given(
    step=st.sampled_from([0.1, 0.5, 2.0]),
    period=st.floats(10.0, 900.0),
    phase=st.floats(0.0, 1.0),
    share=st.floats(0.1, 0.9),
    slower=st.floats(1.0, 2.5),
)
def test_a_load_that_comes_and_goes_leaves_a_run_within_its_time(
    step: float, period: float, phase: float, share: float, slower: float
) -> None:
    used, _ = follow(600.0, lambda t: step * (slower if (t / period + phase) % 1.0 < share else 1.0))
    assert 0.95 <= used <= 1.05


@settings(max_examples=30, deadline=None)
@given(first=st.floats(0.02, 2.0))
def test_a_disturbed_first_measurement_costs_nothing_in_the_end(first: float) -> None:
    used, _ = follow(600.0, lambda t: 0.2, first)
    assert 0.95 <= used <= 1.02


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1h", 60),
        ("30m", 30),
        ("90", 90),
        (90, 90),
        ("45s", 0.75),
        ("1h30m", 90),
        (" .5h ", 30),
        ("1.5", 1.5),
    ],
)
def test_times_as_people_type_them(text: str, expected: float) -> None:
    assert minutes(text, "--budget") == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    ["", "0", "0h", "-5", "nan", "inf", "1e3", "9" * 400, "1 fortnight", "m", "1m2h", "h1", "１h", "1h\n;rm"],
)
def test_what_is_no_time_is_a_sentence(text: str) -> None:
    with pytest.raises(NearfarError, match="--budget .* is not a duration; write 1h, 30m") as error:
        minutes(text, "--budget")
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    ("steps", "wanted", "rounds"),
    [
        ([0.1] * 40, 0.1, 3),  # nothing else runs
        ([0.1] * 10 + [1.0] + [0.1] * 40, 0.1, 4),  # the second round is disturbed, and repeated
        ([2.0, 2.1, 2.0], 2.0, 2),  # slow: two steps are over the time
        ([1.0, 9.0] * 40, 5.0, 2),  # they never agree, and the time is bounded
    ],
)
def test_the_middle_round_tells_the_pace(steps: list[float], wanted: float, rounds: int) -> None:
    found, times = Rounds(2.9), iter(steps)
    while not found.enough:
        spent, timed = 0.0, 0
        while spent < found.length - 1e-9:
            spent += next(times)
            timed += 1
        found.add(spent / timed, spent)
    assert found.middle == pytest.approx(wanted, rel=0.1) and len(found.paces) == rounds
    assert found.spent <= 2 * found.seconds + max(steps)


@pytest.mark.parametrize(("fixed", "each"), [(0.0, 0.01), (0.3, 0.002), (0.1, 0.0)])
def test_two_small_steps_tell_a_whole_one(fixed: float, each: float) -> None:
    assert line(32, fixed + 32 * each, 64, fixed + 64 * each, 256) == pytest.approx(fixed + 256 * each)


def test_a_disturbed_small_step_gives_no_pace_below_zero_nor_a_part_of_its_own_below_zero() -> None:
    assert line(32, 5.0, 64, 0.8, 256) == 0.8  # the first was disturbed
    assert line(32, 0.1, 64, 0.8, 256) == pytest.approx(0.8 * 4)  # the second was


def test_where_there_is_no_time_for_a_step_a_small_one_tells_its_pace_and_leaves_no_trace() -> None:
    wanted = resolve.resolve("simclr", "cpu", {}, side=16, device=torch.device("cpu"))
    module = resolve.build_method(wanted)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    opened = []

    def feed(size: int) -> DataLoader:
        opened.append(size)
        return DataLoader(Images(38), module.views(wanted.views), size=16, batch_size=size, seed=0, threads=1)

    made = optim.optimizer(wanted.training, module)
    how: dict[str, Any] = {"device": torch.device("cpu"), "chunk": None, "precision": "float32"}
    pace = seconds_a_step(module, feed, 256, made, seconds=1e-9, **how)
    assert opened == [32] and 0 < pace < 600 and not made.state
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
