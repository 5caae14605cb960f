"""Reads the page's own files."""

from __future__ import annotations

import importlib.util
import mimetypes
from pathlib import Path

from ..core.errors import NearfarError

HERE = Path(__file__).parent / "static"
BINARY = "application/octet-stream"
mimetypes.add_type("text/javascript", ".js")


def page_files() -> dict[str, tuple[bytes, str]]:
    """Read the page's own files, and plotly's script from its package.

    Returns:
        Name to content and kind. The server knows no path but these names.

    Raises:
        NearfarError: plotly is missing.
    """
    plotly = importlib.util.find_spec("plotly")
    if plotly is None or plotly.origin is None:
        raise NearfarError("the page needs plotly: pip install 'nearfar[explore]'.")
    found = {path.name: path for path in sorted(HERE.iterdir()) if path.is_file()}
    found["plotly.js"] = Path(plotly.origin).parent / "package_data" / "plotly.min.js"
    return {
        name: (path.read_bytes(), mimetypes.guess_type(name)[0] or BINARY) for name, path in found.items()
    }
