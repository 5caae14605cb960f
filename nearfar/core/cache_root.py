"""Where nearfar keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """Name the folder of decoded images and converted weights: $NEARFAR_CACHE, or ~/.cache/nearfar."""
    return Path(os.environ.get("NEARFAR_CACHE") or Path.home() / ".cache" / "nearfar")
