"""`nearfar duplicates`: images that a store holds more than once, or that another store holds too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..analysis.copy_threshold import calibrate
from ..analysis.duplicates import Collection, DuplicateGroups, duplicate_groups, duplicate_pairs
from ..core.errors import NearfarError
from ..core.text import counted
from ..data.modalities import modality
from ..stores import VectorStore
from .listing import Listing, write
from .pictures import Pictures
from .store_access import StoreLike, open_for_query, write_result


def duplicates(
    store: StoreLike,
    *,
    against: StoreLike | None = None,
    min_similarity: float | None = None,
    where: str | None = None,
    save: str | None = None,
    out: str | Path | None = None,
) -> Listing:
    """List duplicates, exact or near, in groups with one image to keep; or those that another store has too.

    The image to keep has the most pixels; of several such, the most bytes; of several such, the first name.
    Near copies are confirmed by the images' own files. Where those are gone, only thumbnails can be compared,
    and the result says so.

    Example: nearfar duplicates photos.nf --out copies.png

    Args:
        store: a vector store or its address.
        against: another store of the same run: list the images of the first store that it has too.
        min_similarity: least similarity of near duplicates, from 0 to 1; default: chosen by copies that are
            made of the collection's own images.
        where: a condition on the images of the first store.
        save: also write the id of the image to keep, or of the copy in the other store, to this column, where
            the copy is confirmed.
        out: a .csv, .json or .png file to write; .png is a contact sheet.

    Returns:
        The groups, the largest first; or the pairs, the most similar first.

    Raises:
        NearfarError: the stores are of different encoders, or a condition makes no sense.
    """
    if min_similarity is not None and not 0 <= min_similarity <= 1:
        raise NearfarError(f"--min-similarity is {min_similarity:g}; give a number from 0 to 1, such as 0.7.")
    opened = open_for_query(store, out)
    pictures, images = read_collection(opened, where)
    if against is not None:
        return _leaks(opened, pictures, images, open_for_query(against), min_similarity, save, out)
    return write_result(list_groups(opened, pictures, images, min_similarity, save), opened, out)


def list_groups(
    opened: VectorStore,
    pictures: Pictures,
    images: Collection,
    min_similarity: float | None = None,
    save: str | None = None,
) -> Listing:
    """List the copies among a store's images, in groups.

    Args:
        opened: the store.
        pictures, images: from `read_collection`.
        min_similarity, save: as for `duplicates`.

    Returns:
        The groups, the largest first.
    """
    ids = pictures.ids
    own = list(modality(opened.info.modality).columns)  # of images width and height: the larger one is kept
    sides = opened.rows([*own, "bytes"], ids=ids).to_pylist()
    quality = [(math.prod(row[name] or 0 for name in own), row["bytes"] or 0) for row in sides]
    level = calibrate(images, min_similarity)
    found = duplicate_groups(images, quality, level.min_similarity)
    keepers = found.rows[found.keep][found.group] if len(found.rows) else found.rows
    sure = _confirmed(found, keepers, pictures)
    listed = [ids[row] for row in found.rows]
    columns: dict[str, Sequence[Any]] = {
        "similarity": found.similarity.tolist(),
        "keep": found.keep.tolist(),
        "same": found.same.tolist(),
        "confirmed": sure.tolist(),
        "group": (found.group + 1).tolist(),
        **{name: [sides[row][name] for row in found.rows] for name in own},
    }
    spare, copies = len(listed) - int(found.keep.sum()), int((sure & ~found.keep).sum())
    # Also copies of one another of which neither is the image to keep.
    known = [digest for digest in images.digests if digest]
    exact = len(known) - len(set(known))
    groups = int(found.keep.sum())
    facts = {
        "images": len(ids),
        "groups": groups,
        "spare": spare,
        "exact": exact,
        "confirmed": copies,
        "calibration": vars(level),
    }
    unseen = [] if copies == spare else [_unconfirmed(spare - copies, opened)]
    lines = (
        f"{copies:,} of {len(ids):,} images are copies, {exact:,} of them byte for byte, in "
        f"{counted(groups, 'group')}. In each group, keep the image with the most pixels, then bytes.",
        *unseen,
        str(level),
    )
    if save is not None:
        copied = np.flatnonzero(sure & ~found.keep)  # what is written may be deleted: no more than is known
        named = {listed[at]: ids[keepers[at]] for at in copied.tolist()}
        opened.update(save, {one: named.get(one) for one in ids})
    title = "duplicates in groups, largest group first; each begins with the image to keep"
    return Listing(title, tuple(listed), columns, lines, facts, "group")


def _confirmed(
    found: DuplicateGroups, keepers: npt.NDArray[np.int64], pictures: Pictures
) -> npt.NDArray[np.bool_]:
    """Say which images were compared with their keeper as files, or have the same bytes."""
    digests, there = pictures.digests, pictures.at_hand
    read = {digests[row] for row, at in there.items() if at} - {""}

    def at_hand(row: int) -> bool:
        """Tell whether an image was read from its file, or one with the same bytes was."""
        return there.get(row, False) or digests[row] in read

    sure = [
        row == keeper or digests[row] == digests[keeper] != "" or (at_hand(row) and at_hand(keeper))
        for row, keeper in zip(found.rows.tolist(), keepers.tolist(), strict=True)
    ]
    return np.array(sure, np.bool_)


def _unconfirmed(many: int, store: VectorStore) -> str:
    """Say what could not be confirmed."""
    return (
        f"{counted(many, 'more image looks')} like copies in thumbnails of {store.info.thumbnail} pixels, in "
        "which small differences do not show (confirmed: no); their files are not at hand."
    )


def read_collection(
    store: VectorStore, where: str | None = None, files: bool = True
) -> tuple[Pictures, Collection]:
    """Read what a search for duplicates needs of a store's images.

    Args:
        store: a vector store.
        where: a condition.
        files: whether to open the images' own files, where the store says that they are.

    Returns:
        Their pictures, which have their ids, and the collection.
    """
    ids, x = store.vectors(where)
    pictures = Pictures(store, ids)
    return pictures, Collection(x, pictures.digests, pictures.small, pictures.originals if files else None)


def _leaks(
    opened: VectorStore,
    pictures: Pictures,
    images: Collection,
    other: VectorStore,
    min_similarity: float | None,
    save: str | None,
    out: str | Path | None,
) -> Listing:
    """List the images of one store that another has too."""
    if (opened.info.encoder, opened.info.preprocess) != (other.info.encoder, other.info.preprocess):
        raise NearfarError(
            f"{opened.address} and {other.address} hold vectors of different encoders; embed both with "
            "the same run."
        )
    ids = pictures.ids
    theirs, others = read_collection(other)
    level = calibrate(others, min_similarity)
    found = duplicate_pairs(images, others, level.min_similarity)
    copies = [theirs.ids[row] for row in found.b]
    listed = [ids[row] for row in found.a]
    readable = [
        pictures.at_hand.get(a, False) and theirs.at_hand.get(b, False)
        for a, b in zip(found.a.tolist(), found.b.tolist(), strict=True)
    ]
    sure = found.same | np.array(readable, np.bool_)
    columns = {
        "similarity": found.similarity.tolist(),
        "copy_of": copies,
        "same": found.same.tolist(),
        "confirmed": sure.tolist(),
    }
    many, known = len(set(listed)), len(set(found.a[sure].tolist()))
    unseen = [] if known == many else [_unconfirmed(many - known, opened)]
    lines = (
        f"{known:,} of {len(ids):,} images of {opened.address} are in {other.address} too, or nearly; "
        f"{len(set(found.a[found.same].tolist())):,} of them byte for byte.",
        *unseen,
        str(level),
    )
    facts = {
        "images": len(ids),
        "leaks": many,
        "confirmed": known,
        "against": other.address,
        "calibration": vars(level),
    }
    listing = Listing("also in the other store, most similar first", tuple(listed), columns, lines, facts)
    if save is not None:
        pairs = [(one, copy) for one, copy, yes in zip(listed, copies, sure, strict=True) if yes]
        opened.update(save, dict.fromkeys(ids) | dict(reversed(pairs)))
    if out is None or Path(out).suffix.lower() != ".png":
        return write_result(listing, opened, out)
    # A line of the sheet is a pair: the image, and its copy in the other store.
    both = [one for pair in zip(listed, copies, strict=True) for one in pair]
    near = [value for value in columns["similarity"] for _ in range(2)]
    sheet = Listing(
        listing.title, tuple(both), {"similarity": near, "pair": _twice(len(listed))}, grouped="pair"
    )

    def thumbnails(shown: list[str]) -> list[bytes]:
        mine, theirs = opened.thumbnails(shown[::2]), other.thumbnails(shown[1::2])
        return [file for pair in zip(mine, theirs, strict=True) for file in pair]

    write(sheet, Path(out), thumbnails)
    return listing


def _twice(count: int) -> list[int]:
    return [number for number in range(count) for _ in range(2)]
