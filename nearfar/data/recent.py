"""Keeps what was read last, so that neighbours that need the same share one reading."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from ..core.errors import BadImage

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """What was read last, by its key; each is read once, however many threads ask for it."""

    def __init__(self, load: Callable[[Key], Value], kept: int) -> None:
        """Start empty.

        Args:
            load: reads what belongs to a key; raises `BadImage` where it cannot.
            kept: how many are kept.
        """
        self._load, self._kept, self._lock = load, kept, threading.Lock()
        self._held: OrderedDict[Key, tuple[threading.Lock, list[Value | BadImage]]] = OrderedDict()

    def get(self, key: Key) -> Value:
        """Give what belongs to a key.

        Raises:
            BadImage: it cannot be read.
        """
        with self._lock:
            lock, made = self._held.setdefault(key, (threading.Lock(), []))
            self._held.move_to_end(key)
            while len(self._held) > self._kept:
                self._held.popitem(last=False)
        with lock:
            if not made:
                try:
                    made.append(self._load(key))
                except BadImage as error:  # the others that need it need not wait for it again
                    made.append(error)
        found = made[0]
        if isinstance(found, BadImage):
            raise BadImage(str(found))
        return found
