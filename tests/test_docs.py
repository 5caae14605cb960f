"""Every example in the README and the docs runs, on a few small pictures."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import timm
from drawn_labels import write_boxes, write_masks
from textures import write_folders

from nearfar import methods
from nearfar.analysis import clusters, temi
from nearfar.cli.main import main
from nearfar.core import progress
from nearfar.demo import gallery
from nearfar.evaluation import few_labels
from nearfar.interpretation import explain

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"(?:<!-- (?P<mark>[^\n]*?) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    kind: str
    text: str
    line: int
    skip: bool


def blocks(page: Path) -> list[Block]:
    """The fenced examples of a page; one is left out only where a comment above it says why."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            found["kind"],
            found["text"],
            text[: found.start("text")].count("\n") + 1,
            (found["mark"] or "").startswith("not run: "),
        )
        for found in FENCE.finditer(text)
    ]


def shortened(text: str) -> str:
    """Minutes of training become seconds, a sweep's runs a few steps, and epochs two; nothing else."""
    text = re.sub(r"--epochs \d+", "--epochs 2", text)
    text = re.sub(r"--minutes-each \S+ --budget \S+", "--steps 2 --trials 10", text)
    text = re.sub(r"--minutes-each \S+", "--steps 2", text)
    text = re.sub(r'minutes_each=[\d.]+, budget="\w+"', "steps=2, trials=10", text)
    text = re.sub(r"--minutes \S+", "--minutes 0.01", text)
    return re.sub(r"\bminutes=[\d.]+", "minutes=0.01", text)


LONG = ("compare", "evaluation", "known", "sweep")  # pages whose examples train several networks
EXECUTED = [  # the guide's pages are run by test_guide.py
    page
    for page in PAGES
    if page.parent.name != "guide"
    and any(b.kind in ("python", "console") and not b.skip for b in blocks(page))
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    with pytest.MonkeyPatch.context() as patch:
        for name, count in {"NEAR_COPIES": 10, "EXACT_COPIES": 4, "ODD": 4}.items():
            patch.setattr(gallery, name, count)
        gallery.write(folder, photos=6, train=8, test=4)
    return folder


PRETRAIN = re.compile(r"^\$ nearfar pretrain photos/ --out (\S+) --minutes \d+( +#.*)?$", re.MULTILINE)


@pytest.fixture(scope="module")
def trained(pictures: Path, narrow_resnet8: None, small_banks: None) -> Path:
    """The run of the command that most pages begin with, as README does: there it is finished already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(pictures)
        assert main(shlex.split(shortened("pretrain photos/ --out runs/a --minutes 10"))) == 0
    return pictures / "runs" / "a"


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.long if page.stem in LONG else (), id=page.stem)
        for page in EXECUTED
    ],
)
def test_examples_run(
    page: Path,
    pictures: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(few_labels, "DRAWS", (2, 2))  # as for minutes: fewer draws, of every size,
    monkeypatch.setattr(temi, "STEPS", (5, 5))  # and fewer steps
    monkeypatch.setattr(clusters, "STABILITY_STEPS", 5)
    monkeypatch.setattr(explain, "PAIRS", 6)
    monkeypatch.setattr(explain, "CHANGED", 16)
    if page.stem == "known":  # as if nearfar[known] were installed
        (tmp_path / "cache" / "known").mkdir(parents=True)
        state = timm.create_model("efficientnet_lite0").state_dict()
        safetensors.torch.save_file(state, tmp_path / "cache" / "known" / "efficientnet_lite0.safetensors")
    for name in ("photos", "labelled"):
        (tmp_path / name).symlink_to(pictures / name)
    for folder in dict.fromkeys(found[0] for found in PRETRAIN.findall(page.read_text(encoding="utf-8"))):
        shutil.copytree(trained, tmp_path / folder)
    write_folders(tmp_path)
    for part, first in (("train", 0), ("test", 50)):
        write_masks(tmp_path / "cells" / part, 8, first=first)
        write_boxes(tmp_path / "boxes" / part, 8, first=first)
    named = sorted(path.relative_to(pictures) for path in (pictures / "labelled").rglob("*.*"))
    lines = [f"{path},{number // 2}" for number, path in enumerate(named)]
    (tmp_path / "patients.csv").write_text("\n".join(["path,patient", *lines]) + "\n")
    names: dict[str, object] = {"__name__": "example"}
    before = progress.shown()
    try:
        for block in blocks(page):
            if block.skip or block.kind not in ("python", "console"):
                continue
            where = f"{page.name}:{block.line}"
            if block.kind == "python":
                exec(compile(shortened(block.text), where, "exec"), names)
                continue
            commands = [line[2:] for line in block.text.splitlines() if line.startswith("$ ")]
            assert commands, f"{where}: a console example has lines that begin with '$ '"
            for command in commands:
                words = shlex.split(shortened(command), comments=True)
                assert words[0] == "nearfar", f"{where}: {command}"
                status = main(words[1:])
                assert status == 0, f"{where}: {command}\n{capsys.readouterr().err}"
    finally:
        progress.show(before)


def test_few_examples_are_left_out() -> None:
    everything = [block for page in PAGES for block in blocks(page) if block.kind in ("python", "console")]
    assert len(everything) >= 15
    assert sum(block.skip for block in everything) <= 9


def test_every_fence_says_what_it_is() -> None:
    for page in PAGES:
        assert all(block.kind in ("python", "console", "text") for block in blocks(page)), page.name
        assert page.read_text(encoding="utf-8").count("```") % 2 == 0


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_what_comes_from_the_code_is_what_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("make", ROOT / "docs" / "make.py")
    assert spec and spec.loader
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert make.SETTINGS.read_text(encoding="utf-8") == make.page(), "run: python docs/make.py"
    assert make.METHODS.read_text(encoding="utf-8") == make.methods_page(), "run: python docs/make.py"
    assert make.EVALUATION.read_text(encoding="utf-8") == make.evaluation_page(), "run: python docs/make.py"
    assert make.OPTIONS.read_text(encoding="utf-8") == make.options(), "run: python docs/make.py"
    assert make.CHOOSING.read_text(encoding="utf-8") == make.choosing_page(), "run: python docs/make.py"
    assert make.README.read_text(encoding="utf-8") == make.readme(), "run: python docs/make.py"
    assert make.tree().count("\n") > 20 and make.tree() in make.readme()


def test_every_method_has_its_place_in_choosing() -> None:
    text = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\]\(methods\.md#(\w+)\)", text))
    assert named == set(methods.METHODS)


def test_every_link_of_a_page_leads_to_a_file_of_the_documentation() -> None:
    docs, lost = ROOT / "docs", []  # what mkdocs build --strict refuses
    for page in docs.rglob("*.md"):
        for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
            there = (page.parent / link).resolve()
            if not there.is_file() or not there.is_relative_to(docs):
                lost.append(f"{page.relative_to(docs)}: {link}")
    assert not lost


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = set(re.findall(r"(\S+\.md)", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    docs = ROOT / "docs"
    assert listed == {str(page.relative_to(docs)) for page in PAGES if page.is_relative_to(docs)}


def test_one_step_runs_and_is_short_enough_to_read(capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "examples" / "one_step.py"
    runpy.run_path(str(path))
    said = capsys.readouterr().out
    assert "z_i (16, 64)" in said and re.search(r"loss \d\.\d+, by chance 3\.4", said)
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
