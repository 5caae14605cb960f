"""Search by words: BM25, exact, and its sum with the similarity of vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..core.words import words_of

K1, B = 1.5, 0.75  # how soon more of one word counts no more; how much long texts are held back
DENSE = 0.5  # weight of the vectors in the sum, from 0 to 1; see benchmarks/text.md

Scores = npt.NDArray[np.float32]


class BM25:
    """An index of texts by their words.

    score(q, d) = sum over words w of q of idf(w) f (K1 + 1) / (f + K1 (1 - B + B |d| / mean |d|)), where f is
    how often w is in d, and idf(w) = log(1 + (N - n + 0.5) / (n + 0.5)) where n of N texts hold w.

    Source:
        Robertson and Zaragoza 2009, "The probabilistic relevance framework: BM25 and beyond", equation 3.15;
        the idf as Lucene has it.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        """Count the words.

        Args:
            texts: n texts.
        """
        from scipy import sparse

        self.vocabulary: dict[str, int] = {}
        places, numbers, counts, lengths = [], [], [], []
        for place, text in enumerate(texts):
            found = Counter(words_of(text))
            lengths.append(sum(found.values()))
            for word, count in found.items():
                places.append(place)
                numbers.append(self.vocabulary.setdefault(word, len(self.vocabulary)))
                counts.append(count)
        length = np.array(lengths, np.float64)
        at, f = np.array(places, np.int64), np.array(counts, np.float64)
        held = np.bincount(numbers, minlength=len(self.vocabulary)) if numbers else np.zeros(0)
        idf = np.log1p((len(texts) - held + 0.5) / (held + 0.5))
        damp = K1 * (1 - B + B * length[at] / max(length.mean() if len(length) else 1.0, 1e-9))
        value = idf[numbers] * f * (K1 + 1) / (f + damp) if numbers else np.zeros(0)
        shape = (len(texts), max(1, len(self.vocabulary)))
        self.table = sparse.csc_matrix((value, (at, np.array(numbers, np.int64))), shape)

    def scores(self, query: str) -> Scores:
        """Score every text by the words of a query.

        Args:
            query: any text.

        Returns:
            (n,) float32, at least 0.
        """
        known = [self.vocabulary[word] for word in words_of(query) if word in self.vocabulary]
        found: Scores = np.asarray(self.table[:, known].sum(axis=1), np.float32).ravel()
        return found


def standard(scores: Scores) -> Scores:
    """Bring scores to mean 0 and deviation 1; equal ones become 0."""
    spread = scores.std() if len(scores) else 0.0
    return (scores - scores.mean()) / spread if spread > 1e-12 else np.zeros_like(scores)


def together(dense: Scores, sparse: Scores, weight: float = DENSE) -> Scores:
    """Add two kinds of scores of the same texts.

    Args:
        dense: (n,) similarities of vectors.
        sparse: (n,) scores of BM25.
        weight: of the dense ones, from 0 to 1.

    Returns:
        (n,) float32, with mean 0.
    """
    return weight * standard(dense) + (1 - weight) * standard(sparse)
