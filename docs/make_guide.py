"""Runs the guide's examples and writes their code, output and plots into its pages.

`python docs/make_guide.py` runs all of them, which takes about four minutes of one core; names of pages run
those alone, and `--code` writes the code alone, which a test compares.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import sys
from pathlib import Path

from PIL import Image

PAGES = Path(__file__).parent / "guide"
EXAMPLES = Path(__file__).parent.parent / "examples" / "guide"
SHARED = ("pictures", "training", "plotting", "pendulum", "replay", "curl")  # imported by the others


def names() -> list[str]:
    """List the examples that have a page."""
    return sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem not in SHARED)


def run(name: str, folder: Path) -> str:
    """Run an example in a folder, where it leaves its plot.

    Args:
        name: of the example.
        folder: where to run it.

    Returns:
        What it printed.
    """
    before, said = Path.cwd(), io.StringIO()
    sys.path.insert(0, str(EXAMPLES))
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_path(str(EXAMPLES / f"{name}.py"))
    finally:
        os.chdir(before)
        sys.path.remove(str(EXAMPLES))
    return said.getvalue()


def shrink(path: Path) -> None:
    """Write a plot with 64 colours, in a third of the bytes."""
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(64)
    small.save(path, optimize=True)


def _part(text: str, what: str, kind: str, inner: str) -> str:
    """Replace the fenced text between two comments of a page."""
    begin, end = f"<!-- {what}, written by docs/make_guide.py -->\n", f"<!-- end of {what} -->"
    pattern = re.compile(f"(?<={re.escape(begin)}).*?(?={re.escape(end)})", re.DOTALL)
    return pattern.sub(lambda _: f"```{kind}\n{inner.rstrip()}\n```\n", text, count=1)


def page(name: str, output: str | None = None) -> str:
    """Write a page with its code brought up to date, and its output if that is given."""
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    text = _part(text, "code", "python", (EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))
    return text if output is None else _part(text, "output", "text", output)


if __name__ == "__main__":
    asked = [word for word in sys.argv[1:] if word != "--code"] or names()
    for one in asked:
        made = None if "--code" in sys.argv else run(one, PAGES)
        if made is not None:
            print(f"== {one}\n{made}", flush=True)
            shrink(PAGES / f"{one}.png")
        if (PAGES / f"{one}.md").exists():
            (PAGES / f"{one}.md").write_text(page(one, made), encoding="utf-8")
