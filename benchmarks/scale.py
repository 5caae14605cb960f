"""Measures what is made for more than one machine's worth of images, and writes the tables of scale.md.

    python -m benchmarks.scale kills --kills 20
    python -m benchmarks.scale ray --kills 5  (needs 'ray[data]')
    python -m benchmarks.scale rate
    python -m benchmarks.scale nodes
    python -m benchmarks.scale restart
    python -m benchmarks.scale remote

kills: workers that embed parts of a collection are killed at moments drawn, started again, and the join is
compared with the same collection embedded without a kill. Images are drawn.

ray: the same with `--on ray`, whose workers are killed and which starts them again by itself.

rate: images that a part embeds for each second of a core, everything included, and bytes that it writes.

nodes: two agents of torchrun on this machine with two processes each; those of one are killed, and one
process goes on.

restart: one of two processes is killed, and torchrun starts both again by itself.

remote: images read from a disk, from objects and from shards on moto's S3 on this machine, without the cache
of objects; and an encoder trained from a disk and from objects.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

IMAGES, PARTS, AT_ONCE = 16_384, 4, 2


def draw_images(folder: Path, count: int, size: tuple[int, int] = (48, 48)) -> None:
    """Write JPEG files, a thousand to a folder."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for k in range(count):
        place = folder / f"{k // 1000:04d}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = draw.integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(place / f"{k:08d}.jpg")


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


def ray(times: int) -> None:
    """Kill Ray's workers while they embed, and compare with the same collection embedded by one process."""
    draw, env = np.random.default_rng(0), {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        draw_images(root / "images", IMAGES)
        draw_run(root / "run", "resnet10_w16", 32)
        embed = [sys.executable, "-m", "nearfar", "embed", str(root / "run")]
        words = [str(root / "images"), "--on", "ray", "--parts", str(PARTS), "--out", str(root / "parts")]
        driver = subprocess.Popen([*embed, *words], env=env, stderr=subprocess.DEVNULL)
        killed = 0
        while driver.poll() is None and killed < times:
            time.sleep(float(draw.uniform(2, 8)))
            found = subprocess.run(["pgrep", "-f", "ray::MapWorker"], capture_output=True, text=True).stdout
            if list((root / "parts").glob("part-*/*.parquet")) and found:
                os.kill(int(draw.choice([int(one) for one in found.split()])), signal.SIGKILL)
                killed += 1
        if driver.wait():
            raise SystemExit(f"the driver ended with {driver.returncode}")
        join = ["--join", str(root / "parts"), "--out", str(root / "parts.npz")]
        subprocess.run([*embed, *join], env=env, check=True)
        whole = [str(root / "images"), "--out", str(root / "whole.npz")]
        subprocess.run([*embed, *whole], env=env, check=True)
        with np.load(root / "parts.npz") as mine, np.load(root / "whole.npz") as right:
            same = mine["ids"].tolist() == right["ids"].tolist()
            same = same and np.array_equal(mine["vectors"], right["vectors"])
        print(f"{killed} of Ray's workers killed: {'equal to the bit' if same else 'DIFFERENT'}")
        if not same:
            raise SystemExit(1)


def remote(count: int) -> None:
    """Read a collection from a disk and from moto's S3, and train on both; moto runs in its own process."""
    import socket
    import tarfile
    import urllib.request

    import boto3

    import nearfar
    from nearfar.data.sources import open_source
    from nearfar.features.chunked import CHUNK_IMAGES, read_chunks
    from nearfar.images.views import Preprocess

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = f"http://127.0.0.1:{port}"
    os.environ |= {"AWS_ENDPOINT": home, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "NEARFAR_REMOTE_CACHE": "0"}
    words = [sys.executable, "-c", f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            os.environ["NEARFAR_CACHE"] = str(root / "cache")
            draw_images(root / "images", count)
            paths = sorted((root / "images").rglob("*.jpg"))
            (root / "shards").mkdir()
            for number in range(4):
                with tarfile.open(root / "shards" / f"x-{number}.tar", "w") as tar:
                    for path in paths[number * len(paths) // 4 : (number + 1) * len(paths) // 4]:
                        tar.add(path, path.relative_to(root / "images").as_posix())
            while True:
                try:
                    urllib.request.urlopen(f"{home}/moto-api/").read(1)
                    break
                except OSError:
                    time.sleep(0.2)
            client = boto3.client("s3", endpoint_url=home, region_name="us-east-1")
            client.create_bucket(Bucket="bucket")
            for folder in ("images", "shards"):
                for path in sorted((root / folder).rglob("*.*")):
                    key = path.relative_to(root).as_posix()
                    client.put_object(Bucket="bucket", Key=key, Body=path.read_bytes())
            print("| read from | opened, s | images per CPU s | images/s |")
            print("|---|---|---|---|")
            places = {"a disk": str(root / "images"), "objects": "s3://bucket/images"}
            for what, data in {**places, "ranges of 4 shards": "s3://bucket/shards/*.tar"}.items():
                began = time.perf_counter()
                source = open_source(data)
                opened = time.perf_counter() - began
                began, clock = time.perf_counter(), time.process_time()
                starts = range(0, len(source), CHUNK_IMAGES)
                read = sum(map(len, read_chunks(source, starts, Preprocess.of(32), 2)))
                took, used = time.perf_counter() - began, time.process_time() - clock
                assert read == count
                print(f"| {what} | {opened:.1f} | {read / used:,.0f} | {read / took:,.0f} |", flush=True)
            tiny = {
                "steps": 5,
                "batch_size": 64,
                "image_size": 32,
                "encoder": "resnet10_w16",
                "device": "cpu",
            }
            made = []
            for what, data in places.items():
                nearfar.pretrain(data, out=root / what, **tiny)
                made.append((root / what / "encoder.safetensors").read_bytes())
            print(f"\nencoders after 5 steps: {'equal to the byte' if made[0] == made[1] else 'DIFFERENT'}")
    finally:
        server.kill()
        server.wait()


def rate() -> None:
    """Embed photographs' sizes in one part, and print a table."""
    import torch

    import nearfar

    torch.set_num_threads(1)
    print("| encoder | input, px | images | images per CPU s | bytes an image in parts | of a thumbnail |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for encoder, side, count in (("resnet10_w16", 64, 2048), ("resnet18", 224, 512)):
            draw_images(root / encoder / "images", count, (256, 224))
            draw_run(root / encoder / "run", encoder, side)
            nearfar.embed(
                root / encoder / "run", root / encoder / "images", part="1/400", out=root / encoder / "first"
            )
            clock = time.process_time()
            out = root / encoder / "parts"
            nearfar.embed(root / encoder / "run", root / encoder / "images", part="1/1", out=out, workers=1)
            used = time.process_time() - clock
            files = sorted(out.rglob("*.parquet"))
            size = sum(file.stat().st_size for file in files)
            tables = [pq.read_table(file, columns=["thumbnail"]) for file in files]
            small = sum(len(one.as_py()) for table in tables for one in table["thumbnail"])
            cells = f"{count / used:,.0f} | {size / count:,.0f} | {small / count:,.0f}"
            print(f"| {encoder} | {side} | {count:,} | {cells} |", flush=True)


def nodes() -> None:
    """Train with two agents of torchrun and two processes each; kill those of one; go on with fewer."""
    import socket

    from nearfar.training import checkpoint

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        env, run = prepared(root, 100)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = f"127.0.0.1:{free.getsockname()[1]}"
        agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2"]
        agent += ["--rdzv-backend", "c10d", "--rdzv-endpoint", place, "--rdzv-id", "run"]
        how = {"env": env, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True}
        agents = [subprocess.Popen([*agent, *run], **how) for _ in range(2)]
        log, last = root / "run" / "log.jsonl", root / "run" / checkpoint.LAST
        while not log.exists() or len(log.read_bytes().splitlines()) < 2:
            time.sleep(0.05)
        for process in agents:  # all processes save; those of one agent are torchrun's children
            for child in children(process.pid):
                os.kill(child, signal.SIGUSR1)
        while not last.exists():
            time.sleep(0.02)
        for child in [*children(agents[1].pid), agents[1].pid]:  # as if the machine were gone
            os.kill(child, signal.SIGKILL)
        began = time.monotonic()
        said = agents[0].communicate(timeout=300)[0].decode()
        step = checkpoint.read(last)[1]["step"]
        lines = [line for line in said.splitlines() if "stops, since" in line]
        took = time.monotonic() - began
        print(f"killed the processes of one agent; the other ended after {took:.1f} s, saying:")
        print("\n".join(lines), flush=True)
        done = subprocess.run([sys.executable, *run], env=env, capture_output=True, text=True)
        resumed = [line for line in done.stderr.splitlines() if "resuming" in line]
        print(f"one process, the same command: status {done.returncode}, {resumed}, saved at step {step}")
        whole = [str(root / "whole") if word == str(root / "run") else word for word in run]
        subprocess.run([sys.executable, *whole], env=env, capture_output=True, check=True)
        losses = [losses_of(root / folder / "log.jsonl") for folder in ("run", "whole")]
        apart = max(abs(a - b) / b for a, b in zip(*losses, strict=True))
        print(f"{len(losses[0])} losses, at most {apart:.1e} (relative) from those of an unbroken run")


def prepared(root: Path, steps: int) -> tuple[dict[str, str], list[str]]:
    """Draw images; give the environment and the words of a run on them."""
    draw_images(root / "images", 128)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "NEARFAR_CACHE": str(root / "cache")}
    flags = ["--steps", str(steps), "--batch-size", "16", "--encoder", "resnet10_w16", "--image-size", "32"]
    flags += ["--optimizer", "sgd", "--lr", "0.000001", "--precision", "float32", "--health-checks", "0"]
    return env, ["-m", "nearfar", "pretrain", str(root / "images"), "--out", str(root / "run"), *flags]


def kill_one_after_a_save(agent: int, run: Path, lines: int) -> None:
    """Have torchrun's processes save once so many lines are logged, and kill the second."""
    from nearfar.training import checkpoint

    log = run / "log.jsonl"
    while not log.exists() or len(log.read_bytes().splitlines()) < lines:
        time.sleep(0.05)
    for child in children(agent):
        os.kill(child, signal.SIGUSR1)
    while not (run / checkpoint.LAST).exists():
        time.sleep(0.02)
    os.kill(children(agent)[1], signal.SIGKILL)


def restart() -> None:
    """Train with two processes, kill one, and let torchrun start both again."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        env, run = prepared(root, 40)
        agent = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        how = {"env": env, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = subprocess.Popen([*agent, "--max-restarts", "1", *run], **how)
        kill_one_after_a_save(process.pid, root / "run", lines=2)
        log = root / "run" / "log.jsonl"
        said = process.communicate(timeout=500)[0].decode()
        resumed = {line.strip() for line in said.splitlines() if "resuming" in line}
        steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
        ordered = steps == [*range(1, len(steps) + 1)]
        print(
            f"torchrun's status {process.returncode}; {resumed}; steps 1 to {steps[-1]} in order: {ordered}"
        )


def losses_of(log: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in log.read_text().splitlines()]


def children(parent: int) -> list[int]:
    """Find a process's children, on Linux."""
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(word) for word in text.split()]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["kills", "ray", "rate", "nodes", "restart", "remote"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=2000)
    given = parser.parse_args()
    if given.what == "rate":
        rate()
    elif given.what == "nodes":
        nodes()
    elif given.what == "restart":
        restart()
    elif given.what == "remote":
        remote(given.images)
    elif given.what == "ray":
        ray(given.kills)
    else:
        kills(given.kills)


if __name__ == "__main__":
    main()
