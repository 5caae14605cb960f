"""The command line: each command calls the public function of its name and prints the result.

Nothing heavy is imported before a command runs, so help and errors come at once. Results go to standard
output, as text or with --json as one JSON object; progress and notes go to standard error.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nearfar

from ..core import progress
from ..core.atomic import FULL
from ..core.errors import NearfarError, nearest
from ..core.imports import large_imports
from ..core.redact import redact_text
from ..core.text import counted, isolated, printable
from ..evaluation import PARTS
from ..training import recipes
from . import interrupted
from .commands import COMMANDS, FUNCTIONS, PRIVATE, signature_of
from .flags import exclusive, flag_name
from .synonyms import of_command

OUTPUTS = ("out", "export_file", "sheet", "heat_maps")  # what names a place to write to
LENGTHS = ("epochs", "steps", "minutes")


def overview() -> str:
    """Write what `nearfar --help` shows: every command by its example and its purpose."""
    lines = ["From a folder of unlabelled images to an encoder.", ""]
    for command in COMMANDS:
        signature = signature_of(command)
        first = signature.about.split(". ")[0]
        lines += [f"  {signature.example}", f"      {first if first.endswith(('.', '?')) else f'{first}.'}"]
    lines += ["", "nearfar COMMAND --help shows a command's flags; --version the version."]
    return "\n".join(lines)


def _done(command: str, result: Any) -> str:
    """Write a result as a person reads it."""
    if command == "pretrain":
        run = shlex.quote(str(result.path))
        return f"{result.path}\nnext: nearfar evaluate {run} --train LABELLED --test LABELLED"
    if command in ("adopt", "combine"):
        facts = result.facts()
        return (
            f"{result.path}: {result.encoder.name}, {facts['parameters']:,} parameters, images of "
            f"{facts['image_size']} px, {result.encoder.dim} numbers an image, licence {facts['licence']}"
        )
    if command == "embed" and hasattr(result, "vectors"):
        return f"{result.path}: {counted(len(result.ids), 'vector')} of {result.vectors.shape[1]} numbers"
    return str(result.table() if command in ("evaluate", "compare", "sweep") else result)


def _run(words: Sequence[str]) -> int:
    """Carry out one command line.

    Args:
        words: the command line after `nearfar`.

    Returns:
        The exit status.

    Raises:
        NearfarError: the user can fix it.
    """
    if not words or words[0] in ("--help", "-h", "help"):
        print(overview())
        return 0
    try:
        os.getcwd()
    except FileNotFoundError:  # libraries end the process where there is none
        raise NearfarError("the current folder was deleted; change to another one: cd ~") from None
    if words[0] == "--version":
        print(f"nearfar {nearfar.__version__}")
        return 0
    command, rest = words[0], words[1:]
    if command not in COMMANDS:
        raise NearfarError(f"no command {command!r}; {of_command(command) or nearest(command, COMMANDS)}")
    parser = COMMANDS[command](rest)
    values = parser.read(rest)
    empty = next((name for name, value in values.items() if value == "" and name not in parser.words()), None)
    if empty is not None:
        raise NearfarError(
            f"{flag_name(empty)} is empty; give it a value or leave it out: perhaps a variable of the shell "
            "is not set."
        )
    _refuse_to_replace(values)
    if command == "embed" and not {"out", "store"} & {*values}:
        raise NearfarError(f"nearfar embed needs --out FILE or --store STORE, for example: {parser.example}")
    if command in ("check", "views", "pretrain", "compare", "sweep"):
        exclusive(values, LENGTHS)
        if values.get("recipe", "auto") not in ("auto", *recipes.RECIPES):
            raise NearfarError(
                f"no recipe {values['recipe']!r}; {nearest(values['recipe'], recipes.RECIPES)}"
            )
    if command == "evaluate":
        picked = [name for name in PARTS if values.pop(name, False)]
        values["parts"] = "all" if values.pop("full", False) else picked
    as_json = values.pop("json", False)
    first: list[Any] = []
    for value in [values.pop(name) for name in parser.words() if name in values]:
        first += value if isinstance(value, list) else [value]
    main_process = _is_main_process()
    progress.show(main_process)
    name = FUNCTIONS.get(command, command)
    with large_imports():
        if name in PRIVATE:
            function = getattr(importlib.import_module(f"nearfar.{PRIVATE[name]}"), name)
        else:
            function = getattr(nearfar, name)
    result = function(*first, **values)
    if main_process and result is not None:  # a page that was served leaves nothing to print
        told = (
            json.dumps(result.to_json())
            if as_json
            else isolated(printable(_done(command, result), keep="\n"))
        )
        print(told)
    return 2 if getattr(result, "obstacle", "") else 0  # of a check: nothing can be trained


def _refuse_to_replace(values: Mapping[str, Any]) -> None:
    """Refuse to write over what is read: the result would take the place of a user's own file or folder."""
    for name in OUTPUTS:
        for other, value in values.items():
            for read in value if isinstance(value, list) else [value]:
                if name in values and other not in OUTPUTS and _is_same(values[name], read):
                    raise NearfarError(
                        f"{flag_name(name)} {values[name]} takes the place of what this command reads; name "
                        "another."
                    )


def _is_same(written: str, read: Any) -> bool:
    """Tell whether two words of a command line name the same file or folder."""
    try:
        return isinstance(read, str) and os.path.samefile(written, read)
    except (OSError, ValueError):  # one is not there, or is no path
        return False


def _is_main_process() -> bool:
    """Tell whether this process prints: of those that torchrun launched, the first one.

    What is left over of a launch in the environment, such as RANK alone, silences nothing.
    """
    launch = [os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")]
    return not all(launch) or launch[0] == "1" or launch[1] == "0"


def _is_text(word: str) -> bool:
    """Tell whether a word of the command line was UTF-8; Python keeps other bytes as halves of characters."""
    return not any("\ud800" <= letter <= "\udfff" for letter in word)


def _open_closed() -> None:
    """Open what of standard input, output and error is closed, so that no file gets its number."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # what is printed goes nowhere
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and turn every ending into an exit status.

    Args:
        words: the command line after `nearfar`; None means this process's own.

    Returns:
        0 when done, 1 for a fault of nearfar's own, 2 for what the user can fix, 130 for Ctrl-C, 141 when the
        reader of a pipe went away.
    """
    words = sys.argv[1:] if words is None else words
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is shown as \xe9
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _run(words)
        sys.stdout.flush()
        return status
    except NearfarError as error:
        progress.write(f"nearfar: {printable(redact_text(str(error), *words), keep=chr(10))}\n")
        return 2
    except UnicodeEncodeError as error:
        odd = [word for word in words if not _is_text(word)]
        if not odd:
            return _fault(error)
        progress.write(f"nearfar: {odd[0]!r} is not UTF-8 text; type the name as nearfar lists it.\n")
        return 2
    except KeyboardInterrupt as error:
        return interrupted.end(words, error)
    except BrokenPipeError:
        # Nobody reads any more: send what is left nowhere, so that Python's own flush at exit stays silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno in FULL:
            progress.write("nearfar: a disk is full; free some space and run the same command again.\n")
            return 2
        if not isinstance(error.filename, (str, bytes)):
            return _fault(error)
        name = printable(os.fsdecode(error.filename))
        progress.write(f"nearfar: cannot use {name}: {error.strerror}.\n")
        return 2
    except MemoryError:
        progress.write("nearfar: there is not enough memory; give fewer or smaller images, or free some.\n")
        return 2
    except Exception as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):  # torch's, on a CPU
            progress.write("nearfar: there is not enough memory for these settings; give smaller ones.\n")
            return 2
        return _fault(error)


def _fault(error: Exception) -> int:
    """Say in a line what went wrong in nearfar itself, and where; the traceback only if it is asked for."""
    if os.environ.get("NEARFAR_TRACEBACK"):
        traceback.print_exception(error)
        return 1
    package = str(Path(nearfar.__file__).parent)
    ours = [at for at in traceback.extract_tb(error.__traceback__) if at.filename.startswith(package)]
    where = f" ({Path(ours[-1].filename).name}, line {ours[-1].lineno})" if ours else ""
    told = printable(redact_text(f"{type(error).__name__}: {error}".splitlines()[0][:300]))
    progress.write(
        f"nearfar: this is a fault of nearfar's own: {told}{where}; set NEARFAR_TRACEBACK=1 to see all of "
        "it, and report it.\n"
    )
    return 1
