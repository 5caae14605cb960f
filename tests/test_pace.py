"""The plan: progress rises to 1, and a budget bends it only when the pace drifts; times as typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.core.errors import NearfarError
from nearfar.training.schedule import AIM, StepPlan, TimeBudget, minutes


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


def test_a_steady_pace_leaves_the_plan_alone_and_a_slower_one_shortens_it():
    clock = Fake(seconds=100.0)
    plan = clock.first_plan(0.1)
    assert plan.steps == int(100 * AIM / 0.1)
    clock.steps_fitting(0, plan)
    clock.now = 10.0
    assert clock.steps_fitting(100, plan) is None  # exactly as planned
    clock.now = 30.0
    fitting = clock.steps_fitting(200, plan)  # 0.15 s a step since the first look
    assert fitting == 200 + int((100 * AIM - 30.0) / 0.15)
    assert fitting < plan.steps


def test_a_run_that_obeys_its_clock_ends_within_the_budget_at_any_pace():
    for pace in (lambda t: 0.1, lambda t: 0.1 + 0.002 * t, lambda t: 0.3 if 20 < t < 60 else 0.1):
        clock = Fake(seconds=100.0)
        plan, step = clock.first_plan(0.1), 0
        look = max(1, plan.steps // 50)
        while step < plan.steps:
            clock.now += pace(clock.now)
            step += 1
            if step % look == 0 and step < plan.steps:
                total = clock.steps_fitting(step, plan)
                plan = plan if total is None else plan.corrected(step, total)
        assert 90.0 < clock.now <= 100.0


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
