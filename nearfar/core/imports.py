"""Imports large libraries without Python's search for cycles, which takes a quarter of the time."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def large_imports() -> Iterator[None]:
    """Import in here what brings a hundred thousand objects that stay: none is looked for among them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def ahead(load: Callable[[], object]) -> None:
    """Begin to import a library that is needed soon, beside what else is done until then.

    Whoever imports it meanwhile waits for it, and hears then if it cannot be imported.

    Args:
        load: imports it.
    """

    def start() -> None:
        with suppress(Exception), large_imports():
            load()

    threading.Thread(target=start, name="import", daemon=True).start()
