"""The verb `search`: images of a vector store that are like examples, and unlike others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..analysis.query import query
from ..core.errors import NearfarError
from ..features.extract import Vectors
from ..stores import VectorStore
from ..training.run import Run
from .listing import Listing
from .store_access import Address, counted, encoder_of, handed, opened


def search(
    store: Address,
    *,
    image: str | Path | None = None,
    id: str | None = None,
    like: Sequence[str] = (),
    dislike: Sequence[str] = (),
    where: str | None = None,
    count: int = 20,
    out: str | Path | None = None,
    run: Run | str | Path | None = None,
) -> Listing:
    """Find the images most like some examples; the examples themselves are not listed.

    Args:
        store: a vector store or its address.
        image: an image file to look for the like of.
        id: an image of the store, likewise.
        like: more of either: an id where the store has it, else a file.
        dislike: images to keep away from, likewise.
        where: a condition on columns, such as "site = 'A'".
        count: images wanted.
        out: a .csv, .json or .png file to write.
        run: the run that made the store, if it has moved; needed for files only.

    Returns:
        The images, the most alike first, with their likeness: the cosine, from -1 to 1.

    Raises:
        NearfarError: there is no example, or one is neither an id nor a file.
    """
    place, count = opened(store, out), counted(count)
    given = [] if id is None else [id]
    there = _known(place, [*given, *like, *dislike])
    if given and id not in there:
        raise NearfarError(
            f"{place.address} has no image {id!r}; list its ids: nearfar store {place.address}"
        )
    likes = [] if image is None else [("file", str(image))]
    likes += [("id" if word in there else "file", word) for word in (*given, *like)]
    dislikes = [("id" if word in there else "file", word) for word in dislike]
    files = list(dict.fromkeys(word for kind, word in (*likes, *dislikes) if kind == "file"))
    found: dict[tuple[str, str], Vectors] = {}
    if there:
        found |= {("id", one): x for one, x in zip(*place.vectors(ids=there), strict=True)}
    if files:
        found |= {("file", one): x for one, x in zip(files, _encoded(place, files, run), strict=True)}
    wanted = query(_stacked(found, likes), _stacked(found, dislikes))
    names, likeness = place.nearest(wanted[None], count + len(there), where)
    kept = [at for at, name in enumerate(names[0]) if name not in there][:count]
    ids = [names[0][at] for at in kept]
    columns: dict[str, Sequence[object]] = {"likeness": [float(likeness[0][at]) for at in kept]}
    if ids:
        columns["label"] = place.rows(["label"], ids=ids).column("label").to_pylist()
    facts = {"likes": [word for _, word in likes], "dislikes": [word for _, word in dislikes]}
    return handed(Listing("most alike first", tuple(ids), columns, facts=facts), place, out)


def _known(store: VectorStore, words: Sequence[str]) -> list[str]:
    """Tell which words are ids of the store."""
    quoted = ["'" + word.replace("'", "''") + "'" for word in dict.fromkeys(words)]
    return store.ids(f"id in ({', '.join(quoted)})") if quoted else []


def _encoded(store: VectorStore, files: list[str], run: Run | str | Path | None) -> Vectors:
    """Encode image files as the store's images were."""
    for file in files:
        if not Path(file).is_file():
            raise NearfarError(
                f"{file!r} is neither an image of {store.address} nor a file; look at its name."
            )
    found: Vectors = encoder_of(store, run).encode(files)
    return found


def _stacked(found: dict[tuple[str, str], Vectors], keys: list[tuple[str, str]]) -> Vectors:
    return np.array([found[key] for key in keys], np.float32)
