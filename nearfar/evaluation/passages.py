"""`nearfar passages`: how often a question finds its passage by vectors, by words and by the sum of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..analysis.bm25 import BM25, DENSE, together
from ..core.errors import NearfarError
from ..core.intervals import wilson
from ..core.text import columns, counted
from ..training.run import Run, load
from .differences import Difference, compare
from .text_pairs import best_weight, count_words, others, rows_of, same_words

COLUMNS = ("question", "passage")
BEST = 10  # passages that count for the reciprocal rank
Table = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PassageRank:
    """How often one way to search finds the passage.

    Attributes:
        first: share of the questions whose passage comes first, from 0 to 1.
        low, high: its 95 % Wilson interval.
        five: share whose passage is among the first five.
        reciprocal: mean of 1 over the passage's rank, 0 from rank 11 on.
    """

    first: float
    low: float
    high: float
    five: float
    reciprocal: float


@dataclass(frozen=True)
class Passages:
    """What `passages` found.

    Attributes:
        rows: each way to search, by name.
        questions, passages: how many there are; passages of the same words count once, and of a question
            that several rows ask each of their passages is right.
        weight: of the vectors in the sum, and
        chosen: whether it was chosen on other questions.
        gain: of the sum over BM25, on the same questions, in the share that comes first.
    """

    rows: Mapping[str, PassageRank]
    questions: int
    passages: int
    weight: float
    chosen: bool
    gain: Difference

    def to_json(self) -> dict[str, Any]:
        """Write it in plain values."""
        return {
            **vars(self),
            "rows": {name: vars(row) for name, row in self.rows.items()},
            "gain": vars(self.gain),
        }

    def __str__(self) -> str:
        """Write a table."""
        cells = [
            [
                name,
                f"{100 * row.first:.1f}",
                f"{100 * row.low:.1f} to {100 * row.high:.1f}",
                f"{100 * row.five:.1f}",
                f"{row.reciprocal:.3f}",
            ]
            for name, row in self.rows.items()
        ]
        gap = self.gain
        p = "below 0.0001" if gap.p < 1e-4 else f"{gap.p:.2g}"
        how = "chosen on other questions" if self.chosen else "as usual; --dev chooses it"
        return "\n".join(
            [
                *columns(["the passage is", "first", "95 % interval", "in five", "MRR@10"], cells),
                f"sum less bm25: {100 * gap.difference:+.1f} points ({100 * gap.low:+.1f} to "
                f"{100 * gap.high:+.1f}); only one finds it: {gap.first_only:,} and {gap.second_only:,}, "
                f"p {p} (McNemar)",
                f"{counted(self.questions, 'question')}, {counted(self.passages, 'passage')}; weight of "
                f"the vectors in the sum {self.weight:.1f}, {how}",
            ]
        )


def passages(
    run: Run | str | Path, test: Any, *, dev: Any = None, among: Any = None, seed: int = 0
) -> Passages:
    """Search the passage of each question among all passages: by vectors, by BM25, by TF-IDF, and by a sum.

    Example: nearfar passages runs/texts questions-test.csv --dev questions-dev.csv

    Args:
        run: the folder of a run on texts.
        test: a table with the columns question and passage, or FILE:A,B; read once.
        dev: another such table, to choose the weight of the vectors in the sum; of its questions those that
            test has too are left out.
        among: another such table, whose passages are searched too.
        seed: random seed of the interval.

    Returns:
        How often each way finds the passage.

    Raises:
        NearfarError: a table has no such columns, the run is not of texts, or all of dev is in test.
    """
    opened = load(run)
    if opened.preprocess.modality != "text":
        raise NearfarError(f"{opened.name} was trained on {opened.preprocess.modality}; give a run on texts.")
    weight, also = DENSE, [] if among is None else [row[1] for row in rows_of(among, COLUMNS)]
    asked = rows_of(test, COLUMNS)
    if dev is not None:
        ways, right = _scores(opened, others(rows_of(dev, COLUMNS), asked, dev, "questions", 1), dev, also)

        def score(tried: float) -> float:
            table = _sum(ways, tried)
            return _found(table, right).first + 1e-3 * _found(table, right).reciprocal

        weight = best_weight(score)
    ways, right = _scores(opened, asked, test, also)
    ways["sum"] = _sum(ways, weight)
    # A passage that only shares the first place is not found, as in the rows.
    hits = {name: (_ranks(table, right) == 1).astype(np.int64) for name, table in ways.items()}
    return Passages(
        {name: _found(table, right) for name, table in ways.items()},
        len(right),
        ways["bm25"].shape[1],
        weight,
        dev is not None,
        compare(np.ones(len(right), np.int64), hits["sum"], hits["bm25"], seed),
    )


def _sum(ways: Mapping[str, Table], weight: float) -> Table:
    rows = zip(ways["encoder"], ways["bm25"], strict=True)
    return np.stack([together(dense, sparse, weight) for dense, sparse in rows])


def _scores(
    run: Run, rows: Sequence[tuple[str, ...]], data: Any, also: Sequence[str]
) -> tuple[dict[str, Table], Flags]:
    """Score all passages for each question, in each way; and which passages are right ones."""
    held: dict[str, str] = {}
    for text in (*(row[1] for row in rows), *also):
        held.setdefault(same_words(text), text)
    if len(held) < 2:
        raise NearfarError(
            f"{data} has one passage, which every question finds; give more, or search others too with "
            "--among."
        )
    number = {text: at for at, text in enumerate(held)}
    answers: dict[str, list[int]] = {}
    for question, passage in rows:
        answers.setdefault(same_words(question), []).append(number[same_words(passage)])
    questions, texts = (
        list({same_words(row[0]): row[0] for row in reversed(rows)}.values())[::-1],
        [*held.values()],
    )
    right = np.zeros((len(questions), len(texts)), np.bool_)
    for row, question in zip(right, questions, strict=True):
        row[answers[same_words(question)]] = True
    q, p = (run.encode(some, normalize_embeddings=True) for some in (questions, texts))
    index = BM25(texts)
    counter = count_words(texts)
    tfidf = (counter.transform(questions) @ counter.transform(texts).T).toarray()
    made = {"encoder": q @ p.T, "bm25": np.stack([index.scores(text) for text in questions])}
    return made | {"tfidf": tfidf.astype(np.float32)}, right


def _ranks(table: Table, right: Flags) -> npt.NDArray[np.int64]:
    """Rank the best right passage in each row, from 1; equal scores count against it."""
    best = np.where(right, table, -np.inf).max(axis=1, keepdims=True)
    ranks: npt.NDArray[np.int64] = 1 + ((table >= best) & ~right).sum(axis=1)
    return ranks


def _found(table: Table, right: Flags) -> PassageRank:
    """Say how often a right passage comes first, and how far down the best stands."""
    rank = _ranks(table, right)
    first = rank == 1
    low, high = wilson(int(first.sum()), len(first))
    reciprocal = np.where(rank <= BEST, 1 / np.maximum(rank, 1), 0.0)
    return PassageRank(float(first.mean()), low, high, float((rank <= 5).mean()), float(reciprocal.mean()))
