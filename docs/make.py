"""Writes the parts of the pages that come from the code: `python docs/make.py`. A test checks them.

docs/settings.md and nearfar/training/options.py come from the settings classes, docs/methods.md and the
tables of docs/choosing.md from the methods' files, the parts in docs/evaluation.md from their table, and the
tree in README.md from the first line of each file, in the order of the floors of docs/design.md.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from pathlib import Path

from nearfar import methods
from nearfar.cli.flags import plain
from nearfar.core.config import Setting, settings_of
from nearfar.data.modalities import MODALITIES, modality
from nearfar.evaluation import PARTS
from nearfar.images.view_settings import Views
from nearfar.methods.catalogue import NEEDS, Entry, catalogue
from nearfar.training import recipe_table, recipes, settings

DOCS = Path(__file__).parent
SETTINGS, DESIGN, README = DOCS / "settings.md", DOCS / "design.md", DOCS.parent / "README.md"
METHODS, EVALUATION, CHOOSING = DOCS / "methods.md", DOCS / "evaluation.md", DOCS / "choosing.md"
TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
PACKAGE = DOCS.parent / "nearfar"
LIST = re.compile(r"(?<=<!-- parts, written by docs/make.py -->\n).*?(?=<!-- end of parts -->)", re.DOTALL)
OPTIONS = PACKAGE / "training" / "options.py"
PAIRS = NEEDS["pairs"]
TREE = re.compile(r"(?<=```text\nnearfar/\n).*?(?=tests/)", re.DOTALL)


def _may_be(item: Setting) -> str:
    if item.choices:
        return ", ".join(item.choices)
    low, high = (None if edge is None else f"{edge:g}" for edge in (item.low, item.high))
    if low and high:
        return f"{low} to {high}"
    return f"at least {low}" if low else f"at most {high}" if high else ""


def table(cls: type, by_recipe: Collection[str] = (), without: Collection[Setting] = ()) -> str:
    """Write a settings class as a table, a line a setting; `by_recipe` names those without a default."""
    lines = ["| flag | meaning | default | may be | source |", "|---|---|---|---|---|"]
    for item in settings_of(cls):
        if item in without:
            continue
        default = "" if item.default is None else plain(item.default)
        if item.name in by_recipe:
            default = "by recipe"
        lines.append(f"| `{item.flag}` | {item.help} | {default} | {_may_be(item)} | {item.source} |")
    return "\n".join(lines)


def page() -> str:
    """Write the page of settings."""
    parts = [
        "# Settings",
        "Written by `docs/make.py` from the code; `nearfar pretrain --help` says the same. In "
        "Python the names have underscores: `--lr-scaling` is `lr_scaling`. Every run has a recipe, which "
        "decides some of them (see [Recipes](#recipes)); a flag that is given overrides the recipe.",
        "## Training",
        table(settings.Training, recipe_table.by_recipe(None)),
    ]
    for name in MODALITIES:
        parts.append(f"## Views of {name}")
        own = modality(name).views
        if issubclass(own, Views) and own is not Views:
            parts.append("As of images, but for these.")
            parts.append(table(own, without=settings_of(Views)))
        else:
            parts.append(table(own, recipe_table.by_recipe(None)))
    parts.append("## Settings of a method")
    parts.append("Each method has further settings, listed with it in [Methods](methods.md).")
    parts.append("## Recipes")
    lines = ["| recipe | what it is | source |", "|---|---|---|"]
    for name, recipe in recipes.RECIPES.items():
        text = (recipe.__doc__ or "").strip()
        source = " ".join(text.partition("Source:")[2].split())
        lines.append(f"| `{name}` | {text.splitlines()[0]} | {source} |")
    parts.append("\n".join(lines))
    parts.append(
        "The table lists what they set. Of two values, the first is for images up to 64 px, the second for "
        "larger ones. A method may override some of them, as its section in [Methods](methods.md) shows; "
        "`nearfar pretrain --method NAME --help` ends with the values for that method."
    )
    lines = [f"| setting | {' | '.join(f'`{name}`' for name in recipes.RECIPES)} |", "|---" * 5 + "|"]
    lines += [f"| `{flag}` | {' | '.join(cells)} |" for flag, *cells in recipe_table.rows(None)]
    parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _differences(name: str) -> str:
    """Write the settings in which a method differs from the recipes, one line per recipe."""
    lines = ["| recipe | sets |", "|---|---|"]
    for recipe, values in methods.method(name).recipes.items():
        flags = [f"`--{key.replace('_', '-')} {plain(value)}`" for key, value in values.items()]
        lines.append(f"| `{recipe}` | {', '.join(flags)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _method(entry: Entry) -> list[str]:
    """Write a method's section."""
    lead, _, code = entry.equation.partition("    def ")
    loops, rest = [], (f"    def {code}").split("\n")
    while rest and (not rest[0].strip() or rest[0].startswith("    ")):
        loops.append(rest.pop(0)[4:])
    after = " ".join(" ".join(rest).split())
    parts = [
        f"## `{entry.name}`",
        entry.line,
        f"Choose it {entry.choose} It needs {entry.needs}.",
        f"*{entry.citation}*",
        entry.shapes,
        " ".join(lead.split()),
        "```text\n" + "\n".join(loops).rstrip() + "\n```",
        after,
        table(methods.settings(entry.name), recipe_table.by_recipe(entry.name))
        if settings_of(methods.settings(entry.name))
        else "",
        _differences(entry.name),
    ]
    return [part for part in parts if part]


def methods_page() -> str:
    """Write the page of methods."""
    entries = catalogue().entries
    parts = [
        "# Methods",
        "Written by `docs/make.py` from each method's file; `nearfar methods` prints a short list, and "
        "[Choosing a method](choosing.md) helps to choose one. The loops define what each method computes, "
        "and a test compares the faster code with them.",
    ]
    lines = ["| method | idea | paper | needs |", "|---|---|---|---|"]
    for entry in entries:
        line = f"[`{entry.name}`](#{entry.name}) | {entry.line} | {entry.paper} | {entry.needs}"
        lines.append(f"| {line} |")
    parts.append("\n".join(lines))
    for entry in entries:
        parts += _method(entry)
    return "\n\n".join(parts) + "\n"


def evaluation_page() -> str:
    """Write docs/evaluation.md with its list of parts brought up to date."""
    lines = ["| flag | in `parts=` | what it measures |", "|---|---|---|"]
    for name, entry in PARTS.items():
        lines.append(f"| `--{name.replace('_', '-')}` | `{name}` | {entry.help} |")
    return LIST.sub(lambda _: "\n".join(lines) + "\n", EVALUATION.read_text(encoding="utf-8"), count=1)


def _choice(entry: Entry) -> str:
    """Write a line of a table: when to choose a method."""
    return f"| {entry.choose[0].upper()}{entry.choose[1:]} | [`{entry.name}`](methods.md#{entry.name}) |"


def choosing_page() -> str:
    """Write the page on choosing a method with its two tables brought up to date."""
    text, entries = CHOOSING.read_text(encoding="utf-8"), catalogue().entries
    head = "| choose it | method |\n|---|---|\n"
    for title, chosen in (
        (
            "## Images without labels\n",
            lambda needs: needs not in ("text", PAIRS) and "labels" not in needs,
        ),
        ("## Images with labels\n", lambda needs: "labels" in needs),
        ("## Images with captions\n", lambda needs: needs == PAIRS),
        ("## Texts\n", lambda needs: needs == "text"),
    ):
        lines = [_choice(entry) for entry in entries if chosen(entry.needs)]
        before, _, rest = text.partition(title)
        table = TABLE.search(rest)
        assert table, f"{CHOOSING.name} has no table under {title.strip()}"
        text = before + title + rest[: table.start()] + head + "\n".join(lines) + "\n" + rest[table.end() :]
    return text


def floors() -> dict[int, list[str]]:
    """Read the floors, and the rooms on each, from the table in docs/design.md."""
    rows = re.findall(r"^\| (\d) \|.*\| (.*) \|$", DESIGN.read_text(encoding="utf-8"), re.MULTILINE)
    return {int(floor): re.findall(r"`(\w+)`", rooms) for floor, rooms in rows}


def tree() -> str:
    """Write a line a file: its name, and what the file says of itself in its first line."""
    lines = []
    for rooms in floors().values():
        for room in rooms:
            folder = PACKAGE / room
            path = folder / "__init__.py" if folder.is_dir() else PACKAGE / f"{room}.py"
            about = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]
            name = f"{room}/" if folder.is_dir() else path.name
            lines.append(f"  {name:<16}{about.rstrip('.')}\n")
    return "".join(lines)


def options() -> str:
    """Write the settings of a run as typed keywords."""
    own: dict[str, set[str]] = {}
    for name in methods.METHODS:
        for item in settings_of(methods.settings(name)):
            own.setdefault(item.name, set()).add(_type(item))
    views: dict[str, list[str]] = {}
    known: set[str] = set()
    for kind in MODALITIES:
        items = [item for item in settings_of(modality(kind).views) if item.name not in known]
        known |= {item.name for item in items}
        views[kind] = [f"    {item.name}: {_type(item)} | None" for item in items]
    lines = [
        '"""The settings of a run as typed keywords, for editors and mypy.',
        "",
        "Written by `docs/make.py` from the settings classes; a test says when it is due.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "from collections.abc import Sequence",
        "from typing import TypedDict",
        "",
        "",
        "class Options(TypedDict, total=False):",
        '    """Any setting of `Training`, of views or a method; None stands for one that is not given."""',
        "",
        "    # Training",
        *(f"    {item.name}: {_type(item)} | None" for item in settings_of(settings.Training)),
        *(line for kind, lines in views.items() for line in ("", f"    # Views of {kind}", *lines)),
        "",
        "    # Of the methods, each of which has some",
        *(f"    {name}: {' | '.join(sorted(types))} | None" for name, types in own.items()),
    ]
    return "\n".join(lines) + "\n"


def _type(item: Setting) -> str:
    name = item.type.__name__
    return f"Sequence[{name}] | {name}" if item.many else name


def readme() -> str:
    """Write the README with its tree brought up to date."""
    return TREE.sub(lambda _: tree(), README.read_text(encoding="utf-8"), count=1)


if __name__ == "__main__":
    SETTINGS.write_text(page(), encoding="utf-8")
    METHODS.write_text(methods_page(), encoding="utf-8")
    EVALUATION.write_text(evaluation_page(), encoding="utf-8")
    OPTIONS.write_text(options(), encoding="utf-8")
    CHOOSING.write_text(choosing_page(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")
