"""`nearfar duplicates`: what a store holds more than once, or what another store holds too."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..analysis.duplicates import DuplicateGroups, duplicate_groups, duplicate_pairs
from ..core.errors import NearfarError
from ..core.text import counted
from ..data.modalities import modality
from ..stores import VectorStore
from .compared import Compared, compared
from .listing import Listing, write
from .store_access import StoreLike, check_save, open_for_query, write_result

_BEST = {"text": "the longest text", "sound": "the longest clip"}  # of each group
_SAME = {"text": "word for word"}


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
    and the result says so. Texts are compared by their words, and the longest is kept; clips of sound by
    their samples.

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
    check_save(opened, save, "text")
    other = None if against is None else open_for_query(against)
    if other is not None and _is_same_store(opened, other):
        raise NearfarError(
            f"--against {other.address} is the store itself, which has every {opened.info.one}; leave it "
            "out, or name another."
        )
    held = compared(opened, where)
    if other is not None:
        return _leaks(opened, held, other, min_similarity, save, out)
    return write_result(list_groups(opened, held, min_similarity, save), opened, out)


def list_groups(
    opened: VectorStore, held: Compared, min_similarity: float | None = None, save: str | None = None
) -> Listing:
    """List the copies among a store's images, in groups.

    Args:
        opened: the store.
        held: what `compared` reads of it.
        min_similarity, save: as for `duplicates`.

    Returns:
        The groups, the largest first.
    """
    ids, kind = held.ids, modality(opened.info.modality)
    own = list(kind.columns)  # of images width and height: the larger one is kept
    sides = opened.rows([*own, "bytes"], ids=ids).to_pylist()
    quality = [(math.prod(_size(row[name]) for name in own), row["bytes"] or 0) for row in sides]
    level = held.threshold(min_similarity)
    found = duplicate_groups(held.examples, quality, level.min_similarity)
    keepers = found.rows[found.keep][found.group] if len(found.rows) else found.rows
    sure = _confirmed(found, keepers, held)
    listed = [ids[row] for row in found.rows]
    columns: dict[str, Sequence[Any]] = {
        "similarity": found.similarity.tolist(),
        "keep": found.keep.tolist(),
        "same": found.same.tolist(),
        "confirmed": sure.tolist(),
        "group": (found.group + 1).tolist(),
        **{name: [sides[row][name] for row in found.rows] for name in own},
    }
    known = (sure | found.same) & ~found.keep
    spare, copies = len(listed) - int(found.keep.sum()), int(known.sum())
    # Also copies of one another of which neither is the image to keep.
    digests = [digest for digest in held.examples.digests if digest]
    exact = len(digests) - len(set(digests))
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
    unseen += _lacking(held)
    lines = (
        f"{copies:,} of {len(ids):,} {kind.noun} are copies, {exact:,} of them {_same(kind.name)}, in "
        f"{counted(len(set(found.group[known].tolist())), 'group')}. In each group, keep "
        f"{_BEST.get(kind.name, 'the image with the most pixels, then bytes')}.",
        *unseen,
        str(level),
    )
    if save is not None:
        copied = np.flatnonzero(sure & ~found.keep)  # what is written may be deleted: no more than is known
        named = {listed[at]: ids[keepers[at]] for at in copied.tolist()}
        opened.update(save, {one: named.get(one) for one in ids})
    title = f"duplicates in groups, largest group first; each begins with the {kind.one} to keep"
    return Listing(title, tuple(listed), columns, lines, facts, "group")


def _is_same_store(one: VectorStore, other: VectorStore) -> bool:
    """Tell whether two addresses are of one store."""
    try:
        return one.address == other.address or os.path.samefile(one.address, other.address)
    except (OSError, ValueError):  # on a server
        return False


def _size(value: Any) -> int:
    """Measure what decides which of a group is kept: a number, or the letters of a text."""
    return len(value) if isinstance(value, str) else value or 0


def _same(kind: str) -> str:
    return _SAME.get(kind, "byte for byte")


def _confirmed(
    found: DuplicateGroups, keepers: npt.NDArray[np.int64], held: Compared
) -> npt.NDArray[np.bool_]:
    """Say which examples were compared with their keeper as files, or are the same."""
    digests = held.examples.digests
    read = {digests[row] for row in range(len(digests)) if held.read_whole(row)} - {""}

    def at_hand(row: int) -> bool:
        """Tell whether an example was read whole, or one that is the same was."""
        return held.read_whole(row) or digests[row] in read

    sure = [
        row == keeper or digests[row] == digests[keeper] != "" or (at_hand(row) and at_hand(keeper))
        for row, keeper in zip(found.rows.tolist(), keepers.tolist(), strict=True)
    ]
    return np.array(sure, np.bool_)


def _unconfirmed(many: int, store: VectorStore) -> str:
    """Say what could not be confirmed."""
    return (
        f"{counted(many, f'more {store.info.one} looks')} like copies in thumbnails of "
        f"{store.info.thumbnail} pixels, in which small differences do not show (confirmed: no); their "
        "files are not at hand, or not opened here."
    )


def _lacking(held: Compared) -> list[str]:
    """Say of how many clips there are no samples to compare."""
    if not held.lacking:
        return []
    return [
        f"The files of {counted(len(held.lacking), 'clip')} are not at hand, or not opened here: of these, "
        "only copies byte for byte are found."
    ]


def _leaks(
    opened: VectorStore,
    held: Compared,
    other: VectorStore,
    min_similarity: float | None,
    save: str | None,
    out: str | Path | None,
) -> Listing:
    """List what of one store another has too."""
    if (opened.info.encoder, opened.info.preprocess) != (other.info.encoder, other.info.preprocess):
        raise NearfarError(
            f"{opened.address} and {other.address} hold vectors of different encoders; embed both with "
            "the same run."
        )
    ids, kind = held.ids, modality(opened.info.modality)
    theirs = compared(other)
    level = theirs.threshold(min_similarity)
    found = duplicate_pairs(held.examples, theirs.examples, level.min_similarity)
    copies = [theirs.ids[row] for row in found.b]
    listed = [ids[row] for row in found.a]
    readable = [
        held.read_whole(a) and theirs.read_whole(b)
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
    unseen += _lacking(held) or _lacking(theirs)
    lines = (
        f"{known:,} of {len(ids):,} {kind.noun} of {opened.address} are in {other.address} too, or nearly; "
        f"{len(set(found.a[found.same].tolist())):,} of them {_same(kind.name)}.",
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
