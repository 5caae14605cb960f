"""What a sweep varies and how it judges: points, statistics against independent ones, proposals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from small import IMAGE_METHODS

from nearfar.cli.commands import pretrain_parser
from nearfar.core.errors import NearfarError
from nearfar.experiments import influence, space
from nearfar.experiments.findings import Sweep, Trial
from nearfar.experiments.proposals import JOURNAL, Proposals
from nearfar.training import recipes, resolve
from nearfar.training.run_config import RunConfig

CPU = torch.device("cpu")


def wanted_of(method: str = "simclr", recipe: str = "cpu", **given: object) -> RunConfig:
    return resolve.resolve(method, recipe, given, side=32, device=CPU)


# The points.


@pytest.mark.parametrize("method", IMAGE_METHODS)
@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_every_axis_holds_the_recipe_and_both_its_ends_are_settings(method: str, recipe: str) -> None:
    wanted = wanted_of(method, recipe)
    axes = space.axes(wanted, (), 10_000)
    own = {axis.name: axis.own for axis in axes}
    assert {"batch_size", "lr", "crop_min", "colour"} <= set(own)
    assert ("depth" in own) == hasattr(wanted.settings, "head")
    assert space.settings(wanted, axes, own) == {}
    for axis in axes:
        assert axis.low < axis.high and axis.low <= axis.own <= axis.high
        assert axis.own in axis.values if axis.values else axis.distribution()._contains(axis.own)
        for end in (axis.low, axis.high):
            changed = space.settings(wanted, axes, own | {axis.name: end})
            again = wanted_of(method, recipe, **changed)  # nothing is out of range
            assert (again == wanted) == (end == axis.own)


def test_a_point_becomes_settings() -> None:
    wanted = wanted_of()
    axes = space.axes(wanted, (), 10_000)
    own = {axis.name: axis.own for axis in axes}
    assert own == {
        "temperature": 0.1,
        "batch_size": 256,
        "lr": 0.02,
        "crop_min": 0.2,
        "colour": 1.0,
        "depth": 2,
        "width": 256,
    }
    point = own | {"temperature": 0.123456, "colour": 2.0, "depth": 3, "width": 512, "batch_size": 64}
    changed = space.settings(wanted, axes, point)
    assert changed == {
        "temperature": 0.123,
        "batch_size": 64,
        "brightness": 0.8,
        "contrast": 0.8,
        "saturation": 0.8,
        "hue": 0.2,
        "grayscale": 0.4,
        "head": (512, 512, 128),
    }
    assert space.settings(wanted, axes, own | {"depth": 1}) == {"head": (128,)}
    words = space.words({**changed, "cache": False, "lr": 1 / 3, "minutes": 3.0})
    assert " ".join(words[:4]) == "--temperature 0.123 --batch-size 64" and words[-3:] == [
        repr(1 / 3),
        "--minutes",
        "3",
    ]
    assert pretrain_parser(()).read(["x", *words]) == {
        "data": "x", "cache": False, "lr": 1 / 3, "minutes": 3.0, **changed
    }  # fmt: skip


def test_what_is_typed_is_not_varied() -> None:
    def names(**typed: object) -> set[str]:
        return {axis.name for axis in space.axes(wanted_of(**typed), typed, 10_000)}

    everything = names()
    assert everything - names(temperature=0.3) == {"temperature"}
    assert everything - names(head=(64, 32)) == {"depth", "width"}
    assert everything - names(hue=0.0) == {"colour"}
    assert names(temperature=0.3, batch_size=8, lr=0.1, crop_min=0.1, hue=0.0, head=(8,)) == set()
    (batch,) = (axis for axis in space.axes(wanted_of(), (), 300) if axis.name == "batch_size")
    assert batch.values == (64, 128, 256)


# Statistics.


def test_spearman_is_scipys_with_equals_too() -> None:
    draw = np.random.default_rng(0)
    for n in (3, 7, 40):
        x, y = draw.integers(0, 5, n).tolist(), (draw.integers(0, 9, n) * 0.1).tolist()
        expected = scipy.stats.spearmanr(x, y).statistic
        found = influence.spearman(x, y)
        assert (found is None and np.isnan(expected)) or found == pytest.approx(expected)
    assert influence.spearman([1, 2, 3, 4], [10, 100, 1000, 1e9]) == pytest.approx(1.0)
    assert influence.spearman([1, 2], [2, 1]) is None and influence.spearman([1, 1, 1], [1, 2, 3]) is None


def test_deviation_is_pooled() -> None:
    assert influence.deviation([[1.0, 3.0], [5.0, 5.0, 8.0]]) == pytest.approx(((2 + 6) / 3) ** 0.5)
    assert influence.deviation([[1.0], []]) is None


def test_an_effect_is_the_best_groups_mean_less_the_worsts() -> None:
    range_ = space.Axis("temperature", "temperature", 0.1, 0.01, 1.0, log=True)
    groups = influence.grouped(range_, [0.5, 0.02, 0.1, 0.9, 0.03, 0.2])
    assert groups.tolist() == [2, 0, 1, 2, 0, 1]
    values = np.array([[9.0, 1.0, 5.0, 7.0, 2.0, 4.0]])
    assert influence.effects(values, groups).tolist() == [8.0 - 1.5]
    listed = space.Axis("depth", "head depth", 2, 1, 3, values=(1, 2, 3))
    alone = influence.grouped(listed, [1, 1, 2, 2, 3])  # depth 3 was tried once, which tells nothing
    assert influence.effects(np.array([[1.0, 3.0, 4.0, 4.0, 99.0]]), alone).tolist() == [2.0]
    assert influence.effects(np.array([[1.0, 3.0]]), np.array([0, 1])).tolist() == [0.0]


def planted(seed: int, strength: float, trials: int = 24) -> tuple[influence.Influence, ...]:
    """Random points whose value follows the temperature's logarithm, to a strength, and noise."""
    axes = space.axes(wanted_of(), (), 10_000)
    draw = np.random.default_rng(seed)
    points, values = [], []
    for _ in range(trials):
        points.append(
            {
                axis.name: draw.choice(axis.values).item()
                if axis.values
                else float(np.exp(draw.uniform(np.log(axis.low), np.log(axis.high))))
                if axis.log
                else draw.uniform(axis.low, axis.high)
                for axis in axes
            }
        )
        values.append(strength * np.log(points[-1]["temperature"]) + draw.normal())
    return influence.influences(axes, points, values, noise=0.1)


def test_a_planted_effect_is_found_and_is_the_most_important() -> None:
    for seed in range(3):
        found = planted(seed, strength=3.0)
        assert [item.name for item in found if item.matters] == ["temperature"]
        assert found[0].name == "temperature" and sum(item.importance for item in found) == pytest.approx(1.0)


def test_where_nothing_matters_nothing_is_said_to() -> None:
    alarms = sum(any(item.matters for item in planted(100 + seed, strength=0.0)) for seed in range(40))
    assert alarms <= 6  # 2 are expected of 40; more than 6 in 1 % of cases


def test_too_few_trials_tell_nothing() -> None:
    assert planted(0, 3.0, trials=influence.LEAST - 1) == ()


# The verdict, on trials made up.


def made_up(recipe: list[float], best: list[float], others: list[float | None]) -> Sweep:
    axes = space.axes(wanted_of(), ("batch_size", "lr", "crop_min", "hue", "head"), 10_000)
    values = [recipe[0], best[0], *others]
    trials = [
        Trial(
            k,
            0,
            {"temperature": 0.1 + 0.01 * k},
            {"knn": v or 0.0, "rankme": 9.0 - k},
            v,
            "" if v else "bad",
            1.0,
        )
        for k, v in enumerate(values)
    ]
    repeats = [Trial(0, 1 + k, {"temperature": 0.1}, {}, v, "", 1.0) for k, v in enumerate(recipe[1:])]
    repeats += [Trial(1, 1 + k, {"temperature": 0.11}, {}, v, "", 1.0) for k, v in enumerate(best[1:])]
    return Sweep(axes, tuple(trials), tuple(repeats), "knn", "nearfar pretrain x", Path("x"))


def test_a_best_beyond_noise_is_told_from_one_that_was_lucky() -> None:
    sure = made_up([0.50, 0.51, 0.52], [0.60, 0.59, 0.61], [0.4] * 5)
    assert sure.best.number == 1 and sure.again == [0.59, 0.61]
    pooled = ((2 * 0.01**2 + 2 * 0.01**2) / 3) ** 0.5
    assert sure.noise == pytest.approx(pooled)
    assert "beyond the noise" in sure.verdict()[-1] and "60.0 % with other seeds" in sure.verdict()[-1]
    unsure = made_up([0.50, 0.51, 0.52], [0.60, 0.53, 0.51], [0.4] * 5)
    assert "within the noise" in unsure.verdict()[-1]
    lucky = made_up([0.50, 0.51, 0.52], [0.60, 0.50, 0.49], [0.4] * 5)
    assert "no better" in lucky.verdict()[-1]
    few = made_up([0.50, 0.51, 0.52], [0.60, 0.55], [0.4] * 5)  # sure with 3 degrees of freedom, not with 2
    assert 3.2 < 0.04 / (0.01 * (1 + 1 / 3) ** 0.5) < 4.3 and "within the noise" in few.verdict()[-1]
    alone = made_up([0.50, 0.51, 0.52], [0.60], [0.4] * 5)
    assert "not repeated" in alone.verdict()[-1]
    kept = made_up([0.50, 0.51, 0.52], [0.40], [0.4] * 5)
    assert kept.again == [] and "keep it" in kept.verdict()[-1]


def test_runs_ended_early_count_as_the_worst_that_were_not() -> None:
    found = made_up([0.5, 0.5, 0.5], [0.6, 0.6, 0.6], [0.4, 0.45, 0.4, None, None, None])
    assert any("counted as the worst: 3 of 8 trials" in line for line in found.verdict())
    (tau,) = found.influences
    assert tau.effect == pytest.approx(np.mean([0.5, 0.6, 0.4]) - 0.4)  # parts of 3, 3 and 2 trials
    expected = scipy.stats.spearmanr([5, 4, 3, 2, 1], [0.5, 0.6, 0.4, 0.45, 0.4]).statistic
    assert found.spearman == {"rankme": pytest.approx(expected)}


# Proposals.


def walk(folder: Path, count: int, seed: int = 0) -> list[dict[str, space.Value]]:
    """Take proposals until there are `count`, telling of each the same value whoever asks; None for some."""
    folder.mkdir(exist_ok=True)
    proposals = Proposals(folder, space.axes(wanted_of(), (), 10_000), seed)
    while True:
        number, params = proposals.next()
        if number >= count:
            return [dict(trial.params) for trial in proposals.study.trials][:count]
        proposals.tell(None if params["lr"] > 0.1 else -abs(params["temperature"] - 0.2))


def test_the_same_seed_proposes_the_same_and_the_recipe_comes_first(tmp_path: Path) -> None:
    found = walk(tmp_path / "a", 16)
    assert found == walk(tmp_path / "b", 16)
    assert found[0] == {axis.name: axis.own for axis in space.axes(wanted_of(), (), 10_000)}
    assert len({json.dumps(point) for point in found}) == 16
    other = walk(tmp_path / "c", 16, seed=1)
    assert other[0] == found[0] and all(x != y for x, y in zip(other[1:], found[1:], strict=True))
    for line in (tmp_path / "a" / JOURNAL).read_text().splitlines():
        assert isinstance(json.loads(line), dict)  # text, and no pickle


def test_a_journal_cut_anywhere_goes_on_to_the_same_proposals(tmp_path: Path) -> None:
    expected = walk(tmp_path / "whole", 14)
    text = (tmp_path / "whole" / JOURNAL).read_bytes()
    for number, cut in enumerate([*np.random.default_rng(0).integers(0, len(text), 12).tolist(), 0, 1, 200]):
        folder = tmp_path / f"cut-{number}"
        folder.mkdir()
        (folder / JOURNAL).write_bytes(text[:cut])
        (folder / f"{JOURNAL}.lock").write_bytes(b"")
        proposals = Proposals(folder, space.axes(wanted_of(), (), 10_000), 0)
        found = []
        for _ in range(14):
            at, params = proposals.next()
            found.append((at, params))
            if at == 13:
                break
            proposals.tell(None if params["lr"] > 0.1 else -abs(params["temperature"] - 0.2))
        assert all(params == expected[at] for at, params in found) and found[-1][0] == 13, cut


def test_a_damaged_journal_is_a_sentence(tmp_path: Path) -> None:
    walk(tmp_path / "a", 2)
    text = (tmp_path / "a" / JOURNAL).read_text()
    (tmp_path / "a" / JOURNAL).write_text(text.replace("{", "[", 1))
    with pytest.raises(NearfarError, match=r"optuna\.log is damaged"):
        walk(tmp_path / "a", 2)
