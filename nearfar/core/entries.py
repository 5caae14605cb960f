"""What a folder holds that a command is to write into, but for the files that desktops leave in every one."""

from __future__ import annotations

import os
from pathlib import Path

DESKTOP = {".ds_store", "thumbs.db", "desktop.ini", ".directory"}  # of macOS, Windows and KDE


def entries(folder: Path) -> list[str]:
    """Name what is in a folder, sorted, without what a file browser has put there to show it.

    Args:
        folder: nothing is in one that is not there, or is a file.
    """
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(name for name in names if name.lower() not in DESKTOP)
