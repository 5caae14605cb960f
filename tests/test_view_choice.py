"""Sets of views are tried by halving: what is tried, how it is measured, what is said, and going on."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import nearfar
from nearfar.cli.commands import pretrain_parser
from nearfar.core.errors import NearfarError
from nearfar.experiments.view_choice import (
    NEIGHBOURS,
    TEMPERATURE,
    Tried,
    ViewChoice,
    leave_one_out,
)
from nearfar.experiments.view_sets import length_of, sets_of_views
from nearfar.training import resolve
from nearfar.training.run_config import RunConfig

TINY = {"batch_size": 16, "encoder": "resnet10_w16", "precision": "float32", "device": "cpu", "workers": 1}


def wanted_of(method: str = "simclr", **given: object) -> RunConfig:
    return resolve.resolve(method, "cpu", given, side=32, device=torch.device("cpu"))


def test_what_is_tried_begins_with_the_usual_and_leaves_alone_what_was_typed() -> None:
    every = sets_of_views(wanted_of(), {})
    assert len(every) == 8 and next(iter(every)) == "colours changed"
    assert len({tuple(sorted(settings.items())) for settings in every.values()}) == 8
    assert not any("keep_colour" in settings for settings in sets_of_views(wanted_of("vicreg"), {}).values())
    kept = sets_of_views(wanted_of(colour="keep"), {"colour": "keep"})
    larger, flat = {"crop_min": 0.4}, {"flip": 0.0}
    assert list(kept.values()) == [{}, larger, flat, larger | flat]
    fixed = sets_of_views(wanted_of(crop_min=0.5), {"crop_min": 0.5})
    assert len(fixed) == 6 and not any("crop_min" in settings for settings in fixed.values())
    with pytest.raises(NearfarError, match="leave out --colour, --crop-min or --flip"):
        sets_of_views(wanted_of(colour="keep", crop_min=0.5, flip=0.0), {"colour", "crop_min", "flip"})


def test_each_is_classified_by_its_nearest_others() -> None:
    r = np.random.default_rng(0)
    x, labels = r.normal(size=(40, 6)), r.integers(0, 3, 40)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    shares = []
    for row in range(40):
        similarity = x @ x[row]
        similarity[row] = -np.inf
        near = np.argsort(-similarity)[:NEIGHBOURS]
        votes = np.zeros(3)
        for other in near:
            votes[labels[other]] += np.exp(similarity[other] / TEMPERATURE)
        shares.append(votes[labels[row]] / votes.sum())
    found = leave_one_out(torch.from_numpy(x), torch.from_numpy(labels), 3)
    assert found == pytest.approx(shares, abs=1e-9)


def test_labels_drawn_at_random_are_named_by_chance() -> None:
    r = np.random.default_rng(1)
    x = torch.from_numpy(r.normal(size=(2000, 8)))
    found = leave_one_out(x, torch.from_numpy(r.integers(0, 4, 2000)), 4)
    assert abs(np.mean(found) - 0.25) < 0.02


def test_a_budget_is_shared_among_rounds_that_double() -> None:
    assert length_of({"steps": 30}, None, None, 8) == ("steps", 30)
    assert length_of({}, "24m", None, 8) == ("minutes", 1.0)  # 8 of 1, 4 of 2, 2 of 4
    assert length_of({}, "13m", None, 5) == ("minutes", 0.684)  # 5 of 1, 3 of 2, 2 of 4: 19
    for given, budget, trials in (({}, None, None), ({"steps": 2}, "1h", None), ({"steps": 2}, None, 10)):
        with pytest.raises(NearfarError, match="give|leave out --trials"):
            length_of(given, budget, trials, 8)


def test_the_best_of_sets_that_differ_by_chance_alone_is_seldom_called_better() -> None:
    r = np.random.default_rng(2)
    called = 0
    for _ in range(100):
        tried = [Tried(str(name), 8, tuple(r.uniform(size=30)), 1.0) for name in range(8)]
        tried.sort(key=lambda one: one.share, reverse=True)
        found = ViewChoice({str(name): {} for name in range(8)}, (tuple(tried),), "steps", "", Path())
        called += "beyond chance" in found.verdict()
    assert called <= 10  # by design 5 at most in a hundred; without the correction it is 14


def choice(first: list[float], second: list[float]) -> ViewChoice:
    tried = [Tried(name, 8, tuple(shares), 1.0) for name, shares in (("a", first), ("b", second))]
    tried.sort(key=lambda one: one.share, reverse=True)
    return ViewChoice({"a": {}, "b": {"colour": "keep"}}, (tuple(tried),), "steps", "nearfar", Path())


def test_the_sentence_says_whether_the_labels_suffice() -> None:
    usual = np.random.default_rng(0).uniform(0.2, 0.6, 40)
    sure = choice(list(usual), list(usual + 0.1)).verdict()
    assert sure.startswith("b: 51.5% of the vote, a 41.5%") and "beyond chance" in sure
    unsure = choice(list(usual), list(usual + 0.01 + 0.2 * (-1.0) ** np.arange(40))).verdict()
    assert unsure.startswith("b: 4") and "may be chance" in unsure
    assert choice(list(usual), list(usual - 0.1)).verdict() == "No set was better than a."


def test_eight_sets_are_halved_and_a_finished_choice_is_read_again(labelled: Path, tmp_path: Path) -> None:
    train, out = labelled / "train", tmp_path / "views"
    found = nearfar.sweep(train, over="views", steps=2, train=train, out=out, **TINY)
    assert isinstance(found, ViewChoice)
    assert [(len(row), row[0].length) for row in found.rounds] == [(8, 2), (4, 4), (2, 8)]
    for earlier, later in zip(found.rounds, found.rounds[1:], strict=False):
        assert {one.name for one in later} == {one.name for one in earlier[: len(later)]}
        assert [one.share for one in earlier] == sorted((one.share for one in earlier), reverse=True)
    said = (out / "sweep.md").read_text()
    assert "| colours kept | `--colour keep` |" in said and found.command in said
    words = shlex.split(found.command)
    assert words[:2] == ["nearfar", "pretrain"] and pretrain_parser(words[2:]).parse_args(words[2:])
    made = {file: file.stat().st_mtime_ns for file in out.glob("round-*/encoder.safetensors")}
    next(out.glob("round-3-*.json")).unlink()  # as if it had been killed before its figures were kept
    again = nearfar.sweep(train, over="views", steps=2, train=train, out=out, **TINY)
    assert isinstance(again, ViewChoice) and len(made) == 14 and again.command == found.command
    assert [[one.shares for one in row] for row in again.rounds] == [
        [one.shares for one in row] for row in found.rounds
    ]
    assert made == {file: file.stat().st_mtime_ns for file in out.glob("round-*/encoder.safetensors")}
    damaged = next(out.glob("round-1-*.json"))
    damaged.write_text('{"name": 3}')
    mended = nearfar.sweep(train, over="views", steps=2, train=train, out=out, **TINY)
    assert isinstance(mended, ViewChoice) and mended.verdict() == found.verdict()
    with pytest.raises(NearfarError, match="holds another choice"):
        nearfar.sweep(train, over="views", steps=3, train=train, out=out, **TINY)
    with pytest.raises(NearfarError, match="not the folder of such a sweep"):
        nearfar.sweep(train, steps=3, trials=10, out=out, **TINY)
    (out / "views.json").write_text("{")
    with pytest.raises(NearfarError, match="is damaged; name another folder"):
        nearfar.sweep(train, over="views", steps=2, train=train, out=out, **TINY)


def test_runs_too_short_to_tell_anything_are_refused_and_the_folder_is_free_again(
    labelled: Path, tmp_path: Path
) -> None:
    how = {**TINY, "encoder": "resnet18", "batch_size": 128}
    train, out = labelled / "train", tmp_path / "views"
    with pytest.raises(NearfarError, match=r"a choice needs 20; give \d+ times the --budget"):
        nearfar.sweep(train, over="views", budget="6s", train=train, out=out, **how)
    assert not list(out.glob("round-*")) and not (out / "views.json").exists()


def test_what_cannot_be_chosen_is_a_sentence(labelled: Path, tmp_path: Path) -> None:
    train = labelled / "train"
    for words, given in (
        ("--over colours is unknown", {"over": "colours", "steps": 2}),
        ("name them with --train", {"over": "views", "steps": 2}),
        ("learns from labels", {"over": "views", "steps": 2, "train": train, "method": "supervised"}),
    ):
        with pytest.raises(NearfarError, match=words):
            nearfar.sweep(train, out=tmp_path / "x", **given, **TINY)
    alike = tmp_path / "alike.csv"
    alike.write_text("path,label\n" + "".join(f"{name},x\n" for name in sorted(train.glob("*/*"))[:24]))
    with pytest.raises(NearfarError, match="of one class"):
        nearfar.sweep(train, over="views", steps=2, train=alike, out=tmp_path / "z", **TINY)
    few = tmp_path / "few.csv"
    names = sorted(train.glob("*/*"))[:: len(sorted(train.glob("*/*"))) // 6][:6]
    few.write_text("path,label\n" + "".join(f"{name},{name.parent.name}\n" for name in names))
    with pytest.raises(NearfarError, match="too few to choose by"):
        nearfar.sweep(train, over="views", steps=2, train=few, out=tmp_path / "y", **TINY)
