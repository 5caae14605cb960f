"""The length of training: a number of steps, fixed or fitted to a time budget, and the progress in it.

The schedule of everything that changes while training is a function of progress, from 0 to 1. A plan
is a list of (from step, steps in all); a time budget appends to it when the pace drifts, and the list
is recorded, so that a run which followed the clock can be repeated without one.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..core.errors import NearfarError

WINDOW = 3  # looks that the pace is taken over, so that a hiccup is not taken for a drift
DRIFT = 0.05  # a pace off by more than this corrects the plan
# Shares of the budget that are left when the plan may be corrected: once half-way, and once near the end. So
# a plan is corrected twice at most, and what starts or stops beside the run falls into one of the two.
CORRECTIONS = (0.5, 0.04)
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
        Seconds of it: 2 %, and no more than 8.
    """
    return min(8.0, 0.02 * seconds)


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


@dataclass
class TimeBudget:
    """Watches a time budget while training, and says when the plan must change."""

    seconds: float  # the budget
    spent: float = 0.0  # before this process started
    started: float = field(default_factory=time.monotonic)
    _marks: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=WINDOW + 1))

    def elapsed(self) -> float:
        """Tell the seconds of the budget used so far, over all sessions."""
        return self.spent + time.monotonic() - self.started

    def first_plan(self, seconds_a_step: float) -> StepPlan:
        """Plan from a short measurement.

        Args:
            seconds_a_step: measured.

        Returns:
            A plan of at least one step.
        """
        left = self.seconds * AIM - self.elapsed()
        return StepPlan(((0, max(1, int(left / seconds_a_step))),))

    def steps_fitting(self, step: int, plan: StepPlan) -> int | None:
        """Compare the pace over the last few calls with what the plan needs, where a correction is due.

        One is due when the time that remains, or that the remaining steps take at this pace, falls below the
        next share of CORRECTIONS.

        Args:
            step: steps done.
            plan: the plan in force.

        Returns:
            Steps in all that fit the budget, if that differs from the plan by more than 5 % of what
            remains; else None. None also after the last correction.
        """
        now = self.elapsed()
        self._marks.append((step, now))
        since, then = self._marks[0]
        if step == since:
            return None
        pace = (now - then) / (step - since)
        left, have = plan.steps - step, self.seconds * AIM - now
        made = len(plan.stretches) - 1
        if made >= len(CORRECTIONS) or min(have, left * pace) > CORRECTIONS[made] * self.seconds:
            return None
        fitting = max(1, int(have / max(pace, 1e-9)))
        # Towards the end 5 % of what remains is a step or two, which is not worth a word.
        if left <= 0 or abs(fitting - left) <= max(DRIFT * left, 0.005 * plan.steps):
            return None
        return step + fitting
