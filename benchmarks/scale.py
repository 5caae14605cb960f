"""Measures what is made for more than one machine's worth of images, and writes the tables of scale.md.

    python -m benchmarks.scale kills --kills 20

kills: workers that embed parts of a collection are killed at moments drawn, started again, and the join is
compared with the same collection embedded without a kill. Images are drawn.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

IMAGES, PARTS, AT_ONCE = 16_384, 4, 2


def draw_images(folder: Path, count: int) -> None:
    """Write small JPEG files, a thousand to a folder."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for k in range(count):
        place = folder / f"{k // 1000:04d}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = draw.integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC).save(place / f"{k:08d}.jpg")


def draw_run(folder: Path, name: str, size: int) -> None:
    """Write a run whose encoder has random weights: what is measured does not depend on them."""
    from nearfar import models
    from nearfar.images.views import Preprocess
    from nearfar.training.run import export

    folder.mkdir(parents=True, exist_ok=True)
    export(folder, models.encoder(name, size=size, seed=0), Preprocess.of(size), {"method": "none"})


def kills(times: int) -> None:
    """Kill workers of parts, start them again, and count what is lost or there twice."""
    draw, env = np.random.default_rng(0), {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        draw_images(root / "images", IMAGES)
        draw_run(root / "run", "resnet10_w16", 32)
        embed = [sys.executable, "-m", "nearfar", "embed", str(root / "run")]

        def start(part: int, out: str) -> subprocess.Popen[bytes]:
            words = [*embed, str(root / "images"), "--part", f"{part}/{PARTS}", "--out", str(root / out)]
            return subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def pieces() -> int:
            return len(list((root / "killed").glob("part-*/0*.parquet")))

        killed, turn = 0, 0
        while killed < times:
            order = [(turn * AT_ONCE + at) % PARTS + 1 for at in range(AT_ONCE)]
            workers = [start(part, "killed") for part in order]
            goal, turn = pieces() + int(draw.integers(0, 2)), turn + 1
            while pieces() < goal and any(worker.poll() is None for worker in workers):
                time.sleep(0.02)
            time.sleep(float(draw.uniform(0, 2)))  # so that a kill falls anywhere in what follows
            for worker in workers:
                killed += worker.poll() is None and killed < times
                worker.send_signal(signal.SIGKILL)
                worker.wait()
            left = list((root / "killed").glob("part-*/*.part"))
            print(f"{killed} killed, {pieces()} pieces done, {len(left)} files half written", flush=True)
        for out in ("killed", "whole"):
            for part in range(1, PARTS + 1):
                if start(part, out).wait():
                    raise SystemExit(f"part {part} of {out} failed")
            join = ["--join", str(root / out), "--out", str(root / f"{out}.npz")]
            subprocess.run([*embed, *join], env=env, check=True)
        with np.load(root / "killed.npz") as mine, np.load(root / "whole.npz") as whole:
            ids = mine["ids"].tolist()
            lost, twice = len({*whole["ids"].tolist()} - {*ids}), len(ids) - len({*ids})
            same = np.array_equal(mine["vectors"], whole["vectors"])
        print(
            f"{killed} workers killed: {lost} of {IMAGES:,} rows lost, {twice} there twice, "
            f"vectors {'equal to the bit' if same else 'DIFFERENT'}"
        )
        if lost or twice or not same:
            raise SystemExit(1)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["kills"])
    parser.add_argument("--kills", type=int, default=20)
    given = parser.parse_args()
    kills(given.kills)


if __name__ == "__main__":
    main()
