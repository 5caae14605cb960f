"""Runs the two SLURM examples of docs/scale.md, small, on a SLURM of its own on this machine.

    python -m benchmarks.scale_slurm parts
    python -m benchmarks.scale_slurm train

Its two nodes are two slurmd on loopback. The examples are taken from the page, with smaller numbers and other
paths in them. It needs root, and SLURM's programs, whose usual settings stay as they are.

parts: the array of `nearfar embed --part`, whose tasks a job of a partition that goes first puts back into
the queue.

train: two agents of torchrun with two processes each, in a job whose time is over before its training is.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from nearfar.training import checkpoint

from .scale import draw_images, draw_run, losses_of, prepared

INSTALL = "apt-get install -y --no-install-recommends slurm-wlm munge"
PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
CONF = """ClusterName=here
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CredType=cred/munge
SlurmUser=root
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=one NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=10000
NodeName=two NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=10000
PartitionName=usual Nodes=ALL Default=YES PriorityTier=1
PartitionName=first Nodes=ALL PriorityTier=2
"""


def free_ports(count: int) -> list[int]:
    """Find ports of this machine that nothing listens at."""
    doors = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [door.getsockname()[1] for door in doors]
    for door in doors:
        door.close()
    return ports


@contextmanager
def slurm(root: Path) -> Iterator[None]:
    """Start munged, slurmctld and two slurmd on loopback; end them afterwards."""
    if os.getuid() or not all(map(shutil.which, ("munged", "slurmctld", "slurmd"))):
        raise SystemExit(f"SLURM is not here, or this user is not root: {INSTALL}")
    for folder in ("state", "spool-one", "spool-two"):
        (root / folder).mkdir()
    (root / "slurm.conf").write_text(CONF.format(root=root, ports=free_ports(3)))
    (root / "key").write_bytes(secrets.token_bytes(128))
    (root / "key").chmod(0o600)
    os.environ["SLURM_CONF"] = str(root / "slurm.conf")
    munged = ["munged", "--foreground", "--force", "--key-file", str(root / "key")]
    for what in ("socket", "pid-file", "log-file", "seed-file"):
        munged += [f"--{what}", str(root / f"munge.{what}")]
    nodes = [["slurmd", "-D", "-N", name] for name in ("one", "two")]
    started = []
    try:
        for number, words in enumerate([munged, ["slurmctld", "-D"], *nodes]):
            log = open(root / f"daemon-{number}.log", "w")
            started.append(subprocess.Popen(words, stdout=log, stderr=log))
            time.sleep(1)
        yield
    finally:
        subprocess.run(["scancel", "--user", "root"])
        time.sleep(1)
        for daemon in reversed(started):
            daemon.terminate()
            daemon.wait()


def example(number: int, changes: dict[str, str]) -> str:
    """Take a script from the page, with other numbers and paths in it."""
    scripts = re.findall(r"```text\n(#!/bin/bash\n#SBATCH.*?)```", PAGE.read_text(), re.DOTALL)
    script = scripts[number]
    for old, new in changes.items():
        assert old in script, old
        script = script.replace(old, new)
    python = sys.executable
    script = script.replace("\nnearfar ", f"\n{python} -m nearfar ")
    return script.replace("torchrun ", f"{python} -m torch.distributed.run ")


def submit(script: str, *words: str) -> str:
    """Give a script to SLURM; return the number of the job."""
    done = subprocess.run(
        ["sbatch", "--parsable", *words], input=script, text=True, stdout=subprocess.PIPE, check=True
    )
    return done.stdout.strip()


def states(job: str) -> list[dict[str, str]]:
    """Ask for the state of a job and its tasks."""
    said = subprocess.run(["scontrol", "-o", "show", "job", job], text=True, capture_output=True).stdout
    return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in said.splitlines()]


def wait(job: str) -> None:
    """Wait for all tasks of a job, and print how they ended."""
    while any(one["JobState"] in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING") for one in states(job)):
        time.sleep(1)
    for one in states(job):
        print(f"job {one['JobId']}: {one['JobState']}, started again {one['Restarts']} times", flush=True)
    if any(one["JobState"] != "COMPLETED" for one in states(job)):
        raise SystemExit(1)


def parts(root: Path) -> None:
    """Embed three parts as an array, and have them preempted once."""
    draw_images(root / "photos", 8192)
    draw_run(root / "runs" / "a", "resnet10_w16", 32)
    changes = {"1-64": "1-3", "/64": "/3", "/data/": f"{root}/", "runs/a": f"{root}/runs/a"}
    job = submit(example(0, changes), "--output", str(root / "out-%a"))
    while not list((root / "parts").glob("part-*/0*.parquet")):
        time.sleep(0.2)
    before = len(list((root / "parts").glob("part-*/0*.parquet")))
    other = submit(
        "#!/bin/bash\nsleep 5\n", "--partition=first", "--nodes=2", "--exclusive", "--output=/dev/null"
    )
    wait(other)
    wait(job)
    embed = [sys.executable, "-m", "nearfar", "embed", str(root / "runs" / "a")]
    subprocess.run([*embed, "--join", str(root / "parts"), "--out", str(root / "joined.npz")], check=True)
    subprocess.run([*embed, str(root / "photos"), "--out", str(root / "whole.npz")], check=True)
    with np.load(root / "joined.npz") as mine, np.load(root / "whole.npz") as whole:
        same = all(np.array_equal(mine[name], whole[name]) for name in ("ids", "vectors"))
        rows = f"{len(mine['ids']):,} rows {'equal to the bit' if same else 'DIFFERENT'}"
        print(f"{before} files were there before the tasks were put back; {rows}")


def train(root: Path, steps: int) -> None:
    """Train on two nodes for longer than the job may, and compare with unbroken processes."""
    env, run = prepared(root, steps)
    os.environ |= env
    script = example(
        1,
        {
            "--gpus-per-node=4 ": "",
            "--cpus-per-task=32": "--cpus-per-task=2",
            "--nproc-per-node 4": "--nproc-per-node 2",
            "12:00:00": "4",
            "USR1@300": "USR1@120",
            "sleep 120": "sleep 45",
            "$head:29500": f"127.0.0.1:{free_ports(1)[0]}",
            "-m nearfar pretrain /data/photos --out /data/runs/a --batch-size 4096": " ".join(run),
        },
    )
    job = submit(script, "--output", str(root / "out"))
    last = root / "run" / checkpoint.LAST
    while not last.exists():
        time.sleep(0.2)
    state, step = states(job)[0]["JobState"], checkpoint.read(last)[1]["step"]
    print(f"saved at step {step} while the job is {state}", flush=True)
    wait(job)
    for line in (root / "out").read_text().splitlines():
        if any(words in line for words in ("resuming at", "saved at", "DUE TO")):
            print(line.strip())
    ways = {"four": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"], "one": []}
    for count, agent in ways.items():
        whole = [str(root / count) if word == str(root / "run") else word for word in run]
        subprocess.run([sys.executable, *agent, *whole], env=env, capture_output=True, check=True)
        losses = [losses_of(root / folder / "log.jsonl") for folder in ("run", count)]
        apart = max(abs(a - b) / b for a, b in zip(*losses, strict=True))
        print(f"{len(losses[0])} losses, at most {apart:.1e} (relative) from {count} unbroken", flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["parts", "train"])
    parser.add_argument("--steps", type=int, default=150)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, slurm(Path(name)):
        if given.what == "parts":
            parts(Path(name))
        else:
            train(Path(name), given.steps)


if __name__ == "__main__":
    main()
