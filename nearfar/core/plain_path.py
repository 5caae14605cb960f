"""Names files for libraries that take a relative path with a colon, such as a:1/b.parquet, for an address."""

from __future__ import annotations

import os


def plain_path(path: str | os.PathLike[str]) -> str:
    """Write the path of a local file from the root on, where nothing is taken for an address.

    Args:
        path: of a file or folder, which need not be there.
    """
    return os.path.abspath(path)
