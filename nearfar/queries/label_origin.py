"""Says where each label comes from: a hand, a classifier whose word was accepted, or the data."""

from __future__ import annotations

from ..core.text import counted
from ..stores import VectorStore

HAND, SUGGESTION, PREDICTION = "hand", "accepted suggestion", "accepted prediction"
ORIGINS = (HAND, SUGGESTION, PREDICTION)  # a label without an origin came with the data
ACCEPTED = (SUGGESTION, PREDICTION)  # what a classifier was first to say


def origin_column(column: str) -> str:
    """Name the column that holds where the labels of another come from."""
    return f"{column}_origin"


def accepted_ids(store: VectorStore, column: str) -> set[str]:
    """Name the images whose label was accepted from a classifier.

    Args:
        store: the store.
        column: the column with the labels.
    """
    name = origin_column(column)
    if name not in store.columns:
        return set()
    listed = ", ".join(f"'{origin}'" for origin in ACCEPTED)
    return set(store.ids(f"{name} in ({listed})"))


def left_out_accepted(count: int) -> str:
    """Say how many accepted labels were left out."""
    what = counted(count, "label")
    return f"Left out: {what} accepted from a classifier; --accepted counts them too."
