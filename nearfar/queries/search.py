"""`nearfar search`: the images of a store that are similar to examples, and unlike others."""

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
from .store_access import StoreLike, check_limit, open_for_query, run_of, write_result


def search(
    store: StoreLike,
    *,
    image: str | Path | None = None,
    id: str | None = None,
    like: Sequence[str] = (),
    dislike: Sequence[str] = (),
    where: str | None = None,
    limit: int = 20,
    out: str | Path | None = None,
    run: Run | str | Path | None = None,
) -> Listing:
    """Find the images most similar to one or several examples, and unlike others.

    Example: nearfar search photos.nf --image cat.jpg

    Args:
        store: a vector store or its address.
        image: an image file to find similar images to.
        id: an image of the store to find similar images to.
        like: more examples: ids of the store, or files.
        dislike: images that the results should be unlike: ids of the store, or files.
        where: a condition on columns, such as "site = 'A' and width >= 64".
        limit: number of images to list.
        out: a .csv, .json or .png file to write; .png is a contact sheet.
        run: the run that made the store, if it has moved; needed for image files only.

    Returns:
        The images, most similar first, with their similarity: the cosine, from -1 to 1. Examples are not
        listed.

    Raises:
        NearfarError: there is no example, or one is neither an id nor a file.
    """
    opened, limit = open_for_query(store, out, run), check_limit(limit)
    given = [] if id is None else [id]
    there = _known(opened, [*given, *like, *dislike])
    if given and id not in there:
        raise NearfarError(
            f"{opened.address} has no image {id!r}; list its ids: nearfar store {opened.address}"
        )
    likes = [] if image is None else [("file", str(image))]
    likes += [("id" if word in there else "file", word) for word in (*given, *like)]
    dislikes = [("id" if word in there else "file", word) for word in dislike]
    files = list(dict.fromkeys(word for kind, word in (*likes, *dislikes) if kind == "file"))
    found: dict[tuple[str, str], Vectors] = {}
    if there:
        found |= {("id", one): x for one, x in zip(*opened.vectors(ids=there), strict=True)}
    if files:
        found |= {("file", one): x for one, x in zip(files, _encoded(opened, files, run), strict=True)}
    wanted = query(_stacked(found, likes), _stacked(found, dislikes))
    names, similarity = opened.nearest(wanted[None], limit + len(there), where)
    kept = [at for at, name in enumerate(names[0]) if name not in there][:limit]
    ids = [names[0][at] for at in kept]
    columns: dict[str, Sequence[object]] = {"similarity": [float(similarity[0][at]) for at in kept]}
    if ids:
        columns["label"] = opened.rows(["label"], ids=ids).column("label").to_pylist()
    facts = {"likes": [word for _, word in likes], "dislikes": [word for _, word in dislikes]}
    return write_result(Listing("most similar first", tuple(ids), columns, facts=facts), opened, out)


def _known(store: VectorStore, words: Sequence[str]) -> list[str]:
    """Tell which words are ids of the store."""
    quoted = ["'" + word.replace("'", "''") + "'" for word in dict.fromkeys(words)]
    return store.ids(f"id in ({', '.join(quoted)})") if quoted else []


def _encoded(store: VectorStore, files: list[str], run: Run | str | Path | None) -> Vectors:
    """Encode image files as the store's images were."""
    for file in files:
        if not Path(file).is_file():
            raise NearfarError(f"{file!r} is neither an image of {store.address} nor a file; check its name.")
    found: Vectors = run_of(store, run).encode(files)
    return found


def _stacked(found: dict[tuple[str, str], Vectors], keys: list[tuple[str, str]]) -> Vectors:
    return np.array([found[key] for key in keys], np.float32)
