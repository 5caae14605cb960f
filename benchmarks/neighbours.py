"""What k-NN evaluation costs: 2,000 queries among 50,000 rows of 512 numbers, k = 200, weighted vote.

The whole of it is timed: lengths made 1, neighbours found, votes cast, every core used. faiss searches an
exact inner-product index, scikit-learn its brute-force cosine classifier with the same weights. All three
must predict the same class for every query, or the row says so.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from nearfar.features import knn
from nearfar.features.knn import knn_votes, top_k

from . import measure
from .measure import Spread
from .scoreboard import Asked
from .table import Bar, Row, Section

TEMPERATURE = 0.1
CLASSES = 10
Predict = Callable[[], "np.ndarray[tuple[int], np.dtype[np.int64]]"]


def features(rows: int, queries: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Make (rows, width) and (queries, width) float32 in overlapping clouds, and the rows' classes."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, width, generator=generator)
    labels = torch.randint(CLASSES, (rows + queries,), generator=generator)
    noise = torch.randn(rows + queries, width, generator=generator)
    x = 0.1 * centres[labels] + noise
    return x[:rows].contiguous(), x[rows:].contiguous(), labels[:rows]


def vote(similarity: torch.Tensor, index: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    return knn_votes(similarity, labels[index], CLASSES, TEMPERATURE).argmax(dim=1).numpy()


def ours(base: torch.Tensor, queries: torch.Tensor, labels: torch.Tensor, k: int) -> Predict:
    return lambda: vote(*top_k(queries, base, k), labels)


def faiss(base: torch.Tensor, queries: torch.Tensor, labels: torch.Tensor, k: int) -> Predict:
    import faiss as library

    library.omp_set_num_threads(measure.cores())

    def predict() -> np.ndarray:
        rows, asked = base.numpy().copy(), queries.numpy().copy()
        library.normalize_L2(rows)
        library.normalize_L2(asked)
        index = library.IndexFlatIP(rows.shape[1])
        index.add(rows)
        similarity, found = index.search(asked, k)
        return vote(torch.from_numpy(similarity), torch.from_numpy(found), labels)

    return predict


def sklearn(base: torch.Tensor, queries: torch.Tensor, labels: torch.Tensor, k: int) -> Predict:
    from sklearn.neighbors import KNeighborsClassifier

    def weight(distance: np.ndarray) -> np.ndarray:
        return np.exp((distance.min(axis=1, keepdims=True) - distance) / TEMPERATURE)

    def predict() -> np.ndarray:
        model = KNeighborsClassifier(k, weights=weight, algorithm="brute", metric="cosine", n_jobs=-1)
        return model.fit(base.numpy(), labels.numpy()).predict(queries.numpy())

    return predict


def product(base: torch.Tensor, queries: torch.Tensor, labels: torch.Tensor, k: int) -> Predict:
    """Only multiply all queries with all rows, a block at a time, as every exact search must."""

    columns = base.T.contiguous()
    held = queries.new_empty(len(queries), BLOCK)

    def work() -> np.ndarray:
        for low in range(0, len(base), BLOCK):
            part = columns[:, low : low + BLOCK]
            knn.product(queries, part, held[:, : part.shape[1]])
        return held[:, 0].argsort().numpy()

    return work


BLOCK = 4096
ALONE = "the product alone"
MAKERS = {"nearfar": ours, "faiss, IndexFlatIP": faiss, "scikit-learn, brute cosine": sklearn}


def run(wanted: Asked) -> Section:
    """Measure all three in turns, and compare their predictions."""
    torch.set_num_threads(measure.cores())
    section = Section((__doc__ or "").partition("\n\n")[2].strip().replace("\n", " "))
    rows, queries, width, k = (500, 50, 16, 20) if wanted.quick else (50_000, 2_000, 512, 200)
    base, asked, labels = features(rows, queries, width)
    case = f"{rows:,} x {width}, {queries:,} queries, k = {k}"
    works, answers = {}, {}
    for who, make in MAKERS.items():
        try:
            predict = make(base, asked, labels, k)
            answers[who] = predict()
            works[who] = measure.clocked(predict)
        except ImportError as failed:
            section.rows.append(Row(case, who, None, "s", note=measure.reason(failed)))
    works[ALONE] = measure.clocked(product(base, asked, labels, k))
    found = measure.alternate(works, wanted.rounds)
    share = Spread.of(a / b for a, b in zip(found.pop(ALONE), found["nearfar"], strict=True))
    section.notes.append(
        f"The product of the two matrices alone, as we multiply, takes {share.middle:.0%} of our time; "
        "choosing the k greatest and the vote share the rest."
    )
    for who, values in found.items():
        wrong = int((answers[who] != answers["nearfar"]).sum())
        note = "" if who == "nearfar" else f"{wrong} of {queries:,} predictions differ"
        gain = None if who == "nearfar" else measure.gain(found["nearfar"], values, more_is_better=False)
        section.rows.append(Row(case, who, Spread.of(values), "s", gain, note))
        if who.startswith("faiss") and gain:
            told = f"{1 / gain.middle:.2f} times faiss's time; {note}"
            text = "at most faiss's time, the same predictions"
            section.bars.append(Bar(text, gain.middle >= 1.0 and wrong == 0, told))
    return section
