"""Embeds a folder of images in a thread, while the page shows what is there already."""

from __future__ import annotations

import threading
from typing import Any

from ..core.errors import NearfarError
from ..queries.image_folder import ImageFolder, is_store
from ..stores import VectorStore, open_store

FIRST = 64  # images of the first commit, so that the page has something to show within seconds
BREATH = 0.1  # seconds between two looks at whether the first images are there


class Filling:
    """One folder on its way into its store."""

    def __init__(self, folder: ImageFolder) -> None:
        """Begin.

        Args:
            folder: a folder of images.
        """
        self.folder, self._finished = folder, threading.Event()
        self._error: Exception | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self.folder.fill(first_chunk=FIRST)
        except Exception as error:
            self._error = error
        finally:
            self._finished.set()

    def goes_on(self, count: int) -> bool:
        """Tell whether images are still to come.

        Args:
            count: images that are there.
        """
        return count < self.folder.count and not self._finished.is_set()

    def opened(self) -> VectorStore:
        """Open the store, once the first images are there.

        Raises:
            NearfarError: the images cannot be used.
        """
        while not is_store(self.folder.place) and not self._finished.wait(BREATH):
            pass
        if self._error is not None:
            raise self._error
        store = open_store(self.folder.place)
        while not len(store) and not self._finished.wait(BREATH):
            pass
        if self._error is not None:
            raise self._error
        return store

    def told(self, count: int) -> dict[str, Any] | None:
        """Say how far it is; None when it is done.

        Args:
            count: images that are there.
        """
        if self.goes_on(count):
            return {"done": count, "total": self.folder.count}
        if self._error is None:
            return None
        known = isinstance(self._error, NearfarError)
        reason = str(self._error) if known else f"this failed ({type(self._error).__name__}: {self._error})"
        return {"done": count, "total": self.folder.count, "error": reason}
