"""The commands: each with the function that it calls, and what makes its parser.

Most parsers are read from the source of that function; see `signatures`. Some depend on the words themselves:
the method and the kind of data decide which settings there are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import nearfar

from .. import finetuning, methods
from ..core.config import settings_of
from ..core.errors import NearfarError
from ..data.modalities import IMAGES, modality
from ..data.modality import Modality
from ..data.open import recognise, with_captions
from ..evaluation import PARTS
from ..finetuning.settings import Tuning
from ..queries import QUERIES
from ..training import method_choice, recipe_table, recipes, settings
from .flags import Parser, flag_name, recipes_help
from .signatures import Signature, read_signature

# Command to function, where the names differ; and function to module, where it is not public.
FUNCTIONS = {
    "methods": "catalogue",
    "views": "preview",
    "learning-curve": "learning_curve",
    **{command: name for command, name in QUERIES.items() if command != name},
}
OWN = ("seed", "share", "mode", "scratch")  # settings of a fine-tuning that a learning curve sets itself
PRIVATE = {"demo": "demo.demo"}


def signature_of(command: str) -> Signature:
    """Read what a command takes from the source of its function."""
    name = FUNCTIONS.get(command, command)
    return read_signature(PRIVATE.get(name) or nearfar._PUBLIC[name], name)


def _default(name: str) -> Any:
    """Read the default of one of `pretrain`'s keywords."""
    return next(item.default for item in signature_of("pretrain").parameters if item.name == name)


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
    signature = signature_of(command)
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
    found = ""  # of a flag that is there twice the last counts
    for word, following in zip(words, (*words, "")[1:], strict=True):
        if word == flag or word.startswith(f"{flag}="):
            found = following if word == flag else word.removeprefix(f"{flag}=")
    return found


def _data_of(words: Sequence[str]) -> list[str]:
    """Find the words that may name data, before they are parsed.

    What comes before the flags is data; else it is among their values, which are nothing to look at.
    """
    flags = (at for at, word in enumerate(words) if word.startswith("-"))
    return [*words[: next(flags, None)]] or [word for word in words if not word.startswith("-")]


def _method_of(words: Sequence[str]) -> str:
    """Find the method that the words name, before they are parsed, or the usual one of their data."""
    if (named := _word_after(words, "--method")) not in ("", method_choice.AUTO):
        return named
    given = {"modality": _word_after(words, "--modality") or None}
    data = (word for word in _data_of(words) if with_captions(word))
    return method_choice.usual_method(next(data, None), given)


def _kind_of(words: Sequence[str]) -> Modality:
    """Find the kind of data that the words name, before they are parsed: it decides which views there are."""
    if (asked := _word_after(words, "--modality")) not in ("", "auto"):
        return modality(asked)
    with contextlib.suppress(NearfarError):  # of an unknown method, which the command itself names
        only = methods.kind(_method_of(words))
        if only is not None and modality(only).by_method:
            return modality(only)
    for word in _data_of(words):
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
    parser.settings("training", settings.Training, only=("modality", "image_size", "seed", "max_pixels"))
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
        parser.flag(more, flag_name(name), action="store_true", help=entry.help.replace("%", "%%"))
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
            *("sts", "passages", "pairs", "report", "explain", "adopt", "combine", "embed", "store"),
            *(*QUERIES, "explore", "methods", "demo"),
        )
    },
}
"""Name of each command, in the order of the help, to what makes its parser from the words that follow it."""
