"""Imports large libraries without Python's search for cycles, which takes a quarter of the time."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module


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


def ahead(name: str) -> None:
    """Begin to import a library that is needed soon, beside what else is done until then.

    Whoever imports it meanwhile waits for it, and hears then if it cannot be imported.

    Args:
        name: the module's.
    """

    def start() -> None:
        with suppress(Exception), large_imports():
            import_module(name)

    threading.Thread(target=start, name=f"import {name}", daemon=True).start()
