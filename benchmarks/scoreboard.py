"""Runs the subjects, prints what they find, and keeps results.md and the other pages, for benchmarks/run."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from . import measure, table

PAGE = Path(__file__).parent / "results.md"
PAGES = {name: PAGE.with_name(f"{name}.md") for name in ("gpu", "shared")}  # which have a page of their own
SUBJECTS = {
    "views": "Views",
    "feed": "The feed",
    "loss": "The loss",
    "step": "The step",
    "accuracy": "Accuracy after ten minutes",
    "neighbours": "k-NN evaluation",
    "start": "Starting",
    "gpu": "On a GPU",
    "shared": "Beside another program",
}
USUAL = ("views", "feed", "loss", "step", "neighbours", "start")


@dataclass(frozen=True)
class Asked:
    """What was asked for.

    Attributes:
        quick: tiny sizes, one round: to see that everything works.
        thorough: more rounds, and the sizes that take minutes.
        rounds: how often each pair is measured, where a subject does not say otherwise.
        data: folder with train/ and test/, for the accuracy.
        minutes: of each training run, for the accuracy.
        seeds: runs a side, for the accuracy.
        out: where the accuracy's runs go; those already there are not trained again.
    """

    quick: bool = False
    thorough: bool = False
    rounds: int = 2
    data: Path | None = None
    minutes: float = 10.0
    seeds: int = 3
    out: Path = Path("runs/accuracy")


def arguments() -> argparse.ArgumentParser:
    """List what may be typed."""
    parser = argparse.ArgumentParser(prog="benchmarks/run", description="Measure nearfar and other tools.")
    parser.add_argument("--only", default="", help=f"some of {', '.join(SUBJECTS)}, with commas")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing written")
    parser.add_argument("--thorough", action="store_true", help="five rounds and the largest sizes")
    parser.add_argument("--rounds", type=int, help="pairs measured (default 2; 5 if thorough)")
    parser.add_argument("--gpu", action="store_true", help="the GPU's rows too")
    parser.add_argument("--accuracy", action="store_true", help="the accuracy too; needs --data")
    parser.add_argument("--data", type=Path, help="folder with train/ and test/, a folder a class")
    parser.add_argument("--minutes", type=float, default=Asked.minutes, help="of each training run")
    parser.add_argument("--seeds", type=int, default=Asked.seeds, help="runs a side")
    parser.add_argument("--out", type=Path, default=Asked.out, help="where the accuracy's runs go")
    return parser


def chosen(only: str, *, gpu: bool, accuracy: bool) -> list[str]:
    """Name the subjects to run, in the page's order; exits on an unknown name."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    for name in names:
        if name not in SUBJECTS:
            sys.exit(f"There is no subject {name!r}; choose of {', '.join(SUBJECTS)}.")
    names = names or [*USUAL, *(["gpu"] if gpu else []), *(["accuracy"] if accuracy else [])]
    return [name for name in SUBJECTS if name in names]


def main(words: list[str] | None = None) -> None:
    """Run what was asked for."""
    parser = arguments()
    words = sys.argv[1:] if words is None else words
    given = parser.parse_args(words)
    names = chosen(given.only, gpu=given.gpu, accuracy=given.accuracy)
    if "accuracy" in names and given.data is None and not given.quick:
        parser.error("the accuracy needs --data, a folder with train/ and test/")
    os.environ.update(measure.SILENT)
    wanted = Asked(
        given.quick,
        given.thorough,
        1 if given.quick else given.rounds or (5 if given.thorough else Asked.rounds),
        given.data,
        given.minutes,
        given.seeds,
        given.out,
    )
    facts = measure.machine()
    # A path of this machine tells no one else anything.
    paths = {str(given.data): "DATA", str(given.out): "OUT"}
    typed = [paths.get(word.rstrip("/"), word) for word in words]
    command = shlex.join(["benchmarks/run", *typed])
    failed: list[str] = []
    for name in names:
        print(f"measuring: {SUBJECTS[name]} ...", file=sys.stderr, flush=True)
        began = time.perf_counter()
        try:
            section: table.Section = importlib.import_module(f"benchmarks.{name}").run(wanted)
        except Exception:  # the other sections are worth having all the same
            traceback.print_exc()
            failed.append(name)
            continue
        spent = time.perf_counter() - began
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        text = table.render(SUBJECTS[name], section, f"`{command}`, {when}, {spent / 60:.1f} minutes.")
        print(text, flush=True)
        if not wanted.quick:  # after each, so that a stop loses one section
            page = PAGES.get(name, PAGE)
            found = table.sections(page.read_text()) if page.exists() else {}
            found[SUBJECTS[name]] = text
            head = [f"- {key}: {value}" for key, value in facts.items()]
            page.write_text(table.page(head, found, SUBJECTS.values()))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
