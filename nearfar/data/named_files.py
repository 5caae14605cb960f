"""Finds the files that a list means, also where it names them without their folder or their ending."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from ..core.errors import NearfarError
from ..core.plain_path import real_path
from ..core.progress import say
from .csv_files import from_windows
from .folders import SUFFIXES, is_image_name
from .names import Names
from .object_store import is_address

T = TypeVar("T")
_LOOKED_FOR = 50  # names of a list, and folders beside it
_SHOWN = 80  # characters of a name in an error


class MayBeTexts(NearfarError):
    """A list names no files, and may hold texts; `found` leaves out the flag, which not all commands have."""

    def __init__(self, found: str, joined: str) -> None:
        super().__init__(f"{found}{joined}if these are texts, add --modality text.")
        self.found = f"{found}."


def located(path: Path, names: Sequence[str], suffixes: Collection[str] = SUFFIXES) -> Sequence[str]:
    """Find the files that a list names.

    Where a few names that are tried lead to a file from the list's folder, all are taken as they are. Else
    each is looked for in the folders beside the list, and without its ending: `train/1a2b.jpg` for `1a2b`.

    Args:
        path: the list.
        names: as it has them, at least one.
        suffixes: endings of the files that are meant, in lower case.

    Returns:
        Paths from the list's folder; a name that no file has stays as it is.

    Raises:
        NearfarError: none of those tried has a file, or one may mean several.
    """
    some = names[:: -(-len(names) // _LOOKED_FOR)]
    # Addresses are elsewhere on purpose.
    if is_address(names[0]) or any(os.path.lexists(path.parent / name) for name in some):
        return names
    beside = _Beside(path, some, suffixes)
    first = next((name for name in some if beside.file(name)), None)
    if first is None:
        shown = some[0][:_SHOWN]
        if all(" " in name and not is_image_name(name, suffixes) for name in some):
            raise MayBeTexts(f"{path} names no files ({shown!r})", "; ")
        found = (
            f"none of the files of {path} is there, such as {shown}; paths are taken from the list's folder, "
            "so write the paths as they are from there, or whole ones"
        )
        if any(is_image_name(name, suffixes) for name in some):
            raise NearfarError(f"{found}.")
        raise MayBeTexts(found, "; or, ")
    _say_once(f"{path} names files beside it: {beside.file(first)} by {first}, and so on")
    return Names.of(beside.file(name) or name for name in names)


@functools.cache
def _say_once(text: str) -> None:
    say(text)  # a list may be opened for its images and again for their labels


class _Beside:
    """The folders beside a list, each read once."""

    def __init__(self, path: Path, some: Sequence[str], suffixes: Collection[str]) -> None:
        self.path, self.suffixes = path, suffixes
        self.read: dict[str, dict[str, list[str]]] = {}
        with os.scandir(path.parent) as entries:
            below = sorted(entry.name for entry in entries if entry.is_dir())[:_LOOKED_FOR]
        # train.csv is about train, also where test has files of the same names.
        about = [name for name in below if path.stem.lower().startswith(name.lower())]
        about = [name for name in about if any(self._in(name, each) for each in some)]
        self.folders = about[:1] or ["", *below]

    def file(self, name: str) -> str:
        """Find the one file that a name means, or ""."""
        folders = [""] if os.path.isabs(name) else self.folders
        found = [one for folder in folders for one in self._in(folder, name)]
        if len(found) > 1:
            raise NearfarError(
                f"{self.path} names {name}, which may be {found[0]} or {found[1]}; write which one."
            )
        return found[0] if found else ""

    def _in(self, folder: str, name: str) -> list[str]:
        inner, base = os.path.split(os.path.join(folder, name))
        if inner not in self.read:
            self.read[inner] = {}
            with suppress(OSError, ValueError), os.scandir(self.path.parent / inner) as entries:
                for entry in entries:
                    if is_image_name(entry.name, self.suffixes):
                        for key in (entry.name, os.path.splitext(entry.name)[0]):
                            self.read[inner].setdefault(key, []).append(entry.name)
        return [os.path.join(inner, each) for each in self.read[inner].get(base, [])]


def look_up(listed: Mapping[str, T], ids: Sequence[str], places: Sequence[str]) -> list[T | None]:
    """Look examples up in a list: by where their files lie, by their names, and then by short forms of these.

    Short forms leave the folders out, the ending, or both. One counts where no other example has the same. A
    name that another system or program wrote counts as this system's, see `portable`.

    Args:
        listed: what a list has for each of its names, and for the places of files that they lead to.
        ids: names of the examples.
        places: real path of each example's file; empty if they are no files.

    Returns:
        What the list has for each, or None.
    """
    found = _look_up(listed, ids, places)
    if None in found:
        plain = [portable(name) for name in ids]
        counts, written = Counter(plain), Counter(portable(name) for name in listed)
        sure = {portable(name): one for name, one in listed.items() if written[portable(name)] == 1}
        for row, other in enumerate(_look_up(sure, plain, ())):
            if found[row] is None and counts[plain[row]] == 1:
                found[row] = other
    return found


def portable(name: str) -> str:
    """Write a name in one form, however a system or a program writes it.

    Args:
        name: perhaps with backslashes, accents taken apart, or bytes of Windows-1252, which are
            surrogate-escaped.
    """
    if name.isascii() and "\\" not in name:
        return name
    return unicodedata.normalize("NFC", from_windows(name)).replace("\\", "/")


def place_of(root: str | Path, name: str) -> str:
    """Find the real path of the file that a list names, however a system or a program writes names.

    Args:
        root: the list's folder.
        name: as the list has it; see `portable`.

    Returns:
        The real path of the form that has a file; of the name as it stands, where none has.
    """
    plain = portable(name)
    for form in dict.fromkeys((name, plain, unicodedata.normalize("NFD", plain))):
        if os.path.lexists(os.path.join(root, form)):
            return real_path(os.path.join(root, form))
    return real_path(os.path.join(root, name))


def _look_up(listed: Mapping[str, T], ids: Sequence[str], places: Sequence[str]) -> list[T | None]:
    found = [listed.get(name) for name in ids]
    if places:
        found = [listed.get(place, by_name) for place, by_name in zip(places, found, strict=True)]
    lost = [row for row, one in enumerate(found) if one is None]
    if lost:
        counts = Counter(form for name in ids for form in (name, *short_forms(name)))
        for row in lost:
            forms = (short for short in short_forms(ids[row]) if counts[short] == 1 and short in listed)
            found[row] = next((listed[short] for short in forms), None)
    return found


def short_forms(name: str) -> Iterator[str]:
    """Write a name without its ending, without its folders, and without both.

    Args:
        name: of a file, with forward slashes.
    """
    base = name.rpartition("/")[2]
    forms = os.path.splitext(name)[0], base, os.path.splitext(base)[0]
    yield from dict.fromkeys(form for form in forms if form != name)
