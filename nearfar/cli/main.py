"""The command line: each command calls the public function of its name and prints the result.

Most parsers are read from the source of that function; see `signatures`. Nothing heavy is imported before a
command runs, so help and errors come at once. Results go to standard output, as text or with --json as one
JSON object; progress and notes go to standard error.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nearfar

from .. import finetuning, methods
from ..core import progress
from ..core.atomic import FULL
from ..core.config import settings_of
from ..core.errors import NearfarError, nearest
from ..core.imports import large_imports
from ..core.redact import redact_text
from ..core.text import counted, isolated, printable
from ..data.modalities import IMAGES, modality
from ..data.modality import Modality
from ..data.open import recognise, with_captions
from ..evaluation import PARTS
from ..finetuning.settings import Tuning
from ..queries import QUERIES
from ..training import method_choice, recipe_table, recipes, settings
from . import interrupted
from .flags import Parser, exclusive, recipes_help
from .signatures import Signature, read_signature

LENGTHS = ("epochs", "steps", "minutes")
# Command to function, where the names differ; and function to module, where it is not public.
FUNCTIONS = {
    "methods": "catalogue",
    "views": "preview",
    "learning-curve": "learning_curve",
    **{command: name for command, name in QUERIES.items() if command != name},
}
OWN = ("seed", "share", "mode", "scratch")  # settings of a fine-tuning that a learning curve sets itself
PRIVATE = {"demo": "demo.demo"}


def _signature(command: str) -> Signature:
    """Read what a command takes from the source of its function."""
    name = FUNCTIONS.get(command, command)
    return read_signature(PRIVATE.get(name) or nearfar._PUBLIC[name], name)


def _default(name: str) -> Any:
    """Read the default of one of `pretrain`'s keywords."""
    return next(item.default for item in _signature("pretrain").parameters if item.name == name)


def _tables() -> dict[str, str]:
    """Write the help of the parameters whose values are the names of a table."""
    known = ", ".join(methods.METHODS)
    return {
        "methods": f"one or more of {known}",
        "method": f"self-supervised method: auto (simclr; for captions siglip or clip), {known}",
        "recipe": f"preset of settings: auto, {', '.join(recipes.RECIPES)}; explicit flags override it",
    }


def _function_parser(command: str, helps: Mapping[str, str], without: Sequence[str] = ()) -> Parser:
    """Make a parser of what the command's function takes."""
    signature = _signature(command)
    parser = Parser(command, signature.example, signature.about)
    parser.parameters(signature, helps, without)
    return parser


def _reader(command: str) -> Callable[[Sequence[str]], Parser]:
    """Give what makes the parser of a command that takes nothing but what its function takes."""
    return lambda words: _function_parser(command, {})


def _settings(parser: Parser, words: Sequence[str], without: Sequence[str] = ()) -> None:
    """Add every setting of a run: of training, of the views and of the method that the words name."""
    method = _method_of(words)
    parser.by_recipe, parser.ending = recipe_table.by_recipe(method), recipes_help(method)
    shared = [item.name for item in settings_of(settings.Training) if item.name not in without]
    parser.settings("training", settings.Training, only=shared)
    parser.settings("views", _kind_of(words).views)
    parser.settings(f"settings of --method {method}", methods.settings(method))


def _word_after(words: Sequence[str], flag: str) -> str:
    """Find a flag's value before the words are parsed: the method decides which flags there are."""
    for word, following in zip(words, (*words, "")[1:], strict=True):
        if word == flag or word.startswith(f"{flag}="):
            return following if word == flag else word.removeprefix(f"{flag}=")
    return ""


def _method_of(words: Sequence[str]) -> str:
    """Find the method that the words name, before they are parsed, or the usual one of their data."""
    if (named := _word_after(words, "--method")) not in ("", method_choice.AUTO):
        return named
    given = {"modality": _word_after(words, "--modality") or None}
    data = (word for word in words if not word.startswith("-") and with_captions(word))
    return method_choice.usual_method(next(data, None), given)


def _kind_of(words: Sequence[str]) -> Modality:
    """Find the kind of data that the words name, before they are parsed: it decides which views there are."""
    if (asked := _word_after(words, "--modality")) not in ("", "auto"):
        return modality(asked)
    with contextlib.suppress(NearfarError):  # of an unknown method, which the command itself names
        only = methods.kind(_method_of(words))
        if only is not None and modality(only).by_method:
            return modality(only)
    flags = (at for at, word in enumerate(words) if word.startswith("-"))
    # What comes before the flags is data; else it is among their values, which are nothing to look at.
    named = words[: next(flags, None)] or [word for word in words if not word.startswith("-")]
    for word in named:
        with contextlib.suppress(NearfarError):  # of several kinds, which the command itself says
            if (name := recognise(word)) != IMAGES:
                return modality(name)
    return modality(IMAGES)


def check_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar check`."""
    parser = _function_parser("check", _tables())
    _settings(parser, words)
    return parser


def views_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar views`."""
    parser = _function_parser("views", _tables())
    method = _method_of(words)
    parser.by_recipe, parser.ending = recipe_table.by_recipe(method), recipes_help(method)
    parser.settings("training", settings.Training, only=("image_size", "seed", "max_pixels"))
    parser.settings("views", _kind_of(words).views)
    return parser


def pretrain_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar pretrain`."""
    parser = _function_parser("pretrain", _tables(), without=("should_stop",))
    _settings(parser, words)
    return parser


def evaluate_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar evaluate`."""
    grouped = ("parts", "transfer", "seed", "device")
    parser = _function_parser("evaluate", {}, without=(*grouped, "batch_size", "baselines"))
    more = parser.add_argument_group("what else to measure")
    for name, entry in PARTS.items():
        flag = f"--{name.replace('_', '-')}"
        parser.flag(more, flag, action="store_true", help=entry.help.replace("%", "%%"))
    parser.flag(more, "--full", action="store_true", help="all of these")
    second = "also k-NN and linear on a second labelled data set"
    parser.flag(more, "--transfer", nargs=2, metavar=("TRAIN", "TEST"), help=second)
    parser.settings("how", settings.Training, only=("seed", "device"))
    return parser


def finetune_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar finetune`."""
    helps = {"task": f"what is learnt: {', '.join(finetuning.TASKS)}"}
    parser = _function_parser("finetune", helps)
    task = _word_after(words, "--task") or "classify"
    parser.settings("training", Tuning)
    parser.settings(f"settings of --task {task}", finetuning.task_settings(task))
    return parser


def learning_curve_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar learning-curve`."""
    helps = {"task": f"what is learnt: {', '.join(finetuning.TASKS)}"}
    parser = _function_parser("learning-curve", helps)
    task = _word_after(words, "--task") or "classify"
    shared = [item.name for item in settings_of(Tuning) if item.name not in OWN]
    parser.settings("training, the same for all", Tuning, only=shared)
    parser.settings(f"settings of --task {task}", finetuning.task_settings(task))
    return parser


def predict_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar predict`."""
    parser = _function_parser("predict", {})
    for task in finetuning.TASKS:
        parser.settings(f"of a run of --task {task}", finetuning.task_settings(task, "Predicting"))
    return parser


def compare_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar compare`."""
    parser = _function_parser("compare", _tables())
    about = f"{_tables()['recipe']} (default {_default('recipe')})"
    parser.flag(parser, "--recipe", metavar="NAME", help=about)
    parser.by_recipe, parser.ending = recipe_table.by_recipe(None), recipes_help(None)
    shared = [item.name for item in settings_of(settings.Training) if item.name != "seed"]
    parser.settings("training, the same for all", settings.Training, only=shared)
    parser.settings("views, the same for all", _kind_of(words).views)
    return parser


def sweep_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar sweep`."""
    parser = _function_parser("sweep", _tables())
    _settings(parser, words, without=("minutes",))
    return parser


COMMANDS: dict[str, Callable[[Sequence[str]], Parser]] = {
    "check": check_parser,
    "views": views_parser,
    "pretrain": pretrain_parser,
    "compare": compare_parser,
    "sweep": sweep_parser,
    "evaluate": evaluate_parser,
    "finetune": finetune_parser,
    "predict": predict_parser,
    "learning-curve": learning_curve_parser,
    **{
        command: _reader(command)
        for command in (
            *("sts", "passages", "pairs", "report", "explain", "adopt", "embed", "store"),
            *(*QUERIES, "explore", "methods", "demo"),
        )
    },
}
"""Name of each command, in the order of the help, to what makes its parser from the words that follow it."""


def overview() -> str:
    """Write what `nearfar --help` shows: every command by its example and its purpose."""
    lines = ["From a folder of unlabelled images to an encoder.", ""]
    for command in COMMANDS:
        signature = _signature(command)
        lines += [f"  {signature.example}", f"      {signature.about.split('. ')[0].rstrip('.')}."]
    lines += ["", "nearfar COMMAND --help shows a command's flags; --version the version."]
    return "\n".join(lines)


def _done(command: str, result: Any) -> str:
    """Write a result as a person reads it."""
    if command == "pretrain":
        return f"{result.path}\nnext: nearfar evaluate {result.path} --train LABELLED --test LABELLED"
    if command == "adopt":
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
        raise NearfarError(f"no command {command!r}; {nearest(command, COMMANDS)}")
    parser = COMMANDS[command](rest)
    values = parser.read(rest)
    empty = next((name for name, value in values.items() if value == "" and name not in parser.words()), None)
    if empty is not None:
        raise NearfarError(
            f"--{empty.replace('_', '-')} is empty; give it a value or leave it out: perhaps a variable of "
            "the shell is not set."
        )
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
