"""The report: what it shows is true, whoever named the files; and a browser agrees that it is whole."""

from __future__ import annotations

import copy
import json
import re
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
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
from nearfar.data.source import from_array
from nearfar.data.sources import open_source
from nearfar.data.subset import subset_of
from nearfar.interpretation.invariance import CHANGES
from nearfar.reports import (
    cards,
    curves,
    figures,
    galleries,
    page,
    sample,
    scoring,
    summary,
    what_features_see,
)
from nearfar.reports.report import report
from nearfar.reports.sample import ImageSample
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


def test_mistakes_are_sentences(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NearfarError, match="give both, or neither"):
        report(run, train="x", out=tmp_path / "r.html")
    with pytest.raises(NearfarError, match="1 to 6 runs, not 7"):
        report(*[run] * 7, out=tmp_path / "r.html")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(NearfarError, match=re.escape("pip install 'nearfar[report]'")):
        report(run, out=tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [False, True])
def test_a_verdict_heads_the_page(bad: bool) -> None:
    verdict = SimpleNamespace(name="full collapse", reason="RankMe is <1>", advice="Try --lr 0.1.", bad=bad)
    head = {"title": "t", "lede": "", "answers": (), "overview": ()}
    text = page.render([], verdicts=[("", verdict)], **head)
    expected = (
        f'<div class="verdict {"bad" if bad else "good"}"><h2>full collapse</h2><p>RankMe is &lt;1&gt;.</p>'
    )
    assert f"{expected}<p>Try --lr 0.1.</p></div>" in text
    assert 'class="verdict none"' in page.render([], verdicts=[("", None)], **head)


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


def looked(pixels: np.ndarray, features: torch.Tensor) -> ImageSample:
    """A sample of an array, with features that we choose."""
    source = from_array("array", pixels, None, first=False)
    rows = np.arange(len(pixels))
    store = cache.load(source, short_side=None, max_pixels=10**8, max_bad=0, threads=1)
    return ImageSample(source, subset_of(source, rows), store, rows, features)


def test_planted_near_duplicates_are_found_and_nothing_else() -> None:
    pixels = np.stack([picture(number, 20, number % 4) for number in range(60)])
    pixels[40] = pixels[7]
    pixels[50] = np.clip(pixels[13].astype(float) * 1.05 + 4, 0, 255).astype(np.uint8)
    pixels[58], pixels[59] = 200, 201  # flat: alike, but with nothing in them to compare
    features = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    features[40], features[50], features[59] = features[7], features[13] * 1.01, features[58]
    (found,) = galleries.duplicates(looked(pixels, features))
    assert [[item.name for item in row] for row in found.rows] == [["7", "40"], ["13", "50"]]
    assert found.rows[0][1].note == "same bytes" and float(found.rows[1][1].note) > 0.95
    assert "2 pairs are nearly the same, 1 of them byte for byte" in found.says


def test_the_odd_one_is_the_least_typical() -> None:
    pixels = np.stack([picture(number, 20) for number in range(40)])
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(1)) * 0.1 + torch.eye(6)[0]
    features[13] = -torch.eye(6)[0]
    most, least = galleries.typical(looked(pixels, features))
    assert least.rows[0][0].name == "13"
    near = torch.nn.functional.normalize(features, dim=1)
    tenth = (near @ near.T).fill_diagonal_(-2).sort(dim=1, descending=True).values[:, 9]
    assert most.rows[0][0].name == str(int(tenth.argmax()))
    assert most.rows[0][0].note == f"{float(tenth.max()):.2f}"


def test_the_best_neighbours_of_a_labelled_set() -> None:
    pixels = np.stack([picture(number, 20) for number in range(24)])
    axes = torch.eye(3).repeat_interleave(8, 0)

    def of(labels: list[str]) -> ImageSample:
        source = from_array("array", pixels, labels, first=False)
        store = cache.load(source, short_side=None, max_pixels=10**8, max_bad=0, threads=1)
        return ImageSample(source, subset_of(source, np.arange(24)), store, np.full(24, -1), axes)

    base = of(["a"] * 8 + ["b"] * 8 + ["c"] * 8)
    chance, right, wrong = galleries.labelled_neighbours(base, of(["a"] * 8 + ["b"] * 8 + ["a"] * 8))
    assert "66.7 %" in chance.says
    assert all(item.mark == "right" for row in right.rows for item in row[1:])
    assert all(item.mark == "wrong" and item.note == "c" for row in wrong.rows for item in row[1:])


def test_smoothing_is_a_mean_over_a_window() -> None:
    y = [float(value) for value in np.random.default_rng(0).normal(size=50)]
    even = figures.smooth(y, 0.1)
    assert even[20] == pytest.approx(np.mean(y[15:26])) and even[0] == y[0]
    assert even[-1] == pytest.approx(np.mean(y[-6:])) and even[-3] == pytest.approx(np.mean(y[-8:]))
    assert even[2] == pytest.approx(np.mean(y[0:5]))


def test_mistakes_are_counted_off_the_diagonal() -> None:
    matrix = [[5, 3, 0], [1, 9, 0], [0, 4, 4]]
    per_class = {name: {"images": 8, "recall": 0.5, "precision": 0.5} for name in "abc"}
    encoder = {"accuracy": 0.6, "low": 0.5, "high": 0.7, "per_class": per_class, "confusion": matrix}
    scores = {"linear": {"encoder": encoder}, "classes": list("abc")}
    found = scoring.confusion(scores)
    assert found == ("linear", ["a", "b", "c"], matrix)
    assert scoring.mistakes(*found[1:], 2) == [("c", "b", 4, 0.5), ("a", "b", 3, 0.375)]
    assert scoring.classifiers({**scores, "clusters": {"encoder": {"accuracy": 1}}}) == ["linear"]


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_and_curves_stand_out_from_paper_light_and_dark() -> None:
    """WCAG 2.1: a ratio of 4.5 for text, 3 for what is drawn."""
    style = (page.HERE / "page.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\n *\}", style, re.DOTALL)
    for block in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        assert len(colours) == 14
        for ground in ("paper", "card"):
            for name, colour in colours.items():
                least = 4.5 if name in ("ink", "soft", "accent", "good", "bad") else 3.0
                if name in ("paper", "card", "line"):
                    continue
                a, b = sorted((luminance(colour), luminance(colours[ground])))
                assert (b + 0.05) / (a + 0.05) >= least, (name, ground)


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


def test_runs_of_unlike_length_share_an_axis() -> None:
    def run_of(steps: int) -> curves.TrainingCurves:
        log = [{"step": at, "loss": 1.0} for at in range(0, steps + 1, steps // 10)]
        return curves.TrainingCurves(str(steps), log, log, 10, steps)

    short, long = run_of(20), run_of(2000)
    svg = curves.losses([short, long], ("short", "long")).items[0].svg
    assert "% of each run" in svg and short.points(short.log, "loss", True)[0][-1] == 100
    assert "epochs" in curves.losses([short, run_of(40)], ("short", "long")).items[0].svg


def test_full_cells_of_the_confusion_can_be_read() -> None:
    style = (Path(page.__file__).parent / "page.css").read_text()
    assert "var(--v) * var(--heat)" in style

    def light(colour: list[float]) -> float:
        parts = [v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in colour]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    for block in (style.split("@media")[0], style.split("@media screen and (prefers-color-scheme: dark)")[1]):
        named = dict(re.findall(r"--(\w+): (#\w{6}|\.\d+%);", block))
        accent, card, ink = (
            [int(named[name][at : at + 2], 16) for at in (1, 3, 5)] for name in ("accent", "card", "ink")
        )
        share = float(named["heat"].rstrip("%"))
        cell = [share * a + (1 - share) * c for a, c in zip(accent, card, strict=True)]
        low, high = sorted((light(cell), light(ink)))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def _scored(accuracy: float, spread: float, test: str = "a", **others: float) -> dict[str, Any]:
    rows = {name: {"accuracy": value, "low": value, "high": value} for name, value in others.items()}
    own = {"accuracy": accuracy, "low": accuracy - spread, "high": accuracy + spread}
    return {"knn": {"encoder": own, **rows}, "images": {"test": 1000}, "data": {"test": test}}


def test_one_sentence_sums_a_run_up() -> None:
    said = summary.sentence(3240, "images", _scored(0.912, 0.02, untrained=0.45, pixels=0.5), None)
    assert said == (
        "With this encoder, learnt from 3,240 images, 91.2 % of the test images get their right class, more "
        "than with raw pixels (50.0 %)."
    )
    same = summary.sentence(3240, "images", _scored(0.5, 0.02, untrained=0.49), None)
    assert "about as many as with an untrained network (49.0 %)" in same
    assert "fewer than" in summary.sentence(3240, "images", _scored(0.3, 0.02, pixels=0.49), None)
    assert "was not measured" in summary.sentence(3240, "images", None, None)


def test_no_run_is_called_the_best_by_chance_or_on_other_images() -> None:
    best = summary.compared({"a": _scored(0.9, 0.01), "b": _scored(0.8, 0.01)})
    assert best == "Of 2 runs a is the best: 90.0 % of the test images right, against 80.0 % for b."
    assert "by less than" in summary.compared({"a": _scored(0.8, 0.03), "b": _scored(0.82, 0.03)})
    other = {"a": _scored(0.9, 0.01), "b": _scored(0.8, 0.01, test="elsewhere")}
    assert "no run is called the best" in summary.compared(other)
    assert "b was not measured" in summary.compared({"a": _scored(0.9, 0.01), "b": None})
    told = summary.limits(_scored(0.9, 0.01), 4096, 60_000)
    assert "not for other cameras" in told and "was not looked for" in told and "4,096 of 60,000" in told
    assert "was not looked for" not in summary.limits({**_scored(0.9, 0.01), "leaks": {}}, 10, 10)


def test_runs_have_names_of_their_own() -> None:
    assert summary.names_of((), ["x", "y"]) == ["x", "y"]
    assert summary.names_of(("first", "second"), ["x", "y"]) == ["first", "second"]
    for names in (("first",), ("same", "same")):
        with pytest.raises(NearfarError, match="a name of its own"):
            summary.names_of(names, ["x", "y"])
