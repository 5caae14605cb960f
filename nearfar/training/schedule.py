"""The length of training: a number of steps, fixed or fitted to a time budget, and the progress in it.

The schedule of everything that changes while training is a function of progress, from 0 to 1. A plan
is a list of (from step, steps in all); a time budget appends to it when the pace drifts, and the list
is recorded, so that a run which followed the clock can be repeated without one.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from ..core.errors import NearfarError

LOOKS = 50  # the pace is looked at whenever a fiftieth of the remaining steps is done
DRIFT = 0.02  # a pace off by more than this corrects the plan
LEAD = 8  # steps from the decision that views are whole to the first such: more than a feed prepares ahead
AIM = 0.985  # share of the budget to plan for; the rest is for the last save and the unforeseen

UNITS = {"h": 60.0, "m": 1.0, "s": 1 / 60}  # in minutes


def minutes(text: str | float, what: str) -> float:
    """Read a time as people type it: 1h, 30m, 45s, 1h30m; a plain number means minutes.

    Args:
        text: the time.
        what: how an error names it, such as "--budget".

    Returns:
        Minutes, above 0.

    Raises:
        NearfarError: it cannot be read so, or is nothing.
    """
    number = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
    words = str(text).strip()
    found = 0.0
    if re.fullmatch(rf"{number}", words):
        found = float(words)
    elif re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s)?", words):
        found = sum(float(count) * UNITS[unit] for count, unit in re.findall(rf"{number}([hms])", words))
    if not 0 < found < float("inf"):
        raise NearfarError(f"{what} {str(text)!r} is not a duration; write 1h, 30m, 45s, 1h30m or minutes.")
    return found


def measuring(seconds: float) -> float:
    """Tell how long the pace is measured before a time budget is planned.

    Args:
        seconds: the budget.

    Returns:
        Seconds of it: 2 %, and no more than 5.
    """
    return min(5.0, 0.02 * seconds)


@dataclass(frozen=True)
class StepPlan:
    """The number of steps, as planned first and as corrected since."""

    stretches: tuple[tuple[int, int], ...]  # (step from which it holds, steps in all)

    @staticmethod
    def of(stretches: Iterable[Iterable[int]]) -> StepPlan:
        """Read a plan from the lists that JSON gives back.

        Args:
            stretches: pairs of (step from which it holds, steps in all).

        Returns:
            The plan.

        Raises:
            NearfarError: they are no such pairs, or the last has no steps.
        """
        pairs = tuple(tuple(pair) for pair in stretches)
        if not pairs or any(len(pair) != 2 for pair in pairs) or pairs[-1][1] < 1:
            said = [list(pair) for pair in pairs]
            raise NearfarError(f"{said} is no plan of steps; start over with --overwrite.")
        return StepPlan(tuple((start, total) for start, total in pairs))

    @property
    def steps(self) -> int:
        """Steps in all, as planned now."""
        return self.stretches[-1][1]

    def progress(self, step: float) -> float:
        """Tell how far the schedule is when `step` steps are done.

        Each correction keeps the progress made and spreads the rest evenly over the steps that remain.

        Args:
            step: steps done, from 0 to `steps`; half a step may be asked for.

        Returns:
            From 0.0 to 1.0, never falling, and 1.0 exactly at the end.
        """
        done = 0.0
        for number, (start, total) in enumerate(self.stretches):
            following = self.stretches[number + 1][0] if number + 1 < len(self.stretches) else total
            reached = min(step, following)
            if reached >= total:
                return 1.0
            done += (1.0 - done) * (reached - start) / (total - start)
            if step <= following:
                break
        return done

    def corrected(self, step: int, total: int) -> StepPlan:
        """Plan `total` steps in all from `step` on.

        Args:
            step: steps done.
            total: steps in all, more than `step`.

        Returns:
            A new plan.
        """
        return StepPlan((*self.stretches, (step, total)))


@dataclass(frozen=True)
class EarlySteps:
    """The first steps of a training, whose views are smaller and cost less.

    Attributes:
        size: side of their views, in pixels.
        share: of the progress, up to which views are small.
        cost: of such a step, as a share of a later one's.
    """

    size: int
    share: float
    cost: float

    @classmethod
    def timed(cls, size: int, whole: int, share: float, cost: float | None = None) -> Self:
        """Take the cost that was measured, within what it can be.

        Args:
            size, whole: sides of early and later views, in pixels.
            share: of the progress with early views.
            cost: measured; None if it was not.

        Returns:
            Early steps that cost their share of the pixels at least, and at most as much as a later one.
        """
        pixels = (size / whole) ** 2
        return cls(size, share, pixels if cost is None else min(max(cost, pixels), 1.0))

    def whole_from(self, step: int, plan: StepPlan) -> int | None:
        """Tell the first step with whole views, which is decided `LEAD` steps before by the plan of then.

        Args:
            step: steps done.
            plan: the plan in force; what it held when fewer steps were done is what counts.

        Returns:
            Steps before it, the same for every later `step`; 0 where a training is too short for early steps;
            None where it is not decided yet.
        """
        ends = [start for start, _ in plan.stretches[1:]]
        for number, (start, _) in enumerate(plan.stretches):
            known = StepPlan(plan.stretches[: number + 1])
            last = min(step, ends[number] - 1 if number < len(ends) else step)

            def expected(done: int, known: StepPlan = known) -> float:
                return known.progress(done + LEAD)

            if start <= last and expected(last) >= self.share:
                decided = bisect_left(range(last), self.share, lo=start, key=expected)
                return decided + LEAD if decided else 0
        return None

    def work(self, step: int, plan: StepPlan) -> float:
        """Tell what so many steps cost, in later steps."""
        whole = self.whole_from(step, plan)
        return step - (1.0 - self.cost) * (step if whole is None else min(step, whole))

    def mean(self, progress: float) -> float:
        """Tell what a step costs on average from so much progress to the end, as a share of a later one's."""
        left = max(0.0, self.share - progress) / max(1.0 - progress, 1e-9)
        return 1.0 - (1.0 - self.cost) * left


@dataclass
class TimeBudget:
    """Watches a time budget while training, and says when the plan must change."""

    seconds: float  # the budget
    spent: float = 0.0  # before this process started
    early: EarlySteps | None = None
    started: float = field(default_factory=time.monotonic)
    aside: float = 0.0  # seconds since then that were not spent on steps, as on health checks
    _marks: list[tuple[int, float]] = field(default_factory=list)  # (step, seconds of steps) of every look

    def elapsed(self) -> float:
        """Tell the seconds of the budget used so far, over all sessions."""
        return self.spent + time.monotonic() - self.started

    def first_plan(self, seconds_a_step: float) -> StepPlan:
        """Plan from a short measurement.

        Args:
            seconds_a_step: measured, with views of their whole side.

        Returns:
            A plan of at least one step.
        """
        left = self.seconds * AIM - self.elapsed()
        mean = seconds_a_step * (self.early.mean(0.0) if self.early else 1.0)
        return StepPlan(((0, max(1, int(left / mean))),))

    def steps_fitting(self, step: int, plan: StepPlan) -> int | None:
        """Compare what the plan needs with the pace, taken over as long a time as remains, or all so far.

        So a load that comes and goes counts by its share of the time, one that stays is followed little by
        little, and near the end, where little time is left to make up for an error, the pace is the latest.

        Args:
            step: steps done.
            plan: the plan in force.

        Returns:
            Steps in all that fit the budget, if that differs from the plan by more than 2 % of what
            remains; else None.
        """
        now = self.elapsed()
        left, have = plan.steps - step, self.seconds * AIM - now
        busy = now - self.aside  # a check of seconds among the first steps is no pace
        long_ago = max(bisect_right(self._marks, busy - have, key=lambda mark: mark[1]) - 1, 0)
        since, then = self._marks[long_ago] if self._marks else (step, busy)
        self._marks.append((step, busy))
        if step == since or left <= 0:
            return None
        done, ahead = float(step - since), 1.0
        if self.early is not None:
            done = self.early.work(step, plan) - self.early.work(since, plan)
            ahead = self.early.mean(plan.progress(step))
        fitting = max(1, int(have * done / max(busy - then, 1e-9) / ahead))
        # Near the end 2 % of what remains is less than a step.
        return step + fitting if abs(fitting - left) > max(DRIFT * left, 1) else None

    @staticmethod
    def next_look(step: int, plan: StepPlan) -> int:
        """Tell after which step the pace is to be looked at.

        Args:
            step: steps done.
            plan: the plan in force.

        Returns:
            A later step.
        """
        return step + max(1, (plan.steps - step) // LOOKS)
