"""Puts sections into one page that needs nothing else: every text escaped, no script, no address but data."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import NearfarError
from ..core.version import __version__
from .blocks import Blocks, Columns, Fold, Note, Section

NEEDED = {"jinja2": "jinja2", "matplotlib": "matplotlib", "sklearn": "scikit-learn"}
HERE = Path(__file__).parent


def check_libraries() -> None:
    """Refuse to begin where a library of the extra is missing, with the command that installs it."""
    for module, name in NEEDED.items():
        if importlib.util.find_spec(module) is None:
            raise NearfarError(f"a report needs {name}: pip install 'nearfar[report]'.")


def render(sections: Sequence[Section], **head: Any) -> str:
    """Write the page.

    Args:
        sections: in their order.
        **head: what `page.html` shows above them: title, lede, summary, verdicts, answers, overview.

    Returns:
        HTML. Names and paths come from untrusted files, so everything but our own style and drawings is
        escaped, and the page forbids scripts and requests.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    there = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    there.filters["drawn"] = Markup
    style = Markup((HERE / "page.css").read_text(encoding="utf-8"))
    page = there.get_template("page.html")
    head = {"summary": "", **head}
    return page.render(sections=sections, style=style, version=__version__, **head)


def missing(sections: Sequence[Section]) -> Mapping[str, str]:
    """Find the sections in which something is missing, and what the page says of it."""
    found = {section.id: _notes(section.blocks) for section in sections}
    return {name: notes[0] for name, notes in found.items() if notes}


def _notes(blocks: Blocks) -> list[str]:
    notes = []
    for block in blocks:
        if isinstance(block, Note) and block.command:
            notes.append(block.text)
        elif isinstance(block, Fold):
            notes += _notes(block.blocks)
        elif isinstance(block, Columns):
            notes += [text for _, inner in block.columns for text in _notes(inner)]
    return notes
