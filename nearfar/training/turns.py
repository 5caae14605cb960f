"""Measures by turns and rounds whose middle counts: what else the computer does then misleads little."""

from __future__ import annotations

import statistics

FEWEST, MOST = 3, 9  # turns that decide; more than the fewest only where they differ
STEADY = 1.25  # a turn is disturbed if its ratio differs from the middle one by more than this factor
SECONDS = 5.0  # that a comparison takes at most, but for the turn that is running then


class Turns:
    """What two ways took, turn by turn; the middle of their ratios decides."""

    def __init__(self) -> None:
        self.pairs: list[tuple[float, float]] = []

    def add(self, first: float, second: float) -> None:
        """Note what both took in a turn, in any unit."""
        self.pairs.append((max(first, 1e-12), max(second, 1e-12)))

    @property
    def ratios(self) -> list[float]:
        """What the second took for each of the first, turn by turn."""
        return [second / first for first, second in self.pairs]

    @property
    def ratio(self) -> float:
        """The middle ratio."""
        return statistics.median(self.ratios)

    @property
    def middle(self) -> tuple[float, float]:
        """What each took in its middle turn."""
        first, second = zip(*self.pairs, strict=True)
        return statistics.median(first), statistics.median(second)

    @property
    def enough(self) -> bool:
        """Whether no further turn is needed: there are some, and most of them agree."""
        if len(self.pairs) < FEWEST:
            return False
        steady = sum(1 / STEADY <= ratio / self.ratio <= STEADY for ratio in self.ratios)
        return steady >= max(FEWEST, len(self.pairs) // 2 + 1) or len(self.pairs) >= MOST


class Rounds:
    """What a step took, round by round; the middle counts, and rounds that were disturbed are repeated.

    Args:
        seconds: to measure for, about; twice as long at most.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.spent = seconds, 0.0
        self.paces: list[float] = []

    @property
    def length(self) -> float:
        """Seconds that a round takes, at least; a step, if that takes longer."""
        return self.seconds / FEWEST

    def add(self, pace: float, spent: float) -> None:
        """Note what a step took in a round, and how long the round was, in seconds."""
        self.paces.append(pace)
        self.spent += spent

    @property
    def middle(self) -> float:
        """What a step took in the middle round."""
        return statistics.median(self.paces)

    @property
    def enough(self) -> bool:
        """Whether no further round is needed: the time is over, and most rounds agree or none can be had."""
        steady = sum(1 / STEADY <= pace / self.middle <= STEADY for pace in self.paces)
        agreed = steady >= min(FEWEST, len(self.paces))
        return self.spent >= 2 * self.seconds or (self.spent >= self.seconds and agreed)
