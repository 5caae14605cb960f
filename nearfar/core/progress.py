"""One line of progress for long work: on standard error, and off by default.

The command line turns it on with `show(True)`; in a library call nothing is printed by default.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from .text import printable

_shown = False
_gone = False  # whether standard error has refused a line
_follower: Callable[[str, int, int], None] | None = None


def show(on: bool) -> None:
    """Turn progress and notes on or off for this process.

    Args:
        on: whether to print.
    """
    global _shown
    _shown = on


def shown() -> bool:
    """Tell whether progress is being printed."""
    return _shown


def on_terminal() -> bool:
    """Tell whether standard error is a terminal; one that is closed is none."""
    try:
        return not _gone and sys.stderr is not None and sys.stderr.isatty()
    except (OSError, ValueError):
        return False


def write(text: str) -> None:
    """Write to standard error; one that is closed, full or read by nobody ends no work and stays silent.

    Args:
        text: with its end of line.
    """
    global _gone
    if _gone or sys.stderr is None:
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        _gone = True
        with suppress(OSError, ValueError):  # else Python writes what is left as it exits, and fails again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def say(text: str) -> None:
    """Print one line of news on standard error, if progress is on.

    Args:
        text: the line.
    """
    if _shown:
        clear = "\r\x1b[K" if on_terminal() else ""
        write(f"{clear}{printable(text, keep=chr(10))}\n")


def follow(follower: Callable[[str, int, int], None] | None) -> None:
    """Have a function hear of each stage of long work in this process.

    Args:
        follower: takes what is being done, how many units are done, and of how many; 0 where not known.
    """
    global _follower
    _follower = follower


def stage(what: str, done: int = 0, total: int = 0) -> None:
    """Say how far long work is, to who follows it; nothing is printed.

    Args:
        what: the work, as a present participle: "comparing images".
        done, total: units of work, where they can be counted.
    """
    if _follower is not None:
        _follower(what, done, total)


def followed() -> bool:
    """Tell whether someone hears of stages."""
    return _follower is not None


def redraw(text: str, last: bool = False) -> None:
    """Print the one line that changes in place on a terminal, and is a new line in a log.

    Args:
        text: the line.
        last: whether it stays.
    """
    if _shown:
        terminal = on_terminal()
        end = "" if terminal and not last else "\n"
        write(f"\r\x1b[K{text}{end}" if terminal else f"{text}{end}")


def duration(seconds: float) -> str:
    """Write a time as people do: 42 s, 3 min 20 s, 2 h 05 min.

    Args:
        seconds: at least 0.

    Returns:
        The words.
    """
    whole = int(round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Bar:
    """Counts units of work and shows count, pace and time left; use it in a `with`.

    On a terminal the line is redrawn four times a second; in a log a new line comes every 10 s.
    """

    def __init__(self, what: str, total: int, unit: str = "images") -> None:
        """Start a bar.

        Args:
            what: the work, as a present participle: "reading".
            total: units of work in all.
            unit: what a unit is called.
        """
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self.started = self.last = time.monotonic()

    def advance(self, count: int = 1) -> None:
        """Count `count` more units as done, and redraw if it is time.

        Args:
            count: units.
        """
        self.done += count
        now = time.monotonic()
        if _shown and now - self.last >= (0.25 if on_terminal() else 10.0):
            self.last = now
            self._draw(now)

    def _draw(self, now: float) -> None:
        pace = self.done / max(now - self.started, 1e-9)
        left = duration((self.total - self.done) / pace) if pace else "?"
        redraw(f"{self.what} {self.done:,} of {self.total:,} {self.unit}, {pace:,.0f}/s, {left} left")

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _shown and on_terminal():
            write("\r\x1b[K")
