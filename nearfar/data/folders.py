"""Finds image files in a folder, and reads one whole or says in a few words why it cannot."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.text import counted

if TYPE_CHECKING:
    from .names import Names

# HEIC is looked for, though Pillow cannot read it, so that a phone's pictures do not vanish unsaid.
SUFFIXES = frozenset({
    "jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "bmp", "dib", "tif", "tiff", "gif",
    "ppm", "pgm", "pbm", "pnm", "avif", "heic", "heif",
})  # fmt: skip


NO_ENDING = "no ending"
_RAW = ("camera raw", "dcraw or rawpy")
_VIDEO = ("video", "ffmpeg")
# Pictures that are passed over: what they are, and what makes PNG or JPEG of them.
CONVERTERS = {
    **dict.fromkeys((".jp2", ".j2k", ".j2c", ".jpf", ".jpx"), ("JPEG 2000", "opj_decompress")),
    ".jxl": ("JPEG XL", "djxl"),
    **dict.fromkeys((".dcm", ".dicom"), ("DICOM", "dcmj2pnm or pydicom")),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"), _RAW),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm"), _VIDEO),
    **dict.fromkeys((".nii", ".mha", ".mhd", ".nrrd"), ("a medical volume", "SimpleITK")),
    **dict.fromkeys((".svs", ".ndpi", ".mrxs", ".scn"), ("a whole-slide image", "openslide")),
    ".psd": ("Photoshop", "ImageMagick"),
    ".exr": ("OpenEXR", "ImageMagick"),
    ".svg": ("a vector drawing", "rsvg-convert"),
    ".pdf": ("PDF", "pdftoppm"),
    ".eps": ("PostScript", "ghostscript"),
}


def told(others: Mapping[str, int], most: int = 8) -> list[str]:
    """Say which files of a folder are passed over, and what would read those that are pictures.

    Args:
        others: how many files have each ending.
        most: endings that are named.

    Returns:
        Lines; none where there are no such files.
    """
    if not others:
        return []
    ranked = sorted(others.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{ending} {count:,}" for ending, count in ranked[:most])
    more = ", ..." if len(ranked) > most else ""
    known = [(ending, *CONVERTERS[ending]) for ending, _ in ranked if ending in CONVERTERS]
    hints = [f"{ending} is {what}, which is not read: convert it with {how}" for ending, what, how in known]
    count = sum(others.values())
    return [f"{counted(count, 'other file')}: {shown}{more}", *hints[:most]]


def is_image_name(name: str, suffixes: Collection[str] = SUFFIXES) -> bool:
    """Tell from its suffix whether a file is to be tried as an image; hidden files are not.

    Args:
        name: a file name without folders.
        suffixes: endings in lower case, of another kind's files.
    """
    _, dot, suffix = name.rpartition(".")
    return bool(dot) and not name.startswith(".") and suffix.lower() in suffixes


def find(root: Path, others: Counter[str] | None = None, suffixes: Collection[str] = SUFFIXES) -> Names:
    """List the image files under a folder, at any depth, in sorted order.

    Hidden files and folders are passed over. Links to folders are followed, each folder once, and never
    to a folder that holds `root`. What bears an image's name but is no readable file (a folder, a broken
    link) is listed too, and so is a folder that may not be entered: reading it gives the reason.

    Args:
        root: the folder.
        others: counts the files that are passed over, by their endings.
        suffixes: endings in lower case, to list another kind's files.

    Returns:
        Paths relative to `root`, with forward slashes. Bytes that are no UTF-8 are surrogate-escaped.

    Raises:
        OSError: the folder itself cannot be read.
    """
    held: dict[str, bytes] = {}  # by folder, its own names, packed: a path is a Python string only in passing
    below: defaultdict[str, list[str]] = defaultdict(list)  # by folder, the folders within
    os.scandir(root).close()
    top = os.path.realpath(root)
    above = [top[:at] or os.sep for at, char in enumerate(top) if char in (os.sep, os.altsep)]
    seen = {(info.st_dev, info.st_ino) for info in map(os.stat, above)}
    folders = [(os.fspath(root), "")]
    links: list[tuple[str, str]] = []
    while folders or links:
        # Real folders first: what is reachable both ways then keeps its real name.
        if not folders:
            links.sort(reverse=True)
            folders.append(links.pop())
        path, prefix = folders.pop()
        try:
            info = os.stat(path)
            if (info.st_dev, info.st_ino) in seen:
                continue
            seen.add((info.st_dev, info.st_ino))
            names, inner, linked = _look(path, others, suffixes)
        except OSError:
            held[prefix] = _UNENTERED
            _hang(below, prefix)
            continue
        if names or not prefix:
            held[prefix] = os.fsencode("\0".join(names))
            _hang(below, prefix)
        folders += [(os.path.join(path, name), f"{prefix}{name}/") for name in inner]
        links += [(os.path.join(path, name), f"{prefix}{name}/") for name in linked]
    from .names import Names  # it brings NumPy, and help asks this module for endings

    return Names.of(_in_order(held, below))


_UNENTERED = b"/"  # stands for a folder that may not be entered, as no name can


def _hang(below: defaultdict[str, list[str]], prefix: str) -> None:
    """Note a folder, and those above it that are not noted yet, each in the one above it."""
    while prefix:
        parent = prefix[: prefix.rindex("/", 0, -1) + 1] if "/" in prefix[:-1] else ""
        below[parent].append(prefix)
        if len(below[parent]) > 1 or not parent:
            break
        prefix = parent


def _in_order(held: dict[str, bytes], below: Mapping[str, list[str]]) -> Iterator[str]:
    """Give all paths in sorted order, of which one folder's are strings at a time."""
    left = [""]
    while left:
        entry = left.pop()
        if entry and not entry.endswith("/"):
            yield entry
            continue
        packed, inner = held.pop(entry, b""), below.get(entry, ())
        names = sorted(os.fsdecode(packed).split("\0")) if packed else []
        if not inner:
            yield from (entry + name for name in names)
            continue
        # A folder's paths all lie where the folder itself, with its slash, lies between the files.
        lost = {path for path in inner if held.get(path) == _UNENTERED}
        here = {*(entry + name for name in names), *(path[:-1] for path in lost), *inner} - lost
        left += sorted(here, reverse=True)


def _look(
    folder: str, others: Counter[str] | None, suffixes: Collection[str]
) -> tuple[list[str], list[str], list[str]]:
    """List a folder's visible entries: what has an image's name, its folders, its links to folders."""
    names, inner, linked = [], [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name[0] == "." or name == "__MACOSX":
                continue
            if is_image_name(name, suffixes):
                names.append(name)
            elif others is not None and os.path.isfile(entry.path):  # False for a link to itself
                others[os.path.splitext(name)[1].lower()[:12] or NO_ENDING] += 1
            if entry.is_dir(follow_symlinks=False):
                inner.append(name)
            elif entry.is_symlink() and os.path.isdir(entry.path):
                linked.append(name)
    return names, inner, linked
