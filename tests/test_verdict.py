"""Verdicts on courses of known kind: figures like those of recorded runs, one thing changed at a time."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import numpy as np
import pytest

import nearfar
from nearfar.core.errors import NearfarError
from nearfar.data.modalities import modality
from nearfar.features.extract import fingerprint
from nearfar.health import verdict
from nearfar.health.verdict import judge
from nearfar.methods import mae, npid
from nearfar.methods.base import Expects
from nearfar.training import monitor
from nearfar.training.checkpoint import LAST

pytestmark = pytest.mark.usefixtures("whole_looks")

START = {
    "step": 0, "steps": 100, "images": 1024, "dim": 512, "rankme": 8.0, "nesum": 1.2, "spread": 0.08,
    "contrastive_accuracy": 0.03, "partner_holdout": 0.06, "partner_trained": 0.06,
}  # fmt: skip


def course(*found: float, **last: float) -> list[dict[str, Any]]:
    """Looks at even distances at a run that finds so many partners, with other figures at its end."""
    lines: list[dict[str, Any]] = [START]
    for number, share in enumerate(found, 1):
        line = {**START, "rankme": 120.0, "nesum": 3.0, "spread": 0.5, "contrastive_accuracy": share}
        line |= {
            "step": 100 * number // len(found),
            "partner_holdout": share,
            "partner_trained": share + 0.01,
        }
        lines.append(line)
    lines[-1] = {**lines[-1], **last}
    return lines


def test_a_run_that_starts_from_weights_is_compared_with_its_start_by_name() -> None:
    lines = course(0.03, 0.03, rankme=8.1, spread=0.081)
    plain, from_known = judge(lines), judge(lines, start="known")
    assert plain and plain.reason == "features have not changed from the untrained network"
    assert from_known and from_known.reason == "features have not changed from its start"


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        (course(0.10, 0.20, 0.30, 0.40), "still improving"),
        (course(0.10, 0.39, 0.40, 0.40), "saturating"),
        (course(0.40), "healthy"),
        (course(0.10, 0.40), "healthy"),  # three looks tell no trend
        (course(0.10, 0.03, spread=0.001), "full collapse"),
        (course(0.10, 0.40, spread_of_z=0.001), "full collapse"),
        (course(0.10, 0.40, deviation_of_z=0.001), "full collapse"),
        (course(0.10, 0.03, nesum=1.1), "dimensional collapse"),
        (course(0.10, 0.40, nesum=1.1), "healthy"),
        (course(0.03, 0.03, rankme=8.1, spread=0.081), "not learning"),
        (course(0.10, 0.40, rankme=8.1, nesum=3.0, spread=0.081), "healthy"),
        (course(0.03, 0.03), "not learning"),
        (course(0.03, 0.03, partner_holdout=0.002), "not learning"),
        (course(0.10, 0.40, partner_trained=0.9), "over-fitting"),
    ],
)
def test_each_course_has_its_verdict(lines: list[dict[str, Any]], name: str) -> None:
    found = judge(lines)
    assert found is not None and found.name == name
    assert found.bad == (name not in ("healthy", "still improving", "saturating"))
    assert str(found).startswith(name) and found.reason and found.advice
    assert str(found).endswith(".")


def test_views_that_an_untrained_network_tells_apart_are_too_easy() -> None:
    found = judge([{**START, "partner_holdout": 0.99}, *course(0.1, 0.2)[1:]])
    assert found is not None and found.name == "views too easy"


def test_without_holdout_images_the_others_tell_how_hard_the_views_are() -> None:
    def held_none(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: value for name, value in line.items() if name != "partner_holdout"} for line in lines]

    names = []
    for first, shares in ((0.99, (0.1, 0.2)), (0.01, (0.03, 0.03)), (0.04, (0.1, 0.4))):
        last = {"partner_trained": 0.002} if first == 0.01 else {"partner_trained": 0.9}
        found = judge(held_none([{**START, "partner_trained": first}, *course(*shares, **last)[1:]]))
        names.append(found and found.name)
    # What was learnt by heart shows only beside images that were not learnt from.
    assert names == ["views too easy", "views too hard", "healthy"]


@pytest.mark.parametrize("name", ["images", "sound", "text", "pairs"])
def test_advice_on_views_names_settings_that_the_kind_of_data_has(name: str) -> None:
    kind = modality(name)
    settings = {field.name for field in dataclasses.fields(kind.views)}
    easy = judge([{**START, "partner_holdout": 0.99}, *course(0.1, 0.2)[1:]], kind=kind)
    blind = {**START, "partner_holdout": 0.01}
    hard = judge([blind, *course(0.03, 0.03, partner_holdout=0.002)[1:]], kind=kind)
    for found, verdict_name in ((easy, "views too easy"), (hard, "views too hard")):
        assert found is not None and found.name == verdict_name
        flags = {flag.replace("-", "_") for flag in re.findall(r"--([\w-]+)", found.advice)}
        assert flags and flags <= settings | {"temperature"}
        assert "{" not in found.advice
    unlearnt = judge(course(0.40), evaluation=labelled("worse", "worse"), kind=kind)
    assert unlearnt is not None and f"such as {kind.differ_by}," in unlearnt.advice


def test_few_images_have_to_show_more_than_chance_does() -> None:
    many, few = ([{**line, "images": images} for line in course(0.03, 0.055)] for images in (1024, 256))
    assert [found and found.name for found in map(judge, (many, few))] == ["healthy", "not learning"]


def test_views_are_too_hard_where_nothing_was_ever_found_under_them() -> None:
    blind = {**START, "partner_holdout": 0.01}
    for nesum in (3.0, 1.1):  # such views narrow features too
        found = judge([blind, *course(0.03, 0.03, partner_holdout=0.002, nesum=nesum)[1:]])
        assert found is not None and found.name == "views too hard"
    # Of few views, chance alone finds more.
    seen = {"partners": 60, "partner_chance": 1 / 59}
    names = []
    for held in (0.050, 0.051):
        found = judge([blind, *course(0.03, 0.03, partner_holdout=held, **seen)[1:]])
        names.append(found and found.name)
    assert names == ["views too hard", "not learning"]


def test_narrow_features_are_the_fault_of_views_under_which_even_the_untrained_network_finds_few() -> None:
    names = []
    for first in (0.026, 0.051):  # the most of recorded views apart, the least of views that were learnt from
        start = {**START, "partner_holdout": first}
        found = judge([start, *course(0.03, 0.03, partner_holdout=0.005, nesum=1.1)[1:]])
        names.append(found and found.name)
    assert names == ["views too hard", "dimensional collapse"]


def test_by_heart_takes_two_passes_and_more_than_chance() -> None:
    known = {"partner_holdout": 0.40, "partner_trained": 0.52}
    names = []
    for epoch, partners in ((2.0, 400), (1.9, 400), (2.0, 100)):
        found = judge(course(0.10, 0.40, **known, epoch=epoch, partners=partners))
        names.append(found and found.name)
    assert names == ["over-fitting", "too early to tell", "healthy"]


def test_nothing_is_said_too_early_nor_without_the_untrained_network() -> None:
    assert judge([]) is None and judge([START]) is None
    assert judge([START, {**course(0.4)[-1], "step": 5}]) is None
    assert judge(course(0.1, 0.2)[1:]) is None


def short(steps: int, passes: float, *found: float, **last: float) -> list[dict[str, Any]]:
    """A course of so many steps and passes."""
    shares = [(line, line["step"] / 100) for line in course(*found, **last)]
    return [
        {**line, "step": round(steps * share), "steps": steps, "epoch": passes * share}
        for line, share in shares
    ]


@pytest.mark.parametrize(
    ("steps", "passes", "early"),
    [(24, 1.3, True), (99, 9.0, True), (150, 1.5, True), (100, 2.0, False), (200, 0.7, False)],
)
def test_a_short_run_is_neither_blamed_nor_praised(steps: int, passes: float, early: bool) -> None:
    blamed = {
        "full collapse": short(steps, passes, 0.03, spread=0.001),
        "dimensional collapse": short(steps, passes, 0.03, nesum=1.1),
        "not learning": short(steps, passes, 0.03),
    }
    for name, lines in blamed.items():
        found = judge(lines)
        assert found is not None and found.name == ("too early to tell" if early else name)
        if early:
            assert found.reason.startswith(f"{passes:.1f} passes, {steps} steps; so far ") and not found.bad
    works = judge(short(steps, passes, 0.4))
    assert works is not None and works.name == ("too early to tell" if early else "healthy")
    assert "finds 40% of the partners" in works.reason  # what it has learnt already is said


def test_healthy_says_what_was_seen() -> None:
    found = judge(course(0.43))
    assert found is not None
    assert "finds 43% of the partners" in found.reason and "no collapse (120 directions)" in found.reason
    assert "only labels tell" in found.advice


def labelled(knn: str, linear: str) -> dict[str, Any]:
    """An evaluation in which the encoder came off so against the untrained network."""
    rows = {
        name: {
            "title": title,
            "against": [
                {"baseline": "pixels", "outcome": "better", "words": "better than raw pixels"},
                {"baseline": "untrained", "outcome": outcome, "words": f"{outcome} (its figures)"},
            ],
        }
        for name, title, outcome in (("knn", "k-NN", knn), ("linear", "linear", linear))
    }
    return {"summary": rows, "data": {"train": "a/train", "test": "a/test"}}


@pytest.mark.parametrize(
    ("knn", "linear", "good"),
    [
        ("better", "better", True),
        ("better", "no different", True),
        ("no different", "better", True),
        ("better", "worse", False),
        ("no different", "no different", False),
        ("worse", "no different", False),
    ],
)
def test_labels_that_show_no_gain_come_first(knn: str, linear: str, good: bool) -> None:
    lines, said = course(0.40), f"on a/test, k-NN {knn} (its figures); linear {linear} (its figures)"
    found = judge(lines, evaluation=labelled(knn, linear))
    assert found is not None and said in found.reason and found.bad == (not good)
    assert found.name == ("healthy" if good else "not better than an untrained network")
    # What health has found wrong is kept, with what to try.
    ill = judge(course(0.03, spread=0.001), evaluation=labelled(knn, linear))
    alone = judge(course(0.03, spread=0.001))
    assert ill is not None and alone is not None and ill.bad and ill.advice == alone.advice
    assert "full collapse" in (ill.name if good else ill.reason)
    unchecked = judge([], evaluation=labelled(knn, linear))  # as with --health-checks 0
    assert (unchecked is None) == good


def test_an_evaluation_without_an_untrained_network_changes_nothing() -> None:
    found = labelled("worse", "worse")
    for row in found["summary"].values():
        del row["against"][1]
    assert judge(course(0.40), evaluation=found) == judge(course(0.40), evaluation={}) == judge(course(0.40))


def test_without_holdout_images_the_rest_is_still_judged() -> None:
    lines = [{k: v for k, v in line.items() if "partner" not in k} for line in course(0.1, 0.2, 0.4)]
    found = judge(lines)
    assert found is not None and found.name == "still improving"
    few = judge(lines[:1] + lines[2:])  # three looks tell no trend
    assert few is not None and few.name == "healthy"


def test_a_run_that_collapses_stops_where_it_is_saved(tmp_path, monkeypatch) -> None:
    """VICReg without its variance term pulls everything to one point."""
    monkeypatch.setattr(monitor, "SHARE", 1e9)  # so that looks come by steps alone, on a slow machine too
    images = np.random.default_rng(0).integers(0, 256, (400, 8, 8, 3), np.uint8)
    settings: dict[str, Any] = {
        "method": "vicreg", "variance": 0.0, "covariance": 0.0, "head": (16, 16), "encoder": "resnet10_w16",
        "optimizer": "sgd", "lr": 0.05, "steps": 120, "batch_size": 32, "holdout": 0.2, "health_checks": 12,
        "device": "cpu", "precision": "float32", "out": tmp_path / "run",
    }  # fmt: skip
    with pytest.raises(NearfarError, match=r"stopped at step .*collapse") as caught:
        nearfar.pretrain(images, stop_on_collapse=True, **settings)
    assert str(caught.value).rstrip(".").count("\n") == 0
    assert (tmp_path / "run" / LAST).exists() and not (tmp_path / "run" / "encoder.json").exists()
    run = nearfar.pretrain(images, **settings)  # without the flag it goes on from there to its end
    steps = [line["step"] for line in run.health()]
    assert steps == sorted(set(steps)) and steps[0] == 0 and steps[-1] == 120
    found = run.verdict()
    assert found is not None and found.name in verdict.COLLAPSED
    assert run.to_json()["verdict"]["name"] == found.name
    # An evaluation in its folder counts, unless it is of another encoder.
    for digest, name in (
        (fingerprint(run.encoder), "not better than an untrained network"),
        ("x", found.name),
    ):
        seen = {**labelled("worse", "worse"), "encoder": {"sha256": digest}}
        (run.path / "evaluation.json").write_text(json.dumps(seen))
        judged = run.verdict()
        assert judged is not None and judged.name == run.to_json()["verdict"]["name"] == name


TASK = Expects(task="turn_accuracy", chance=0.25, at_chance="turn them", solved="crop it off")


def tasks(*held: float, trained: float = 0.0, **last: float) -> list[dict[str, Any]]:
    """Looks at a run that solves its own task so well, and finds no partner."""
    lines = course(*[0.0] * len(held), **last)
    for line, share in zip(lines[1:], held, strict=True):
        line["task"] = {"held": share, "trained": trained or share, "images": 1024}
    return lines


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        (tasks(0.3, 0.4, 0.5, 0.6), "still improving"),
        (tasks(0.3, 0.59, 0.6, 0.6), "saturating"),
        (tasks(0.6), "healthy"),
        (tasks(0.26, 0.25), "not learning"),
        (tasks(0.9, 0.995), "task too easy"),
        (tasks(0.3, 0.5, trained=0.9), "over-fitting"),
        (tasks(0.3, 0.6, nesum=1.1), "healthy"),
        (tasks(0.25, 0.25, nesum=1.1), "dimensional collapse"),
        (tasks(0.3, 0.6, spread=0.001), "full collapse"),
    ],
)
def test_a_method_with_a_task_of_its_own_is_judged_by_it(lines: list[dict[str, Any]], name: str) -> None:
    found = judge(lines, TASK)
    assert found is not None and found.name == name
    assert found.bad == (name not in ("healthy", "still improving", "saturating"))
    assert "partner" not in found.reason and str(found).endswith(".")
    advice = {"not learning": "turn them", "task too easy": "crop it off"}
    assert found.advice == advice.get(name, found.advice)
    assert judge(lines).bad  # by partners, all of them would be


def test_chance_is_one_of_the_examples_that_are_compared() -> None:
    lines = tasks(0.05, 0.06)
    for line in lines[1:]:
        line["task"]["compared"] = 16
    found = judge(lines, Expects(task="accuracy", chance=None))
    assert found is not None and found.name == "not learning"
    assert "its accuracy is 6.0%, where 6.2% is chance" in found.reason


def test_a_task_that_may_be_solved_is_not_called_easy() -> None:
    found = judge(tasks(0.9, 0.995), Expects(task="accuracy", chance=0.1))
    assert found is not None and not found.bad and "its accuracy is 100%, where 10% is chance" in found.reason


def test_masked_methods_are_judged_by_a_linear_classifier() -> None:
    """Their k-NN is poor by nature; a run that a linear classifier finds better is not called broken."""
    lines = tasks(0.3, 0.59, 0.6, 0.6)
    for expects, linear, bad in (
        (mae.MAE.expects(mae.Config()), "better", False),
        (mae.MAE.expects(mae.Config()), "worse", True),
        (Expects(task="rotation_accuracy"), "better", True),
    ):
        found = judge(lines, expects, labelled("worse", linear))
        assert found is not None and found.bad == bad
        assert f"k-NN worse (its figures); linear {linear} (its figures)" in found.reason


def test_a_memory_bank_is_given_ten_passes_before_it_is_said_to_learn_nothing() -> None:
    lines = course(0.03)
    for passes, name in ((2.0, "too early to tell"), (10.0, "not learning")):
        found = judge([*lines[:-1], {**lines[-1], "epoch": passes}], npid.NPID.expects(npid.Config()))
        assert found is not None and found.name == name
