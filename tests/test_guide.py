"""The guide: every example runs, is short, and is what its page shows; what a page claims of theory holds."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "guide"


def made() -> ModuleType:
    """The script that makes the guide."""
    spec = importlib.util.spec_from_file_location("make_guide", ROOT / "docs" / "make_guide.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE = made()


@pytest.fixture
def fresh() -> Iterator[None]:
    """Read anew what the examples share: it looks at the environment once."""
    for name in MAKE.SHARED:
        sys.modules.pop(name, None)
    yield
    for name in MAKE.SHARED:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", MAKE.names())
def test_an_example_runs_and_leaves_a_plot(
    name: str, fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUIDE_QUICK", "1")
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    said = MAKE.run(name, tmp_path)
    assert said.strip()
    with Image.open(tmp_path / f"{name}.png") as image:
        assert image.width > 400 and len(image.convert("RGB").getcolors(1 << 24) or ()) > 20
    if name == "gradient":
        assert float(said.splitlines()[0].rpartition(" ")[2]) < 1e-12
    if name == "infonce_bound":
        found = re.findall(r"true (\d+) nats.* 8: ([\d.]+), 128: ([\d.]+), 2048: ([\d.]+)", said)
        assert len(found) == 4
        for true, *bounds in found:
            for size, bound in zip((8, 128, 2048), bounds, strict=True):
                assert float(bound) <= min(math.log(size), float(true)) + 0.1


@pytest.mark.long
def test_what_the_pages_say_comes_out_again(fresh: None, tmp_path: Path) -> None:
    said = MAKE.run("augmentations", tmp_path)
    rows = [map(int, row) for row in re.findall(r"form: k-NN +(\d+) %.* hue: k-NN +(\d+)", said)]
    _, (crop, crop_hue), (colour, _), (both, both_hue) = rows
    assert both > max(crop, colour) + 5 and crop_hue > both_hue + 30
    spread = [float(value) for value in re.findall(r"at the end ([\d.]+)", MAKE.run("collapse", tmp_path))]
    assert min(spread[0], spread[3]) > 0.8 > 0.6 > max(spread[1], spread[2])


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.parametrize("name", MAKE.names())
def test_a_page_shows_its_example_and_answers_two_questions(name: str) -> None:
    text = (GUIDE / f"{name}.md").read_text(encoding="utf-8")
    assert text == MAKE.page(name), "run: python docs/make_guide.py --code"
    assert len(re.findall(r"^\*\*[^*]+\?\*\* ", text, re.MULTILINE)) == 2
    assert re.search(r"make_guide.py -->\n```text\n *[^\s`]", text), "run: python docs/make_guide.py"
    assert f"({name}.png)" in text and "https://arxiv.org/abs/" in text
    assert f"]({name}.md)" in (GUIDE / "index.md").read_text(encoding="utf-8")
