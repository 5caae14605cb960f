"""The scoreboard: its arithmetic, its page, and ours of every subject at a tiny size; no peer is needed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from benchmarks import (
    accuracy,
    agreement_family,
    agreement_pair,
    agreement_references,
    feed,
    loss,
    measure,
    neighbours,
    pictures,
    scoreboard,
    shared,
    start,
    step,
    store,
    table,
    views,
)
from benchmarks.measure import Spread
from benchmarks.scoreboard import Asked
from benchmarks.table import Bar, Row, Section


def test_contenders_take_turns() -> None:
    turns: list[str] = []
    works = {who: (lambda who=who: turns.append(who) or float(len(turns))) for who in "ab"}
    found = measure.alternate(works, 3, warm=1)
    assert turns == list("abababab")
    assert found == {"a": [3.0, 5.0, 7.0], "b": [4.0, 6.0, 8.0]}


def test_gain_is_taken_round_by_round() -> None:
    # The machine slows down fourfold in the last round; each round's ratio is 2 all the same.
    assert measure.gain([10, 10, 2.5], [5, 5, 1.25], more_is_better=True) == Spread(2, 2, 2)
    assert measure.gain([1, 4], [3, 8], more_is_better=False) == Spread(2, 2.5, 3)
    assert Spread.of([3, 1, 2]) == Spread(1, 2, 3)


def test_rate_counts_things_and_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(measure.time, "process_time", lambda: clock[0])

    def work() -> None:
        clock[0] += 0.25

    assert measure.rate(work, 10, 1.0)() == 40.0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the mark can be reset on Linux only")
def test_peak_memory_is_what_was_held() -> None:
    def work() -> None:
        held = torch.ones(16, 2**20)
        held.sum()

    for _ in range(2):  # not the first time only: the mark is reset
        assert 60 <= measure.peak_above(work) <= 80


def test_a_fresh_process_gives_back_what_its_child_returns() -> None:
    found = measure.fresh("loss", threads=1, who="nearfar", n=48)
    assert found == pytest.approx({**found, "value": loss.child("nearfar", 48)["value"]})
    with pytest.raises(measure.Failed, match="KeyError"):
        measure.fresh("loss", threads=1, who="nobody", n=8)
    with pytest.raises(measure.Failed, match=r"took more than 0\.01 s"):
        measure.fresh("loss", threads=1, timeout=0.01, who="nearfar", n=4096)


def test_cpu_seconds_of_a_command() -> None:
    cpu, clock, memory = measure.finished([sys.executable, "-c", "sum(range(10**6))"])
    assert 0 < cpu < 60 and clock > 0 and memory > 1
    with pytest.raises(measure.Failed, match="ended with 3"):
        measure.finished([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(measure.Failed):
        measure.finished(["there-is-no-such-command"])
    assert start.cpu([sys.executable, "-c", "pass"])() > 0
    assert {"nearfar --help", "import nearfar", "import torch"} <= start.commands().keys()


def test_why_a_peer_has_no_figure() -> None:
    assert "not installed" in measure.reason(ModuleNotFoundError("No module named 'x'", name="x.y"))
    assert measure.reason(measure.Failed("took too long")) == "took too long"
    assert "ValueError: bad" in measure.reason(ValueError("bad"))


def section(rate: float) -> Section:
    row = Row("a | b", "nearfar", Spread(1, rate, 3000), "images/s")
    peer = Row("a | b", "peer", None, "images/s", note="not installed: no wheel")
    bars = [Bar("at least 2", rate >= 2, f"{rate:g}")]
    return Section("How it is measured.", [row, peer], bars, ["A note."])


def test_page_keeps_the_sections_that_were_not_measured() -> None:
    first = {name: table.render(name, section(2.5), "`run`") for name in ("Views", "The loss")}
    page = table.page(["- machine: a"], first, ["The loss", "Views"])
    assert page.index("## The loss") < page.index("## Views")
    assert page.splitlines().count("- **met**: at least 2: 2.5") == 4  # each in its section, and at the top
    found = table.sections(page)
    assert found == {name: text.rstrip() + "\n" for name, text in first.items()}
    found["Views"] = table.render("Views", section(1.5), "`run`")
    again = table.page(["- machine: a"], found, ["The loss", "Views"])
    assert again.count("**missed**") == 2 and again.count("**met**") == 2
    assert table.sections(again)["The loss"] == found["The loss"]


def test_rows_are_markdown() -> None:
    lines = [line for line in table.render("T", section(2.5), "s").splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {6}, "a bar in a cell would split it"
    assert "1.00 - **2.50** - 3,000 images/s" in lines[2] and "no wheel" in lines[3]
    assert table.spread(Spread(2, 2, 2), "x") == "2.00x"
    assert [table.number(value) for value in (1234.5, 12.34, 1.234, 0.01234)] == [
        "1,234",
        "12.3",
        "1.23",
        "0.0123",
    ]


def test_subjects_are_chosen_by_name() -> None:
    usual = scoreboard.chosen("", gpu=False, accuracy=False)
    assert usual == ["views", "feed", "loss", "step", "neighbours", "start"]
    assert scoreboard.chosen("step, views", gpu=True, accuracy=True) == ["views", "step"]
    assert set(scoreboard.chosen("", gpu=True, accuracy=True)) == set(scoreboard.SUBJECTS) - {"shared"}
    with pytest.raises(SystemExit, match="no subject 'view'"):
        scoreboard.chosen("view", gpu=False, accuracy=False)


def test_views_of_a_block_and_of_files(tmp_path: Path) -> None:
    images = pictures.photographs(4, 32, 32)
    views.ours(pictures.block(images), 4, views.SMALL, 32, "bilinear")()
    assert views.error(pictures.block(images), 4, views.SMALL, 32, "bicubic") <= 1e-5
    folder = pictures.write(tmp_path / "files", images[:2], copies=2)
    for packed in (True, False):
        store = views.store(folder, packed=packed)
        assert len(store) == 4
        views.ours(store, 4, views.LARGE, 32, "bilinear")()
    assert pictures.photographs(2, 20, 30).std() > 5, "flat images would be decoded and blended too easily"


def test_a_case_pairs_each_peer_with_ours_of_its_interpolation() -> None:
    images = pictures.photographs(2, 32, 32)
    skip = tuple(who for who in views.PEERS if "torchvision v1" not in who)
    rows, mine = views.case(
        "c",
        pictures.block(images),
        2,
        views.Decoded(images),
        views.SMALL,
        32,
        Asked(quick=True, rounds=1),
        skip,
    )
    by = {row.who: row for row in rows}
    for way in ("bilinear", "bicubic"):
        peer = by[f"torchvision v1, PIL, {way}"]
        assert peer.gain and peer.figure and by[f"nearfar, {way}"].gain is None
        assert peer.gain.middle == pytest.approx(mine[way].middle / peer.figure.middle)


def test_many_paths_are_there(tmp_path: Path) -> None:
    listed = pictures.many(tmp_path / "many", 130, distinct=3)
    names = listed.read_text().split()
    assert len(set(names)) == 130 and all((tmp_path / "many" / name).stat().st_size > 300 for name in names)


def test_feed_and_step_are_trained_on(tmp_path: Path) -> None:
    folder = pictures.write(tmp_path / "files", pictures.photographs(12, 32, 32))
    job = step.job("cifar-short", 32, batch_size=4, encoder="resnet8")  # measures its precision
    assert job.pace(step.in_memory(job), 1, 1) > 0 and step.ours(job)() > 0
    for kind in feed.SOURCES:
        store = feed.store(folder, kind, job.wanted.preprocess.decode_side)
        assert store.resident == (kind == "resident") and len(store) == 12
        assert feed.ours(store, job, 1, 1)() > 0
    assert feed.peer("torchvision", folder, job, 1, 1) is not None


@pytest.mark.parametrize("who", ["nearfar", "torch, checkpointed chunks"])
def test_losses_are_one_loss(who: str) -> None:
    generator = torch.Generator().manual_seed(1)
    z_i, z_j = torch.randn(2, 24, loss.WIDTH, generator=generator)
    z = F.normalize(torch.cat([z_i, z_j]), dim=1)
    logits = (z @ z.T / loss.TAU).fill_diagonal_(-torch.inf)
    dense = F.cross_entropy(logits, torch.arange(48).roll(24))
    made = loss.checkpointed(rows=7) if "torch" in who else loss.ours()
    assert float(made(z_i.requires_grad_(), z_j.requires_grad_()).detach()) == pytest.approx(
        float(dense), abs=1e-5
    )


def test_the_power_of_growth() -> None:
    assert loss.power({1024: 3.0, 2048: 6.0, 8192: 24.0}) == pytest.approx(1)
    assert loss.power({1024: 3.0, 2048: 12.0, 4096: 48.0}) == pytest.approx(2)


def test_what_would_not_fit_is_foreseen() -> None:
    small = {"memory": 1000.0, "seconds": 1.0}
    assert loss.foreseen("lightly", 8192, None) == ""
    assert loss.foreseen("lightly", 2048, (1024, small)) == ""
    assert "GB" in loss.foreseen("lightly", 8192, (1024, small))  # 64 times the memory
    assert loss.foreseen("nearfar", 4096, (1024, small)) == ""  # linear
    assert "64 s" in loss.foreseen("nearfar", 8192, (1024, small))
    rows = [Row("memory, N = 8,192", "nearfar", Spread(1, 2, 3), "MiB"), Row("time, N = 64", "x", None, "s")]
    assert loss.memories(rows) == {"nearfar": {8192: 2}}


def test_neighbours_vote_as_sklearn_does() -> None:
    base, asked, labels = neighbours.features(300, 40, 8)
    answers = [make(base, asked, labels, 15)() for make in (neighbours.ours, neighbours.sklearn)]
    assert (answers[0] == answers[1]).all() and len(set(answers[0])) > 3


def test_accuracy_pairs_seeds_and_reads_what_is_there(tmp_path: Path) -> None:
    def score(value: float, **baselines: float) -> dict[str, Any]:
        ways = {name: {"accuracy": share} for name, share in {"encoder": value, **baselines}.items()}
        return {"knn": ways, "linear": ways, "fixed": value, "encoder": {"name": "resnet8"}}

    pace = {"pace": 1000.0, "epochs": 12.0, "seconds": 600.0}
    for seed in range(2):
        for prefix, value in (("", 0.6), ("lightly-", 0.4 + 0.1 * seed), ("supervised-", 0.8)):
            name = f"{prefix}10-minutes-seed-{seed}"
            (tmp_path / name).mkdir()
            (tmp_path / name / "encoder.json").write_text("{}")
            baselines = {} if prefix else {"pixels": 0.4, "untrained": 0.3}
            (tmp_path / f"{name}.json").write_text(json.dumps(score(value, **baselines)))
            (tmp_path / f"{name}-pace.json").write_text(json.dumps(pace))
    found = accuracy.run(Asked(data=tmp_path, minutes=10, seeds=2, out=tmp_path))
    peers = [row for row in found.rows if row.who == "lightly"]
    assert len(peers) == 3 and peers[0].gain == Spread(
        pytest.approx(1.2), pytest.approx(1.35), pytest.approx(1.5)
    )
    ceiling = [row for row in found.rows if row.who == "supervised"]
    assert [row.gain.middle for row in ceiling if row.gain] == [pytest.approx(0.75)] * 3
    assert not found.notes and [bar.met for bar in found.bars] == [False, False]
    assert "no --data" in accuracy.run(Asked()).notes[0]


@pytest.mark.parametrize("who", ["nearfar, exact", "FAISS flat", "LanceDB flat"])
def test_stores_that_compare_all_find_the_nearest(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lancedb")
    monkeypatch.setattr(store, "QUERIES", 20)
    monkeypatch.setattr(store, "PIECE", 400)
    found = store.one(who, 1000)
    assert found["recall"] > 0.999 and found["memory"] > 0


def test_the_subject_beside_another_program_measures_both_ways_in_both_places() -> None:
    before = torch.get_num_threads()
    section = shared.run(Asked(quick=True, rounds=1))
    assert torch.get_num_threads() == before
    cases = [(row.case.rpartition(", ")[2], row.who) for row in section.rows]
    places = [(place, who) for place in ("alone", "beside a busy process") for who in shared.WAYS]
    assert cases == 2 * places
    assert all(row.figure is not None and row.figure.low > 0 for row in section.rows)
    assert len(section.bars) == 4


@pytest.mark.parametrize("name", agreement_references.CHECKS)
def test_agreement_with_slow_references(name: str) -> None:
    found = agreement_pair.differences(agreement_references.CHECKS[name])
    assert max(found) < agreement_references.LOOSER.get(name, agreement_pair.BOUND)


@pytest.mark.parametrize("name", ["mae, transformers", "simmim, transformers", "beit, transformers"])
def test_agreement_with_whole_models_of_others(name: str) -> None:
    pytest.importorskip("transformers")
    assert max(agreement_pair.differences(agreement_family.CHECKS[name])) < agreement_pair.BOUND


def test_agreement_tells_what_differs_and_what_was_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    def missing() -> agreement_pair.Pair:
        raise ModuleNotFoundError("No module named 'peer'")

    def pair(more: float) -> agreement_pair.Pair:
        return lambda z: z.square().sum(), lambda z: (z.square() * (1 + more)).sum(), [torch.ones(3).double()]

    checks = {"same": lambda: pair(0), "other": lambda: pair(1e-6), "gone": missing}
    assert agreement_pair.report(checks, {}) == ["other", "gone"]
    assert agreement_pair.report(checks, {"other": 1e-5}) == ["gone"]
    assert agreement_pair.verdict(["gone"]) == 1 and agreement_pair.verdict([]) == 0
    out = capsys.readouterr().out
    assert "value 3e-06  gradient 2e-06" in out and "not compared: No module named 'peer'" in out
