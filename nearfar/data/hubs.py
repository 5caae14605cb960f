"""Opens data sets by name: torchvision's, kept under one folder, and Hugging Face's as `hf:org/name`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..core.cache_root import cache_folder
from ..core.errors import BadImage, NearfarError, nearest
from ..core.progress import say
from ..core.redact import redact
from .source import ArraySource, FileSource, Source, class_names, from_array

_TRAIN_TEST = {"train": {"train": True}, "test": {"train": False}}


def _splits(*names: str) -> dict[str, dict[str, Any]]:
    return {name: {"split": name} for name in names}


# name -> torchvision's class, and the arguments of each split; the first split is the default
TORCHVISION: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "cifar10": ("CIFAR10", _TRAIN_TEST),
    "cifar100": ("CIFAR100", _TRAIN_TEST),
    "stl10": ("STL10", _splits("train", "test", "unlabeled", "train+unlabeled")),
    "svhn": ("SVHN", _splits("train", "test", "extra")),
    "mnist": ("MNIST", _TRAIN_TEST),
    "fashionmnist": ("FashionMNIST", _TRAIN_TEST),
    "kmnist": ("KMNIST", _TRAIN_TEST),
    "food101": ("Food101", _splits("train", "test")),
    "oxfordiiitpet": ("OxfordIIITPet", _splits("trainval", "test")),
    "flowers102": ("Flowers102", _splits("train", "val", "test")),
    "dtd": ("DTD", _splits("train", "val", "test")),
    "fgvcaircraft": ("FGVCAircraft", _splits("trainval", "train", "val", "test")),
    "gtsrb": ("GTSRB", _splits("train", "test")),
    "imagenette": ("Imagenette", _splits("train", "val")),
    "eurosat": ("EuroSAT", {"all": {}}),
}


def data_root() -> Path:
    """Say where named data sets are kept: $NEARFAR_DATA, or ~/.cache/nearfar/data."""
    return Path(os.environ.get("NEARFAR_DATA") or cache_folder() / "data")


def _fetch(name: str, kind: str, arguments: dict[str, Any], download: bool) -> Any:
    """Make the torchvision data set, downloading it only where it is missing and may be fetched."""
    import torchvision.datasets

    root, make = data_root(), getattr(torchvision.datasets, kind)
    # torchvision prints on standard output, which belongs to --json.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            return make(str(root), download=False, **arguments)
        except ModuleNotFoundError as error:
            raise NearfarError(f"{name} needs {error.name}: pip install {error.name}") from None
        except (RuntimeError, OSError):
            if not download:
                raise NearfarError(f"{name} is not in {root}; allow its download or put it there.") from None
        say(f"downloading {name} to {root}")
        try:
            root.mkdir(parents=True, exist_ok=True)
            return make(str(root), download=True, **arguments)
        except (RuntimeError, OSError, ValueError) as error:
            raise NearfarError(
                f"{name} could not be downloaded to {root} ({error}); check the network, or put it there."
            ) from None


def open_torchvision(name: str, *, labels: bool, download: bool) -> ArraySource | FileSource:
    """Open one of torchvision's data sets.

    Args:
        name: such as "cifar10" or "cifar10:test".
        labels: whether to keep the labels.
        download: whether it may be fetched where it is missing.

    Returns:
        The source; ids are row numbers, or paths below the data folder.

    Raises:
        NearfarError: the name or split is unknown, or the data cannot be had.
    """
    base, _, split = name.lower().partition(":")
    if base not in TORCHVISION:
        raise NearfarError(f"there is no data set {base!r}; {nearest(base, TORCHVISION)}")
    kind, splits = TORCHVISION[base]
    split = split or next(iter(splits))
    if split not in splits:
        raise NearfarError(f"{base} has no split {split!r}; {nearest(split, splits)}")
    data = _fetch(base, kind, splits[split], download)
    samples = getattr(data, "_samples", getattr(data, "samples", None))
    if samples is not None:
        paths, targets = [str(path) for path, _ in samples], [target for _, target in samples]
    else:
        paths = [str(path) for path in getattr(data, "_image_files", getattr(data, "_images", ()))]
        targets = next(getattr(data, at) for at in ("targets", "labels", "_labels") if hasattr(data, at))
    named = None
    if labels:
        # Imagenette's classes have several names each, the usual one first.
        known = [name if isinstance(name, str) else name[0] for name in getattr(data, "classes", None) or ()]
        numbers = targets.tolist() if hasattr(targets, "tolist") else list(targets)
        if any(number < 0 for number in numbers):
            raise NearfarError(f"{base}:{split} has no labels; use {base}:{next(iter(splits))}.")
        named = [known[number] if known else number for number in numbers]
    if hasattr(data, "data") and not paths:
        # STL10 and SVHN keep the channels first, and 96 or 32 rows leave no doubt.
        return from_array(f"{base}:{split}", data.data, named, first=False)
    root = data_root()
    relative = [os.path.relpath(path, root) for path in paths]
    marks = None if named is None else class_names(base, named, len(paths))
    return FileSource(f"{base}:{split}", relative, marks, root, relative)


@dataclass(frozen=True)
class Table(Source):
    """Images in a column of a Hugging Face data set, kept as encoded bytes."""

    rows: Any
    column: str
    kind: ClassVar[str] = "hf"

    def read(self, index: int) -> bytes | Path:
        """Fetch one image: its bytes, or the path of its file."""
        cell = self.rows[index][self.column]
        if not cell or not (cell.get("bytes") or cell.get("path")):
            raise BadImage("empty cell")
        return bytes(cell["bytes"]) if cell.get("bytes") else Path(cell["path"])

    def stamp(self, index: int) -> str:
        """Say the data set's fingerprint, which changes with any of its rows."""
        mark = f"{self.rows._fingerprint}:{index}"
        return hashlib.blake2b(mark.encode(), digest_size=8).hexdigest()


def open_hugging_face(name: str, *, labels: bool) -> Table:
    """Open a Hugging Face data set's column of images.

    Args:
        name: "org/name" or "org/name:split"; the split is "train" where none is given.
        labels: whether to read the column label, labels, fine_label or class.

    Returns:
        The source; ids are row numbers.

    Raises:
        NearfarError: the package or the data set is missing, or it has no such column.
    """
    if "?" in name:
        raise NearfarError(
            f"{redact(f'hf:{name}')} has parameters, which no data set's name has; leave them out: a token "
            "goes into HF_TOKEN."
        )
    try:
        import datasets
    except ImportError:
        raise NearfarError(f"hf:{name} needs an extra: pip install 'nearfar[hf]'") from None
    path, _, split = name.partition(":")
    try:
        rows = datasets.load_dataset(path, split=split or "train")
    except Exception as error:  # the package raises a dozen unrelated kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NearfarError(f"hf:{name} cannot be opened ({reason}); check name, split and network.") from None
    column = next((at for at, kind in rows.features.items() if isinstance(kind, datasets.Image)), None)
    if column is None:
        raise NearfarError(f"hf:{name} has no column of images; it has {', '.join(rows.column_names)}.")
    named: Sequence[Any] | None = None
    if labels:
        known = ("label", "labels", "fine_label", "class")
        mark = next((at for at in known if at in rows.column_names), None)
        if mark is None:
            raise NearfarError(f"hf:{name} has no column 'label'; it has {', '.join(rows.column_names)}.")
        words, feature = rows[mark], rows.features[mark]
        named = list(words)
        if isinstance(feature, datasets.ClassLabel):
            known_classes = range(feature.num_classes)
            named = [feature.int2str(word) if word in known_classes else word for word in named]
    if not len(rows):
        raise NearfarError(f"hf:{name} has no rows; choose another split.")
    rows = rows.cast_column(column, datasets.Image(decode=False))
    marks = None if named is None else class_names(f"hf:{name}", named, len(rows))
    return Table(f"hf:{name}", [str(i) for i in range(len(rows))], marks, rows, column)
