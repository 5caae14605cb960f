"""Tells segmentation masks from the images that they lie beside, by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORDS = "masks?|segm?|segmentations?|gt|ground[_-]?truth|annotations?|matte|trimap"
_MASK = re.compile(rf"(?P<image>.+?)[._ -](?:{_WORDS})(?:[._ -]?\d+)?", re.IGNORECASE)
_IMAGE = re.compile(r"(?P<image>.+?)[._ -](?:image|img|rgb|input|photo|orig|original)", re.IGNORECASE)
_WORD = re.compile(rf"(?:{_WORDS})", re.IGNORECASE)
Key = tuple[str, ...]

MASK, MASK_DIGEST = "mask", "mask_digest"
"""Columns of a store: where the mask that was predicted of an image is, and the digest of this file."""


def masks_among(names: Sequence[str]) -> set[str]:
    """Find the masks: x.mask.png, x_mask.png or x.seg.png beside x.png, and masks/x.png beside images/x.png.

    Without its image beside it a name says too little: a picture of a mask may be called so.

    Args:
        names: paths of image files with forward slashes.

    Returns:
        Those that are masks.
    """
    likely = {name: keys for name in names if _WORD.search(name) and (keys := _mask_keys(name))}
    if not likely:
        return set()
    wanted = {key for keys in likely.values() for key in keys}
    places = {key.index("*") for key in wanted if "*" in key}
    found: set[Key] = set()
    for name in names:
        if name not in likely:
            found |= wanted.intersection(_image_keys(name, places))
    return {name for name, keys in likely.items() if found.intersection(keys)}


def image_of_mask(stem: str) -> str:
    """Leave the word out of a name that marks a mask or an image: "x_mask" and "x_image" become "x".

    Args:
        stem: a file's name without its ending.
    """
    marked = _MASK.fullmatch(stem) or _IMAGE.fullmatch(stem)
    return marked["image"] if marked else stem


def _split(name: str) -> tuple[list[str], str]:
    """Split a path into its folders and its stem."""
    *folders, base = name.split("/")
    return folders, base.rpartition(".")[0]


def _mask_keys(name: str) -> list[Key]:
    """Say where the image of a mask would lie: its folders, one of them any other, and its stem."""
    folders, stem = _split(name)
    marked = _MASK.fullmatch(stem)
    plain = marked["image"] if marked else stem
    keys: list[Key] = [(*folders, plain)] if marked else []
    for at, folder in enumerate(folders):
        if _WORD.fullmatch(folder):
            keys.append((*folders[:at], "*", *folders[at + 1 :], plain))
    return keys


def _image_keys(name: str, places: set[int]) -> list[Key]:
    """Say under which keys an image is found by its masks."""
    folders, stem = _split(name)
    marked = _IMAGE.fullmatch(stem)
    stems = [stem, marked["image"]] if marked else [stem]
    ways = [folders, *([*folders[:at], "*", *folders[at + 1 :]] for at in places if at < len(folders))]
    return [(*way, each) for way in ways for each in stems]
