"""Embeds all parts of a collection on a Ray cluster: each worker holds the encoder and takes part after part.

A worker that is killed is started again, and its part goes on behind the last file that it wrote. Without a
cluster, Ray runs on this machine alone.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import progress
from ..core.errors import NearfarError
from ..training.run import load
from . import engines
from .part import CollectionPart
from .parts import embed_part

TO_INSTALL = "pip install 'nearfar[ray]'"
PARTS_A_WORKER = 4  # so that a slow worker does not keep all others waiting


@dataclass(frozen=True)
class EmbeddedParts:
    """What was done for all parts.

    Attributes:
        folder: of all parts.
        parts: how many there are.
        images: in all of them.
        encoded: in this call; the others were done before.
        unusable: images that have no vector.
        workers: that shared the work, at most.
    """

    folder: Path
    parts: int
    images: int
    encoded: int
    unusable: int
    workers: int

    def to_json(self) -> dict[str, Any]:
        """Describe it in plain values."""
        return {**vars(self), "folder": str(self.folder)}

    def __str__(self) -> str:
        """Say it in a line."""
        counts = f"{self.encoded:,} encoded now, {self.unusable:,} unusable"
        return (
            f"{self.folder}: {self.parts:,} parts by up to {self.workers:,} workers, {self.images:,} images "
            f"({counts}); put them together with --join {self.folder}"
        )


class PartsWorker:
    """Holds an encoder, and embeds parts with it; Ray makes one in each process."""

    def __init__(self, run: str, data: Any, out: str, parts: int, how: dict[str, Any]) -> None:
        """Load the encoder.

        Args:
            run: its folder or name, which this machine can open.
            data, out, how: as for `embed_part`.
            parts: how many there are.
        """
        self.run, self.data, self.out, self.parts, self.how = load(run), data, Path(out), parts, how

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """Embed the parts that a batch numbers.

        Args:
            batch: "part", their numbers, from 1 on.

        Returns:
            For each of them, how many images it has, were encoded now, and cannot be used.
        """
        numbers = [int(number) for number in batch["part"]]
        done = [
            embed_part(self.run, self.data, self.out, CollectionPart(number, self.parts), **self.how)
            for number in numbers
        ]
        counts = {name: [getattr(each, name) for each in done] for name in ("images", "encoded", "unusable")}
        return {"part": numbers, **counts}


def embed_on_ray(
    run: str,
    data: Any,
    out: Path,
    *,
    parts: int | None,
    device: str,
    engine: str,
    batch_size: int,
    workers: int | None,
    labels: bool,
) -> EmbeddedParts:
    """Embed all parts of a collection, each by one of Ray's workers; the same call goes on after a kill.

    Args:
        run: the folder of a run or the name of a known encoder, the same on all machines.
        data: the collection, which all machines can open under this name.
        out: a folder that all machines share.
        parts: how many; default: four for each worker.
        device: "auto", "cpu", "cuda" or "mps".
        engine: one of `engines.ENGINES`.
        batch_size: images encoded at a time.
        workers: CPU threads of one worker; default: 1, and Ray starts as many workers as there are cores,
            or as many as GPUs.
        labels: whether to write labels too.

    Returns:
        What was done.

    Raises:
        NearfarError: Ray is missing, or the run or the images cannot be used.
    """
    on_gpu, threads = engines.place(device, engine).type == "cuda", workers or 1
    how: dict[str, Any] = {"device": device, "engine": engine, "labels": labels}
    how |= {"batch_size": batch_size, "workers": threads}
    with _cluster() as ray:
        held = ray.cluster_resources()
        count = max(1, int(held.get("GPU", 0) if on_gpu else held.get("CPU", 1) // threads))
        parts = parts or PARTS_A_WORKER * count
        count = min(count, parts)
        progress.say(f"{parts:,} parts for up to {count:,} workers of Ray's")
        table = ray.data.from_items(
            [{"part": number} for number in range(1, parts + 1)], override_num_blocks=parts
        ).map_batches(
            PartsWorker,
            fn_constructor_args=(run, data, str(out), parts, how),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=2),
            num_cpus=threads,
            num_gpus=1 if on_gpu else None,
        )  # Ray Data starts a lost worker again, and gives its part to another
        totals = {"images": 0, "encoded": 0, "unusable": 0}
        try:
            with progress.Bar("embedding", parts, "parts") as bar:
                for row in table.iter_rows():
                    totals = {name: total + int(row[name]) for name, total in totals.items()}
                    bar.advance(1)
        except ray.exceptions.RayError as error:
            raise _plain(error) from None
    return EmbeddedParts(out, parts, workers=count, **totals)


def _plain(error: BaseException) -> NearfarError:
    """Find the sentence of a worker's error."""
    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None)
        if isinstance(cause, NearfarError) or isinstance(seen, NearfarError):
            return NearfarError(str(cause if isinstance(cause, NearfarError) else seen))
        seen = cause if isinstance(cause, BaseException) else seen.__cause__
    last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return NearfarError(f"Ray could not finish ({last}); run the same command again to resume.")


@contextmanager
def _cluster() -> Iterator[Any]:
    """Give Ray, on the cluster that RAY_ADDRESS names or on this machine, and leave a cluster as it was."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it reports its use to its makers otherwise
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not {"RAY_ADDRESS", "RAY_AUTH_MODE"} & {*os.environ}:
        # Ray listens on all of a machine's addresses, and does what it is told: none but us may tell it.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray
        import ray.data
    except ImportError:
        raise NearfarError(f"--on ray needs Ray; install it: {TO_INSTALL}") from None
    begun = not ray.is_initialized()
    if begun:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray").setLevel(logging.ERROR)
    for name in ("ray.data", "ray.data.dataset"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        if begun:
            ray.shutdown()
