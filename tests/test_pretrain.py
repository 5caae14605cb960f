"""The main job end to end: a run resumes to the same bytes, refuses to mix with others, stops well."""

from __future__ import annotations

import contextlib
import csv
import json
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import bad_files
import forkserver
import numpy as np
import pytest
import torch
from interrupted import pretrain_until, stopped_by_signals
from small import IMAGE_METHODS, encoder_of, narrow

import nearfar
from nearfar import methods
from nearfar.core.config import build
from nearfar.training import checkpoint
from nearfar.training.earlier_run import OURS
from nearfar.training.teacher import open_teacher

TINY = {
    "steps": 24,
    "batch_size": 16,
    "encoder": "resnet10_w16",
    "head": (16, 8),
    "precision": "float32",
    "workers": 1,
    "colour": "change",
}
FLAGS = ["--batch-size", "16", "--encoder", "resnet10_w16", "--head", "16", "8", "--precision", "float32"]
FLAGS += ["--colour", "change"]


def command(*words: object) -> forkserver.Process:
    return forkserver.start(forkserver.NEARFAR, *words)


def content(folder: Path) -> dict[str, bytes]:
    return {
        name: (folder / name).read_bytes()
        for name in ("encoder.safetensors", "encoder.json", "last.safetensors")
    }


@pytest.fixture(scope="module")
def unbroken(photos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    torch.set_num_threads(1)
    nearfar.pretrain(photos, out=folder, **TINY)
    return folder


def test_a_rate_that_breaks_the_weights_is_told_where_the_loss_has_not_shown_it(photos, tmp_path):
    with pytest.raises(nearfar.NearfarError, match="NaN or infinite.*--overwrite and a lower --lr"):
        nearfar.pretrain(photos, out=tmp_path / "run", **{**TINY, "steps": 1, "epochs": None, "lr": 1e30})
    assert not (tmp_path / "run" / "encoder.safetensors").exists()


def test_an_unknown_encoder_is_refused_before_images_are_read(photos, tmp_path):
    from nearfar.data import cache

    read = []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(nearfar.NearfarError, match="resnet18"):
        patch.setattr(cache, "load", lambda *_, **__: read.append(1))
        nearfar.pretrain(photos, out=tmp_path / "run", **{**TINY, "encoder": "rasnet18"})
    assert not read and not (tmp_path / "run").exists()


def test_a_run_gives_an_encoder_that_loads_without_the_method(unbroken):
    code = (
        "import sys; assert 'nearfar.methods.simclr' not in sys.modules\n"
        "sys.modules['nearfar.methods.simclr'] = None; import nearfar, torch\n"
        "encoder = nearfar.load(sys.argv[1]).encoder\n"
        "print(encoder(torch.rand(3, 3, 16, 16)).shape[1] == encoder.dim)"
    )
    said = forkserver.run(code, unbroken, check=True)
    assert said.stdout.strip() == "True"
    run = nearfar.load(unbroken)
    assert not run.encoder.training
    assert run.preprocess.size == 16 and run.preprocess.crop == 1.0
    assert [line["step"] for line in run.log()] == list(range(1, 25))
    assert {"loss", "contrastive_accuracy", "lr", "images_per_second", "waiting"} <= set(run.log()[-1])
    assert json.dumps(run.to_json())


@pytest.mark.parametrize("method", IMAGE_METHODS)
def test_every_method_resumes_to_the_same_bytes_from_the_midst_of_an_epoch(method, tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    data = draw.integers(0, 256, (40, 16, 16, 3), np.uint8), np.arange(40) % 3
    settings = {**{key: value for key, value in TINY.items() if key != "head"}, **narrow(method)}
    settings |= {"method": method, "steps": 7, "batch_size": 8, "recipe": "cpu"}
    settings["encoder"] = encoder_of(method)
    own_task = methods.method(method).expects(build(methods.settings(method), narrow(method))).task
    if method != "simclr":  # of which one method is enough, as health is but for the methods' own tasks
        settings["optimizer"] = "adamw"  # Muon's steps take as long as the rest
        settings["health_checks"] = 4 if own_task else 0
    if "teacher" in methods.method(method).needs:
        own = {key: value for key, value in TINY.items() if key != "head"} | {"steps": 1, "image_size": 16}
        own["health_checks"] = 0
        if method == "beit":  # which learns from words
            own |= {"method": "dvae", "encoder": "resnet5_w64", "words": 16}
        settings["teacher"] = str(nearfar.pretrain(data, out=tmp_path / "teacher", **own).folder)
    nearfar.pretrain(data, out=tmp_path / "unbroken", **settings)

    # step 3, in the midst of an epoch of 5, is what was saved last
    pretrain_until(4, data, out=tmp_path / "broken", **settings)
    nearfar.pretrain(data, out=tmp_path / "broken", **settings)
    assert content(tmp_path / "broken") == content(tmp_path / "unbroken")
    if "teacher" in settings:
        config = json.loads((tmp_path / "broken" / "config.json").read_text())
        assert config["teacher"] == open_teacher(settings["teacher"]).digest
    with monkeypatch.context() as patch:  # the encoder loads without the method's code
        patch.setitem(sys.modules, f"nearfar.methods.{method}", None)
        encoder = nearfar.load(tmp_path / "broken").encoder
    assert encoder(torch.rand(2, 3, 16, 16)).shape == (2, encoder.dim)
    assert all(name.startswith("net.") for name in encoder.state_dict())


def test_the_loss_falls(photos, tmp_path):
    how = {**TINY, "steps": 48, "batch_size": 32, "optimizer": "adamw", "lr": 0.002}
    losses = [line["loss"] for line in nearfar.pretrain(photos, out=tmp_path / "run", **how).log()]
    assert np.mean(losses[-24:]) < np.mean(losses[:8]) - 0.3  # a batch's loss varies by about one


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(photos, unbroken, tmp_path):
    nearfar.pretrain(photos, out=tmp_path / "again", **TINY)
    assert content(tmp_path / "again") == content(unbroken)
    nearfar.pretrain(photos, out=tmp_path / "other", **TINY, seed=1)
    assert content(tmp_path / "other")["encoder.safetensors"] != content(unbroken)["encoder.safetensors"]


def test_kill_9_and_the_same_command_again_end_in_the_same_bytes(photos, unbroken, tmp_path):
    folder = tmp_path / "killed"
    words = ["pretrain", photos, "--out", folder, "--steps", 24, *FLAGS, "--save-minutes", 0]
    deaths, seconds = 0, random.Random(0)
    while deaths < 2:
        process = command(*words)
        deadline = time.monotonic() + 60
        seen = (folder / checkpoint.LAST).stat().st_mtime_ns if (folder / checkpoint.LAST).exists() else 0
        while process.poll() is None and time.monotonic() < deadline:
            if (folder / checkpoint.LAST).exists() and (folder / checkpoint.LAST).stat().st_mtime_ns > seen:
                time.sleep(seconds.uniform(0.0, 0.05))
                process.kill()
                break
        assert process.wait() == -signal.SIGKILL, process.stderr.read()
        deaths += 1
    step = checkpoint.read(folder / checkpoint.LAST)[1]["step"]
    assert 0 < step < 24
    process = command(*words)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 0, said
    assert f"resuming at step {step}" in said
    assert content(folder) == content(unbroken)


def test_a_finished_run_says_so_and_other_settings_are_refused_by_name(photos, unbroken, capsys):
    before = content(unbroken)
    nearfar.core.progress.show(True)
    try:
        run = nearfar.pretrain(photos, out=unbroken, **TINY)
    finally:
        nearfar.core.progress.show(False)
    assert "is finished" in capsys.readouterr().err
    assert run.path == unbroken
    with pytest.raises(nearfar.NearfarError, match=r"--temperature 0.1 became 0.3.*--overwrite"):
        nearfar.pretrain(photos, out=unbroken, **TINY, temperature=0.3)
    with pytest.raises(nearfar.NearfarError, match=r"--steps 24 became 25"):
        nearfar.pretrain(photos, out=unbroken, **{**TINY, "steps": 25})
    assert content(unbroken) == before


def test_other_images_are_refused_and_overwrite_starts_anew(photos, unbroken, tmp_path):
    folder, pixels = (
        tmp_path / "run",
        np.stack([nearfar.images.decode.decode(path, max_pixels=10**6) for path in photos.iterdir()]),
    )
    first = nearfar.pretrain(pixels, out=folder, **{**TINY, "steps": 2})
    assert first.provenance["data"]["images"] == 96
    with pytest.raises(nearfar.NearfarError, match="the images differ"):
        nearfar.pretrain(pixels[::-1].copy(), out=folder, **{**TINY, "steps": 2}, recipe="cpu")
    second = nearfar.pretrain(pixels[::-1].copy(), out=folder, overwrite=True, **{**TINY, "steps": 2})
    assert second.provenance["data"]["fingerprint"] != first.provenance["data"]["fingerprint"]


def test_overwrite_never_touches_a_folder_that_is_no_run(photos, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(nearfar.NearfarError, match=r"holds 'thesis.tex'"):
        nearfar.pretrain(photos, out=tmp_path, overwrite=True, **TINY)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_run_by_the_clock_can_be_repeated_exactly_without_it(photos, tmp_path):
    timed = {name: value for name, value in TINY.items() if name != "steps"}
    first = nearfar.pretrain(photos, out=tmp_path / "timed", minutes=0.05, **timed)
    plan = first.config["plan"]
    assert plan[-1][1] == first.provenance["steps"] > 5
    again = nearfar.pretrain(photos, out=tmp_path / "again", like=tmp_path / "timed")
    assert again.config["plan"] == plan
    assert (
        content(tmp_path / "again")["encoder.safetensors"]
        == content(tmp_path / "timed")["encoder.safetensors"]
    )


def test_a_loss_that_is_no_number_stops_the_run_before_anything_is_overwritten(photos, tmp_path):
    settings = {**TINY, "optimizer": "sgd", "lr": 1e30, "save_minutes": 0.0}
    with pytest.raises(nearfar.NearfarError, match=r"failed at step \d+.*lower --lr"):
        nearfar.pretrain(photos, out=tmp_path / "nan", **settings)
    for line in checkpoint.read_log(tmp_path / "nan" / "log.jsonl", {}):
        assert np.isfinite(line["loss"])
    last = tmp_path / "nan" / checkpoint.LAST
    if last.exists():
        assert all(bool(torch.isfinite(value).all()) for value in checkpoint.read(last)[0].values())


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_images_too_small_for_the_encoder(precision: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8)
    how = {"method": "jigsaw", "image_size": 16, "precision": precision, "health_checks": 0}
    with pytest.raises(nearfar.NearfarError, match="too small for the encoder; raise --image-size"):
        nearfar.pretrain(images, out=tmp_path / "run", steps=1, **how)
    assert not (tmp_path / "run").exists()  # or it would refuse a larger --image-size


def test_too_few_images(photos, tmp_path):
    one = np.zeros((1, 16, 16, 3), np.uint8)
    with pytest.raises(nearfar.NearfarError, match="1 usable image is too few"):
        nearfar.pretrain(one, out=tmp_path / "one", **TINY)
    few = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    run = nearfar.pretrain(few, out=tmp_path / "few", **{**TINY, "steps": 3})
    assert run.config["training"]["batch_size"] == 5


def test_chunks_and_streaming_run_to_the_end(photos, unbroken, tmp_path):
    streamed = nearfar.pretrain(photos, out=tmp_path / "streamed", **TINY, cache=False)
    first, second = (run.encoder.state_dict() for run in (nearfar.load(unbroken), streamed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    nearfar.pretrain(photos, out=tmp_path / "chunked", **{**TINY, "steps": 3}, micro_batch=4)
    with pytest.raises(nearfar.NearfarError, match="was given one image, .* raise --micro-batch"):
        nearfar.pretrain(photos, out=tmp_path / "one", **{**TINY, "steps": 3}, micro_batch=1, method="byol")


def test_a_folder_that_vanished_is_named(photos, tmp_path):
    with pytest.raises(nearfar.NearfarError, match="gone"):
        nearfar.pretrain(tmp_path / "gone", out=tmp_path / "run", **TINY)


def test_two_processes_cannot_train_in_one_folder(photos, tmp_path):
    from filelock import FileLock

    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(nearfar.NearfarError, match="another process is training"),
    ):
        nearfar.pretrain(photos, out=tmp_path, **TINY)


def test_every_bad_file_is_named_and_the_run_goes_on(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    for number in range(5):
        shutil.copytree(photos, tmp_path / "photos" / f"more-{number}")
    names = bad_files.write(tmp_path / "photos")
    how = {**TINY, "steps": 3, "health_checks": 0}
    nearfar.pretrain(tmp_path / "photos", out=tmp_path / "run", **how, max_pixels=bad_files.MAX_PIXELS)
    with open(tmp_path / "run" / "rejected.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["id"] for row in rows) == sorted(names)
    assert len(rows) >= 30 and all(row["reason"] for row in rows)
    with pytest.raises(nearfar.NearfarError, match="max-bad"):
        nearfar.pretrain(tmp_path / "photos", out=tmp_path / "strict", **TINY, max_bad=0.01)


@pytest.mark.slow
def test_a_folder_that_vanishes_while_streaming_stops_the_run_with_its_reason(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    folder = tmp_path / "run"
    words = ["pretrain", tmp_path / "photos", "--out", folder, "--steps", 100000, "--no-cache", *FLAGS]
    process = command(*words, "--save-minutes", 0)
    while not (folder / checkpoint.LAST).exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    shutil.rmtree(tmp_path / "photos")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2, said
    assert "Traceback" not in said and "nearfar: " in said
    assert checkpoint.read(folder / checkpoint.LAST)[1]["step"] > 0  # what was saved is whole


def test_tensorboard_gets_what_the_log_gets(photos, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = nearfar.pretrain(photos, out=tmp_path / "run", **{**TINY, "steps": 3}, tensorboard=True)
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    assert events.Scalars("loss")[2].value == pytest.approx(run.log()[2]["loss"])


def test_a_run_that_comes_to_nothing_leaves_nothing_behind(photos, tmp_path):
    with pytest.raises(nearfar.NearfarError, match="resnet1_w1"):
        nearfar.pretrain(photos, out=tmp_path / "run", **{**TINY, "encoder": "resnet1_w1"})
    assert not (tmp_path / "run").exists()


def test_what_a_kill_cut_short_is_cleared_away(photos, tmp_path):
    (tmp_path / "config.json.4711.part").write_text('{"near')
    run = nearfar.pretrain(photos, out=tmp_path, **{**TINY, "steps": 2})
    assert not list(tmp_path.glob("*.part")) and run.provenance["steps"] == 2


def test_the_same_command_with_overwrite_resumes_the_run_that_it_began(photos, unbroken, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    (folder / "evaluation.json").write_text("{}")
    words = ["pretrain", photos, "--out", folder, "--steps", 100000, "--seed", 3, *FLAGS, "--overwrite"]

    def once(words: list[object]) -> str:
        (folder / "log.jsonl").unlink()  # the next line is the new process's
        return stopped_by_signals(command(*words), folder, signal.SIGINT)

    said = once(words)
    assert "run the same command again to resume" in said
    assert not (folder / "evaluation.json").exists()  # it was of the run that is gone
    step = checkpoint.read(folder / checkpoint.LAST)[1]["step"]
    assert step > 0
    said = once(words)
    assert f"resuming at step {step:,}" in said
    other = [*words[:-3], "--temperature", "0.3", *words[-3:]]
    said = once(other)
    assert "resuming" not in said and "saved at" in said  # other words: another run


def test_a_finished_run_tells_of_images_that_were_added_or_removed(photos, tmp_path, capsys):
    data, settings = tmp_path / "photos", {**TINY, "steps": 2}
    shutil.copytree(photos, data)
    (data / "broken.jpg").write_bytes(b"none")  # left out, and listed

    def said() -> str:
        nearfar.core.progress.show(True)
        try:
            nearfar.pretrain(data, out=tmp_path / "run", **settings)
        finally:
            nearfar.core.progress.show(False)
        return capsys.readouterr().err

    said()
    assert "is finished; there is nothing to do (--overwrite trains it again)." in said()
    some = next(path for path in sorted(data.rglob("*")) if path.suffix in (".png", ".jpg"))
    added = [data / f"{name}{some.suffix}" for name in ("one", "two")]
    for path in added:
        shutil.copy(some, path)
    assert f"is finished; {data} now holds 2 images more (--overwrite trains it again)." in said()
    for path in (*added, some):
        path.unlink()
    assert f"{data} now holds 1 image less" in said()
    shutil.rmtree(data)
    assert "there is nothing to do" in said()  # it needs no images


def test_overwrite_of_a_finished_run_trains_it_again(photos, tmp_path):
    settings = {**TINY, "steps": 2, "overwrite": True}
    nearfar.pretrain(photos, out=tmp_path / "run", **settings)
    before = (tmp_path / "run" / "encoder.json").stat().st_mtime_ns
    nearfar.pretrain(photos, out=tmp_path / "run", **settings)
    assert (tmp_path / "run" / "encoder.json").stat().st_mtime_ns > before


def test_a_mistake_with_overwrite_leaves_the_old_run(photos, unbroken, tmp_path):
    run = shutil.copytree(unbroken, tmp_path / "run")
    before = content(run)
    for data, changed, said in (
        (tmp_path / "none", {}, "none"),
        (photos, {"encoder": "resnet19"}, "resnet19"),
        (photos, {"groups": str(tmp_path / "none.csv")}, "none.csv"),
        (photos, {"encoder": None, "weights": str(run)}, "--weights .* is of the run that --overwrite takes"),
        (photos, {"method": "distill", "teacher": str(run)}, "--teacher .* is of the run that --overwrite"),
    ):
        with pytest.raises(nearfar.NearfarError, match=said):
            nearfar.pretrain(data, out=run, overwrite=True, **{**TINY, "method": "simclr", **changed})
        assert content(run) == before


@pytest.mark.parametrize("removed", range(len(OURS) + 1))
def test_a_kill_inside_overwrite_leaves_nothing_for_another_run(photos, unbroken, tmp_path, removed):
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    for name in OURS[:removed]:  # as far as the kill let it come
        (folder / name).unlink(missing_ok=True)
    settings = {**TINY, "steps": 2, "seed": 5}
    with contextlib.suppress(nearfar.NearfarError):  # without --overwrite it may be refused
        nearfar.pretrain(photos, out=folder, **settings)
        assert nearfar.load(folder).provenance["seed"] == 5
    run = nearfar.pretrain(photos, out=folder, overwrite=True, **settings)
    assert (run.provenance["seed"], run.provenance["steps"], len(run.log())) == (5, 2, 2)


def test_the_save_of_another_run_is_refused(photos, unbroken, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copy(unbroken / checkpoint.LAST, tmp_path / "run")
    with pytest.raises(nearfar.NearfarError, match=r"last.safetensors is the save of another run"):
        nearfar.pretrain(photos, out=tmp_path / "run", **{**TINY, "steps": 30})
    same = nearfar.pretrain(photos, out=tmp_path / "run", **TINY)  # its own is its own
    assert content(same.path) == content(unbroken)
