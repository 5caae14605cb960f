"""What tests of stores share: an empty store and a filled one, in files and on a server."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest

from nearfar.stores import StoreInfo, open_store
from nearfar.stores.arrow_rows import fixed

INFO = StoreInfo(8, "abc", "runs/a", {"size": 32})
NAMES = itertools.count()


def draw(count, dim=8, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def table(ids, vectors=None, **columns):
    return pa.table({"id": ids, "vector": fixed(draw(len(ids)) if vectors is None else vectors), **columns})


@pytest.fixture(params=["lance", "postgres"])
def address(request, tmp_path):
    if request.param == "lance":
        return str(tmp_path / "photos.nf")
    return f"{request.getfixturevalue('server')}&table=t{next(NAMES)}"


@pytest.fixture
def store(address):
    return open_store(address, INFO)


@pytest.fixture
def filled(store):
    """Twelve rows of two sites, some values missing."""
    ids = [f"{k:02d}.png" for k in range(12)]
    store.upsert(
        table(
            ids,
            label=["cat", "dog", None] * 4,
            width=list(range(12)),
            site=["A", "B"] * 6,
            score=[k / 2 if k != 5 else None for k in range(12)],
            good=[True, False, None] * 4,
        )
    )
    return store
