"""Where nearfar keeps what it can make again: a folder of the user's, also where there is no home folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_root() -> Path:
    """Name the folder of decoded images and converted weights: $NEARFAR_CACHE, or `cache_folder`."""
    return Path(os.environ.get("NEARFAR_CACHE") or cache_folder())


def cache_folder() -> Path:
    """Give ~/.cache/nearfar; where no home folder can be written, one of this user among temporary files."""
    try:
        home = Path.home()
    except RuntimeError:  # a container's user without a name
        home = Path("/nonexistent")
    folder = home / ".cache" / "nearfar"
    if home.is_dir():
        above = next(place for place in (folder, folder.parent, home) if place.is_dir())
        if os.access(above, os.W_OK):
            return folder
    own = os.getuid() if hasattr(os, "getuid") else 0
    made = Path(tempfile.gettempdir()) / f"nearfar-{own}"
    made.mkdir(mode=0o700, exist_ok=True)
    if made.is_symlink() or (hasattr(os, "getuid") and made.stat().st_uid != own):
        return Path(tempfile.mkdtemp(prefix="nearfar-"))  # another user's: nothing of theirs is to be read
    return made
