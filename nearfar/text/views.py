"""Blocks of texts, and views of them: numbers of tokens in rows, filled up with 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..core import rng
from ..core.errors import NearfarError
from .tokenizer import PAD, Ids, sentence_marks
from .view_settings import TextViews

SHORTEST = 4  # tokens of a sentence: what is shorter ends with an abbreviation
Texts = tuple[Ids, ...]  # of one example: one text, or the two of a pair, or the three of a triple


@dataclass(frozen=True)
class TextBlock:
    """Some examples."""

    values: list[Texts]

    def __len__(self) -> int:
        """Count the examples."""
        return len(self.values)

    def take(self, rows: npt.NDArray[np.int64]) -> TextBlock:
        """Give some of them."""
        return TextBlock([self.values[row] for row in np.asarray(rows).tolist()])


@dataclass(frozen=True)
class Which:
    """A view of one text of a pair or triple: its settings, and which text, counted from 0."""

    recipe: TextViews
    part: int = 0


@dataclass(frozen=True)
class Sentences:
    """A view that says of which sentence of a text each token is, counted from 1; nothing in it is drawn."""

    recipe: TextViews


TextView = TextViews | Which | Sentences


def settings_of_view(view: TextView) -> tuple[TextViews, int]:
    """Give a view's settings, and which text of an example it is of."""
    if isinstance(view, TextViews):
        return view, 0
    return view.recipe, getattr(view, "part", 0)


def draw(view: TextView, key: int, ids: Any, block: TextBlock) -> list[npt.NDArray[np.bool_]]:
    """Draw which tokens a view keeps.

    Args:
        view: settings.
        key: of the view and the epoch.
        ids: (n,) integers that name the examples.
        block: n examples.

    Returns:
        For each example, a flag a token; one at least is kept.
    """
    recipe, part = settings_of_view(view)
    texts = _texts(block, part)
    if not recipe.deletion:
        return [np.ones(len(text), np.bool_) for text in texts]
    u = rng.uniform(key, np.asarray(ids), max(map(len, texts)))
    kept = []
    for text, row in zip(texts, u, strict=True):
        keep = row[: len(text)] >= recipe.deletion
        if not keep.any():
            keep[row[: len(text)].argmax()] = True
        kept.append(keep)
    return kept


def apply(block: TextBlock, kept: Sequence[npt.NDArray[np.bool_]], view: TextView) -> torch.Tensor:
    """Compute views from what `draw` drew: (n, t) int64, t the tokens of the longest text before deletion."""
    recipe, part = settings_of_view(view)
    texts = _texts(block, part)
    longest = max(map(len, texts))
    if isinstance(view, Sentences):
        marks = sentence_marks(recipe.tokenizer or "")
        return rows([sentences(marks[:, text]) for text in texts], longest)
    return rows([text[keep] for text, keep in zip(texts, kept, strict=True)], longest)


def sentences(marks: npt.NDArray[np.bool_]) -> Ids:
    """Number the sentences of a text; what is shorter than `SHORTEST` tokens belongs to the next one.

    Args:
        marks: (3, t), of its tokens, as `tokenizer.sentence_marks` has them.

    Returns:
        (t,) int32, from 1.
    """
    mark, line, blank = marks
    ends = line.copy()
    ends[:-1] |= mark[:-1] & blank[1:]  # no number has a blank after its point
    starts, last = np.zeros(len(ends), np.int32), 0
    for at in (np.flatnonzero(ends) + 1).tolist():
        if at - last >= SHORTEST and len(ends) - at >= SHORTEST:
            starts[at], last = 1, at
    return 1 + starts.cumsum(dtype=np.int32)


def _texts(block: TextBlock, part: int) -> list[Ids]:
    if any(len(value) <= part for value in block.values):
        such = "nli.csv:text,follows,contradicts" if part > 1 else "pairs.csv:question,passage"
        raise NearfarError(
            f"this method compares {part + 1} texts of each row; name as many columns, such as {such}"
        )
    return [value[part] for value in block.values]


def rows(texts: Sequence[Ids], longest: int | None = None) -> torch.Tensor:
    """Lay texts in rows: (n, t) int64, `PAD` after the last token of each.

    Args:
        texts: n texts.
        longest: t; None for the longest text's tokens.
    """
    made = np.full((len(texts), longest or max(map(len, texts))), PAD, np.int64)
    for row, text in zip(made, texts, strict=True):
        row[: len(text)] = text
    return torch.from_numpy(made)
