"""Turns settings and signatures into flags, and what was typed into checked values; no torch here."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from ..core.config import Setting, build, flag_of, settings_of
from ..core.errors import NearfarError, nearest
from ..images.view_settings import SMALL_SIDE
from ..training import recipe_table
from ..training.recipes import RECIPES
from .signatures import REQUIRED, Parameter, Signature
from .synonyms import by_meaning

WORDS = {int: "a whole number", float: "a number", str: "a word"}
HOLDERS = {int: "N", float: "X", str: "NAME"}
DATA = (
    "a folder of images; a .txt, .csv, .tsv or .parquet list of paths; a .npy or .npz array; .tar shards; "
    "cifar10, cifar10:test, stl10:unlabeled and the like; or hf:org/name"
)
STORE = "a vector store: a folder such as photos.nf, s3://bucket/photos.nf or postgresql://user@host/database"
OR_FOLDER = f"{STORE}; or a folder of images, which is embedded first"
# Positional parameters that several functions share: what stands for them, and what may be given.
SHARED = {"data": ("DATA", DATA), "store": ("STORE", OR_FOLDER), "address": ("STORE", STORE)}
# What stands for a flag's value in the help, where its type does not say it.
_VALUES = {
    "DATA": ("train", "test", "data", "examples"),
    "STORE": ("store", "against"),
    "RUN": ("run", "runs", "others"),
    "CONDITION": ("where", "normal", "anomalous", "delete"),
    "COLUMN": ("save", "column"),
    "FOLDER": ("heat_maps", "truth"),
    "IMAGE": ("like", "dislike"),
    "ID": ("id",),
    "PATH": ("out", "boxes"),
    "FILE": ("image", "columns", "bank", "import_file", "export_file", "labels", "groups", "sheet"),
    "SHARE": ("fpr", "reject"),
    "VIEWER": ("to",),
    "ADDRESS": ("host",),
    "TIME": ("minutes_each", "budget"),
}
VALUES = {name: value for value, names in _VALUES.items() for name in names}
# Parameters whose plain name is a word of Python.
FLAG_NAMES = {"import_file": "--import", "export_file": "--export"}


def flag_name(name: str) -> str:
    """Name the flag of a function's parameter.

    Args:
        name: of the parameter.
    """
    return FLAG_NAMES.get(name) or flag_of(name)


class _Layout(argparse.HelpFormatter):
    """Help with room for the flags, as wide as the terminal up to 110 columns."""

    def __init__(self, prog: str) -> None:
        width = min(110, shutil.get_terminal_size((110, 24)).columns)
        super().__init__(prog, max_help_position=32, width=width)


class Parser(argparse.ArgumentParser):
    """A parser of one command: its help begins with an example, its errors are sentences."""

    def __init__(self, command: str, example: str, about: str) -> None:
        """Make the parser of one command.

        Args:
            command: its name, such as "embed".
            example: a command line that works, shown first in the help.
            about: what the command does, in a sentence or two.
        """
        super().__init__(
            prog=f"nearfar {command}",
            description=about,
            formatter_class=_Layout,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
        )
        self.command, self.example = command, example
        self.flags: list[str] = ["-h", "--help"]
        self.classes: list[type] = []
        self.by_recipe: frozenset[str] = frozenset()  # settings without a default of their own
        self.ending: list[str] = []  # lines after the flags

    def format_usage(self) -> str:
        """Say in one line what the command takes; the flags are listed below it, not in it."""
        given = self._get_positional_actions()
        # Of a word that may be left out before another, argparse knows the other alone to be optional.
        spare = [a for a in given if "if left out" in (a.help or "")] or [a for a in given if a.nargs == "?"]
        more = {"*": "[{} ...]", "+": "{} ..."}
        words = [
            ("[{}]" if a in spare else more.get(str(a.nargs), "{}")).format(a.metavar or a.dest)
            for a in given
        ]
        needed = [f"{a.option_strings[0]} {a.metavar}" for a in self._get_optional_actions() if a.required]
        return f"usage: {' '.join([self.prog, *map(str, words), *needed])} [flags]\n"

    def format_help(self) -> str:
        """Lay out the help: a working example first, then the usage, then every flag."""
        listing = super().format_help().split("\n\n", 1)[1]
        ending = "\n".join(["", *self.ending, ""]) if self.ending else ""
        return f"example: {self.example}\n{self.format_usage()}\n{listing}{ending}"

    def flag(self, group: Any, flag: str, **how: Any) -> None:
        """Add one flag that is no setting of a run, such as `--json`.

        Args:
            group: the parser itself, or an argument group of it.
            flag: with its two hyphens.
            how: as `argparse` takes it.
        """
        self.flags.append(flag)
        group.add_argument(flag, **how)

    def settings(self, title: str, cls: type, only: Sequence[str] = ()) -> None:
        """Add one flag for every setting of a settings class, with its help, range and default.

        Args:
            title: heads the flags in the help.
            cls: the settings class.
            only: the settings wanted; empty means all.
        """
        group = self.add_argument_group(title)
        self.classes.append(cls)
        for item in settings_of(cls):
            if only and item.name not in only:
                continue
            self.flags.append(item.flag)
            how: dict[str, Any] = {
                "dest": item.name,
                "help": _escaped(describe(item, item.name in self.by_recipe)),
            }
            if item.type is bool:
                self.flags.append("--no-" + item.flag[2:])
                group.add_argument(item.flag, action=argparse.BooleanOptionalAction, **how)
                continue
            how["metavar"] = "|".join(item.choices) if item.choices else HOLDERS[item.type]
            if item.many:
                how["nargs"] = "+"
            group.add_argument(item.flag, **how)

    def parameters(self, signature: Signature, helps: Mapping[str, str], without: Sequence[str] = ()) -> None:
        """Add what a function takes: its positional parameters, and a flag for each keyword.

        Args:
            signature: the function's, as `read_signature` gives it.
            helps: name to help, for parameters of which the docstring does not know all.
            without: parameters that cannot be typed, such as functions.
        """
        for item in signature.parameters:
            if item.name in without:
                continue
            item = replace(item, help=helps.get(item.name, item.help))
            if item.keyword:
                self.flag(self, flag_name(item.name), **_flag(item))
                continue
            value, help = SHARED.get(item.name, (VALUES.get(item.name, item.name.upper()), item.help))
            one, some = (None, "+") if item.default is REQUIRED else ("?", "*")
            nargs = some if item.many else one
            self.add_argument(item.name, metavar=value, help=_escaped(help), nargs=nargs)
        if signature.prints:
            self.flag(self, "--json", action="store_true", help="print the result as one JSON object")

    def words(self) -> list[str]:
        """Name what is given without a flag, in its order."""
        return [action.dest for action in self._get_positional_actions()]

    def error(self, message: str) -> NoReturn:
        """Turn argparse's complaint into a sentence of ours."""
        if found := re.match(r"the following arguments are required: (.*)", message):
            raise NearfarError(f"{self.prog} needs {found[1]}, for example: {self.example}")
        if found := re.match(r"argument (\S+): expected (?:at least )?one argument", message):
            raise NearfarError(f"{found[1]} needs a value; see {self.prog} --help.")
        if found := re.match(r"argument (\S+): (takes .*)", message):
            raise NearfarError(f"{found[1]} {found[2]}.")
        raise NearfarError(f"{message.removeprefix('argument ')}; see {self.prog} --help.")

    def read(self, words: Sequence[str]) -> dict[str, Any]:
        """Read the command's words into the values that were typed, and nothing else.

        Args:
            words: the command line after the command's name.

        Returns:
            Name to value; settings have their own type and lie within their ranges.

        Raises:
            NearfarError: an unknown flag, a missing or superfluous word, or a value out of range.
        """
        for before, word in zip(("", *words), words, strict=False):
            flag = word.split("=", 1)[0]
            if re.match(r"--?[A-Za-z]", flag) and flag not in self.flags:
                asked = self._option_string_actions.get(before)
                if asked is not None and asked.nargs != 0 and not word.startswith("--"):
                    raise NearfarError(
                        f"{self.prog} has no flag {flag}; a value that begins with - is written "
                        f"{before}={word}"
                    )
                meant = by_meaning(self.command, flag, self.flags) or nearest(flag, self.flags[1:])
                raise NearfarError(f"{self.prog} has no flag {flag}; {meant}")
        known, extra = self.parse_known_args(list(words))
        if extra:
            raise NearfarError(f"unexpected argument {extra[0]!r}; type for example: {self.example}")
        values = dict(vars(known))
        for cls in self.classes:
            typed = {
                item.name: _convert(item, values[item.name])
                for item in settings_of(cls)
                if item.name in values
            }
            build(cls, typed)
            values.update(typed)
        return values


def _flag(item: Parameter) -> dict[str, Any]:
    """Say how `argparse` takes a function's keyword."""
    shown = item.default is not REQUIRED and item.default not in (None, (), "") and "bool" not in item.types
    note = f" (default {plain(item.default)})" if shown else ""
    how: dict[str, Any] = {"dest": item.name, "help": _escaped(item.help + note)}
    if item.types == {"bool"}:
        return {**how, "action": "store_true"}
    if item.types == {"bool", "str"}:  # a flag that may name a way
        return {**how, "nargs": "?", "const": True, "metavar": "NAME"}
    type_ = {"int": int, "float": float}.get(next(iter(item.types)), str) if len(item.types) == 1 else str
    value = "RUN" if item.name == "like" and not item.many else VALUES.get(item.name, HOLDERS[type_])
    how |= {"metavar": value, "type": _typed(type_)}
    how |= {"nargs": "+"} if item.many else {}
    return how | ({"required": True} if item.default is REQUIRED else {})


def _typed(type_: type) -> Callable[[str], Any]:
    """Make a reader of a flag's value."""

    def read(text: str) -> Any:
        try:
            return type_(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"takes {WORDS[type_]}, not {text!r}") from None

    return read


def _escaped(help: str) -> str:
    """Write a sentence of help so that `argparse` takes no sign of percent in it for a format."""
    return help.replace("%", "%%")


def describe(item: Setting, by_recipe: bool = False) -> str:
    """Say what a setting means, what it is by default, what it may be and where that comes from.

    Args:
        item: the setting.
        by_recipe: whether the recipe decides it, so that it has no default of its own.

    Returns:
        One line, as in "chance of a left-right flip (default 0.5; 0 to 1; SimCLR, appendix A)".
    """
    notes = []
    if by_recipe:
        notes.append("by recipe")
    elif item.default is not None:
        notes.append(f"default {plain(item.default)}")
    if item.low is not None and item.high is not None:
        notes.append(f"{item.low:g} to {item.high:g}")
    if item.source:
        notes.append(item.source)
    return f"{item.help} ({'; '.join(notes)})" if notes else item.help


def recipes_help(method: str | None) -> list[str]:
    """Write the table of recipes that ends the help of commands which train.

    Args:
        method: the method that is trained; None where there are several.

    Returns:
        Lines.
    """
    cells = [("recipe", *RECIPES), *recipe_table.rows(method)]
    widths = [max(map(len, column)) + 2 for column in zip(*cells, strict=True)]
    lines = [
        "".join(f"{word:{width}}" for word, width in zip(row, widths, strict=True)).rstrip() for row in cells
    ]
    what = f"set by the recipes for --method {method}" if method else "set by the recipes; methods may differ"
    gpu = f"vit for a transformer that is named, cifar-short up to {SMALL_SIDE} px, else imagenet"
    note = f"auto is cpu on a CPU; on a GPU {gpu}."
    own = f"--image-size: own is the images' own side, up to {SMALL_SIDE} px; larger images get the number."
    return [f"{what}:", *(f"  {line}" for line in [*lines, note, own])]


def plain(value: Any) -> str:
    """Write a value the way it is typed: yes and no, 512 128, 0.2."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return " ".join(plain(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _convert(item: Setting, text: Any) -> Any:
    """Give typed text the type of its setting."""
    if item.many:
        return tuple(_number(item, part) for part in text)
    return text if item.type is bool else _number(item, text)


def _number(item: Setting, text: str) -> Any:
    try:
        return item.type(text)
    except ValueError:
        raise NearfarError(f"{item.flag} takes {WORDS[item.type]}, not {text!r}.") from None


def exclusive(values: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse two settings that say the same thing in different ways.

    Args:
        values: what was typed.
        names: the settings of which one at most may be there.

    Raises:
        NearfarError: more than one is there.
    """
    given = [f"--{name}" for name in names if name in values]
    if len(given) > 1:
        listed = ", ".join(f"--{name}" for name in names[:-1])
        raise NearfarError(
            f"{' and '.join(given)} exclude each other; give one of {listed} and --{names[-1]}."
        )
