"""Weights shared by two processes (FSDP2): one is killed, and one or two processes go on from the save.

    python -m benchmarks.scale_sharded

I-JEPA on timm's smallest vision transformer, 64 pictures, 40 steps of 16, one thread a process. Prints
how far the losses of both ways on are from those of one process that was never killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from nearfar.training import checkpoint

from .scale import draw_images, kill_one_after_a_save, losses_of

STEPS = 40
SHARED = ["--parallel", "fsdp", "--checkpoint-activations"]
AGENT = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def words(root: Path, out: str, *flags: str) -> list[str]:
    """Write the command of a run."""
    how = ["--method", "ijepa", "--encoder", "timm:test_vit", "--image-size", "64", "--steps", str(STEPS)]
    how += ["--batch-size", "16", "--precision", "float32", "--health-checks", "0"]
    how += ["--workers", "1", "--threads", "1"]
    return ["-m", "nearfar", "pretrain", str(root / "images"), "--out", str(root / out), *how, *flags]


def killed(root: Path, env: dict[str, str]) -> int:
    """Train with two processes, kill one after a save, and give the step of the save."""
    command = [sys.executable, *AGENT, *words(root, "shared", *SHARED)]
    agent = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kill_one_after_a_save(agent.pid, root / "shared", lines=8)
    agent.wait(timeout=500)
    return int(checkpoint.read(root / "shared" / checkpoint.LAST)[1]["step"])


def main() -> None:
    """Kill, go on in both ways, and compare."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        draw_images(root / "images", 64, (64, 64))
        env = {**os.environ, "OMP_NUM_THREADS": "1", "NEARFAR_CACHE": str(root / "cache")}
        step = killed(root, env)
        shutil.copytree(root / "shared", root / "one")
        ways = {
            "one process, without `--parallel`": [sys.executable, *words(root, "one")],
            "two processes, with it": [sys.executable, *AGENT, *words(root, "shared", *SHARED)],
        }
        subprocess.run([sys.executable, *words(root, "whole")], env=env, capture_output=True, check=True)
        whole = losses_of(root / "whole" / "log.jsonl")
        print(f"| resumed from step {step} by | losses | at most off, relative |\n|---|---|---|")
        for (title, command), folder in zip(ways.items(), ("one", "shared"), strict=True):
            done = subprocess.run(command, env=env, capture_output=True, text=True)
            if done.returncode:
                print(done.stderr)
            losses = losses_of(root / folder / "log.jsonl")
            off = max(abs(a - b) / abs(b) for a, b in zip(losses, whole, strict=True))
            print(f"| {title} | {len(losses)} | {off:.1e} |", flush=True)


if __name__ == "__main__":
    main()
