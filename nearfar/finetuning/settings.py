"""The settings of a fine-tuning that every task shares. Nothing here imports torch: `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.config import setting


@dataclass(frozen=True)
class Tuning:
    """What is trained, for how long, what choices are made on, and where it computes."""

    mode: str = setting(
        "auto",
        "what is trained: linear, a head on the frozen encoder; few-labels, the same for a few images a "
        "class; full, the encoder too; auto chooses by the number of labels",
        choices=("auto", "linear", "few-labels", "full"),
    )
    epochs: float | None = setting(None, "passes over the training images; by the task if not given", low=0.0)
    lr: float | None = setting(
        None, "learning rate, for a batch of 256; tried on held-out images if not given", low=0.0
    )
    batch_size: int | None = setting(None, "images a step; by the task if not given", low=1)
    holdout: float = setting(
        0.2,
        "share of the training images that is not trained on, but chosen and calibrated on",
        low=0.0,
        high=0.5,
    )
    share: float | None = setting(
        None,
        "share of the labelled images that is used, drawn by the seed; without test images a fifth of all is "
        "held out first, the same for every share",
        low=0.0,
        high=1.0,
    )
    scratch: bool = setting(False, "also train the same network from random weights, to compare")
    seed: int = setting(0, "random seed", low=0)
    device: str = setting("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = setting(
        "auto", "arithmetic of the network where it is trained", choices=("auto", "float32", "bfloat16")
    )
    workers: int | None = setting(
        None, "CPU threads that read images and make views; all cores if not given", low=1
    )
    max_bad: float = setting(
        0.1, "share of unusable images beyond which nothing is trained", low=0.0, high=1.0
    )
    save_minutes: float = setting(2.0, "minutes between saves, at most", low=0.0)
