"""Reads the signature and the docstring of a public function without importing it: what its command takes.

Importing a function imports torch; reading its source takes milliseconds. Every default and every sentence of
help is then written once, in the function itself.
"""

from __future__ import annotations

import ast
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent.parent
REQUIRED = object()  # the default of a parameter that has none


@dataclass(frozen=True)
class Parameter:
    """One parameter of a function.

    Attributes:
        name: as the signature has it.
        types: the arms of its annotation, such as {"str", "Path"}; without None.
        default: its value, or REQUIRED.
        keyword: whether it is given by name only, which makes it a flag.
        many: whether it takes several values.
        help: its sentence in the docstring's `Args:`.
    """

    name: str
    types: frozenset[str]
    default: Any
    keyword: bool
    many: bool
    help: str


@dataclass(frozen=True)
class Signature:
    """What a command needs to know of its function.

    Attributes:
        about: the paragraphs of the docstring before the example.
        example: a command line that works, from the line `Example:`.
        parameters: in the order of the signature, without `**settings`.
        prints: whether the function returns a result to print.
    """

    about: str
    example: str
    parameters: tuple[Parameter, ...]
    prints: bool


def read_signature(module: str, name: str) -> Signature:
    """Read a function's signature from its source.

    Args:
        module: its place in the package, such as "queries.search".
        name: the function's.

    Returns:
        What its command takes.
    """
    path = PACKAGE / f"{module.replace('.', '/')}.py"
    functions = [node for node in _tree(path).body if isinstance(node, ast.FunctionDef) and node.name == name]
    function = functions[-1]  # the last one is no overload
    text = ast.get_docstring(function) or ""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    about, example = paragraphs[:1], ""
    for number, paragraph in enumerate(paragraphs):
        if paragraph.startswith("Example: "):
            about, example = paragraphs[:number], paragraph.removeprefix("Example: ")
    helps = _args(text)
    spec = function.args
    positional = [*spec.posonlyargs, *spec.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(spec.defaults))
    found = [
        _parameter(path, arg, default, helps, keyword=False)
        for arg, default in zip(positional, [*defaults, *spec.defaults], strict=True)
    ]
    if spec.vararg is not None:
        at_least = None if not positional else ast.Tuple([])  # one, where nothing comes before it
        found.append(_parameter(path, spec.vararg, at_least, helps, keyword=False, many=True))
    found += [
        _parameter(path, arg, default, helps, keyword=True)
        for arg, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
    ]
    prints = function.returns is None or ast.unparse(function.returns) != "None"
    return Signature(" ".join(about), example, tuple(found), prints)


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _parameter(
    path: Path,
    arg: ast.arg,
    default: ast.expr | None,
    helps: dict[str, str],
    *,
    keyword: bool,
    many: bool = False,
) -> Parameter:
    """Describe one parameter by its annotation, its default and its sentence."""
    written = ast.unparse(arg.annotation) if arg.annotation else "str"
    inner = written.removesuffix(" | None")
    if inner.startswith("Sequence["):
        inner, many = inner.removeprefix("Sequence[").removesuffix("]"), True
    value = REQUIRED if default is None else _value(path, default)
    return Parameter(arg.arg, frozenset(inner.split(" | ")), value, keyword, many, helps.get(arg.arg, ""))


def _value(path: Path, node: ast.expr) -> Any:
    """Read a default: a literal, or the name of a constant of this file or of one it is imported from."""
    if not isinstance(node, ast.Name):
        return ast.literal_eval(node)
    for line in _tree(path).body:
        if isinstance(line, ast.Assign) and any(ast.unparse(target) == node.id for target in line.targets):
            return _value(path, line.value)
        if isinstance(line, ast.ImportFrom) and any(alias.name == node.id for alias in line.names):
            folder = path.parents[line.level - 1]
            return _value(folder / f"{(line.module or '').replace('.', '/')}.py", node)
    raise ValueError(f"{path}: {node.id} is no constant of this file or of one it imports from.")


def _args(text: str) -> dict[str, str]:
    """Read the `Args:` of a docstring: name to sentence, without the backticks and the final stop."""
    found = re.search(r"^Args:\n((?:    .*\n?|\n)*)", text, re.MULTILINE)
    helps: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \S)", found[1].rstrip() if found else ""):
        names, _, sentence = entry.strip().partition(": ")
        for name in names.split(", "):
            helps[name.strip("* ")] = re.sub(r"(?<!\.)\.$", "", " ".join(sentence.replace("`", "").split()))
    return helps
