"""Opens what a user named as the kind of data that it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.errors import NearfarError
from ..core.redact import redact
from ..core.text import counted
from .endings import endings
from .modalities import IMAGES, MODALITIES, modality

if TYPE_CHECKING:
    from .source import Source


def recognise(data: Any) -> str:
    """Name the kind of data of what a user named; images are what no other kind claims.

    Args:
        data: a path, a data set's name, an array, a list, or a `Source`.

    Raises:
        NearfarError: there are files of several kinds.
    """
    said = getattr(data, "modality", None)
    if isinstance(said, str):
        return said
    there = endings(data)
    found = {name: sum(there[word] for word in modality(name).suffixes) for name in MODALITIES}
    found = {name: count for name, count in found.items() if count}
    found = {name: count for name, count in found.items() if not modality(name).companion} or found
    if len(found) > 1:
        several = " and ".join(f"{name} ({counted(count, 'file')})" for name, count in found.items())
        either = " or ".join(f"--modality {name}" for name in found)
        raise NearfarError(f"{data} holds {several}; say which are meant with {either}.")
    if found:
        return next(iter(found))
    others = (name for name in MODALITIES if name != IMAGES and not modality(name).by_method)
    return next((name for name in others if modality(name).holds(data)), IMAGES)


def with_captions(data: Any) -> str | None:
    """Name the kind of data that images become by a method that learns from what lies beside them.

    Args:
        data: a path, a data set's name, an array, a list, or a `Source`.

    Returns:
        "pairs" where captions lie beside images; None where there is nothing of the kind.
    """
    kinds = [name for name in MODALITIES if modality(name).by_method]
    said = getattr(data, "modality", None)
    if said is not None:
        return said if said in kinds else None
    return next((name for name in kinds if modality(name).holds(data)), None)


def open_data(
    data: Any, *, expected: str | None = None, labels: bool = False, download: bool = True
) -> Source:
    """Open what a user named, as the kind of data that it is.

    Args:
        data: a `Source`, or what the modality's `open` takes.
        expected: the kind that is wanted; None to find it by the data.
        labels: whether labels are wanted.
        download: whether a known data set may be fetched where it is missing.

    Returns:
        The source.

    Raises:
        NearfarError: it cannot be opened, or is of another kind.
    """
    from .named_files import MayBeTexts
    from .object_store import is_address
    from .source import Source  # which imports NumPy

    if not isinstance(data, Source):
        name = recognise(data) if expected is None else expected
        if name != IMAGES and isinstance(data, str) and is_address(data):
            raise NearfarError(
                f"{redact(data)} is an address, from which images alone are read; copy it to this machine."
            )
        try:
            found = modality(name).open(data, labels=labels, download=download)
        except MayBeTexts as error:
            if expected is None:
                raise
            raise NearfarError(error.found) from None  # the kind is given, or decided by an encoder
        if labels and found.labels is None:
            raise NearfarError(
                f"{found.name} has no labels; give the pair (images, labels), or a labelled list."
            )
        return found
    if expected not in (None, data.modality):
        raise NearfarError(f"{data.name} holds {data.modality}, not {expected}; give {expected}.")
    if labels and data.labels is None:
        raise NearfarError(f"{data.name} was opened without labels; open it with labels=True.")
    return data
