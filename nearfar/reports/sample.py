"""Samples a run's images: some of them, with their numbers in training and their features."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..core import rng
from ..core.device import cores
from ..core.errors import NearfarError
from ..core.own_mark import is_own
from ..core.text import from_spreadsheet_cell
from ..data.dataset import holdout_rows
from ..data.modalities import modality_of
from ..data.open import open_data
from ..data.reading import check_of
from ..data.source import Source
from ..data.subset import SourceSubset, subset_of
from ..features.extract import features
from ..features.knn import top_k
from ..training import resolve
from ..training.run import Run
from ..training.run_config import RunConfig
from ..training.settings import Training

SAMPLE = 4096  # images sampled, at most; always the same ones of a collection
NEAREST = 20  # neighbours found of each


def noun_of(kind: Any) -> str:
    """Give the word for what a report shows: "images", "clips", "texts"; of pairs, their images.

    Args:
        kind: the modality.
    """
    return "images" if kind.pictures else str(kind.noun)


@dataclass(frozen=True)
class ImageSample:
    """Some images and one encoder's features of them.

    Attributes:
        source: the whole collection.
        few: the sampled images, as stored.
        dataset: the same, decoded; those that could not be are left out.
        numbers: (n,) int64, each image's number in training; -1 where it was not trained on.
        features: (n, d) float32.
        expected: images that the run knew of; None where that does not matter.
    """

    source: Source
    few: SourceSubset
    dataset: Any
    numbers: npt.NDArray[np.int64]
    features: torch.Tensor
    expected: int | None = None

    def __len__(self) -> int:
        """Count the images."""
        return len(self.dataset)

    @cached_property
    def near(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Find each image's nearest others: cosine (n, k), descending, and rows (n, k)."""
        return top_k(self.features, self.features, min(NEAREST, len(self) - 1), exclude_self=True)


def read_rejected(folder: Path) -> list[tuple[str, str]]:
    """Read `rejected.csv`: ids and reasons.

    Args:
        folder: of the run.

    Returns:
        One pair an image; none where the file is missing.
    """
    path = folder / "rejected.csv"
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return [(from_spreadsheet_cell(row[0]), row[1]) for row in csv.reader(file) if len(row) == 2][1:]


def foreign(run: Run, place: object, flag: str) -> str:
    """Say that what a run names is not opened: a stranger's run may name any file of the reader's.

    Args:
        run: which was not made by this user on this machine.
        place: what it names.
        flag: that names it otherwise.
    """
    return (
        f"{run.folder} was not made by you on this machine, so {place}, which it names, is not opened; if "
        f"it is yours, give it with {flag}."
    )


def sample_run(run: Run, wanted: RunConfig, data: Any, device: torch.device) -> ImageSample:
    """Sample a run's own images.

    Args:
        run: the run.
        wanted: its settings.
        data: where its images are now; None for where they were.
        device: where to encode them.

    Returns:
        At most `SAMPLE` of them: the same ones for every run on the same images.

    Raises:
        NearfarError: they are not there.
    """
    facts: Mapping[str, Any] = run.config["data"]
    place = data if data is not None else facts.get("path") or run.config["asked"].get("data")
    if place is None:
        raise NearfarError(
            f"the run was trained on an array, which is not in a file; give its {noun_of(wanted.kind)} with "
            "--data."
        )
    if data is None and not is_own(facts.get("mark"), [facts.get("path")]):
        raise NearfarError(foreign(run, place, "--data"))
    labels = resolve.needs_labels(wanted.method, run.config["settings"])
    source = open_data(place, expected=wanted.modality, labels=labels, download=False)
    bad = {name for name, _ in read_rejected(run.folder)}
    usable = np.array([row for row, name in enumerate(source.ids) if name not in bad], np.int64)
    numbers = _numbers(len(usable), wanted.training, bool(facts.get("holdout")))
    chosen = rng.permutation(rng.fold(0, "report"), len(usable))[:SAMPLE]
    expected = int(facts["images"]) + int(facts.get("holdout", 0))
    found = _sample(run, source, usable[chosen], wanted.preprocess, device)
    number = dict(zip(found.few.ids, numbers[chosen].tolist(), strict=True))
    known = np.array([number[name] for name in found.dataset.ids], np.int64)
    return ImageSample(source, found.few, found.dataset, known, found.features, expected)


def _numbers(count: int, training: Training, holdout: bool) -> npt.NDArray[np.int64]:
    """Number the usable images as training did: those held out are left out, and get -1."""
    if not holdout:
        return np.arange(count)
    trained, _ = holdout_rows(count, training.holdout, training.seed)
    numbers = np.full(count, -1)
    numbers[trained] = np.arange(len(trained))
    return numbers


def sample_labelled(run: Run, data: Any, count: int, device: torch.device) -> ImageSample:
    """Sample labelled images, with the features of a run's encoder.

    Args:
        run: the run.
        data: labelled images, as `open_source` takes them.
        count: of them, at most.
        device: where to encode them.

    Returns:
        The sample; its numbers are all -1.
    """
    source = open_data(data, expected=run.preprocess.modality, labels=True)
    chosen = rng.permutation(rng.fold(0, "report"), len(source))[:count]
    return _sample(run, source, chosen, run.preprocess, device)


def _sample(
    run: Run, source: Source, rows: npt.NDArray[np.int64], preprocess: Any, device: torch.device
) -> ImageSample:
    """Decode and encode some images."""
    few = subset_of(source, rows)
    dataset = modality_of(preprocess).load(
        few,
        preprocess,
        limit=Training.max_pixels,
        max_bad=1.0,
        threads=cores(),
        memory=8 << 30,  # some thousand images, reduced: never kept on disk
        short_side=run.config["training"].get("short_side"),  # of which the run's views were cut
    )
    if len(dataset) < 2:
        noun = noun_of(modality_of(preprocess))
        raise NearfarError(f"fewer than two {noun} of {source.name} can be used; {check_of(source)}")
    vectors = torch.from_numpy(features(run.encoder, dataset, run.preprocess, device=device))
    return ImageSample(source, few, dataset, np.full(len(dataset), -1), vectors)
