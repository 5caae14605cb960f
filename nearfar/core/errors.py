"""The two errors of nearfar: a user's mistake, and an image that cannot be used.

Errors are the most-read documentation of a tool. Each is one sentence that names the thing, says
what is wrong with it, and says what to type instead. The command line prints it and exits with 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class NearfarError(Exception):
    """Something the user can fix; its text is one sentence that says how."""


class BadImage(Exception):
    """One image that cannot be used; its text is the short reason that `rejected.csv` will carry."""


def nearest(word: str, known: Iterable[str], count: int = 3) -> str:
    """Say which known names look most like `word`: "did you mean a, b or c?", or list a few.

    Args:
        word: what the user typed.
        known: the names that would have worked.
        count: how many to offer at most.

    Returns:
        A phrase that ends an error sentence.
    """
    names = sorted(set(known))
    same = [name for name in names if name.lower() == word.lower()]
    close = same or difflib.get_close_matches(word, names, n=count, cutoff=0.5)
    if close:
        listed = close[0] if len(close) == 1 else f"{', '.join(close[:-1])} or {close[-1]}"
        return f"did you mean {listed}?"
    shown = ", ".join(names[:12])
    return f"choose from {shown}{', ...' if len(names) > 12 else ''}"


@contextmanager
def fitting(what: str) -> Iterator[None]:
    """Turn what torch, or a look-up, raises of weights that do not fit a module into a sentence.

    Args:
        what: what the weights are of, and where they are from.

    Raises:
        NearfarError: they do not fit.
    """
    try:
        yield
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "")[:200]
        raise NearfarError(
            f"the {what} does not fit ({reason}); the files are damaged or come from different runs."
        ) from error


def reason_of(error: Exception) -> str:
    """Say why a file could not be read: without number and path, where the system says it.

    Args:
        error: what reading raised.
    """
    return getattr(error, "strerror", None) or str(error)
