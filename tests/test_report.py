"""The report: what it shows is true, whoever named the files; and a browser agrees that it is whole."""

from __future__ import annotations

import copy
import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image

from nearfar import evaluate, pretrain
from nearfar.cli.main import main
from nearfar.core.errors import NearfarError
from nearfar.data import cache, loader
from nearfar.data.dataset import holdout_split
from nearfar.data.sources import open_source
from nearfar.interpretation import explain
from nearfar.interpretation.invariance import CHANGES
from nearfar.reports import (
    cards,
    galleries,
    sample,
    what_features_see,
)
from nearfar.reports.report import _scores, report
from nearfar.training import resolve
from nearfar.training.run import Run, load
from nearfar.training.run_config import RunConfig

EVIL = ("<script>alert(1)<!--", '"><img src=x onerror=alert(1)>', "$x_{'&amp;", "ünïcode {{ 7*7 }}")
SETTINGS: dict[str, Any] = {
    "batch_size": 16,
    "steps": 6,
    "encoder": "resnet10_w16",
    "image_size": 16,
    "workers": 1,
}


@pytest.fixture(scope="module", autouse=True)
def few_changes() -> Iterator[None]:
    """Explain by fewer pairs and changes, as the tests of explanations do not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explain, "PAIRS", 6)
        patch.setattr(explain, "CHANGED", 16)
        yield


def draw(folder: Path, count: int, start: int = 0) -> None:
    """A folder of small pictures under names that no page should trust."""
    folder.mkdir(parents=True)
    for number in range(count):
        name = f"{EVIL[number % 4]}{number}.png"
        Image.fromarray(picture(start + number, 20, number % 4)).save(folder / name)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 good files and 3 bad ones, in a folder with a name of its own."""
    folder = tmp_path_factory.mktemp("report") / 'my "photos" <b>'
    draw(folder, 160)
    (folder / "<b>empty.png").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"This is a shopping list.\n")
    (folder / "half.png").write_bytes((folder / f"{EVIL[0]}0.png").read_bytes()[:-40])
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labelled")
    for part, start, count in (("train", 1000, 12), ("test", 5000, 6)):
        for kind, name in enumerate(EVIL):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = picture(start + 100 * kind + number, 20, kind)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that held 64 images apart, and was evaluated by no one."""
    out = tmp_path_factory.mktemp("runs") / "<i>one"
    return pretrain(photos, out=out, holdout=0.4, health_checks=2, **SETTINGS)


@pytest.fixture(scope="module")
def scored(run: Run, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same run in another place, with an evaluation.json."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    shutil.copytree(run.path, folder)
    made = evaluate(folder, train=labelled / "train", test=labelled / "test").to_json()
    made["few_labels"] = {
        "sizes": [{"name": "1 a class", "labels": 4}, {"name": "all", "labels": 48}],
        "rows": {
            way: {
                "linear": [{"labels": 4, "mean": 0.3, "std": 0.05}, {"labels": 48, "mean": 0.6, "std": 0.0}]
            }
            for way in ("encoder", "pixels")
        },
        "efficiency": {"sentence": "Did <u>it</u> help? Yes."},
    }
    made["clusters"] = {"encoder": {"accuracy": 0.51, "nmi": 0.4321, "ari": 0.25}}
    share = {"accuracy": 0.4444, "low": 0.3, "high": 0.6}
    without = {"knn": {"encoder": share}, "linear": {"encoder": share}}
    made["leaks"] = {
        "near_copies": {"images": 5, "left": 19, "without": without, "pairs": []},
        "groups": {"images": 0, "left": 24, "without": {}, "pairs": []},
    }
    made["unheard_of"] = {"encoder": {"deep": {"er": 3}}, "note": "<s>", "list": [1, 2]}
    (folder / "evaluation.json").write_text(json.dumps(made))
    return load(folder)


@pytest.fixture(scope="module")
def written(
    scored: Run, run: Run, labelled: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Three reports: of a bare run, of an evaluated one, and of both."""
    folder = tmp_path_factory.mktemp("pages")
    parts = {"train": labelled / "train", "test": labelled / "test"}
    report(run, out=folder / "bare.html")
    report(scored, out=folder / "scored.html", **parts)
    report(run.path, scored.path, out=folder / "both.html")
    return {name: folder / f"{name}.html" for name in ("bare", "scored", "both")}


class Page(HTMLParser):
    """What a page holds: tags with their attributes, and the text outside of style."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text, self.style = "", False
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.text += " "
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        self.style = tag == "style"

    def handle_data(self, data: str) -> None:
        self.text += "" if self.style else data

    def handle_endtag(self, tag: str) -> None:
        self.style = False


@pytest.mark.parametrize("name", ["bare", "scored", "both"])
def test_the_page_is_one_file_without_scripts_whatever_files_are_called(
    written: dict[str, Path], name: str
) -> None:
    found = Page(written[name])
    assert not {tag for tag, _ in found.tags} & {
        *"busi",
        "script",
        "iframe",
        "object",
        "embed",
        "link",
        "base",
    }
    for tag, attributes in found.tags:
        assert not [key for key in attributes if key.startswith("on")], (tag, attributes)
        for key in ("src", "href", "xlink:href"):
            assert attributes.get(key, "#").startswith(("#", "data:image/webp;base64,")), (tag, attributes)
        if tag == "img":
            assert attributes["alt"] and attributes["src"].startswith("data:image/webp;base64,")
    assert "url(http" not in found.source and "@import" not in found.source
    assert "default-src 'none'" in found.source
    assert any(EVIL[1] in attributes.get("alt", "") for _, attributes in found.tags)
    assert "ünïcode {{ 7*7 }}" in found.source and "{{ 49 }}" not in found.source
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"][1:] for tag, attributes in found.tags if tag == "a"}
    assert links <= set(ids)
    assert len(found.source) < 3_000_000


def test_every_table_of_several_runs_says_whose_it_is(written: dict[str, Path]) -> None:
    source = written["both"].read_text(encoding="utf-8")
    tables = re.findall(r'<h3 class="caption">(.*?)</table>', source, re.DOTALL)
    assert len(tables) > 10
    for table in tables:
        caption, heads = table.partition("</h3>")[0], re.findall(r"<th[^>]*>(.*?)</th>", table)
        said = " | ".join([caption, *heads])
        assert re.search(r"&lt;i&gt;one\b|\btwo\b", said), said
    for name in ("training", "spectrum"):
        part = source.partition(f'<section class="part" id="{name}"')[2].partition("</section>")[0]
        assert part.count('<ul class="key">') == part.count('<div class="plots') > 0, name
    grey = re.findall(r"<figcaption>([^<]*in grey[^<]*)", source)
    assert grey and all(said.endswith("are of two.") for said in grey)
    # A manager reads one sentence, and what the figures do not say.
    assert '<p class="sum">2 runs; &lt;i&gt;one was not measured on labelled images' in source
    assert "<dt>What does this not say?</dt>" in source and "the order of the runs may be another" in source


def test_the_page_says_what_went_in(written: dict[str, Path], run: Run, photos: Path) -> None:
    text = " ".join(Page(written["bare"]).text.split())
    assert str(photos) in text and "rejected as unusable 3" in text
    assert "empty file 1" in text and "<b>empty.png empty file" in text
    assert "trained on 96 holdout, for health checks 64" in text
    assert "short side 20 px, all the same" in text and "formats PNG 100 %" in text
    assert run.config["data"]["fingerprint"] in text
    assert f"nearfar evaluate '{run.path}' --train LABELLED --test LABELLED" in text
    assert "energy not measured" in text
    assert "--out" in text and f"--like '{run.path}'" in text


def test_the_page_shows_what_features_see(
    written: dict[str, Path], run: Run, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join(Page(written["bare"]).text.split())
    assert "Single features" in text and "8 principal components" in text and "is kept at the end" in text
    assert "Which parts make two images similar" in text and "less" in text
    assert "What features see" not in Page(written["both"]).text  # bounded: of one run
    few = sample.sample_labelled(run, labelled / "train", 48, torch.device("cpu"))
    (said,) = what_features_see.blocks(run, few)
    assert "48 images are too few" in said.text
    monkeypatch.setattr(what_features_see, "FEWEST", 48)
    parts, features, folded = what_features_see.blocks(run, few)
    assert features.columns == 8 and len(features.rows) == 6 and "names it" in features.says
    assert {len(row) for row in parts.rows} == {4}
    assert [plot.title.split()[3] for plot in folded.blocks[0].items] == list(CHANGES)


def test_the_scores_are_those_of_the_evaluation(written: dict[str, Path], scored: Run) -> None:
    found = json.loads((scored.path / "evaluation.json").read_text())
    text = " ".join(Page(written["scored"]).text.split())
    knn, line = found["knn"]["encoder"], found["linear"]["encoder"]
    cells = [
        f"{100 * x['accuracy']:.1f} % ({100 * x['low']:.1f} to {100 * x['high']:.1f})" for x in (knn, line)
    ]
    assert f"encoder {cells[0]} {cells[1]}" in text
    assert f"k-NN classifies {100 * knn['accuracy']:.1f} % of 24 test images correctly" in text
    for row in found["summary"].values():
        assert text.count(f"{row['sentence']}.") == 2  # among the answers, and in the section
    verdict = scored.verdict()
    assert verdict is not None and verdict.reason[1:] in text
    assert "Did <u>it</u> help? Yes." in text and "0.432" in text and "deep er" in text
    assert "are of the image's class" in text
    assert f"Left out: from scratch, since {found['left_out']['scratch']}." in text
    assert "Warning: 5 test images are not new (near copies)" in text and "k-NN 44.4 %" in text
    for name in EVIL:
        assert name in text


def test_the_same_run_gives_the_same_page_which_pretends_nothing(written: dict[str, Path], run: Run) -> None:
    before = written["bare"].read_bytes()
    made = report(run, out=written["bare"])
    assert written["bare"].read_bytes() == before
    assert set(made.missing) == {"evaluation"} and made.bytes == len(before)
    plain = made.to_json()
    assert plain["runs"] == [str(run.path)] and "map" in plain["sections"]
    assert json.loads(json.dumps(plain)) == plain


def test_images_that_have_moved(
    run: Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "elsewhere"
    photos.rename(moved)
    try:
        made = report(run, out=tmp_path / "lost.html")
        assert {"data", "views", "neighbours", "map", "typical", "duplicates"} <= set(made.missing)
        assert f"nearfar report '{run.path}' --data DATA" in Page(tmp_path / "lost.html").text
        out = tmp_path / "found.html"
        assert main(["report", str(run.path), "--out", str(out), "--data", str(moved), "--json"]) == 0
        plain = json.loads(capsys.readouterr().out)
        assert plain["path"] == str(out) and out.exists() and set(plain["missing"]) == {"evaluation"}
        with pytest.raises(NearfarError, match="nowhere"):
            report(run, data=tmp_path / "nowhere", out=tmp_path / "none.html")
        assert not (tmp_path / "none.html").exists()
    finally:
        moved.rename(photos)


def test_files_that_the_run_of_a_stranger_names_are_not_opened(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = RunConfig.from_json(run.config, "")
    assert len(sample.sample_run(run, wanted, None, torch.device("cpu"))) == 160
    stranger = copy.deepcopy(run.config)
    stranger["data"]["path"] = str(tmp_path)
    with pytest.raises(NearfarError, match="was not made by you on this machine.*with --data"):
        sample.sample_run(replace(run, config=stranger), wanted, None, torch.device("cpu"))
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "another user's"))
    with pytest.raises(NearfarError, match="was not made by you"):
        sample.sample_run(run, wanted, None, torch.device("cpu"))


def test_an_evaluation_of_other_images_is_not_taken_for_theirs(
    scored: Run, labelled: Path, tmp_path: Path
) -> None:
    shutil.copytree(scored.path, tmp_path / "run")
    run, (train, test) = load(tmp_path / "run"), (labelled / "train", labelled / "test")
    assert "unheard_of" in (_scores(run, str(train), test) or {})  # what was kept
    anew = _scores(run, test, train)
    assert anew is not None and "unheard_of" not in anew and anew["data"]["train"] == str(test)


def test_mistakes_are_sentences(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NearfarError, match="give both, or neither"):
        report(run, train="x", out=tmp_path / "r.html")
    with pytest.raises(NearfarError, match="1 to 6 runs, not 7"):
        report(*[run] * 7, out=tmp_path / "r.html")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(NearfarError, match=re.escape("pip install 'nearfar[report]'")):
        report(run, out=tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


def test_the_views_shown_are_those_the_network_saw(run: Run, photos: Path) -> None:
    wanted = RunConfig.from_json(run.config, "")
    sampled = sample.sample_run(run, wanted, None, torch.device("cpu"))
    assert int((sampled.numbers >= 0).sum()) == 96 and len(sampled) == 160

    store = cache.load(
        open_source(photos),
        short_side=wanted.preprocess.decode_side,
        max_pixels=10**8,
        max_bad=0.1,
        threads=1,
    )
    trained, _ = holdout_split(store, wanted.training.holdout, wanted.training.seed)
    recipes = resolve.build_method(wanted).views(wanted.views)
    feed = loader.DataLoader(trained, recipes, size=16, batch_size=16, seed=wanted.training.seed)
    saw: dict[tuple[int, int], torch.Tensor] = {}
    for step in range(12):  # two epochs of six steps
        batch = feed.make(step)
        for number, view in enumerate(batch.views):
            saw |= {
                (int(row), 2 * (step // 6) + number): one for row, one in zip(batch.rows, view, strict=True)
            }

    rows = np.flatnonzero(sampled.numbers >= 0)[:20]
    for at, view in enumerate(galleries.views_of(sampled, wanted, rows, 2)):
        for one, number in zip(view.pixels, sampled.numbers[rows].tolist(), strict=True):
            assert torch.equal(one, saw[number, at])


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FAULTS = """() => {
  const pictures = [...document.images].filter(one => !(one.complete && one.naturalWidth > 0)).length;
  const beyond = [...document.querySelectorAll('main *, header *')].filter(one =>
    !one.closest('.scroll, pre, svg') && one.getBoundingClientRect().right > innerWidth + 1);
  return {pictures, images: document.images.length, beyond: beyond.map(one => one.outerHTML.slice(0, 90)),
          wide: document.documentElement.scrollWidth - innerWidth};
}"""


@pytest.mark.slow
@pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: apt-get install -y --no-install-recommends chromium"
)
def test_a_browser_shows_it_whole(written: dict[str, Path], scored: Run) -> None:
    driver = pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install playwright")
    found = json.loads((scored.path / "evaluation.json").read_text())
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, path in written.items():
            for width, scheme in ((375, "dark"), (1280, "light")):
                view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                said: list[str] = []
                asked: list[str] = []
                view.on("console", lambda message, said=said: said.append(message.text))
                view.on("pageerror", lambda error, said=said: said.append(str(error)))
                view.on("request", lambda request, asked=asked: asked.append(request.url))
                view.goto(path.as_uri())
                faults = view.evaluate(FAULTS)
                assert faults["pictures"] == 0 and faults["images"] > 50, (name, width)
                assert faults["beyond"] == [] and faults["wide"] <= 0, (name, width, faults)
                assert said == [], (name, width)
                assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
                if name == "scored":
                    cells = (
                        view.locator("#evaluation table.rows tbody tr").first.locator("td").all_inner_texts()
                    )
                    shown = [float(cell.split()[0]) for cell in cells]
                    kept = [found[key]["encoder"]["accuracy"] for key in ("knn", "linear")]
                    assert shown == [round(100 * value, 1) for value in kept]
                    # On paper, no sentence is cut in two by the end of a page.
                    view.emulate_media(media="print")
                    cut = "[...document.querySelectorAll('main p, li, tr')].filter(one => "
                    assert view.evaluate(cut + "getComputedStyle(one).breakInside !== 'avoid').length") == 0
                view.close()
        browser.close()


def test_where_it_fails_is_told_by_the_classifier_that_is_quoted(scored: Run) -> None:
    scores = json.loads((scored.path / "evaluation.json").read_text())
    for key, wrong in (("knn", (0, 1)), ("linear", (2, 3))):
        matrix = (6 * np.eye(4, dtype=int)).tolist()
        matrix[wrong[0]][wrong[1]] = 3
        scores[key]["encoder"]["confusion"] = matrix
    told = {question: text for question, text, _ in cards.answers(scored, scores, 0)}
    names = list(scores["knn"]["encoder"]["per_class"])
    assert told["Where does it fail?"] == (
        f"By k-NN, it most often takes {names[0]} for {names[1]} (33.3 %)."
    )
    assert "k-NN classifies" in told["Is it good?"]


def test_one_count_of_epochs_and_images_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "photos", 40)
    monkeypatch.chdir(tmp_path)
    made = pretrain("photos", out="run", **{**SETTINGS, "steps": 4}, holdout=0, health_checks=2)
    # A pass is two steps of 16: what fills no batch is left out.
    assert made.log()[-1]["epoch"] == made.health()[-1]["epoch"] == 2.0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = load(tmp_path / "run")
    wanted = RunConfig.from_json(again.config, "")
    assert len(sample.sample_run(again, wanted, None, torch.device("cpu"))) == 40
