"""The verb `duplicates`: images that are there twice, here or in another store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..analysis import duplicates as copying
from ..analysis.duplicates import Collection
from ..analysis.pixel_similarity import zoomed_files
from ..core.errors import NearfarError
from ..data.modality import modality
from ..stores import VectorStore
from .listing import Listing, write
from .store_access import Address, handed, opened


def duplicates(
    store: Address,
    *,
    against: Address | None = None,
    alike: float = copying.NEAR,
    where: str | None = None,
    save: str | None = None,
    out: str | Path | None = None,
) -> Listing:
    """List images that are there more than once, in groups; or those that are in another store too.

    Of a group the image with the most pixels is kept, then the one with the most bytes, then the first by
    name.

    Args:
        store: a vector store or its address.
        against: another store of the same encoder, in which to look for the images of the first.
        alike: nearness from which two images are near copies, up to 1.
        where: a condition on the images of the first store.
        save: a column to write to each image: the id of the one to keep in its place, or of its copy in the
            other store; empty for all others.
        out: a .csv, .json or .png file to write.

    Returns:
        The groups, the largest first; or the pairs, the nearest first.

    Raises:
        NearfarError: the stores are of different encoders, or a condition makes no sense.
    """
    if not -1 <= alike <= 1:
        raise NearfarError(f"--alike is {alike:g}; it must lie between -1 and 1, such as {copying.NEAR}.")
    place = opened(store, out)
    ids, images = collected(place, where)
    if against is not None:
        return _leaks(place, ids, images, opened(against), alike, save, out)
    own = list(modality(place.card.modality).columns)  # of images width and height: the larger one is kept
    sides = place.rows([*own, "bytes"], ids=ids).to_pylist()
    quality = [(math.prod(row[name] or 0 for name in own), row["bytes"] or 0) for row in sides]
    found = copying.groups(images, quality, alike)
    keepers = found.rows[found.keep][found.group] if len(found.rows) else found.rows
    listed = [ids[row] for row in found.rows]
    columns: dict[str, Sequence[Any]] = {
        "nearness": found.nearness.tolist(),
        "keep": found.keep.tolist(),
        "same": found.same.tolist(),
        "group": (found.group + 1).tolist(),
        **{name: [sides[row][name] for row in found.rows] for name in own},
    }
    spare = len(listed) - int(found.keep.sum())
    facts = {"images": len(ids), "groups": int(found.keep.sum()), "spare": spare}
    lines = (
        f"{spare:,} of {len(ids):,} images are copies, {int(found.same.sum()):,} of them byte for byte, in "
        f"{facts['groups']:,} groups. Of each group the one with the most pixels, then bytes, is to be kept.",
    )
    if save is not None:
        named = {listed[at]: ids[keepers[at]] for at in range(len(listed)) if not found.keep[at]}
        place.set(save, {one: named.get(one) for one in ids})
    title = "copies, the largest groups first, each behind the one to keep"
    return handed(Listing(title, tuple(listed), columns, lines, facts, "group"), place, out)


def collected(store: VectorStore, where: str | None = None) -> tuple[list[str], Collection]:
    """Read what is needed of a store's images to find copies.

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
    place: VectorStore,
    ids: list[str],
    images: Collection,
    other: VectorStore,
    alike: float,
    save: str | None,
    out: str | Path | None,
) -> Listing:
    """List the images of one store that another has too."""
    if (place.card.encoder, place.card.preprocess) != (other.card.encoder, other.card.preprocess):
        raise NearfarError(
            f"{place.address} and {other.address} are of different encoders, whose vectors cannot be "
            "compared; embed both with one run."
        )
    names, others = collected(other)
    found = copying.pairs(images, others, alike)
    copies = [names[row] for row in found.b]
    listed = [ids[row] for row in found.a]
    columns = {"nearness": found.nearness.tolist(), "copy_of": copies, "same": found.same.tolist()}
    many = len(set(listed))
    lines = (
        f"{many:,} of {len(ids):,} images of {place.address} are in {other.address} too, or nearly; "
        f"{len(set(found.a[found.same].tolist())):,} of them byte for byte.",
    )
    facts = {"images": len(ids), "leaks": many, "against": other.address}
    listing = Listing("leaks, the nearest first", tuple(listed), columns, lines, facts)
    if save is not None:
        place.set(save, dict.fromkeys(ids) | dict(zip(reversed(listed), reversed(copies), strict=True)))
    if out is None or Path(out).suffix.lower() != ".png":
        return handed(listing, place, out)
    # A line of the sheet is a pair: the image, and its copy in the other store.
    both = [one for pair in zip(listed, copies, strict=True) for one in pair]
    near = [value for value in columns["nearness"] for _ in range(2)]
    sheet = Listing(
        listing.title, tuple(both), {"nearness": near, "pair": _twice(len(listed))}, grouped="pair"
    )

    def thumbnails(shown: list[str]) -> list[bytes]:
        mine, theirs = place.thumbnails(shown[::2]), other.thumbnails(shown[1::2])
        return [file for pair in zip(mine, theirs, strict=True) for file in pair]

    write(sheet, Path(out), thumbnails)
    return listing


def _twice(count: int) -> list[int]:
    return [number for number in range(count) for _ in range(2)]
