"""Whole sweeps: what they write, killed and going on, ending bad runs early, refusing what cannot be."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import forkserver
import numpy as np
import pytest
import small_pairs
import torch

import nearfar
from nearfar.cli.commands import pretrain_parser
from nearfar.cli.main import main
from nearfar.core.errors import NearfarError
from nearfar.experiments import space
from nearfar.experiments.findings import Sweep, Trial
from nearfar.experiments.proposals import Proposals
from nearfar.experiments.trials import GIVE_UP, METRIC, SweepSession
from nearfar.training import checkpoint, resolve
from nearfar.training.pretrain import Ended, pretrain
from nearfar.training.run_config import RunConfig

pytestmark = pytest.mark.usefixtures("whole_looks")

CPU = torch.device("cpu")
TINY = {"batch_size": 16, "encoder": "resnet10_w16", "precision": "float32", "device": "cpu", "workers": 1}
FLAGS = ["--batch-size", "16", "--encoder", "resnet10_w16", "--precision", "float32", "--device", "cpu"]
FLAGS += ["--workers", "1"]


def wanted_of(method: str = "simclr", recipe: str = "cpu", **given: object) -> RunConfig:
    return resolve.resolve(method, recipe, given, side=32, device=CPU)


# Whole sweeps.


@pytest.fixture(scope="module")
def swept(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Path]:
    out = tmp_path_factory.mktemp("runs") / "swept"
    torch.set_num_threads(1)
    train = labelled / "train"
    return nearfar.sweep(train, steps=2, trials=10, train=train, out=out, **TINY), out


def test_a_sweep_starts_with_the_recipe_and_repeats_it_and_the_best(swept: tuple[Sweep, Path]) -> None:
    found, out = swept
    assert len(found.trials) + len(found.repeats) == 10
    assert found.trials[0].params == {axis.name: axis.own for axis in found.axes}
    assert [axis.name for axis in found.axes] == ["temperature", "lr", "crop_min", "colour", "depth", "width"]
    assert len(found.recipe) == 3 and found.noise is not None and found.noise >= 0
    numbers = [trial.number for trial in found.repeats]
    assert numbers == [0, 0, *[found.best.number] * (len(numbers) - 2)]
    held = RunConfig.from_json(checkpoint.read_json(out / "trial-000" / "config.json"), "")
    measured = ("--views-on", "--compile", "--threads")
    differences = held.differences(wanted_of(steps=2, image_size=16, colour="change", **TINY))
    assert [line for line in differences if not line.startswith(measured)] == []
    assert not list(out.glob("*/last.safetensors"))


def test_a_sweep_writes_what_it_returns(swept: tuple[Sweep, Path]) -> None:
    found, out = swept
    held = json.loads((out / "sweep.json").read_text())
    assert held == json.loads(json.dumps(found.to_json())) and held["measure"] == "knn"
    assert (out / "sweep.md").read_text() == found.table() + "\n"
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    for trial in found.trials:
        if trial.value is not None:
            figures = checkpoint.read_log(out / f"trial-{trial.number:03d}" / "health.jsonl", {})[-1]
            assert trial.value == trial.figures["knn"] and trial.figures[METRIC] == figures[METRIC]
    assert {METRIC, "rankme", "lidar"} <= set(held["spearman"]) and len(held["influences"]) == len(found.axes)
    assert found.command in found.table() and all(line in found.table() for line in held["verdict"])


def test_knn_is_that_of_evaluate_on_the_held_out_part(swept: tuple[Sweep, Path], labelled: Path) -> None:
    from nearfar.data import cache
    from nearfar.data.sources import open_source
    from nearfar.evaluation.evaluate import evaluate
    from nearfar.features.probes import validation_split

    found, out = swept
    store = cache.load(
        open_source(labelled / "train", labels=True), short_side=19, max_pixels=10**6, max_bad=0, threads=1
    )
    held = validation_split(store.labels, store.classes, 0)
    pixels = np.stack([store.gather(np.array([row])).image(0) for row in range(len(store))])
    parts = [(pixels[rows], store.labels[rows]) for rows in (~held, held)]
    scores = evaluate(out / "trial-000", train=parts[0], test=parts[1], baselines=())
    # There k is chosen on other images than those it is tested on; here on the same.
    assert found.trials[0].value >= scores.knn["encoder"].accuracy - 1e-9


def test_the_command_repeats_the_best(swept: tuple[Sweep, Path], labelled: Path, tmp_path: Path) -> None:
    found, out = swept
    words = shlex.split(found.command)
    assert words[:3] == ["nearfar", "pretrain", str(labelled / "train")]
    values = pretrain_parser(words).read(words[2:])
    assert values.pop("out") == "runs/best"
    run = pretrain(values.pop("data"), out=tmp_path / "best", **values)
    name = "encoder.safetensors"
    assert (run.path / name).read_bytes() == (out / f"trial-{found.best.number:03d}" / name).read_bytes()


def test_the_same_call_again_trains_nothing_and_a_longer_one_goes_on(
    swept: tuple[Sweep, Path], labelled: Path, tmp_path: Path
) -> None:
    import shutil

    found, out = swept
    train = labelled / "train"
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    times = {path: path.stat().st_mtime_ns for path in copy.glob("trial-*/encoder.safetensors")}
    again = nearfar.sweep(train, steps=2, trials=10, train=train, out=copy, **TINY)
    assert again.trials == found.trials and again.repeats == found.repeats
    assert times == {path: path.stat().st_mtime_ns for path in copy.glob("trial-*/encoder.safetensors")}
    longer = nearfar.sweep(train, steps=2, trials=11, train=train, out=copy, **TINY)
    assert (
        *longer.trials[: len(found.trials)],
        *longer.repeats[: len(found.repeats)],
    ) == found.trials + found.repeats
    assert len(longer.trials) + len(longer.repeats) == 11
    for changed in ({"seed": 1}, {"temperature": 0.3}, {"steps": 3}, {"train": None}):
        settings = {"steps": 2, "trials": 10, "train": train, **TINY, **changed}
        with pytest.raises(NearfarError, match="holds another sweep"):
            nearfar.sweep(train, out=copy, **settings)


def test_without_labels_health_chooses_on_the_same_views_for_all(photos: Path, tmp_path: Path) -> None:
    found = nearfar.sweep(photos, steps=1, trials=10, out=tmp_path / "s", crop_min=0.3, **TINY)
    assert found.measure == METRIC and found.spearman == {}
    assert all(trial.value == trial.figures.get(METRIC) for trial in found.trials)
    assert "crop floor" not in found.table() and "k-NN" not in found.table()
    assert {"--crop-min", "0.3"} <= set(shlex.split(found.command))


def test_images_with_captions_are_ranked_by_labelled_images(labelled: Path, tmp_path: Path) -> None:
    train, scenes = labelled / "train", small_pairs.folder(tmp_path / "scenes", 24)
    found = nearfar.sweep(scenes, steps=1, trials=10, train=train, out=tmp_path / "out", **TINY)
    assert found.measure == "knn" and len(found.trials) + len(found.repeats) == 10
    assert "contrastive_accuracy" in found.spearman and "Spearman with k-NN" in found.table()


def without_times(found: dict[str, object]) -> dict[str, object]:
    for trial in found["trials"] + found["repeats"]:
        del trial["seconds"]
    return {name: value for name, value in found.items() if name not in ("path", "command")}


@pytest.mark.slow
def test_ctrl_c_and_kill_9_and_the_same_command_again_find_the_same(
    swept: tuple[Sweep, Path], labelled: Path, tmp_path: Path
) -> None:
    folder, train = tmp_path / "broken", labelled / "train"
    words = ["sweep", train, "--out", folder, "--train", train, "--steps", 2, "--trials", 10, *FLAGS]
    for name, how in (("trial-000-seed-1", signal.SIGINT), ("trial-003", signal.SIGKILL)):
        running = forkserver.start(forkserver.NEARFAR, *words)
        while running.poll() is None and not (folder / name).exists():
            time.sleep(0.01)
        running.send_signal(how)
        out, err = running.communicate(timeout=60)
        assert running.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL), err
        assert "Traceback" not in err and not list(folder.glob("*.part"))
        if how == signal.SIGINT:
            assert len(json.loads((folder / "sweep.json").read_text())["trials"]) == 1
    nearfar.sweep(train, steps=2, trials=10, train=train, out=folder, **TINY)
    ours, whole = (json.loads((out / "sweep.json").read_text()) for out in (folder, swept[1]))
    assert without_times(ours) == without_times(whole)


# Ending early.


def test_should_stop_ends_a_run_which_resumes_to_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    settings = {"steps": 8, "health_checks": 2, "save_minutes": 0.0, **TINY}
    pretrain(photos, out=tmp_path / "whole", **settings)
    seen = []

    def should_stop(line: dict[str, object], done: float) -> str:
        seen.append((line["step"], done))
        return "because"

    with pytest.raises(Ended, match="because"):
        pretrain(photos, out=tmp_path / "run", should_stop=should_stop, **settings)
    assert seen == [(4, 0.5)] and not (tmp_path / "run" / "encoder.json").exists()
    run = pretrain(photos, out=tmp_path / "run", **settings)
    name = "encoder.safetensors"
    assert (run.path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def session(photos: Path, folder: Path, **given: object) -> SweepSession:
    folder.mkdir()
    wanted = wanted_of(image_size=16, **given)
    axes = space.axes(wanted, given, 96)
    asked = {"method": "simclr", "recipe": "cpu", **given}
    return SweepSession(
        photos, asked, wanted, axes, Proposals(folder, axes, 0), ("trials", 99), None, 0, folder
    )


def finished(sweeping: SweepSession, number: int, level: float) -> None:
    """Make up a finished run whose `METRIC` rises in a line to `level`."""
    name = f"trial-{number:03d}"
    rest = {"steps": 100, "images": 96, "dim": 16, "rankme": 1.0, "nesum": 1.0, "spread": 0.5}
    lines = [{**rest, "step": 0, METRIC: 0.99}]  # an untrained network's: says nothing
    lines += [{**rest, "step": step, METRIC: level * step / 100} for step in (50, 100)]
    (sweeping.folder / name).mkdir()
    (sweeping.folder / name / "health.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sweeping.done[name] = Trial(number, 0, {}, {}, level, "", 1.0)


def test_should_stop_sees_a_collapse_and_a_run_far_behind(photos: Path, tmp_path: Path) -> None:
    sweeping = session(photos, tmp_path / "s", steps=4, **TINY)
    for number, level in enumerate((0.8, 0.6, 0.1)):
        finished(sweeping, number, level)
    sweeping.done["trial-003"] = Trial(3, 0, {}, {}, None, "bad", 1.0)  # says nothing of what is usual
    usual = 0.6 * 0.75  # the median of the three, at three quarters
    good = {"spread": 0.5, METRIC: 0.51 * usual}
    assert sweeping.should_stop(good, 0.75) == ""
    assert "far behind" in sweeping.should_stop(good | {METRIC: 0.49 * usual}, 0.75)
    assert "collapsed" in sweeping.should_stop(good | {"spread": 0.001}, 0.75)
    assert sweeping.should_stop(good | {METRIC: 0.51 * 0.6 * 0.25}, 0.25) == ""
    assert "far behind" in sweeping.should_stop(good | {METRIC: 0.49 * 0.6 * 0.25}, 0.25)
    for early in (0.0, 0.1):
        assert sweeping.should_stop({"spread": 0.001, METRIC: 0.0}, early) == ""


def test_a_run_broken_on_purpose_is_ended_early(photos: Path, tmp_path: Path) -> None:
    sweeping = session(photos, tmp_path / "s", steps=40, **TINY)
    own = {axis.name: axis.own for axis in sweeping.axes}
    finished(sweeping, 0, 0.8)
    absurd = sweeping.run(1, 0, own | {"lr": 1e4})
    assert absurd.value is None and absurd.reason.startswith("failed: training failed at step")
    frozen = sweeping.run(2, 0, own | {"lr": 1e-9})
    assert frozen.value is None and frozen.figures == {}
    assert re.fullmatch(
        r"ended early: far behind, partner found .*% at 25% of the run, usually 20\.0%", frozen.reason
    )
    assert checkpoint.read_log(sweeping.folder / "trial-002" / "health.jsonl", {})[-1]["step"] == 10


def test_a_recipe_that_fails_ends_the_sweep_and_a_point_does_not(photos: Path, tmp_path: Path) -> None:
    sweeping = session(photos, tmp_path / "s", steps=1, **TINY)
    own = {axis.name: axis.own for axis in sweeping.axes}
    with pytest.raises(NearfarError, match="--crop-min"):
        sweeping.run(0, 0, own | {"crop_min": 7.0})
    assert not list(sweeping.folder.glob("*.json"))
    sweeping.run(0, 0, own)
    for number in range(1, GIVE_UP):
        failed = sweeping.run(number, 0, own | {"crop_min": 7.0})
        assert failed.value is None and failed.reason.startswith("failed: --crop-min is 7.0")
    with pytest.raises(NearfarError, match="--crop-min"):  # one after the other: not the points' fault
        sweeping.run(GIVE_UP, 0, own | {"crop_min": 7.0})


# What is refused.


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--minutes-each", "3", "--budget", "1 fortnight"], "--budget '1 fortnight' is not a duration"),
        (["--minutes-each", "nan", "--budget", "1h"], "--minutes-each 'nan' is not a duration"),
        (["--minutes-each", "3", "--budget=-1h"], "--budget '-1h' is not a duration"),
        (["--minutes-each", "3", "--budget", "9m"], "allows 3 runs of 3 minutes"),
        (["--minutes-each", "3"], "give --budget, such as 1h, or --trials"),
        (["--steps", "3", "--budget", "1h", "--trials", "20"], "give --budget, such as 1h, or --trials"),
        (["--budget", "1h"], "give --minutes-each, --steps or --epochs"),
        (["--minutes-each", "3", "--steps", "3", "--trials", "10"], "training has one length"),
        (["--steps", "3", "--trials", "3"], "give --trials 10 or more"),
        (["--steps", "3", "--trials", "3.5"], "--trials takes a whole number, not '3.5'"),
        (["--steps", "3", "--trials", "-7"], "give --trials 10 or more"),
        (
            ["--minutes", "3", "--budget", "1h"],
            "has no flag --minutes; did you mean --save-minutes, --minutes-each",
        ),
        (["--steps", "3", "--trials", "10", "--method", "simclar"], "did you mean simclr"),
        (["--steps", "3", "--trials", "10", "--recipe", "cpuu"], "did you mean cpu"),
        (
            ["--steps", "3", "--trials", "10", "--health-checks", "0"],
            "leave out --health-checks 0, or give --train",
        ),
        (["--steps", "3", "--trials", "10", "--temperature", "'; rm -rf /'"], "--temperature takes a number"),
        (["--steps", "3", "--trials", "10", "--train", "no where; $(x)"], "no where; $(x)"),
    ],
)
def test_hostile_words_get_one_sentence_and_leave_nothing(
    words: list[str], says: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(photos), "--out", str(tmp_path / "out"), *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("nearfar: ") and err.count("\n") == 1, err
    assert says in err and not (tmp_path / "out").exists()


def test_everything_typed_leaves_nothing_to_vary(photos: Path, tmp_path: Path) -> None:
    typed = {"temperature": 0.2, "lr": 0.1, "crop_min": 0.3, "hue": 0.0, "head": (16, 8), **TINY}
    with pytest.raises(NearfarError, match="leave out some, such as"):
        nearfar.sweep(photos, steps=1, trials=10, out=tmp_path / "out", **typed)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("labels", "says"),
    [(["a"] * 6, "all of class 'a'"), (list("abcdef"), "has one image; give at least two of one class")],
)
def test_labels_by_which_no_run_is_better_are_refused(
    photos: Path, tmp_path: Path, labels: list[str], says: str
) -> None:
    pixels = np.zeros((6, 8, 8, 3), np.uint8)
    with pytest.raises(NearfarError, match=says):
        nearfar.sweep(photos, steps=1, trials=10, train=(pixels, labels), out=tmp_path / "out", **TINY)
    assert not (tmp_path / "out").exists()


def test_another_folder_is_left_alone(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("a life's work")
    with pytest.raises(NearfarError, match=r"holds 'thesis\.tex' and is not the folder"):
        nearfar.sweep(photos, steps=1, trials=10, out=tmp_path, **TINY)
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_command_quotes_what_a_shell_would_read(tmp_path: Path, photos: Path) -> None:
    place = tmp_path / "my photos; rm -rf $HOME '\"`id`"
    place.symlink_to(photos)
    sweeping = session(place, tmp_path / "s", steps=1, **TINY)
    sweeping.run(0, 0, {axis.name: axis.own for axis in sweeping.axes})
    found = sweeping.found()
    assert found is not None and shlex.split(found.command)[2] == str(place)
    assert "--method simclr" in found.command  # of captioned images pretraining would choose another
    script = f"printf '%s\\n' {found.command}"
    echoed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert echoed.stdout.splitlines()[2] == str(place)


def test_a_missing_optuna_is_a_sentence(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    words = ["sweep", str(photos), "--steps", "1", "--trials", "10", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert capsys.readouterr() == ("", "nearfar: a sweep needs Optuna: pip install 'nearfar[sweep]'.\n")
    assert not (tmp_path / "out").exists()
