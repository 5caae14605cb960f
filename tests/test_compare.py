"""Methods side by side: the same budget and evaluation, resumable, and no failure ends it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import small_pairs
from conftest import known_vit

import nearfar
from nearfar import models
from nearfar.core.errors import NearfarError
from nearfar.experiments import measuring
from nearfar.experiments.compare import MethodComparison, Row, SeedStatistics, _place, compare
from nearfar.training.run import load

SHORT = {"steps": 2, "batch_size": 16, "encoder": "resnet10_w16", "device": "cpu", "precision": "float32"}


def plain(made: MethodComparison) -> dict[str, Any]:
    return json.loads(json.dumps(made.to_json()))


def small_resnet(folder: Path) -> str:
    """The name of a small known encoder with random weights in a file."""
    with models.seeded(4, "resnet"):
        net = models.encoder("timm:test_resnet", stem="standard", size=32).net
    safetensors.torch.save_file(net.state_dict(), folder / "resnet.safetensors")
    return f"timm:test_resnet@32={folder / 'resnet.safetensors'}"


@pytest.fixture(scope="module")
def compared(labelled, tmp_path_factory):
    out = tmp_path_factory.mktemp("compare")
    train, test = labelled / "train", labelled / "test"
    names = ["simclr", "simsiam"]
    made = compare(train, methods=names, out=out, seeds=2, train=train, test=test, **SHORT)
    return made, out, train, test


def test_every_method_and_baseline_is_a_row_with_its_spread(compared):
    made, out, _, _ = compared
    assert {row.name for row in made.rows} == {"simclr", "simsiam"}
    assert [row.name for row in made.baselines] == ["pixels", "pca", "colours", "patches", "untrained"]
    for row in made.rows:
        assert row.seeds == 2 and not row.reason
        for name in ("knn", "linear", "images_per_second", "epochs", "rankme", "uniformity"):
            value = row.figures[name]
            assert value.low <= value.mean <= value.high
    knn = [row.figures["knn"].mean for row in made.rows]
    assert knn == sorted(knn, reverse=True)
    held = json.loads((out / "compare.json").read_text())
    assert held == json.loads(json.dumps(made.to_json()))
    assert made.table() + "\n" == (out / "compare.md").read_text()
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_call_again_trains_and_measures_nothing(compared):
    made, out, train, test = compared
    before = {path: path.stat().st_mtime_ns for path in out.glob("*-*/encoder.safetensors")}
    (out / "simclr-1.json").unlink()  # as if it had been stopped before that run was measured
    (out / "simsiam-1.json").write_text("[")  # damaged: measured anew too
    again = compare(train, methods=["simclr", "simsiam"], out=out, seeds=2, train=train, test=test, **SHORT)
    was, now = plain(made), plain(again)
    for row in [*was["methods"], *now["methods"]]:
        assert row["figures"].pop("encoded_per_second")["mean"] > 0  # measured anew
    assert now == was
    assert len(before) == 4 and before == {path: path.stat().st_mtime_ns for path in before}


def test_figures_are_of_the_images_now_given_and_not_of_an_earlier_call(compared, tmp_path):
    _, out, train, test = compared
    how = {"methods": ["simclr"], "out": tmp_path / "c", "seeds": 1, **SHORT}
    plain = compare(train, **how)
    assert "knn" not in plain.rows[0].figures and not plain.baselines
    found = compare(train, train=train, test=train, **how)  # every image finds itself
    assert found.rows[0].figures["rankme"] == plain.rows[0].figures["rankme"]
    assert len(found.baselines) == 5
    other = compare(train, train=train, test=test, **how)
    alone = json.loads((out / "simclr-0.json").read_text())["method"]  # the same run, measured once
    for name in ("knn", "linear"):
        assert other.rows[0].figures[name].mean == alone[name] != found.rows[0].figures[name].mean


@pytest.mark.parametrize(
    "names, says", [([".DS_Store"], ""), (["simclr-0", "notes.txt"], ""), (["x.py"], "x.py")]
)
def test_what_a_comparison_goes_into(tmp_path, names, says):
    for name in names:
        (tmp_path / name).touch()
    if not says:
        assert _place(tmp_path) == tmp_path
    else:
        with pytest.raises(NearfarError, match=f"holds '{says}'"):
            _place(tmp_path)


def test_a_folder_that_holds_anything_else_is_refused(compared, tmp_path):
    _, out, train, _ = compared
    with pytest.raises(NearfarError, match="holds 'config.json' and is not the folder of a comparison"):
        compare(train, methods=["simclr"], out=out / "simclr-0", seeds=1, **SHORT)
    assert not (out / "simclr-0/simclr-0").exists()


def test_known_encoders_are_rows_with_what_they_cost(compared, tmp_path, monkeypatch):
    _, _, train, test = compared
    monkeypatch.setattr(measuring, "BASELINES", ("pixels",))  # the others take their time
    (tmp_path / "other").mkdir()
    start, other = known_vit(tmp_path, 32), small_resnet(tmp_path / "other")
    how = {"methods": ["simclr"], "out": tmp_path / "c", "seeds": 1, "train": train, "test": test}
    how |= {**SHORT, "weights": start, "encoder": None, "image_size": None}
    made = compare(train, **how)  # the encoder that training started from is a row under its own name
    assert [row.name for row in made.baselines][-1] == start
    made = compare(train, known=[other, start], **how)
    assert [row.name for row in made.baselines][-2:] == [other, start]
    row = made.baselines[-2]
    assert row.figures["parameters"].mean == sum(x.numel() for x in load(other).encoder.parameters())
    assert row.figures["encoded_per_second"].mean > 0 and row.licence == "unknown"
    alone = nearfar.evaluate(other, train=train, test=test, baselines=(), known="none")
    for name in ("knn", "linear"):
        assert row.figures[name].mean == alone.scores[name]["encoder"].accuracy
    assert "| parameters | images/s encoded |" in made.table() and "| licence |" in made.table()
    assert f"| {other} | 1 |" in made.table()
    held = json.loads((tmp_path / "c" / "compare.json").read_text())
    assert held["baselines"][-2]["licence"] == "unknown"


@pytest.mark.parametrize(
    ("known", "given", "says"),
    [
        (["timm:resnet18"], {}, "give --train and --test too"),
        (["none", "timm:resnet18"], {"train": "", "test": ""}, "leave it out beside other names"),
        (["timm:nothing"], {"train": "", "test": ""}, "nothing"),
    ],
)
def test_known_encoders_that_cannot_be_rows_are_refused_at_once(compared, known, given, says, tmp_path):
    _, _, train, _ = compared
    given = dict.fromkeys(given, train)
    with pytest.raises(NearfarError, match=says):
        compare(train, methods=["simclr"], known=known, out=tmp_path / "out", **given, **SHORT)
    assert not (tmp_path / "out").exists()


def test_a_method_that_fails_is_a_row_with_its_reason(photos, tmp_path):
    made = nearfar.compare(photos, methods=["supervised", "simclr"], out=tmp_path, seeds=1, **SHORT)
    rows = {row.name: row for row in made.rows}
    assert "seed 0 failed" in rows["supervised"].reason and "label" in rows["supervised"].reason
    assert rows["supervised"].seeds == 0 and rows["simclr"].seeds == 1
    assert "knn" not in rows["simclr"].figures and rows["simclr"].figures["rankme"].mean >= 1
    assert "supervised: seed 0 failed" in made.table()
    with pytest.raises(NearfarError, match="every method failed"):
        nearfar.compare(photos, methods=["supervised"], out=tmp_path / "b", seeds=1, **SHORT)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"methods": ["simclar"]}, "simclr"),
        ({"methods": []}, "needs a method"),
        ({"methods": ["simclr"], "train": "x"}, "give both, or neither"),
        ({"methods": ["simclr"], "seed": 3}, "--seeds"),
        ({"methods": ["simclr"], "recipe": "cpuu"}, "cpu"),
        ({"methods": ["simclr"]}, "there is no 'nowhere'"),
    ],
)
def test_what_cannot_be_compared_is_refused_at_once(given, says, tmp_path):
    with pytest.raises(NearfarError, match=says):
        compare("nowhere", out=tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_health_figures_are_those_by_which_runs_can_be_ranked(photos: Path, tmp_path: Path) -> None:
    run = nearfar.pretrain(
        photos, out=tmp_path / "a", steps=2, batch_size=8, encoder="resnet10_w16", image_size=16, device="cpu"
    )
    found = measuring.last_health(run)
    assert {"rankme", "contrastive_accuracy", "partner_trained"} <= found.keys()
    assert not {"step", "epoch", "partners", "partner_chance", "images", "dim", "seconds"} & found.keys()


def test_a_spread_is_mean_least_and_greatest():
    assert SeedStatistics.of([1.0, 2.0, 6.0]) == SeedStatistics(3.0, 1.0, 6.0)
    assert SeedStatistics.of([]) is None


def test_the_first_lines_say_what_the_best_is_above_and_what_not() -> None:
    def row(name: str, low: float, high: float) -> Row:
        return Row(name, 2, {"knn": SeedStatistics((low + high) / 2, low, high)})

    methods = (row("simclr", 0.6, 0.64), row("byol", 0.5, 0.7))
    baselines = (row("pixels", 0.4, 0.4), row("untrained", 0.59, 0.59), row("patches", 0.6, 0.6))
    made = MethodComparison(methods, baselines, {}, Path())
    assert made.sentences() == [
        "k-NN: simclr is best with 62.0 %, above an untrained network (59.0) and raw pixels (40.0) with "
        "every seed; not above k-means patches (60.0)"
    ]
    assert made.table().splitlines()[0] == made.to_json()["sentences"][0]
    assert MethodComparison(methods, (), {}, Path()).sentences() == []
    beaten = MethodComparison(methods[:1], baselines[2:], {}, Path()).sentences()
    assert beaten == ["k-NN: simclr is best with 62.0 %; not above k-means patches (60.0)"]
    paced = Row("simclr", 1, {"images_per_second": SeedStatistics(9.0, 9.0, 9.0)})
    assert "| clips/s |" in MethodComparison((paced,), (), {}, Path(), "clips").table()


def test_images_with_captions_are_compared_by_numbers_alone(labelled, tmp_path):
    scenes, train = small_pairs.folder(tmp_path / "scenes", 24), labelled / "train"
    found = compare(
        scenes, methods=["clip", "siglip"], out=tmp_path / "c", seeds=2, train=train, test=train, **SHORT
    )
    assert all(row.seeds == 2 and not row.reason for row in found.rows)
    assert "knn" in found.rows[0].figures and "task" not in found.rows[0].figures
