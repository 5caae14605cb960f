"""The command line: a few verbs, each a call of the public function of that name, whose result is printed.

Nothing heavy is imported before a command runs, so help and refusals come at once. Results go to
standard output, as text or with --json as one JSON object; progress and notes go to standard error.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nearfar

from .. import methods
from ..core import progress
from ..core.config import settings_of
from ..core.errors import NearfarError, nearest
from ..images.view_settings import Views
from ..training import recipe_table, recipes, settings
from . import parsers
from .flags import Parser, exclusive, recipes_help

LENGTHS = ("epochs", "steps", "minutes")
DATA = (
    "a folder of images; a .txt, .csv, .tsv or .parquet list of paths; a .npy or .npz array; .tar shards; "
    "cifar10, cifar10:test, stl10:unlabeled and the like; or hf:org/name"
)
STORE = "a folder such as photos.nf, s3://bucket/photos.nf or postgresql://user@host/database"
COLUMNS = "add columns from a .csv or .tsv, the first naming images by id or path"

MEASURED = {
    "--few-labels": "accuracy with 1, 2, 4, ... labels a class, 1 %% and 10 %%, over many draws",
    "--retrieval": "search by example: mean average precision, and hits among the first 1, 5 and 10",
    "--clusters": "whether k-means finds the classes by itself: accuracy, NMI, ARI",
    "--calibration": "whether the linear classifier is right as often as it says: ECE, and its bins",
    "--robustness": "accuracy on spoilt test images: noise, blur, weather, compression, at five strengths",
    "--augmented": "a linear classifier trained on augmented images, the encoder frozen (SimCLR's protocol)",
    "--finetune": "the encoder trained on, and its like from scratch; with --few-labels on few labels too",
    "--full": "all of these",
}


def _training(parser: Parser, words: Sequence[str], without: Sequence[str] = ()) -> None:
    """Add what commands that train one method share: the method, the recipe and every setting of a run."""
    learnt = f"what is learnt by: {', '.join(methods.METHODS)} (default simclr)"
    parser.flag(parser, "--method", metavar="NAME", help=learnt)
    named = f"settings that go together: auto, {', '.join(recipes.RECIPES)} (default auto); typed flags win"
    parser.flag(parser, "--recipe", metavar="NAME", help=named)
    method = _word_after(words, "--method") or "simclr"
    parser.by_recipe, parser.ending = recipe_table.by_recipe(method), recipes_help(method)
    shared = [item.name for item in settings_of(settings.Training) if item.name not in without]
    parser.settings("how long, how large, how fast", settings.Training, only=shared)
    parser.settings("views", Views)
    parser.settings(f"settings of --method {method}", methods.settings(method))


def _word_after(words: Sequence[str], flag: str) -> str:
    """Find a flag's value before the words are parsed: the method decides which flags there are."""
    for word, following in zip(words, (*words, "")[1:], strict=True):
        if word == flag or word.startswith(f"{flag}="):
            return following if word == flag else word.removeprefix(f"{flag}=")
    return ""


def _json_flag(parser: Parser) -> None:
    parser.flag(parser, "--json", action="store_true", help="print the result as one JSON object")


def check_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar check`."""
    parser = Parser(
        "check",
        "nearfar check photos/",
        "Tell what is in a collection, what is broken, and what pretraining would do. Trains nothing.",
    )
    parser.add_argument("data", metavar="DATA", help=DATA)
    _json_flag(parser)
    _training(parser, words)
    return parser


def pretrain_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar pretrain`."""
    parser = Parser(
        "pretrain",
        "nearfar pretrain photos/ --out runs/a --minutes 10",
        "Learn an encoder from unlabelled images. The same command again goes on with an unfinished run.",
    )
    parser.add_argument("data", metavar="DATA", help=DATA)
    parser.flag(parser, "--out", metavar="FOLDER", help="the run's folder (default: runs/DATA-METHOD)")
    parser.flag(parser, "--overwrite", action="store_true", help="start anew in a run folder that is in use")
    parser.flag(parser, "--like", metavar="RUN", help="repeat that run: its settings and its number of steps")
    _json_flag(parser)
    _training(parser, words)
    return parser


def evaluate_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar evaluate`."""
    parser = Parser(
        "evaluate",
        "nearfar evaluate runs/a --train labelled/train --test labelled/test",
        "Measure an encoder on labelled images by k-NN and by a linear classifier, beside raw pixels, an "
        "untrained encoder and chance. Labels are the names of the first-level folders, or a list's column.",
    )
    parser.add_argument(
        "run", metavar="RUN", nargs="+", help="the run's folder; several are compared in pairs"
    )
    parser.flag(parser, "--train", metavar="DATA", required=True, help="labelled images to fit and choose on")
    parser.flag(
        parser, "--test", metavar="DATA", required=True, help="labelled images, read once, at the end"
    )
    related = "a .csv of images and their groups, such as patients; a group stays on one side"
    parser.flag(parser, "--groups", metavar="FILE", help=related)
    _json_flag(parser)
    more = parser.add_argument_group("what else to measure")
    for flag, about in MEASURED.items():
        parser.flag(more, flag, action="store_true", help=about)
    second = "also k-NN and linear on a second labelled data set"
    parser.flag(more, "--transfer", nargs=2, metavar=("TRAIN", "TEST"), help=second)
    known = "also a network with ImageNet weights, as torchvision:resnet18 or NAME=FILE.safetensors"
    parser.flag(more, "--imagenet", metavar="NAME", help=known)
    parser.settings("how", settings.Training, only=("seed", "device"))
    return parser


def compare_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar compare`."""
    parser = Parser(
        "compare",
        "nearfar compare photos/ --methods simclr byol --minutes 5",
        "Train several methods under the same budget and evaluate all alike, over several seeds. The same "
        "command again goes on where it was interrupted. Without labels, label-free figures stand alone.",
    )
    parser.add_argument("data", metavar="DATA", help=DATA)
    known = f"two or more of {', '.join(methods.METHODS)}"
    parser.flag(parser, "--methods", metavar="NAME", nargs="+", required=True, help=known)
    parser.flag(parser, "--seeds", metavar="N", type=int, help="runs of each method (default 3)")
    parser.flag(parser, "--train", metavar="DATA", help="labelled images to fit and choose on")
    parser.flag(parser, "--test", metavar="DATA", help="labelled images, read once a run, at its end")
    parser.flag(parser, "--out", metavar="FOLDER", help="where everything goes (default runs/compare)")
    _json_flag(parser)
    named = f"settings that go together: auto, {', '.join(recipes.RECIPES)} (default auto); typed flags win"
    parser.flag(parser, "--recipe", metavar="NAME", help=named)
    parser.by_recipe, parser.ending = recipe_table.by_recipe(None), recipes_help(None)
    shared = [item.name for item in settings_of(settings.Training) if item.name != "seed"]
    parser.settings("how long, how large, how fast, for all", settings.Training, only=shared)
    parser.settings("views, for all", Views)
    return parser


def sweep_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar sweep`."""
    parser = Parser(
        "sweep",
        "nearfar sweep photos/ --minutes-each 3 --budget 1h",
        "Tell which settings matter on these images: temperature, batch, rate, crops, colours, head. Many "
        "short runs around a recipe; what is typed is not varied. The same command again goes on.",
    )
    parser.add_argument("data", metavar="DATA", help=DATA)
    each = "length of each run, in minutes (or --steps, or --epochs)"
    parser.flag(parser, "--minutes-each", metavar="TIME", help=each)
    parser.flag(parser, "--budget", metavar="TIME", help="time for all runs: 1h, 30m, or minutes")
    parser.flag(parser, "--trials", metavar="N", type=int, help="how many runs, instead of --budget")
    chosen = "labelled images: k-NN on a held-out part of them chooses, instead of a figure without labels"
    parser.flag(parser, "--train", metavar="DATA", help=chosen)
    parser.flag(parser, "--out", metavar="FOLDER", help="where everything goes (default runs/sweep)")
    _json_flag(parser)
    _training(parser, words, without=("minutes",))
    return parser


def report_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar report`."""
    parser = Parser(
        "report",
        "nearfar report runs/a --out report.html",
        "Write one HTML file about a run, or about several side by side: what was trained, on what, is it "
        "good, where does it fail, and how to repeat it. It opens from disk and needs no network.",
    )
    parser.add_argument("run", metavar="RUN", nargs="+", help="a run's folder; up to six")
    parser.flag(parser, "--out", metavar="FILE", help="the file (default report.html)")
    parser.flag(parser, "--data", metavar="DATA", help="the images, if they are no longer where they were")
    parser.flag(parser, "--train", metavar="DATA", help="labelled images, to judge neighbours and to fit on")
    parser.flag(parser, "--test", metavar="DATA", help="labelled images, to ask for and to test on")
    _json_flag(parser)
    return parser


def embed_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar embed`."""
    parser = Parser(
        "embed",
        "nearfar embed runs/a photos/ --out photos.parquet",
        "Turn images into vectors. The same command again goes on where it was interrupted.",
    )
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument("data", metavar="DATA", help=DATA)
    parser.flag(parser, "--out", metavar="FILE", help="a .parquet, .npz or .npy file")
    parser.flag(
        parser, "--store", metavar="STORE", help=f"instead, a vector store to bring up to date: {STORE}"
    )
    parser.flag(parser, "--columns", metavar="FILE", help=f"with --store: {COLUMNS}")
    gone = "with --store: delete images whose files are gone"
    parser.flag(parser, "--prune", action="store_true", help=gone)
    parser.flag(parser, "--labels", action="store_true", help="also write the labels")
    _json_flag(parser)
    parser.settings("how", settings.Training, only=("device",))
    return parser


def store_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar store`."""
    parser = Parser(
        "store",
        "nearfar store photos.nf --export photos.parquet",
        "Look into a vector store, and tend it. What is asked for is done in the order below.",
    )
    parser.add_argument("address", metavar="STORE", help=STORE)
    rows = "read rows from a .parquet, .npz or .csv file; the store is made where there is none"
    parser.flag(parser, "--import", metavar="FILE", dest="import_file", help=rows)
    parser.flag(parser, "--columns", metavar="FILE", help=COLUMNS)
    parser.flag(parser, "--delete", metavar="WHERE", help="delete images: \"label = 'cat' and width < 64\"")
    parser.flag(parser, "--compact", action="store_true", help="give back the room of what was deleted")
    written = "write all rows to a .parquet, .npz or .csv file"
    parser.flag(parser, "--export", metavar="FILE", dest="export_file", help=written)
    _json_flag(parser)
    return parser


def methods_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar methods`."""
    parser = Parser(
        "methods",
        "nearfar methods",
        "List what can be learnt by: each method's idea, its paper, what it needs and when to choose it.",
    )
    _json_flag(parser)
    return parser


def demo_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar demo`."""
    parser = Parser(
        "demo",
        "nearfar demo",
        "Draw a few thousand small pictures, then check, pretrain, evaluate, embed and report as on yours.",
    )
    parser.flag(parser, "--out", metavar="FOLDER", help="where to (default demo)")
    _json_flag(parser)
    parser.settings("how", settings.Training, only=("minutes", "seed"))
    return parser


COMMANDS: dict[str, Callable[[Sequence[str]], Parser]] = {
    "check": check_parser,
    "pretrain": pretrain_parser,
    "compare": compare_parser,
    "sweep": sweep_parser,
    "evaluate": evaluate_parser,
    "report": report_parser,
    "embed": embed_parser,
    "store": store_parser,
    **parsers.COMMANDS,
    "methods": methods_parser,
    "demo": demo_parser,
}
FUNCTIONS = {
    "methods": "catalogue",
    "label-errors": "label_errors",
    "map": "image_map",
}  # where the public function has another name than its command


def overview() -> str:
    """Write what `nearfar --help` shows: every command by its example and its purpose."""
    lines = ["From a folder of images to an encoder you can trust.", ""]
    for make in COMMANDS.values():
        parser = make(())
        lines += [f"  {parser.example}", f"      {str(parser.description).split('. ')[0].rstrip('.')}."]
    lines += ["", "nearfar COMMAND --help shows a command's flags; --version the version."]
    return "\n".join(lines)


def _done(command: str, result: Any) -> str:
    """Write a result as a person reads it."""
    if command == "pretrain":
        return f"{result.path}\nnext: nearfar evaluate {result.path} --train LABELLED --test LABELLED"
    if command == "embed" and hasattr(result, "vectors"):
        return f"{result.path}: {len(result.ids):,} vectors of {result.vectors.shape[1]} numbers"
    return str(result.table() if command in ("evaluate", "compare", "sweep") else result)


def _run(words: Sequence[str]) -> int:
    """Carry out one command line.

    Args:
        words: the command line after `nearfar`.

    Returns:
        The exit status.

    Raises:
        NearfarError: the user can mend it.
    """
    if not words or words[0] in ("--help", "-h", "help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(f"nearfar {nearfar.__version__}")
        return 0
    command, rest = words[0], words[1:]
    if command not in COMMANDS:
        raise NearfarError(f"There is no command {command!r}; {nearest(command, COMMANDS)}")
    parser = COMMANDS[command](rest)
    values = parser.read(rest)
    if command == "embed" and not {"out", "store"} & {*values}:
        raise NearfarError(f"nearfar embed needs --out FILE or --store STORE, for example: {parser.example}")
    if command in ("check", "pretrain", "compare", "sweep"):
        exclusive(values, LENGTHS)
        if values.get("recipe", "auto") not in ("auto", *recipes.RECIPES):
            raise NearfarError(
                f"There is no recipe {values['recipe']!r}; {nearest(values['recipe'], recipes.RECIPES)}"
            )
    as_json = values.pop("json", False)
    first: list[Any] = []
    for value in [values.pop(name) for name in parser.words()]:
        first += value if isinstance(value, list) else [value]
    main_process = os.environ.get("RANK", "0") == "0"
    progress.show(main_process)
    if command == "demo":  # not a part of the library
        from ..demo.demo import demo as function
    else:
        function = getattr(nearfar, FUNCTIONS.get(command, command))
    result = function(*first, **values)
    if main_process and result is not None:  # a page that was served leaves nothing to print
        print(json.dumps(result.to_json()) if as_json else _done(command, result))
    return 0


def _is_text(word: str) -> bool:
    """Tell whether a word of the command line was UTF-8; Python keeps other bytes as halves of characters."""
    return not any("\ud800" <= letter <= "\udfff" for letter in word)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and turn every ending into an exit status.

    Args:
        words: the command line after `nearfar`; None means this process's own.

    Returns:
        0 when done, 2 for what the user can mend, 130 for Ctrl-C, 141 when the reader of a pipe went away.
    """
    words = sys.argv[1:] if words is None else words
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is shown as \xe9
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _run(words)
        sys.stdout.flush()
        return status
    except NearfarError as error:
        print(f"nearfar: {error}", file=sys.stderr)
        return 2
    except UnicodeEncodeError:
        strange = [word for word in words if not _is_text(word)]
        if not strange:
            raise
        print(f"nearfar: {strange[0]!r} is not UTF-8 text; name it as nearfar lists it.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Nobody reads any more: send what is left nowhere, so that Python's own flush at exit stays silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno == errno.ENOSPC:
            print("nearfar: A disk is full; free some space and run the same command again.", file=sys.stderr)
            return 2
        if error.filename is None:
            raise
        print(f"nearfar: cannot use {Path(os.fsdecode(error.filename))}: {error.strerror}.", file=sys.stderr)
        return 2
