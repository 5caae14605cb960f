"""How many threads train, each on a share of the batch, and how many read images and make views."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..core import distributed, progress
from ..core.device import compute_threads, cores
from ..core.text import counted
from ..data.modalities import modality
from ..methods.base import Method
from .parallel import is_shared
from .replicas import LEAST, why_whole
from .run_config import RunConfig
from .settings import Training


def with_threads(training: Training, device: torch.device) -> Training:
    """Fill in the number of threads that train, if it was not given.

    Args:
        training: the settings.
        device: where to compute.

    Returns:
        Settings with a number.
    """
    if training.threads is not None:
        return training
    return replace(training, threads=distributed.same(compute_threads()) if device.type == "cpu" else 1)


def training_threads(module: Method, training: Training, device: torch.device) -> int:
    """Count the threads among which a batch can be cut, and say why they are fewer than asked for.

    Args:
        module: what is trained.
        training: with the number of threads asked for, and the batch.
        device: where the method is.

    Returns:
        1 where the batch stays whole.
    """
    asked, share = training.threads or 1, training.batch_size // distributed.world()
    if asked == 1 or is_shared(module) or training.checkpoint_activations:
        return 1
    if device.type != "cpu":
        progress.say(f"--threads {asked} is for a CPU: the batch stays whole on {device.type}.")
        return 1
    if reason := why_whole(module):
        progress.say(f"the batch stays whole, which torch divides among its own threads: {reason}.")
        return 1
    count = max(1, min(asked, share // LEAST))
    if count < asked:
        progress.say(
            f"{counted(count, 'thread')} of {asked} will train: a share of the batch has at "
            f"least {LEAST} {modality(training.modality).noun}."
        )
    return count


def workers(wanted: RunConfig) -> int:
    """Count the threads that read images and make views."""
    return wanted.training.workers or cores()
