"""Writes the demo's pictures as real image files, with broken files, copies and odd ones of known answers."""

from __future__ import annotations

import io
import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..core import rng
from ..core.entries import entries
from ..core.errors import NearfarError
from ..training import checkpoint
from . import drawings

Pictures = npt.NDArray[np.uint8]

PHOTOS, TRAIN, TEST = 300, 60, 40  # pictures of each class
NEAR_COPIES, EXACT_COPIES, ODD = 30, 12, 12
PARTS = ("photos", "labelled")  # the folders of pictures
ANSWERS = {
    "seed": int,
    "each": [int],
    "broken": {str: str},
    "near_copies": [[str]],
    "exact_copies": [[str]],
    "odd": [str],
}
FORMATS = ("jpg", "jpg", "jpg", "jpg", "png", "png", "webp", "bmp")
KINDS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP"}


def encode(pixels: Pictures, suffix: str, mode: str = "RGB", quality: int = 92) -> bytes:
    """Write one picture in a file format.

    Args:
        pixels: (H, W, 3).
        suffix: a name of `KINDS`.
        mode: of the image in the file: "RGB", "L" (grey) or "P" (palette, in formats that have one).
        quality: of the formats that lose some, to 100.

    Returns:
        The bytes of the file.
    """
    image = Image.fromarray(pixels)
    if mode == "L":
        image = image.convert("L")
    elif mode == "P" and suffix in ("png", "bmp"):
        image = image.quantize(64)
    file = io.BytesIO()
    options: dict[str, Any] = {"quality": quality} if suffix in ("jpg", "webp") else {}
    image.save(file, KINDS[suffix], **options)
    return file.getvalue()


def mixed(pictures: Pictures, seed: int, name: str) -> Iterator[tuple[str, bytes]]:
    """Write pictures in mixed formats, one in twelve of them grey or with a palette.

    Args:
        pictures: (n, H, W, 3).
        seed, name: name the draws of format and mode.

    Yields:
        Suffix and bytes, for each picture.
    """
    draws = rng.uniform(rng.fold(seed, "format", name), np.arange(len(pictures)), 2)
    for picture, (a, b) in zip(pictures, draws, strict=True):
        suffix = FORMATS[int(a * len(FORMATS))]
        yield suffix, encode(picture, suffix, "L" if b < 0.04 else "P" if b < 0.08 else "RGB")


def broken(good: Pictures) -> list[tuple[str, bytes, str]]:
    """Make files that cannot be used, each for another reason.

    Args:
        good: (H, W, 3), a picture to break.

    Returns:
        Suffix, bytes and what is wrong, for each.
    """
    jpeg, png = encode(good, "jpg"), encode(good, "png")
    bomb = bytearray(png)
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height in the header,
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")  # whose checksum stays right
    return [
        ("jpg", b"", "empty file"),
        ("jpg", jpeg[: len(jpeg) // 2], "truncated JPEG"),
        ("png", png[: len(png) * 2 // 3], "truncated PNG"),
        ("jpg", b"This is a shopping list: eggs, milk, bread.\n", "text"),
        ("png", b"<!doctype html><title>404 Not Found</title>", "a web page"),
        ("webp", bytes(range(256)) * 4, "no image at all"),
        ("bmp", encode(good, "bmp")[:60], "truncated BMP"),
        ("png", bytes(bomb), "a header that claims 3,600,000,000 pixels"),
    ]


def near_copy(pixels: Pictures) -> Pictures:
    """Change a picture a little: without a narrow border, and a little brighter.

    Args:
        pixels: (H, W, 3).

    Returns:
        (H, W, 3).
    """
    height, width = pixels.shape[:2]
    inner = Image.fromarray(pixels).resize(
        (width, height), Image.Resampling.BICUBIC, (1, 1, width - 1, height - 1)
    )
    return np.clip(np.asarray(inner, np.float32) * 1.06 + 3, 0, 255).astype(np.uint8)


def _photos(folder: Path, seed: int, each: int) -> dict[str, Any]:
    """Write the unlabelled pictures in no order, under names that say nothing, and return the answers."""
    pictures = np.concatenate([drawings.draw(form, each, seed, "photos") for form in drawings.FORMS])
    order = rng.permutation(rng.fold(seed, "copied"), len(pictures))
    originals = order[:NEAR_COPIES]
    files = list(mixed(pictures, seed, "photos"))
    twins = [(int(i), ("jpg", encode(near_copy(pictures[i]), "jpg", quality=80))) for i in originals]
    same = [(int(i), files[i]) for i in order[NEAR_COPIES : NEAR_COPIES + EXACT_COPIES]]
    odd = [("png", encode(picture, "png")) for picture in drawings.odd(ODD, seed)]
    bad = broken(pictures[0])

    parts = (
        files,
        [file for _, file in twins],
        [file for _, file in same],
        odd,
        [file[:2] for file in bad],
    )
    everything = [file for part in parts for file in part]
    numbers = rng.permutation(rng.fold(seed, "names"), len(everything))
    names = [f"{number:05d}.{suffix}" for number, (suffix, _) in zip(numbers, everything, strict=True)]
    for name, (_, content) in zip(names, everything, strict=True):
        (folder / name).write_bytes(content)

    starts = np.cumsum([0, *map(len, parts)])
    return {
        "near_copies": [[names[i], names[starts[1] + k]] for k, (i, _) in enumerate(twins)],
        "exact_copies": [[names[i], names[starts[2] + k]] for k, (i, _) in enumerate(same)],
        "odd": names[starts[3] : starts[4]],
        "broken": {names[starts[4] + k]: reason for k, (_, _, reason) in enumerate(bad)},
    }


def _labelled(folder: Path, seed: int, each: int) -> None:
    """Write labelled pictures, a folder a class."""
    for form in drawings.FORMS:
        (folder / form).mkdir(parents=True)
        pictures = drawings.draw(form, each, seed, folder.name)
        for number, (suffix, content) in enumerate(mixed(pictures, seed, f"{folder.name}/{form}")):
            (folder / form / f"{number:04d}.{suffix}").write_bytes(content)


def there(
    folder: Path, seed: int = 0, photos: int = PHOTOS, train: int = TRAIN, test: int = TEST
) -> dict[str, Any] | None:
    """Look for the pictures of this demo, before any is drawn.

    Args:
        folder, seed, photos, train, test: as `write` takes them.

    Returns:
        The content of answers.json; None where the pictures are to be drawn.

    Raises:
        NearfarError: the folder holds other files than this demo's.
    """
    wanted = {"seed": seed, "each": [photos, train, test]}
    answers = folder / "answers.json"
    if answers.exists():
        try:
            found = checkpoint.read_json(answers, ANSWERS)
        except NearfarError:
            raise NearfarError(
                f"{answers} is damaged or not of this demo; choose a new folder with --out."
            ) from None
        if {name: found.get(name) for name in wanted} != wanted:
            raise NearfarError(
                f"{folder} holds the pictures of another demo; choose a new folder with --out."
            )
        return found if all((folder / part).exists() for part in PARTS) else None
    ours = {"pictures.png"} if (folder / ".drawing").is_dir() else set()  # it ended while it drew
    names = [name for name in entries(folder) if not name.startswith(".") and name not in ours]
    if names:
        raise NearfarError(
            f"{folder} holds {names[0]!r} and is not the folder of a demo; choose a new one with --out."
        )
    return None


def write(
    folder: Path, seed: int = 0, photos: int = PHOTOS, train: int = TRAIN, test: int = TEST
) -> dict[str, Any]:
    """Write all pictures of the demo, unless they are there already.

    Args:
        folder: gets photos/, labelled/train/, labelled/test/, pictures.png and answers.json.
        seed: random seed.
        photos, train, test: pictures of each class in the three places.

    Returns:
        The content of answers.json: lists of near and of exact copies (original, copy), the odd ones,
        and the broken ones with what is wrong with each; all by their names in photos/.

    Raises:
        NearfarError: the folder holds other files than this demo's.
    """
    found = there(folder, seed, photos, train, test)
    if found is not None:
        return found

    # Drawn aside and put in place by renaming, so that what stands there is always whole.
    aside = folder / ".drawing"
    shutil.rmtree(aside, ignore_errors=True)
    (aside / "photos").mkdir(parents=True)
    known = {"seed": seed, "each": [photos, train, test], **_photos(aside / "photos", seed, photos)}
    _labelled(aside / "labelled" / "train", seed, train)
    _labelled(aside / "labelled" / "test", seed, test)
    drawings.contact_sheet(seed, scale=2).save(folder / "pictures.png")
    (folder / "answers.json").write_text(json.dumps(known, indent=1), encoding="utf-8")
    for part in PARTS:
        shutil.rmtree(folder / part, ignore_errors=True)
        (aside / part).rename(folder / part)
    aside.rmdir()
    return known
