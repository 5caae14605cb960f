"""What the page shows of a store: coordinates of the map, the lists of the store commands, a classifier.

What depends on images and vectors alone is made once, and kept in memory and on disk; what depends on labels
is kept for one version of the store.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..core.errors import BadImage, NearfarError
from ..data.modalities import modality
from ..images import decode
from ..queries.listing import Listing
from ..queries.store_access import kept_places, open_for_query, run_of
from ..training.run_facts import has_text, ranking_of
from .jobs import PATIENCE, Jobs, Unfinished
from .kept import KeptResults
from .row_numbers import NumberedStore, StaleRows
from .tasks import LIST_LIMIT, LISTS, TASKS, first_places

if TYPE_CHECKING:
    from ..training.run import Run
    from .filling import Filling

PIXELS = 50_000_000  # of an uploaded image
AT_ONCE = 500  # images up to which a page can wait for everything, so that no process is started


class Findings:
    """Finds things in a numbered store, and keeps what takes long and depends on vectors alone."""

    def __init__(
        self,
        rows: NumberedStore,
        run: str | None = None,
        address: str = "",
        at_once: int = AT_ONCE,
        filling: Filling | None = None,
    ) -> None:
        """Begin with nothing found.

        Args:
            rows: the store.
            run: where its run is now, if it has moved.
            address: the store's, with which another process can open it; "" if none is to.
            at_once: images of a store of which everything is done here, and at once.
            filling: brings more images, or None.
        """
        self.rows, self.store, self.filling = rows, rows.store, filling
        self._run_at = run
        self._run: Run | None = None
        self.kept = KeptResults(rows)
        self.at_once, self.jobs = at_once, Jobs(address)

    def asked(
        self, key: str, work: Callable[[], Any], known: str = "", wait: float = PATIENCE, of: str = ""
    ) -> Any:
        """Give the result of work that may take long.

        Args:
            key: names the work.
            work: calls other methods of this.
            known: the job that the page waits for already, or "".
            wait: seconds.
            of: the state of the store that the result is to be of, if that matters.

        Raises:
            Unfinished: it goes on; the page is to ask again.
            Cancelled: a user has cancelled it.
        """
        return self.jobs.ask(key, work, known, wait, of) if self._long() else work()

    def by_row(
        self, key: str, work: Callable[[], npt.NDArray[Any]], known: str = "", wait: float = PATIENCE
    ) -> tuple[str, npt.NDArray[Any]]:
        """Give the key of the rows' numbers, and a result that has a value for each of these rows.

        Args, raises: as for `asked`.

        Raises:
            StaleRows: rows came or went meanwhile.
        """
        with self.rows.lock:
            self.rows.look()
            numbers, count = self.rows.key, len(self.rows.ids)
        found = self.asked(key, work, known, wait, of=numbers)
        if len(found) != count:
            self.rows.look()
            raise StaleRows
        return numbers, found

    def begin(self) -> None:
        """Begin to lay out the map, if that takes long: while the browser opens the page."""
        if self._long():
            with suppress(Unfinished):
                self.by_row("map", self.places, wait=0)

    def warm(self) -> None:
        """Import what a search needs, so that the first one does not wait for it."""
        from ..queries.search import search  # noqa: F401

    def _long(self) -> bool:
        return bool(self.jobs.address) and len(self.rows.ids) > self.at_once

    def _task(self, task: str, **arguments: Any) -> Any:
        """Do one of `TASKS`, in another process if it is long."""
        if self._long():
            return self.jobs.elsewhere(task, arguments)
        return TASKS[task](self.store, lambda what: None, **arguments)

    def run(self) -> Run:
        """Load the run that made the store.

        Raises:
            NearfarError: it is not available.
        """
        if self._run is None:
            self._run = run_of(self.store, self._run_at)
        return self._run

    def places(self) -> npt.NDArray[np.float32]:
        """Give each image its place on the map: (n, 2); first places while images are still to come."""
        if self.filling is not None and self.filling.goes_on(len(self.rows.ids)):
            return first_places(self.store)
        found = kept_places(self.store)
        if found is not None and len(found) == len(self.rows.ids):
            return found
        return self.kept.array("map", lambda: self._task("map"))

    def anomaly_score(self) -> npt.NDArray[np.float32]:
        """Score each image by how unlike its nearest others it is: (n,), higher is more anomalous."""
        return self.kept.array("anomaly-score", lambda: self._task("anomaly-score"))

    def clusters(self) -> npt.NDArray[np.int32]:
        """Sort images into clusters: (n,), -1 where it is in none."""
        return self.kept.array("clusters", lambda: self._task("clusters"))

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
        made = partial(self._task, "list", name=name, column=column, where=where, accepted=accepted)
        if name in LISTS and where is None:
            return self.kept.listing(name, made)
        # A condition may be on labels, which change.
        return self.kept.for_now(f"{name} {column} {accepted} {where}", str(self.rows.look()), made)

    def classifier(self, column: str, accepted: bool = False) -> tuple[Listing, dict[str, Any]]:
        """Train a classifier on the labels: the list of its answers, and how good it is; see `tasks`.

        Args:
            column: the column with the labels.
            accepted: whether it also learns from labels that were accepted from a classifier.

        Raises:
            NearfarError: there are too few labels.
        """
        made = partial(self._task, "classifier", column=column, accepted=accepted)
        return self.kept.for_now(f"classifier {column} {accepted}", str(self.rows.look()), made)

    def like(self, likes: list[str], dislikes: list[str], where: str | None = None) -> Listing:
        """List the images most similar to some of the store's, and unlike others; all meet the condition."""
        from ..analysis.query import query

        _, towards = self.store.vectors(ids=likes)
        _, away = self.store.vectors(ids=dislikes)
        return self._near(query(towards, away if dislikes else None), "most similar first", where)

    def like_file(self, data: bytes, where: str | None = None) -> Listing:
        """List the images most similar to one in a file; all meet the condition.

        Raises:
            NearfarError: it is no image, or the run that could encode it is not available.
        """
        import torch

        from ..analysis.query import query

        kind, run = modality(self.store.info.modality), self.run()
        try:
            if kind.pictures:
                span = run.preprocess.value_range
                x = run.encode(decode.decode(data, max_pixels=PIXELS, value_range=span))
            else:
                example = kind.decode(data, run.preprocess, limit=PIXELS)
                with torch.inference_mode():
                    batch = kind.prepare(kind.collate([example.value]), run.preprocess)
                    x = run.encoder(batch)[0].numpy()
        except BadImage as error:
            what = "an image" if kind.pictures else kind.name
            raise NearfarError(f"the file cannot be used as {what}: {error}.") from None
        return self._near(query(x[None]), "most similar to your file", where)

    def ranking(self) -> tuple[str, list[str]]:
        """Say what the last evaluation of the store's encoder found; see `run_facts.ranking_of`."""
        about = self.store.info
        run = self._run_at or about.run
        return ranking_of(run, about.encoder) if run else ("", [])

    def takes_words(self) -> bool:
        """Tell whether the store can be searched by words: it holds texts, or its run encodes texts too."""
        at = self._run_at or self.store.info.run
        return self.store.info.modality == "text" or (at != "" and has_text(at))

    def like_words(self, text: str, where: str | None = None) -> Listing:
        """List what is most similar to some words; all meet the condition.

        Raises:
            NearfarError: the run is not available, or does not encode texts.
        """
        from ..queries.search import search

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
        from ..queries.heatmap_files import heat

        with tempfile.TemporaryDirectory() as folder:
            heat(self.store, self.run(), self.rows.ids, [name], Path(folder), seed=0)
            (drawn,) = Path(folder).iterdir()
            return drawn.read_bytes()
