"""Fresh processes for `measure.fresh`, each a copy of one that has loaded torch and peers and no more.

Loading them takes seconds, so it is not done for every figure. What a copy shares with its original counts
as held before, so that memory above it means the same as in a process of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

LOADED = ["torch", "torch.utils.checkpoint", "lightly.loss", "pytorch_metric_learning.losses"]


def start(
    subject: str, arguments: Mapping[str, Any], threads: int | None, environment: Mapping[str, str]
) -> tuple[Any, Connection]:
    """Start `benchmarks.<subject>.child(**arguments)` in a process of its own.

    Args:
        subject: a file of this folder.
        arguments: plain values.
        threads: of torch in it; None leaves it its own choice.
        environment: variables to set in it.

    Returns:
        The process; and where (True, what `child` returned) or (False, what went wrong) will come.
    """
    # Where there is no such server, a process starts from nothing.
    way = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(way)
    if way == "forkserver":
        context.set_forkserver_preload(LOADED)  # what is not installed is left out
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=work, args=(sender, subject, dict(arguments), threads, dict(environment))
    )
    process.start()
    sender.close()  # so that the end of the process is heard
    return process, receiver


def work(
    sender: Connection,
    subject: str,
    arguments: dict[str, Any],
    threads: int | None,
    environment: dict[str, str],
) -> None:
    """Measure, in the fresh process, and send what was found."""
    os.environ.update(environment)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a peer prints is no part of the page
            if threads:
                import torch

                torch.set_num_threads(threads)
            result = importlib.import_module(f"benchmarks.{subject}").child(**arguments)
    except Exception as error:
        sender.send((False, f"{type(error).__name__}: {error}"))
    else:
        sender.send((True, result))
