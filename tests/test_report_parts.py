"""What a report computes: near-duplicates, mistakes, smooth curves, colours, one sentence on a run."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import picture

from nearfar.core.errors import NearfarError
from nearfar.data import cache
from nearfar.data.source import from_array
from nearfar.data.subset import subset_of
from nearfar.reports import (
    blocks,
    cards,
    curves,
    figures,
    galleries,
    page,
    scoring,
    summary,
)
from nearfar.reports.sample import ImageSample


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


def test_runs_of_unlike_length_share_an_axis() -> None:
    def run_of(steps: int) -> curves.TrainingCurves:
        log = [{"step": at, "loss": 1.0} for at in range(0, steps + 1, steps // 10)]
        return curves.TrainingCurves(str(steps), log, log, 10, steps)

    short, long = run_of(20), run_of(2000)
    svg = curves.losses([short, long], ("short", "long")).items[0].svg
    assert "% of each run" in svg and short.points(short.log, "loss", True)[0][-1] == 100
    assert "epochs" in curves.losses([short, run_of(40)], ("short", "long")).items[0].svg
    drawn = curves.health([short, long], "images", ("short", "long"))
    assert drawn.runs == ("short", "long")


def test_the_images_of_a_run_may_be_lost_and_each_keeps_its_colour() -> None:
    rows = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    drawn = curves.spectrum(["lost", "there"], [None, rows])
    assert drawn.runs == ["lost", "there"] and "whitened" not in drawn.items[0].says
    told = curves.spectrum(["lost", "there"], [None, rows], whitened=["there"]).items[0].says
    assert "The vectors of there were whitened in part" in told
    assert "var(--series-1" in drawn.items[0].svg and "var(--series-0" not in drawn.items[0].svg


def test_blocks_of_several_evaluated_runs_are_named() -> None:
    each = {name: {"images": 4, "recall": 0.5, "precision": 0.5} for name in "xy"}
    one = _scored(0.5, 0.1, untrained=0.3)
    one["knn"]["encoder"] |= {"per_class": each, "confusion": [[2, 2], [2, 2]]}
    one |= {"clusters": {"encoder": {"nmi": 0.4}}, "left_out": {"scratch": "it takes long"}}
    made = scoring.blocks({"first": one, "second": one}, several=True)
    inside = [block for part in made if part.kind == "columns" for _, own in part.columns for block in own]
    for block in [*(part for part in made if part.kind != "columns"), *inside]:
        said = str(block) if block.kind != "plots" else block.items[0].says + block.items[0].svg
        assert "first" in said or "second" in said, said[:200]
    assert len(inside) == 8 and {block.kind for block in inside} == {"note", "table", "heat"}


def test_what_is_the_same_everywhere_or_in_letters_of_others_is_drawn_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = curves.spectrum(["a"], [torch.full((9, 4), 0.3)])
        assert isinstance(same, blocks.Note) and "All features are the same" in same.text
        two = curves.spectrum(["a", "b"], [torch.zeros(9, 4), torch.eye(9, 4)])
        assert isinstance(two, blocks.Plots) and len(two.items) == 1
        assert "走" in figures.dots("x", "走", [figures.Dot("走", 0.0, 0.0, 0.0)])
    only = {"knn": {"encoder": {"accuracy": 0.5, "low": 0.4, "high": 0.6}}, "images": {"test": 10}}
    assert cards.good(only, "images").endswith("correctly (40.0 to 60.0).")


def test_labels_of_curves_stand_at_their_ends() -> None:
    found: list[Any] = []
    lines = [figures.Line([1, 2], [0.4, end], label=str(end)) for end in (0.4, 0.44, 0.48, 0.485)]

    def paint(axes: Any) -> None:
        for line in lines:
            axes.plot(line.x, line.y)
        figures._label_ends(axes, lines)
        found.extend(text.xyann[1] for text in axes.texts)

    figures.draw("ends", "ends", paint)
    assert found[:3] == [0, 0, 0]  # there is room
    assert 0 < found[3] < 11  # the last is near another, and makes some


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
    said = summary.sentence("3,240 images", "images", _scored(0.912, 0.02, untrained=0.45, pixels=0.5), None)
    assert said == (
        "With this encoder, learnt from 3,240 images, 91.2 % of the test images get their right class, "
        "41.2 points more than with raw pixels (50.0 %)."
    )
    same = summary.sentence("3,240 images", "images", _scored(0.5, 0.02, untrained=0.49), None)
    assert "1.0 points more than with an untrained network (49.0 %), which may be chance." in same
    assert "19.0 points fewer than" in summary.sentence(
        "3,240 images", "images", _scored(0.3, 0.02, pixels=0.49), None
    )
    both = summary.sentence("3,240 images", "images", _scored(0.5, 0.02, known=0.69, combined=0.8), None)
    assert "19.0 points fewer than with the known encoder (69.0 %)" in both
    assert "was not measured" in summary.sentence("3,240 images", "images", None, None)


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
