"""What may take long: functions of a store, which run here or in a process that can be ended.

What they need is imported when one of them runs: a page whose results are kept is up before PyTorch is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core import progress
from ..core.errors import NearfarError
from ..queries.label_origin import accepted_ids
from ..queries.listing import Listing
from ..queries.store_access import (
    UNKNOWN,
    left_out_sentence,
    lone_classes_left_out,
    open_for_query,
    read_labels,
)
from ..stores import VectorStore

LIST_LIMIT = 500  # images in a list, at most


def _anomalies(store: VectorStore, where: str | None) -> Listing:
    from ..queries.anomalies import anomalies

    return anomalies(store, limit=LIST_LIMIT, where=where)


def _duplicates(store: VectorStore, where: str | None) -> Listing:
    from ..queries.compared import compared
    from ..queries.duplicates import list_groups

    # The page opens no path that a store names: it may be a stranger's.
    return list_groups(store, compared(store, where, files=False))


def _clusters(store: VectorStore, where: str | None) -> Listing:
    from ..queries.clusters import clusters

    return clusters(store, where=where)


def _label_errors(store: VectorStore, **how: Any) -> Listing:
    from ..queries.label_errors import label_errors

    return label_errors(store, limit=LIST_LIMIT, **how)


def _suggestions(store: VectorStore, **how: Any) -> Listing:
    from ..queries.suggest import suggest

    return suggest(store, **how)


LISTS: dict[str, Callable[[VectorStore, str | None], Listing]] = {
    "anomalies": _anomalies,
    "duplicates": _duplicates,
    "clusters": _clusters,
}
LABELLED: dict[str, Callable[..., Listing]] = {"label-errors": _label_errors, "suggestions": _suggestions}


def places(store: VectorStore, early: Callable[[Any], None]) -> npt.NDArray[np.float32]:
    """Give each image its place on the map: (n, 2), from 0 to 1.

    Args:
        store: the store.
        early: takes places that can be shown until these are known.
    """
    from ..analysis.projection import first_look, project

    x = _vectors(store)
    if len(x) < 3:
        return np.eye(len(x), 2, dtype=np.float32)
    early(first_look(x).astype(np.float32))
    progress.stage("laying out the map")
    return project(x).astype(np.float32)


def first_places(store: VectorStore) -> npt.NDArray[np.float32]:
    """Give each image a first place on the map: (n, 2), from 0 to 1."""
    from ..analysis.projection import first_look

    x = store.vectors()[1]
    return np.eye(len(x), 2, dtype=np.float32) if len(x) < 3 else first_look(x).astype(np.float32)


def anomaly_score(store: VectorStore, early: Callable[[Any], None]) -> npt.NDArray[np.float32]:
    """Score each image by how unlike its nearest others it is: (n,), higher is more anomalous."""
    from ..analysis.anomalies import score_anomalies

    return score_anomalies(_vectors(store)).scores.astype(np.float32)


def cluster_of(store: VectorStore, early: Callable[[Any], None]) -> npt.NDArray[np.int32]:
    """Sort images into clusters: (n,), -1 where it is in none."""
    from ..analysis.clusters import cluster_images

    return cluster_images(_vectors(store)).cluster.astype(np.int32)


def _vectors(store: VectorStore) -> npt.NDArray[np.float32]:
    progress.stage("reading vectors")
    return store.vectors()[1]


def listing(
    store: VectorStore,
    early: Callable[[Any], None],
    name: str,
    column: str = "label",
    where: str | None = None,
    accepted: bool = False,
) -> Listing:
    """Make a list of `LISTS` or `LABELLED`.

    Args:
        store: the store.
        early: is not used.
        name: of the list.
        column: the column with the labels, for the lists that use labels.
        where: a condition, which holds before images are ranked.
        accepted: whether labels accepted from a classifier count too.

    Raises:
        NearfarError: there are too few images or labels, or the condition makes no sense.
    """
    progress.stage("reading vectors")
    kept = open_for_query(store)
    if name in LABELLED:
        return LABELLED[name](kept, column=column, where=where, accepted=accepted)
    return LISTS[name](kept, where)


def classifier(
    store: VectorStore, early: Callable[[Any], None], column: str, accepted: bool = False
) -> tuple[Listing, dict[str, Any]]:
    """Train a classifier on the labels, measure it on held-out ones, and classify all other images.

    Only labels that people gave are measured on: those accepted from a classifier agree with it by
    construction.

    Args:
        store: the store.
        early: is not used.
        column: the column with the labels.
        accepted: whether the classifier also learns from labels that were accepted from a classifier.

    Returns:
        The unlabelled images by class, the most probable first; and the accuracy with its interval, by
        five-fold cross-validation.

    Raises:
        NearfarError: there are too few labels.
    """
    import torch

    from ..analysis.label_errors import out_of_fold
    from ..evaluation.accuracy import Accuracy
    from ..features import logistic

    progress.stage("reading vectors")
    kept = open_for_query(store)
    ids, x = kept.vectors()
    labels, names = read_labels(kept, column, ids)
    unlabelled = labels == UNKNOWN
    taken = accepted_ids(kept, column)
    by_classifier = np.array([one in taken for one in ids], np.bool_) & ~unlabelled
    given = np.where(by_classifier, UNKNOWN, labels)
    given, given_names, lone = lone_classes_left_out(given, names)
    known = np.flatnonzero(given != UNKNOWN)
    if len(given_names) < 2:
        raise NearfarError(
            "a classifier needs at least two classes with two labels each, given by people; label more."
        )
    seen, truth = x[known], given[known]
    shares = out_of_fold(seen, truth, len(given_names), seed=0)
    share = Accuracy.of(shares.argmax(axis=1) == truth)
    if accepted:
        labels, names, lone = lone_classes_left_out(labels, names)
        learnt = np.flatnonzero(labels != UNKNOWN)
        seen, truth = x[learnt], labels[learnt]
    else:
        names = given_names
    fitted = logistic.fit(torch.from_numpy(seen), torch.from_numpy(truth), len(names), 1.0 / len(truth))
    free = np.flatnonzero(unlabelled)
    sure, answer = fitted.logits(torch.from_numpy(x[free])).softmax(dim=1).max(dim=1)
    order = np.lexsort((-sure.numpy(), answer.numpy()))
    listing = Listing(
        "classes by the classifier, most probable first",
        tuple(ids[free[at]] for at in order),
        {
            "class": [names[answer[at]] for at in order],
            "probability": [float(sure[at]) for at in order],
        },
        (left_out_sentence(lone, store.info.one),) if lone else (),
        grouped="class",
    )
    facts = {
        "labels": len(known),
        "classes": len(given_names),
        "accepted": int(by_classifier.sum()),
        "used": accepted,
        **vars(share),
    }
    return listing, facts


TASKS: dict[str, Callable[..., Any]] = {
    "map": places,
    "anomaly-score": anomaly_score,
    "clusters": cluster_of,
    "list": listing,
    "classifier": classifier,
}
