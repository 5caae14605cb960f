"""Keeps selections of images under names: in a file of this user, by the images' own names."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path

from ..core.atomic import atomic_write
from ..core.errors import NearfarError
from ..core.shapes import loads

MOST = 100  # selections of a store


class Selections:
    """The selections of one store; safe in threads."""

    def __init__(self, folder: Path) -> None:
        """Read them when they are asked for.

        Args:
            folder: of this user alone.
        """
        self._path, self._lock = folder / "selections.json", threading.Lock()

    def all(self) -> dict[str, list[str]]:
        """Give each name's images; what cannot be read counts as none."""
        try:
            found = loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {str(name): [str(one) for one in ids] for name, ids in found.items() if isinstance(ids, list)}

    def counts(self) -> dict[str, int]:
        """Give each name's number of images."""
        return {name: len(ids) for name, ids in self.all().items()}

    def keep(self, name: str, ids: Sequence[str]) -> None:
        """Keep a selection, in place of one of the same name; none of no images.

        Args:
            name: of the selection.
            ids: its images.

        Raises:
            NearfarError: there are too many, or they cannot be written.
        """
        with self._lock:
            found = self.all()
            found.pop(name, None)
            if ids:
                found[name] = list(ids)
            if len(found) > MOST:
                raise NearfarError(f"at most {MOST} selections are kept; remove one first.")
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with atomic_write(self._path) as file:
                    file.write(json.dumps(found, ensure_ascii=False).encode())
            except OSError as error:
                raise NearfarError(f"the selection cannot be kept: {error.strerror}.") from None
