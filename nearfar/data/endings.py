"""Tells kinds of data apart by the endings of files: those of a folder, of a list, or of paths in Python."""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from itertools import islice
from pathlib import Path
from typing import Any

from ..core.plain_path import from_home

LISTS = (".txt", ".csv", ".tsv", ".parquet")  # of files that hold paths
MOST = 2000  # files looked at, so that a folder of millions costs no time
MOST_OF_A_FOLDER = 200  # files of one folder, so that several are looked into
MOST_FOLDERS = 200  # that wait to be looked into
PEEKED = 1 << 16  # bytes read of a list
_ENDING = re.compile(rb"\.([A-Za-z0-9]{1,8})(?=[\s,;|\"']|$)")


def ending(name: str) -> str:
    """Give a file's ending in lower case, without the dot; "" for a hidden file or none.

    Args:
        name: a file name, with folders or not.
    """
    base = os.path.basename(name)
    return "" if base.startswith(".") else os.path.splitext(base)[1][1:].lower()


def parted(data: Any) -> tuple[Any, Any]:
    """Take a pair (examples, labels) apart.

    Args:
        data: as `open_data` takes it.

    Returns:
        The examples, and their labels or None. Two examples in a tuple, such as two paths, are no pair.
    """
    if isinstance(data, tuple) and len(data) == 2:
        first = data[0]
        if hasattr(first, "__len__") and not isinstance(first, (str, bytes, os.PathLike)):
            return first, data[1]
    return data, None


def endings(data: Any) -> Counter[str]:
    """Count the endings of the files that a user named, of the first few thousand at most.

    Args:
        data: as `open_data` takes it.

    Returns:
        Files by their ending; empty where no file is named.
    """
    data, _ = parted(data)
    if isinstance(data, (list, tuple)):
        paths = [os.fspath(item) for item in islice(data, MOST) if isinstance(item, (str, os.PathLike))]
        return Counter(ending(str(path)) for path in paths)
    if not isinstance(data, (str, os.PathLike)):
        return Counter()
    path = from_home(data)
    try:
        if path.is_dir():
            return _of_folder(str(path))
        if path.is_file():
            return _of_list(path) if path.suffix.lower() in LISTS else Counter([ending(path.name)])
    except (OSError, ValueError):
        pass  # opening it says why
    return Counter()


def _of_folder(root: str) -> Counter[str]:
    """Look into a folder and those in it, by turns the nearest and the deepest.

    Of many classes with a note each, and their images one level deeper, the nearest alone show only notes.
    """
    found: Counter[str] = Counter()
    waiting, looked = deque([root], MOST_FOLDERS), 0
    while waiting and looked < 2 * MOST_FOLDERS and found.total() < MOST:
        own = 0
        try:
            with os.scandir(waiting.pop() if looked % 2 else waiting.popleft()) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name == "__MACOSX":
                        continue
                    if entry.is_dir():
                        waiting.append(entry.path)
                    else:
                        found[ending(entry.name)] += 1
                        own += 1
                    if own == MOST_OF_A_FOLDER:
                        break
        except OSError:
            pass
        looked += 1
    return found


def _of_list(path: Path) -> Counter[str]:
    """Look at the paths at the head of a list; a Parquet file is not looked into."""
    if path.suffix.lower() == ".parquet":
        return Counter()
    with open(path, "rb") as file:
        head = file.read(PEEKED)
    return Counter(word.decode().lower() for word in _ENDING.findall(head))
