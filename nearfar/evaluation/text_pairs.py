"""What the evaluations of texts share: rows of texts, and the similarity of texts by their words."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core import progress
from ..core.errors import BadImage, NearfarError
from ..core.words import words_of
from ..data.modalities import modality
from ..data.source import Source
from ..text.read import BETWEEN

Scores = npt.NDArray[np.float64]
Similarity = Callable[[Sequence[str], Sequence[str]], Scores]


def rows_of(data: Any, columns: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Read the texts of every row of a table.

    Args:
        data: a table; its columns are named after a colon, or have the names of `columns`.
        columns: what they are called where they are not named.

    Returns:
        One tuple a row, as long as `columns`.

    Raises:
        NearfarError: a row cannot be used, or has another number of texts.
    """
    kind, named = modality("text"), data
    if isinstance(data, (str, os.PathLike)) and os.path.exists(data):
        named = f"{os.fspath(data)}:{','.join(columns)}"
    source: Source = kind.open(named)
    found = []
    for row, name in enumerate(source.ids):
        try:
            texts = tuple(kind.fetch(source, row, limit=0)[0].decode().split(BETWEEN))
        except BadImage as error:
            raise NearfarError(f"{name} of {source.name} cannot be used ({error}); leave it out.") from None
        if len(texts) != len(columns):
            raise NearfarError(
                f"{source.name} needs {len(columns)} columns: {', '.join(columns)}; name them."
            )
        found.append(texts)
    return tuple(found)


def others(
    dev: Sequence[tuple[str, ...]], test: Sequence[tuple[str, ...]], data: Any, noun: str, texts: int
) -> tuple[tuple[str, ...], ...]:
    """Leave out what is measured on from what is chosen on, and say so.

    Args:
        dev: rows to choose on.
        test: rows that are measured; `dev` may have some of them.
        data: what errors call `dev`.
        noun: what the rows are.
        texts: how many of a row's texts name it, in any order: one of a question, two of a pair.

    Returns:
        The rows of `dev` that no row of `test` is.

    Raises:
        NearfarError: there are none.
    """
    known = {_named(row[:texts]) for row in test}
    kept = tuple(row for row in dev if _named(row[:texts]) not in known)
    if not kept:
        raise NearfarError(
            f"{data} has no {noun} but those of the test, so a choice on them would make its figures too "
            "high; give others."
        )
    if len(kept) < len(dev):
        progress.say(
            f"{len(dev) - len(kept):,} of {len(dev):,} {noun} of {data} are in the test too: left out"
        )
    return kept


def _named(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Give what rows of the same words have in common, whichever text comes first."""
    return tuple(sorted(same_words(text) for text in texts))


def same_words(text: str) -> str:
    """Give what texts of the same words have in common.

    Args:
        text: any text.
    """
    return " ".join(words_of(text)) or text


def count_words(texts: Sequence[str], characters: bool = False) -> Any:
    """Count the words of texts, as `tfidf` has it.

    Args, raises: as there.

    Returns:
        A TfidfVectorizer of scikit-learn.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    how: dict[str, Any] = {"analyzer": words_of}
    if characters:
        how = {"analyzer": "char_wb", "ngram_range": (3, 5)}
    try:
        return TfidfVectorizer(**how).fit(texts)
    except ValueError:
        raise NearfarError(
            f"no word is in the {len(texts):,} texts, such as {texts[0][:40]!r}; give texts with words."
        ) from None


def tfidf(texts: Sequence[str], characters: bool = False) -> Similarity:
    """Count the words of texts, and give what compares others by them.

    Args:
        texts: whose words are counted.
        characters: take pieces of 3 to 5 characters within words, instead of words.

    Returns:
        From two lists of n texts, the cosine of each two, (n,).

    Raises:
        NearfarError: no word is in them.
    """
    counter = count_words(texts, characters)

    def similarity(first: Sequence[str], second: Sequence[str]) -> Scores:
        product = counter.transform(first).multiply(counter.transform(second))
        return np.asarray(product.sum(axis=1), np.float64).ravel()

    return similarity


def best_weight(score: Callable[[float], float]) -> float:
    """Choose the weight from 0 to 1, in steps of a tenth, that has the highest score; of equals the least.

    Args:
        score: of a weight, on texts held out for this.
    """
    return max((step / 10 for step in range(11)), key=lambda weight: (score(weight), -weight))
