"""The parsers of the commands that ask a vector store; no torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..training import settings
from .flags import Parser

WAYS = "auto (by the number of labels), typical, margin, k-center or random"
STORE = "a vector store: photos.nf, s3://..., postgresql://..."


def _asks(command: str, example: str, about: str) -> Parser:
    """Start the parser of a command that asks a store: what all of them take."""
    parser = Parser(command, example, about)
    parser.add_argument("store", metavar="STORE", help=STORE)
    chosen = "a condition on its columns: \"site = 'A' and width >= 64\""
    parser.flag(parser, "--where", metavar="CONDITION", help=chosen)
    parser.flag(parser, "--out", metavar="FILE", help="a .csv, .json or .png file; .png is a contact sheet")
    parser.flag(parser, "--json", action="store_true", help="print the result as one JSON object")
    return parser


def _run_flag(parser: Parser) -> None:
    parser.flag(parser, "--run", metavar="RUN", help="the run that made the store, if it has moved")


def search_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar search`."""
    parser = _asks(
        "search",
        "nearfar search photos.nf --image cat.jpg",
        "Find the images most like one or several examples, and unlike others.",
    )
    parser.flag(parser, "--image", metavar="FILE", help="an image file to find the like of")
    parser.flag(parser, "--id", metavar="ID", help="an image of the store to find the like of")
    several = "more examples: ids of the store, or files"
    parser.flag(parser, "--like", metavar="IMAGE", nargs="+", help=several)
    parser.flag(parser, "--dislike", metavar="IMAGE", nargs="+", help="images to keep away from, likewise")
    parser.flag(parser, "--count", metavar="N", type=int, help="images to list (default 20)")
    _run_flag(parser)
    return parser


def label_errors_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar label-errors`."""
    parser = _asks(
        "label-errors",
        "nearfar label-errors photos.nf --out doubtful.png",
        "List the labels that are most likely wrong, each with a better one; estimate how many there are.",
    )
    parser.flag(parser, "--column", metavar="NAME", help="the column with the labels (default label)")
    parser.flag(parser, "--count", metavar="N", type=int, help="labels to list (default 100)")
    parser.settings("how", settings.Training, only=("seed",))
    return parser


def classes_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar classes`."""
    parser = _asks(
        "classes",
        "nearfar classes photos.nf --examples examples/ --save kind",
        "Name the class of every image by a few examples of each class, without training; images far from "
        "all examples are none of these.",
    )
    shown = "images with labels: a folder with a folder for each class, of one image or more"
    parser.flag(parser, "--examples", metavar="DATA", required=True, help=shown)
    spread = "let names spread from image to image over a graph of neighbours"
    parser.flag(parser, "--propagate", action="store_true", help=spread)
    away = "share of images of these classes that may be turned away as none of these (default 0.05; 0: none)"
    parser.flag(parser, "--reject", metavar="SHARE", type=float, help=away)
    parser.flag(parser, "--save", metavar="COLUMN", help="also write the names to this column of the store")
    _run_flag(parser)
    return parser


def suggest_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar suggest`."""
    parser = _asks(
        "suggest",
        "nearfar suggest photos.nf --count 100 --out next.csv",
        "Suggest which images to label next: typical ones while labels are few, later those in doubt.",
    )
    parser.flag(parser, "--count", metavar="N", type=int, help="images to suggest (default 100)")
    there = "the column with the labels there are (default label)"
    parser.flag(parser, "--column", metavar="NAME", help=there)
    parser.flag(parser, "--way", metavar="WAY", help=f"how to choose: {WAYS}")
    parser.settings("how", settings.Training, only=("seed",))
    return parser


def anomalies_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar anomalies`."""
    parser = _asks(
        "anomalies",
        "nearfar anomalies photos.nf --out odd.png",
        "List the images that are most unlike the others, or unlike those known to be normal; higher is "
        "stranger.",
    )
    known = "a condition that normal images meet; half of them set the threshold"
    parser.flag(parser, "--normal", metavar="CONDITION", help=known)
    odd = "a condition that known strange images meet, to say how well they are found"
    parser.flag(parser, "--strange", metavar="CONDITION", help=odd)
    ways = "knn, mahalanobis or forest (default knn)"
    parser.flag(parser, "--way", metavar="WAY", help=ways)
    near = "the neighbour whose distance counts, for knn (default 5)"
    parser.flag(parser, "--k", metavar="N", type=int, help=near)
    rate = "share of normal images that may be flagged (default 0.05)"
    parser.flag(parser, "--false-alarms", metavar="SHARE", type=float, help=rate)
    parser.flag(parser, "--count", metavar="N", type=int, help="images to list (default 100)")
    parser.flag(parser, "--save", metavar="COLUMN", help="also write the scores to this column of the store")
    where = "write heat maps of the listed images to this folder: where each is strange"
    parser.flag(parser, "--heat-maps", metavar="FOLDER", help=where)
    _run_flag(parser)
    parser.settings("how", settings.Training, only=("seed",))
    return parser


def duplicates_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar duplicates`."""
    parser = _asks(
        "duplicates",
        "nearfar duplicates photos.nf --out copies.png",
        "List images that are there more than once, byte for byte or nearly, in groups with one to keep; or "
        "those that another store has too.",
    )
    other = "another store of the same run: which images of the first are in it?"
    parser.flag(parser, "--against", metavar="STORE", help=other)
    near = "nearness from which two images are near copies, up to 1 (default 0.94)"
    parser.flag(parser, "--alike", metavar="X", type=float, help=near)
    kept = "also write the id of the one to keep, or of the copy, to this column of the store"
    parser.flag(parser, "--save", metavar="COLUMN", help=kept)
    return parser


def clusters_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar clusters`."""
    parser = _asks(
        "clusters",
        "nearfar clusters photos.nf --save cluster --out clusters.png",
        "Sort images into clusters, list the most typical of each, and say how stable they are.",
    )
    parser.flag(parser, "--way", metavar="WAY", help="kmeans or hdbscan (default kmeans)")
    many = "clusters, for kmeans (default: the number that fits best)"
    parser.flag(parser, "--number", metavar="N", type=int, help=many)
    few = "images in a cluster at least, for hdbscan (default 10)"
    parser.flag(parser, "--least", metavar="N", type=int, help=few)
    parser.flag(
        parser, "--save", metavar="COLUMN", help="also write the clusters to this column of the store"
    )
    parser.settings("how", settings.Training, only=("seed",))
    return parser


def map_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar map`."""
    parser = _asks(
        "map",
        "nearfar map photos.nf --out map.png",
        "Lay images out like beside like, and write their places to the columns x and y; .png is a map of "
        "thumbnails.",
    )
    parser.flag(parser, "--way", metavar="WAY", help="tsne or umap (default tsne)")
    parser.settings("how", settings.Training, only=("seed",))
    return parser


def explore_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar explore`."""
    parser = Parser(
        "explore",
        "nearfar explore photos.nf",
        "Serve a page to look at a store with, in a browser: map, lists, search, labels. Ctrl-C ends it.",
    )
    parser.add_argument("store", metavar="STORE", help=STORE)
    _run_flag(parser)
    labels = "the column that labels are read from and written to; it is made if missing (default label)"
    parser.flag(parser, "--column", metavar="NAME", help=labels)
    reach = "an address of this machine to serve at (default 127.0.0.1, within its own reach only)"
    parser.flag(parser, "--host", metavar="ADDRESS", help=reach)
    parser.flag(
        parser, "--port", metavar="N", type=int, help="its port (default: the first free from 8200 on)"
    )
    parser.flag(parser, "--browser", action="store_true", help="open the page in a browser too")
    return parser


def export_parser(words: Sequence[str]) -> Parser:
    """Make the parser of `nearfar export`."""
    parser = Parser(
        "export",
        "nearfar export photos.nf --to tensorboard",
        "Write a store for a viewer that you use already, or as a table; say how to open it.",
    )
    parser.add_argument("store", metavar="STORE", help=STORE)
    viewers = "atlas (Embedding Atlas), tensorboard, fiftyone, csv or parquet"
    parser.flag(parser, "--to", metavar="VIEWER", required=True, help=viewers)
    where = "the file, or the folder (default: beside the store, by its name)"
    parser.flag(parser, "--out", metavar="PATH", help=where)
    parser.flag(parser, "--json", action="store_true", help="print the result as one JSON object")
    return parser


COMMANDS: dict[str, Callable[[Sequence[str]], Parser]] = {
    "search": search_parser,
    "label-errors": label_errors_parser,
    "classes": classes_parser,
    "suggest": suggest_parser,
    "anomalies": anomalies_parser,
    "duplicates": duplicates_parser,
    "clusters": clusters_parser,
    "map": map_parser,
    "explore": explore_parser,
    "export": export_parser,
}
