"""What the page shows of a store: coordinates of the map, the lists of the store commands, a classifier."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..analysis.anomalies import score_anomalies
from ..analysis.clusters import cluster_images
from ..analysis.label_errors import out_of_fold
from ..analysis.projection import project
from ..analysis.query import query
from ..core.errors import BadImage, NearfarError
from ..data.modalities import modality
from ..evaluation.accuracy import Accuracy
from ..features import logistic
from ..images import decode
from ..queries.anomalies import anomalies
from ..queries.clusters import clusters
from ..queries.duplicates import list_groups, read_collection
from ..queries.heatmap_files import heat
from ..queries.label_errors import label_errors
from ..queries.label_origin import accepted_ids
from ..queries.listing import Listing
from ..queries.search import search
from ..queries.store_access import (
    MAP_COLUMNS,
    UNKNOWN,
    left_out_sentence,
    lone_classes_left_out,
    open_for_query,
    read_labels,
    run_of,
)
from ..queries.suggest import suggest
from ..stores import VectorStore
from ..training.run import Run, has_text
from .kept import KeptResults
from .row_numbers import NumberedStore

LIST_LIMIT = 500  # images in a list, at most
PIXELS = 50_000_000  # of an uploaded image

LISTS: dict[str, Callable[[VectorStore, str | None], Listing]] = {
    "anomalies": lambda store, where: anomalies(store, limit=LIST_LIMIT, where=where),
    # The page opens no path that a store names: it may be a stranger's.
    "duplicates": lambda store, where: list_groups(store, *read_collection(store, where, files=False)),
    "clusters": lambda store, where: clusters(store, where=where),
}
LABELLED: dict[str, Callable[..., Listing]] = {
    "label-errors": partial(label_errors, limit=LIST_LIMIT),
    "suggestions": suggest,
}


class Findings:
    """Finds things in a numbered store, and keeps what takes long and depends on vectors alone."""

    def __init__(self, rows: NumberedStore, run: str | None = None) -> None:
        """Begin with nothing found.

        Args:
            rows: the store.
            run: where its run is now, if it has moved.
        """
        self.rows, self.store = rows, rows.store
        self._run_at = run
        self._run: Run | None = None
        self.kept = KeptResults(rows)

    def run(self) -> Run:
        """Load the run that made the store.

        Raises:
            NearfarError: it is not available.
        """
        if self._run is None:
            self._run = run_of(self.store, self._run_at)
        return self._run

    def places(self) -> npt.NDArray[np.float32]:
        """Give each image its place on the map: (n, 2)."""
        kept = all(self.store.columns.get(name) == "number" for name in MAP_COLUMNS)
        if kept:
            columns = [self.store.rows([name])[name].to_numpy() for name in MAP_COLUMNS]
            found = np.stack(columns, axis=1).astype(np.float32)
            if len(found) == len(self.rows.ids) and np.isfinite(found).all():
                return found
        return self.kept.array("map", self._places)

    def _places(self) -> npt.NDArray[np.float32]:
        _, x = self.store.vectors()
        return project(x).astype(np.float32) if len(x) > 2 else np.eye(len(x), 2, dtype=np.float32)

    def anomaly_score(self) -> npt.NDArray[np.float32]:
        """Score each image by how unlike its nearest others it is: (n,), higher is more anomalous."""
        return self.kept.array(
            "anomaly-score", lambda: score_anomalies(self.store.vectors()[1]).scores.astype(np.float32)
        )

    def clusters(self) -> npt.NDArray[np.int32]:
        """Sort images into clusters: (n,), -1 where it is in none."""
        return self.kept.array(
            "clusters", lambda: cluster_images(self.store.vectors()[1]).cluster.astype(np.int32)
        )

    def listing(self, name: str, column: str, where: str | None = None, accepted: bool = False) -> Listing:
        """Make a list.

        Args:
            name: of LISTS or LABELLED.
            column: the column with the labels, for the lists that use labels.
            where: a condition, which holds before images are ranked.
            accepted: whether labels accepted from a classifier count too.

        Raises:
            NearfarError: there are too few images or labels, or the condition makes no sense.
        """
        if name in LABELLED:
            return LABELLED[name](self.store, column=column, where=where, accepted=accepted)
        if where is None:
            return self.kept.listing(name, lambda: LISTS[name](self.store, None))
        # A condition may be on labels, which change.
        version = str(self.rows.look())
        return self.kept.for_now(f"{name} where {where}", version, lambda: LISTS[name](self.store, where))

    def like(self, likes: list[str], dislikes: list[str], where: str | None = None) -> Listing:
        """List the images most similar to some of the store's, and unlike others; all meet the condition."""
        _, towards = self.store.vectors(ids=likes)
        _, away = self.store.vectors(ids=dislikes)
        return self._near(query(towards, away if dislikes else None), "most similar first", where)

    def like_file(self, data: bytes, where: str | None = None) -> Listing:
        """List the images most similar to one in a file; all meet the condition.

        Raises:
            NearfarError: it is no image, or the run that could encode it is not available.
        """
        kind, run = modality(self.store.info.modality), self.run()
        try:
            if kind.pictures:
                x = run.encode(decode.decode(data, max_pixels=PIXELS))
            else:
                example = kind.decode(data, run.preprocess, limit=PIXELS)
                with torch.inference_mode():
                    batch = kind.prepare(kind.collate([example.value]), run.preprocess)
                    x = run.encoder(batch)[0].numpy()
        except BadImage as error:
            what = "an image" if kind.pictures else kind.name
            raise NearfarError(f"the file cannot be used as {what}: {error}.") from None
        return self._near(query(x[None]), "most similar to your file", where)

    def takes_words(self) -> bool:
        """Tell whether the store can be searched by words: it holds texts, or its run encodes texts too."""
        at = self._run_at or self.store.info.run
        return self.store.info.modality == "text" or (at is not None and has_text(at))

    def like_words(self, text: str, where: str | None = None) -> Listing:
        """List what is most similar to some words; all meet the condition.

        Raises:
            NearfarError: the run is not available, or does not encode texts.
        """
        return search(self.store, text=text, where=where, limit=LIST_LIMIT, run=self.run())

    def _near(self, wanted: npt.NDArray[np.float32], title: str, where: str | None) -> Listing:
        kept = open_for_query(self.store)
        ids, similarity = kept.nearest(wanted[None], LIST_LIMIT, where)
        return Listing(title, tuple(ids[0]), {"similarity": similarity[0].tolist()})

    def heat(self, name: str) -> bytes:
        """Draw where an image is anomalous, next to the image itself: a PNG.

        Args:
            name: its id.

        Raises:
            NearfarError: the run or files are not available, or the encoder has no planes of features.
        """
        with tempfile.TemporaryDirectory() as folder:
            heat(self.store, self.run(), self.rows.ids, [name], Path(folder), seed=0)
            (drawn,) = Path(folder).iterdir()
            return drawn.read_bytes()

    def classifier(self, column: str, accepted: bool = False) -> tuple[Listing, dict[str, Any]]:
        """Train a classifier on the labels, measure it on held-out ones, and classify all other images.

        Only labels that people gave are measured on: those accepted from a classifier agree with it by
        construction.

        Args:
            column: the column with the labels.
            accepted: whether the classifier also learns from labels that were accepted from a classifier.

        Returns:
            The unlabelled images by class, the most probable first; and the accuracy with its interval, by
            five-fold cross-validation.

        Raises:
            NearfarError: there are too few labels.
        """
        kept = open_for_query(self.store)
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
                "a classifier needs at least two classes with two labels each, given by people; "
                "label more images."
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
            (left_out_sentence(lone),) if lone else (),
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
