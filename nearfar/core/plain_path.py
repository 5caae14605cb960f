"""Writes the paths that a user types in the form that is meant, and in one that no library mistakes."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import NearfarError


def from_home(path: str | os.PathLike[str]) -> Path:
    """Write the user's own folder for a `~` before a path, as a shell does.

    Args:
        path: of a file or folder; one that begins with `~` and no user's name stays as it is.

    Raises:
        NearfarError: it is empty, which `Path` takes for the current folder.
    """
    if not os.fspath(path).strip():
        raise NearfarError("the name of a file or folder is empty; give one, such as photos/")
    return Path(os.path.expanduser(path))


def plain_path(path: str | os.PathLike[str]) -> str:
    """Write the path of a local file from the root on: libraries take a:1/b.parquet for an address.

    Args:
        path: of a file or folder, which need not be there.
    """
    return os.path.abspath(path)


def real_path(path: str | os.PathLike[str]) -> str:
    """Write a path without links and from the root on.

    Args:
        path: of a file or folder, which need not be there; one that no system can have stays as it is.
    """
    try:
        return os.path.realpath(path)
    except ValueError:  # it holds a zero byte
        return os.fspath(path)
