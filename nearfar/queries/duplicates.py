"""`nearfar duplicates`: images that a store holds more than once, or that another store holds too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..analysis.duplicates import MIN_SIMILARITY, Collection, duplicate_groups, duplicate_pairs
from ..analysis.pixel_similarity import zoomed_files
from ..core.errors import NearfarError
from ..data.modality import modality
from ..stores import VectorStore
from .listing import Listing, write
from .store_access import StoreLike, open_for_query, write_result


def duplicates(
    store: StoreLike,
    *,
    against: StoreLike | None = None,
    min_similarity: float = MIN_SIMILARITY,
    where: str | None = None,
    save: str | None = None,
    out: str | Path | None = None,
) -> Listing:
    """List duplicates, exact or near, in groups with one image to keep; or those that another store has too.

    The image to keep has the most pixels; of several such, the most bytes; of several such, the first name.

    Example: nearfar duplicates photos.nf --out copies.png

    Args:
        store: a vector store or its address.
        against: another store of the same run: list the images of the first store that it has too.
        min_similarity: least similarity of near duplicates, from -1 to 1.
        where: a condition on the images of the first store.
        save: also write the id of the image to keep, or of the copy in the other store, to this column.
        out: a .csv, .json or .png file to write; .png is a contact sheet.

    Returns:
        The groups, the largest first; or the pairs, the most similar first.

    Raises:
        NearfarError: the stores are of different encoders, or a condition makes no sense.
    """
    if not -1 <= min_similarity <= 1:
        raise NearfarError(
            f"--min-similarity is {min_similarity:g}; give a number from -1 to 1, such as {MIN_SIMILARITY}."
        )
    opened = open_for_query(store, out)
    ids, images = read_collection(opened, where)
    if against is not None:
        return _leaks(opened, ids, images, open_for_query(against), min_similarity, save, out)
    own = list(modality(opened.info.modality).columns)  # of images width and height: the larger one is kept
    sides = opened.rows([*own, "bytes"], ids=ids).to_pylist()
    quality = [(math.prod(row[name] or 0 for name in own), row["bytes"] or 0) for row in sides]
    found = duplicate_groups(images, quality, min_similarity)
    keepers = found.rows[found.keep][found.group] if len(found.rows) else found.rows
    listed = [ids[row] for row in found.rows]
    columns: dict[str, Sequence[Any]] = {
        "similarity": found.similarity.tolist(),
        "keep": found.keep.tolist(),
        "same": found.same.tolist(),
        "group": (found.group + 1).tolist(),
        **{name: [sides[row][name] for row in found.rows] for name in own},
    }
    spare = len(listed) - int(found.keep.sum())
    # Also copies of one another of which neither is the image to keep.
    known = [digest for digest in images.digests if digest]
    exact = len(known) - len(set(known))
    facts = {"images": len(ids), "groups": int(found.keep.sum()), "spare": spare, "exact": exact}
    lines = (
        f"{spare:,} of {len(ids):,} images are copies, {exact:,} of them byte for byte, in "
        f"{facts['groups']:,} groups. In each group, keep the image with the most pixels, then bytes.",
    )
    if save is not None:
        named = {listed[at]: ids[keepers[at]] for at in range(len(listed)) if not found.keep[at]}
        opened.update(save, {one: named.get(one) for one in ids})
    title = "duplicates in groups, largest group first; each begins with the image to keep"
    return write_result(Listing(title, tuple(listed), columns, lines, facts, "group"), opened, out)


def read_collection(store: VectorStore, where: str | None = None) -> tuple[list[str], Collection]:
    """Read what a search for duplicates needs of a store's images.

    Args:
        store: a vector store.
        where: a condition.

    Returns:
        Their ids and the collection.
    """
    ids, x = store.vectors(where)
    digests = [one or "" for one in store.rows(["digest"], ids=ids).column("digest").to_pylist()]
    return ids, Collection(x, zoomed_files(store.thumbnails, ids), digests)


def _leaks(
    opened: VectorStore,
    ids: list[str],
    images: Collection,
    other: VectorStore,
    min_similarity: float,
    save: str | None,
    out: str | Path | None,
) -> Listing:
    """List the images of one store that another has too."""
    if (opened.info.encoder, opened.info.preprocess) != (other.info.encoder, other.info.preprocess):
        raise NearfarError(
            f"{opened.address} and {other.address} hold vectors of different encoders; embed both with "
            "the same run."
        )
    names, others = read_collection(other)
    found = duplicate_pairs(images, others, min_similarity)
    copies = [names[row] for row in found.b]
    listed = [ids[row] for row in found.a]
    columns = {"similarity": found.similarity.tolist(), "copy_of": copies, "same": found.same.tolist()}
    many = len(set(listed))
    lines = (
        f"{many:,} of {len(ids):,} images of {opened.address} are in {other.address} too, or nearly; "
        f"{len(set(found.a[found.same].tolist())):,} of them byte for byte.",
    )
    facts = {"images": len(ids), "leaks": many, "against": other.address}
    listing = Listing("also in the other store, most similar first", tuple(listed), columns, lines, facts)
    if save is not None:
        opened.update(save, dict.fromkeys(ids) | dict(zip(reversed(listed), reversed(copies), strict=True)))
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
