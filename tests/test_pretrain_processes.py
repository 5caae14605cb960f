"""Pretraining in several processes, and what signals and closed streams do to it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import forkserver
import pytest
import torch
from interrupted import stopped_by_signals

import nearfar
from nearfar.training import checkpoint

FLAGS = ["--batch-size", "16", "--encoder", "resnet10_w16", "--head", "16", "8", "--precision", "float32"]
FLAGS += ["--colour", "change"]


def command(*words: object) -> forkserver.Process:
    return forkserver.start(forkserver.NEARFAR, *words)


@pytest.mark.parametrize(("sign", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_saves_and_says_how_to_go_on(photos, tmp_path, sign, status):
    folder = tmp_path / "stopped"
    words = ["pretrain", photos, "--out", folder, "--steps", 100000, *FLAGS]
    process = command(*words)
    while not (folder / "log.jsonl").exists() or (folder / "log.jsonl").stat().st_size == 0:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(sign)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert "run the same command again to resume" in said and "Traceback" not in said
    assert checkpoint.read(folder / checkpoint.LAST)[1]["step"] > 0
    with pytest.raises(nearfar.NearfarError, match="not finished"):
        nearfar.load(folder)


TORCHRUN = "from torch.distributed.run import main; main()"
FORKED = f"""
try:
    {forkserver.NEARFAR}
except SystemExit as end:  # torchrun's copies come to an end of their own
    if end.code:
        raise
"""


@contextlib.contextmanager
def two_agents(words, folder, forked):
    """Start two agents of torchrun, as two machines would have them, with a process each.

    Copies of the agents, if `forked`, or else new interpreters, which need seconds to import torch.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    how = ["--nnodes", 2, "--nproc-per-node", 1, "--rdzv-backend", "c10d", "--rdzv-endpoint", place]
    (folder / "train.py").write_text(FORKED)
    work = ["--start-method", "fork", "--run-path", folder / "train.py"] if forked else ["-m", "nearfar"]
    agents = [forkserver.start(TORCHRUN, *how, *work, *words) for _ in range(2)]
    try:
        yield agents
    finally:
        for agent in agents:
            if agent.poll() is None:
                end_with_workers(agent)


def end_with_workers(agent):
    """Kill an agent and what it started at once, as if the machine were gone."""
    for pid in [agent.pid, *workers(agent)]:
        os.kill(pid, signal.SIGKILL)


def workers(agent):
    return [int(word) for word in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()]


@pytest.mark.slow
def test_two_agents_of_torchrun_train_the_encoder_of_one_process(photos, tmp_path):
    settings = ["--steps", 6, *FLAGS, "--optimizer", "sgd", "--lr", "0.002"]
    one = command("pretrain", photos, "--out", tmp_path / "one", *settings)
    with two_agents(["pretrain", photos, "--out", tmp_path / "two", *settings], tmp_path, True) as agents:
        for agent in agents:
            _, said = agent.communicate(timeout=200)
            assert agent.returncode == 0 and "Warning" not in said, said
    _, said = one.communicate(timeout=100)
    assert one.returncode == 0, said
    first, second = (nearfar.load(tmp_path / name).encoder.state_dict() for name in ("one", "two"))
    for name in first:
        assert torch.allclose(first[name], second[name], rtol=1e-3, atol=1e-4), name
    losses = [[line["loss"] for line in nearfar.load(tmp_path / name).log()] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("killed", [0, 1])  # one of the two holds torchrun's store
def test_of_two_agents_one_is_killed_and_one_process_goes_on(photos, tmp_path, killed):
    """It then trains as an unbroken run does, to rounding."""
    folder = tmp_path / "run"
    settings = ["--steps", 60, *FLAGS, "--optimizer", "sgd", "--lr", "0.000001", "--save-minutes", 60]
    words = ["pretrain", photos, "--out", folder, *settings]
    with two_agents(words, tmp_path, False) as agents:
        left = agents[1 - killed]
        while not (folder / "log.jsonl").exists() or (folder / "log.jsonl").stat().st_size == 0:
            assert left.poll() is None, left.stderr.read()
            time.sleep(0.02)
        for agent in agents:
            os.kill(*workers(agent), signal.SIGUSR1)
        while not (folder / checkpoint.LAST).exists():
            assert left.poll() is None, "the run was over before it was asked to save"
            time.sleep(0.005)
        end_with_workers(agents[killed])
        _, said = left.communicate(timeout=60)
    # Without its store, torchrun may end its process before that has said why.
    stored = killed == 0 and "connection to the C10d store has failed" in said
    assert left.returncode == 1 and (stored or "since another of the 2 processes has ended" in said)
    goes_on_as_unbroken(photos, folder, settings)


def launched(words, count, **env):
    """Start processes as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), **env}
    where = [{"RANK": str(k), "LOCAL_RANK": str(k), "WORLD_SIZE": str(count), **place} for k in range(count)]
    return [forkserver.start(forkserver.NEARFAR, *words, env=os.environ | own) for own in where]


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_one_goes_on(photos, tmp_path):
    """One process then trains as an unbroken run does, to rounding; SIGUSR1 saved before the kill."""
    folder = tmp_path / "run"
    settings = ["--steps", 60, *FLAGS, "--optimizer", "sgd", "--lr", "0.000001", "--save-minutes", 60]
    words = ["pretrain", photos, "--out", folder, *settings]
    first, second = launched(words, 2)
    while not (folder / "log.jsonl").exists() or (folder / "log.jsonl").stat().st_size == 0:
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.02)
    first.send_signal(signal.SIGUSR1)
    while not (folder / checkpoint.LAST).exists():
        assert first.poll() is None, "the run was over before it was asked to save"
        time.sleep(0.005)
    second.send_signal(signal.SIGKILL)
    began = time.monotonic()
    _, said = first.communicate(timeout=60)
    assert first.returncode == 2 and time.monotonic() - began < 30
    assert "process 0 stops, since another of the 2 processes has ended" in said and "Traceback" not in said
    goes_on_as_unbroken(photos, folder, settings)


def goes_on_as_unbroken(photos, folder, settings):
    """Run the same command in one process, and compare with a run of one process that nothing broke."""
    words = ["pretrain", photos, "--out", folder, *settings]
    step = checkpoint.read(folder / checkpoint.LAST)[1]["step"]
    assert 0 < step < 60
    again = command(*words)
    _, said = again.communicate(timeout=100)
    assert again.returncode == 0 and f"resuming at step {step:,}" in said, said
    whole = command("pretrain", photos, "--out", folder.parent / "whole", *settings)
    _, said = whole.communicate(timeout=100)
    assert whole.returncode == 0, said
    # The rate is low, since rounding grows from step to step with it.
    mine, theirs = (
        [line["loss"] for line in nearfar.load(p).log()] for p in (folder, folder.parent / "whole")
    )
    assert len(mine) == 60 and mine == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize(
    "signs",
    [
        (signal.SIGHUP,),
        (signal.SIGHUP, signal.SIGTERM),
        (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
    ],
)
def test_a_hang_up_saves_and_a_second_signal_does_not_undo_the_save(photos, tmp_path, signs):
    folder = tmp_path / "run"
    process = command("pretrain", photos, "--out", folder, "--steps", 100000, *FLAGS)
    said = stopped_by_signals(process, folder, *signs)
    assert "run the same command again to resume" in said and "Traceback" not in said
    assert checkpoint.read(folder / checkpoint.LAST)[1]["step"] > 0


FULL = "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 2)\n"


@pytest.mark.parametrize("how", ["full", "head -1"])
def test_a_stream_that_takes_no_more_never_ends_training(photos, tmp_path, how):
    words = ["pretrain", photos, "--out", tmp_path / "run", "--steps", 12, *FLAGS]
    code = (FULL if how == "full" else "") + forkserver.NEARFAR
    with forkserver.start(code, *words, stdout=subprocess.DEVNULL) as process:
        if how == "head -1":
            assert process.stderr.readline()
            process.stderr.close()
        assert process.wait(120) == 0
    assert nearfar.load(tmp_path / "run").provenance["steps"] == 12


@pytest.mark.parametrize("how", ["2>&-", ">&- 2>/dev/null"])  # Python then begins without the stream
def test_a_stream_that_is_closed_never_ends_training(photos, tmp_path, how):
    words = [sys.executable, "-m", "nearfar", "pretrain", photos, "--out", tmp_path / "run", "--steps", 12]
    line = f"set -o pipefail; {shlex.join(map(str, [*words, *FLAGS]))} {how}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert nearfar.load(tmp_path / "run").provenance["steps"] == 12
