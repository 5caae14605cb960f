"""`nearfar sts`: how well similarities of texts agree with those that people gave, beside TF-IDF."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import models
from ..core import rng
from ..core.errors import NearfarError
from ..core.intervals import LEVEL, RESAMPLES
from ..core.ranks import spearman
from ..core.text import columns, counted
from ..data.modalities import modality
from ..training.run import Run, load
from .text_pairs import Scores, best_weight, others, rows_of, tfidf

COLUMNS = ("sentence1", "sentence2", "score")
_DECIMAL_COMMA = re.compile(r"^\s*([+-]?\d+),(\d+)\s*$")  # as Excel writes numbers in much of Europe


@dataclass(frozen=True)
class RankCorrelation:
    """How well one way to compare texts agrees with people.

    Attributes:
        dev: Spearman's correlation on the pairs for choices, from -1 to 1; None without such.
        test: the same on the test pairs.
        low, high: the 95 % bootstrap interval of `test`.
        weight: of the encoder in a sum, chosen on the pairs for choices.
    """

    dev: float | None
    test: float
    low: float
    high: float
    weight: float | None = None


@dataclass(frozen=True)
class SimilarTexts:
    """What `sts` found.

    Attributes:
        rows: the encoder, baselines and sums, by name.
        pairs: test pairs.
        gain: the encoder, or its sum with TF-IDF where there is one, less the sum of both TF-IDFs; with its
            95 % bootstrap interval.
    """

    rows: Mapping[str, RankCorrelation]
    pairs: int
    gain: tuple[float, float, float]

    def to_json(self) -> dict[str, Any]:
        """Write it in plain values."""
        return {"rows": {name: vars(row) for name, row in self.rows.items()}, "pairs": self.pairs,
                "gain": list(self.gain)}  # fmt: skip

    def __str__(self) -> str:
        """Write a table."""
        cells = [
            [
                name + (f" (weight {row.weight:.1f})" if row.weight is not None else ""),
                "-" if row.dev is None else f"{100 * row.dev:.1f}",
                f"{100 * row.test:.1f}",
                f"{100 * row.low:.1f} to {100 * row.high:.1f}",
            ]
            for name, row in self.rows.items()
        ]
        value, low, high = (100 * x for x in self.gain)
        heads = ["Spearman x 100", "dev", "test", "95 % interval"]
        last = f"best row with the encoder less tfidf sum: {value:+.1f} ({low:+.1f} to {high:+.1f})"
        return "\n".join([*columns(heads, cells), last, counted(self.pairs, "test pair")])


def sts(
    run: Run | str | Path,
    test: Any,
    *,
    dev: Any = None,
    texts: Any = None,
    seed: int = 0,
) -> SimilarTexts:
    """Compare the similarity of texts with that which people gave, beside TF-IDF and the untrained encoder.

    Example: nearfar sts runs/texts sts-test.csv --dev sts-dev.csv

    Args:
        run: the folder of a run on texts.
        test: pairs with a score: a table with the columns sentence1, sentence2 and score, or FILE:A,B,C; read
            once.
        dev: pairs with a score to choose on: the weight of the encoder in its sum with TF-IDF; those that
            test has too are left out.
        texts: texts that TF-IDF counts words in; if not given, the sentences of dev, or of test.
        seed: random seed of the untrained encoder and the intervals.

    Returns:
        Spearman's correlation of each way to compare texts.

    Raises:
        NearfarError: a table has no such columns, a score is no number, or all of dev is in test.
    """
    opened = load(run)
    if opened.preprocess.modality != "text":
        raise NearfarError(f"{opened.name} was trained on {opened.preprocess.modality}; give a run on texts.")
    rows = rows_of(test, COLUMNS)
    parts = {"test": _pairs(rows, test)}
    if dev is not None:
        parts["dev"] = _pairs(others(rows_of(dev, COLUMNS), rows, dev, "pairs", 2), dev)
    weighed = _sentences(parts["dev" if dev is not None else "test"]) if texts is None else _all(texts)
    words, pieces = tfidf(weighed), tfidf(weighed, characters=True)
    kind = modality("text")
    args: dict[str, Any] = {"args": opened.encoder.args} if opened.encoder.args else {}
    random = kind.encoder(opened.encoder.name, size=opened.encoder.size, seed=seed, **args)
    with models.seeded(seed, "projection"):
        random = models.like(random, opened.encoder).eval()
    untrained = Run(None, random, opened.preprocess, {"source": "untrained"}, {})
    found: dict[str, dict[str, Scores]] = {}
    for name, (first, second, _) in parts.items():
        made = {"encoder": _cosines(opened, first, second), "untrained": _cosines(untrained, first, second)}
        made |= {"tfidf words": words(first, second), "tfidf characters": pieces(first, second)}
        made["tfidf sum"] = (made["tfidf words"] + made["tfidf characters"]) / 2
        for way, scores in made.items():
            found.setdefault(way, {})[name] = scores
    truth = {name: part[2] for name, part in parts.items()}
    weights: dict[str, float] = {}
    if dev is not None:

        def score(weight: float) -> float:
            return spearman(_sum(found, "dev", weight), truth["dev"])

        weights["encoder + tfidf"] = best_weight(score)
        found["encoder + tfidf"] = {name: _sum(found, name, weights["encoder + tfidf"]) for name in parts}
    drawn = _resamples(len(truth["test"]), seed)
    spread = {
        way: np.array([spearman(x["test"][at], truth["test"][at]) for at in drawn])
        for way, x in found.items()
    }
    tails = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]
    table = {}
    for way, both in found.items():
        low, high = np.percentile(spread[way], tails)
        own = spearman(both["dev"], truth["dev"]) if dev is not None else None
        table[way] = RankCorrelation(
            own, spearman(both["test"], truth["test"]), float(low), float(high), weights.get(way)
        )
    best = "encoder + tfidf" if dev is not None else "encoder"
    low, high = np.percentile(spread[best] - spread["tfidf sum"], tails)
    gain = table[best].test - table["tfidf sum"].test, float(low), float(high)
    return SimilarTexts(table, len(truth["test"]), gain)


def _resamples(count: int, seed: int) -> list[Any]:
    draws = np.random.Generator(np.random.Philox(key=rng.fold(seed, "sts")))
    return [draws.integers(0, count, count) for _ in range(RESAMPLES)]


def _sum(found: dict[str, dict[str, Scores]], name: str, weight: float) -> Scores:
    """Add the encoder's similarities and those of both TF-IDFs, each over its deviation."""
    dense, sparse = found["encoder"][name], found["tfidf sum"][name]
    total: Scores = weight * dense / max(dense.std(), 1e-12) + (1 - weight) * sparse / max(
        sparse.std(), 1e-12
    )
    return total


def _pairs(rows: Sequence[tuple[str, ...]], data: Any) -> tuple[list[str], list[str], Scores]:
    try:
        scores = np.array([float(_DECIMAL_COMMA.sub(r"\1.\2", row[2])) for row in rows])
    except ValueError as error:
        raise NearfarError(f"{data}: a score is no number ({error}); the third column holds it.") from None
    odd = next((at for at, score in enumerate(scores) if not np.isfinite(score)), None)
    if odd is not None:
        raise NearfarError(
            f"{data}: the score of pair {odd + 1:,} is {scores[odd]}; give it one, or leave it out."
        )
    if len(set(scores.tolist())) < 2:
        raise NearfarError(
            f"{data} has {counted(len(rows), 'pair')} and one score, {scores[0]:g}, so no order to agree "
            "with; give pairs of several scores."
        )
    return [row[0] for row in rows], [row[1] for row in rows], scores


def _sentences(part: tuple[Sequence[str], Sequence[str], Scores]) -> list[str]:
    return [*part[0], *part[1]]


def _all(data: Any) -> list[str]:
    """Read all texts that can be used."""
    kind = modality("text")
    source = kind.open(data)
    dataset = kind.load(source, None, limit=0, max_bad=1.0, threads=1)
    return [text for row in range(len(dataset)) for text in dataset[row]]


def _cosines(run: Run, first: Sequence[str], second: Sequence[str]) -> Scores:
    a, b = (run.encode(list(texts), normalize_embeddings=True) for texts in (first, second))
    cosines: Scores = (a.astype(np.float64) * b).sum(1)
    return cosines
