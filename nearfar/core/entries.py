"""What a folder holds that a command is to write into, but for the files that desktops leave in every one."""

from __future__ import annotations

from pathlib import Path

DESKTOP = {".ds_store", "thumbs.db", "desktop.ini", ".directory"}  # of macOS, Windows and KDE


def entries(folder: Path) -> list[Path]:
    """List what is in a folder, sorted, without what a file browser has put there to show it.

    Args:
        folder: one that is there.
    """
    return sorted(item for item in folder.iterdir() if item.name.lower() not in DESKTOP)
