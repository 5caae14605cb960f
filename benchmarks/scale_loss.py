"""Measures the memory that a loss takes in each of several processes, and writes the tables of scale.md.

    python -m benchmarks.scale_loss --loss nt_xent --pairs 4096 --width 512 --processes 1 2 4

The processes talk over gloo on this machine and share the batch. Memory is the peak above what a process held
with its own vectors, forward and backward, of the process that took most. "Passed on" is what nearfar does;
"gathered" is the same computation with the vectors of all processes in each.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys

import torch

from nearfar import losses
from nearfar.core import collectives, distributed

from . import measure

LOSSES = {
    "nt_xent": lambda a, b: losses.nt_xent(a, b, 0.1),
    "info_nce": lambda a, b: losses.info_nce(a, b, None, 0.1),
    "clip": lambda a, b: losses.clip(a, b, 10.0),
    "siglip": lambda a, b: losses.siglip(a, b, 10.0, -10.0),
}


def work(name: str, pairs: int, width: int, gathered: bool) -> None:
    """Measure in this process, which others were started beside; process 0 prints the greatest."""
    distributed.start("cpu")
    torch.set_num_threads(1)
    if gathered:
        collectives.blocks = lambda x: iter(collectives.gather(x, grad=False).split(len(x)))
    draws = torch.Generator().manual_seed(distributed.rank())

    def both(count: int) -> None:
        LOSSES[name](*inputs[count]).backward()

    inputs = {
        count: [losses.unit(torch.randn(count, width, generator=draws)).requires_grad_() for _ in range(2)]
        for count in (32, pairs // distributed.world())
    }
    both(32)
    took = torch.tensor([measure.peak_above(lambda: both(pairs // distributed.world()))])
    most = collectives.gather(took, grad=False).max()
    if distributed.first():
        print(f"{float(most):.1f}")
    distributed.stop()


def launched(name: str, world: int, pairs: int, width: int, gathered: bool) -> str:
    """Start the processes, and give what the first one printed."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    line = [sys.executable, "-m", "benchmarks.scale_loss", "--loss", name]
    line += ["--pairs", str(pairs), "--width", str(width)]
    started = []
    for rank in range(world):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
        env = measure.environment(1) | {name: str(value) for name, value in place.items()}
        env["MASTER_ADDR"] = "127.0.0.1"
        words = [*line, "--work", "gathered" if gathered else "passed"]
        started.append(subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True))
    said = [process.communicate()[0].strip() for process in started]
    return said[0]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loss", choices=LOSSES, default="nt_xent")
    parser.add_argument("--pairs", type=int, default=4096, help="of the whole batch")
    parser.add_argument("--width", type=int, default=512, help="numbers of a vector")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--work", choices=["gathered", "passed"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.loss, given.pairs, given.width, given.work == "gathered")
        return
    size = 8 * given.pairs * given.width / 2**20
    print(f"vectors of all processes: {size:.1f} MiB\n\n| processes | passed on, MiB | gathered, MiB |")
    print("|---|---|---|")
    for world in given.processes:
        found = [
            launched(given.loss, world, given.pairs, given.width, gathered) for gathered in (False, True)
        ]
        print(f"| {world} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
