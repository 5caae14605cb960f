"""Lists the methods: what each does, its paper, what it needs, when to choose it; read without torch."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import methods

NEEDS = {
    "": "images",
    "labels": "images with labels",
    "either": "images, or images with labels",
    "teacher": "images and an encoder to learn from",
    "pairs": "images with captions",
}


@dataclass(frozen=True)
class Entry:
    """What a method's file says of it.

    Attributes:
        name: as `--method` takes it.
        line: what it does, a sentence.
        paper: first author and year, as "Chen et al. 2020".
        citation: authors, title, venue and arXiv number.
        needs: "images", "images with labels", either, "images and an encoder to learn from", or another kind
            of data, such as "text".
        choose: a sentence that begins with "when".
        shapes: what the equation's letters are.
        equation: a sentence, and the plain loops.
    """

    name: str
    line: str
    paper: str
    citation: str
    needs: str
    choose: str
    shapes: str
    equation: str


@dataclass(frozen=True)
class Catalogue:
    """All methods, in the order of `METHODS`."""

    entries: tuple[Entry, ...]

    def to_json(self) -> dict[str, Any]:
        """Write them as plain values, without shapes and equations."""
        kept = ("name", "line", "paper", "citation", "needs", "choose")
        whole = [dataclasses.asdict(entry) for entry in self.entries]
        return {"methods": [{key: entry[key] for key in kept} for entry in whole]}

    def __str__(self) -> str:
        """Lay them out: a name in the margin, then what it does, its paper and needs, when to choose it."""
        width = max(len(entry.name) for entry in self.entries) + 2
        blocks = []
        for entry in self.entries:
            texts = [entry.line, f"{entry.paper}; needs {entry.needs}.", f"Choose it {entry.choose}"]
            lines = [line for text in texts for line in textwrap.wrap(text, 108 - width)]
            margin = [entry.name, *[""] * (len(lines) - 1)]
            blocks += [f"{name:<{width}}{line}" for name, line in zip(margin, lines, strict=True)]
        return "\n".join(blocks)


@functools.cache
def catalogue() -> Catalogue:
    """List the available methods, with their idea, paper and requirements, and when to choose each.

    Example: nearfar methods

    Returns:
        One entry a method; print it, or take its `entries`.
    """
    return Catalogue(tuple(read(name) for name in methods.METHODS))


def read(name: str) -> Entry:
    """Read what a method's file says of it, without running the file.

    Args:
        name: one of `METHODS`.

    Returns:
        The entry.
    """
    path = Path(methods.__file__).with_name(f"{name}.py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    line, citation, *rest = (ast.get_docstring(tree) or "").split("\n\n")
    choose = next(part for part in rest if part.startswith("Choose it when "))
    shapes = next(part for part in rest if part.startswith("Shapes:"))
    equation = "\n\n".join(rest[rest.index(shapes) + 1 :])
    return Entry(
        name=name,
        line=" ".join(line.split()),
        paper=_short(citation),
        citation=" ".join(citation.split()),
        needs=NEEDS.get(kind := _needs(tree, name), kind),
        choose=" ".join(choose.removeprefix("Choose it ").split()),
        shapes=" ".join(shapes.split()),
        equation=equation,
    )


def _short(citation: str) -> str:
    """Shorten a citation: "Chen and He 2021", "Chen et al. 2020"."""
    authors, _, rest = " ".join(citation.split()).partition(', "')
    names = [name.split()[-1] for name in re.split(r", | and ", authors)]
    year = re.search(r"\b(?:19|20)\d\d\b", rest.partition('"')[2])
    who = names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."
    return f"{who} {year[0]}" if year else who


def _needs(tree: ast.Module, name: str) -> str:
    """Find what a method's class needs: another kind of data, its `needs`, or "either" where settings decide."""
    kind, cls = methods.kind(name), methods.METHODS[name]
    if kind not in (None, "images"):
        return kind
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls)
    decided = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "requires"]
    if any("labels" in ast.unparse(node) for node in decided):
        return "either"
    given = [
        node.value
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "needs"
    ]
    said = ast.unparse(given[0]) if given and given[0] is not None else ""
    return next((need for need in ("labels", "teacher") if need in said), "")
