"""`nearfar search`: what a store holds that is similar to examples or to words, and unlike others."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..analysis.bm25 import BM25, together
from ..analysis.query import query
from ..core.errors import NearfarError
from ..core.text import as_list
from ..data.modalities import IMAGES
from ..embedding.words import text_run
from ..features.extract import Vectors
from ..stores import VectorStore
from ..training.run import Run
from .listing import Listing
from .store_access import StoreLike, check_limit, open_for_query, run_of, write_result


def search(
    store: StoreLike,
    *,
    image: str | Path | None = None,
    text: str | None = None,
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
        text: words to look for: in a store of texts, the similarity of vectors and BM25 are added; in one of
            images, the run must have an encoder of texts, as those of --method clip and siglip.
        id: an image of the store to find similar images to.
        like: more examples: ids of the store, or files; of texts, ids or texts.
        dislike: images that the results should be unlike: ids of the store, or files; of texts, ids or texts.
        where: a condition on columns, such as "site = 'A' and width >= 64".
        limit: number of images to list.
        out: a .csv, .json or .png file to write; .png is a contact sheet.
        run: the run that made the store, if it has moved; needed for image files only.

    Returns:
        The images, most similar first, with their similarity: the cosine, from -1 to 1. Examples named
        by id are not listed. With `text` in a store of texts, also the score of BM25 and that of both
        together, by which they are sorted.

    Raises:
        NearfarError: there is no example, or one is neither an id nor a file.
    """
    limit, opened = check_limit(limit), open_for_query(store, out, run)  # in this order
    kind = opened.info.modality
    texts = kind == "text"
    by_example = "--text WORDS" if texts else "--image FILE" if kind == IMAGES else "--like FILE"
    if (image if texts else text if kind != IMAGES else None) is not None:
        raise NearfarError(f"{opened.address} holds {kind}; search it with {by_example}.")
    like, dislike, given = as_list(like), as_list(dislike), as_list(() if id is None else id)
    if image is None and text is None and not given and not like:
        raise NearfarError(f"a search needs an example; give {by_example}, --id ID or --like ID.")
    there = _known(opened, [*given, *like, *dislike])
    if given and id not in there:
        raise NearfarError(
            f"{opened.address} has no {opened.info.one} {id!r}; list its ids: nearfar store "
            f"{shlex.quote(opened.address)} --export ids.csv"
        )
    likes = [] if image is None else [("file", str(image))]
    likes += [] if text is None else [("file" if texts else "words", text)]
    likes += [("id" if word in there else "file", word) for word in (*given, *like)]
    dislikes = [("id" if word in there else "file", word) for word in dislike]
    files = list(dict.fromkeys(word for kind, word in (*likes, *dislikes) if kind == "file"))
    found: dict[tuple[str, str], Vectors] = {}
    if there:
        found |= {("id", one): x for one, x in zip(*opened.vectors(ids=there), strict=True)}
    if files:
        found |= {("file", one): x for one, x in zip(files, _encoded(opened, files, run), strict=True)}
    if text is not None and not texts:
        found["words", text] = text_run(run_of(opened, run)).encode(text)
    wanted = query(_stacked(found, likes), _stacked(found, dislikes))
    columns: dict[str, Sequence[object]]
    if not texts or text is None:
        names, similarity = opened.nearest(wanted[None], limit + len(there), where)
        kept = [at for at, name in enumerate(names[0]) if name not in there][:limit]
        ids = [names[0][at] for at in kept]
        columns = {"similarity": [float(similarity[0][at]) for at in kept]}
    else:
        ids, columns = _by_words(opened, text, wanted, there, where, limit)
    if ids:
        also = ["label", "text"] if texts else ["label"]
        columns |= opened.rows(also, ids=ids).to_pydict()
    facts = {"likes": [word for _, word in likes], "dislikes": [word for _, word in dislikes]}
    return write_result(Listing("most similar first", tuple(ids), columns, facts=facts), opened, out)


def _by_words(
    store: VectorStore, text: str, wanted: Vectors, without: Sequence[str], where: str | None, limit: int
) -> tuple[list[str], dict[str, Sequence[object]]]:
    """Sort all texts of a store by the sum of their similarity and of BM25."""
    names, vectors = store.vectors(where)
    held = store.rows(["text"], ids=names).column("text").to_pylist()
    lengths = np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
    similarity = vectors @ wanted / lengths
    words = BM25([one or "" for one in held]).scores(text)
    score = together(similarity, words)
    order = [at for at in np.argsort(-score, kind="stable").tolist() if names[at] not in without][:limit]
    each = {"score": score, "similarity": similarity, "bm25": words}
    return [names[at] for at in order], {name: [float(x[at]) for at in order] for name, x in each.items()}


def _known(store: VectorStore, words: Sequence[str]) -> list[str]:
    """Tell which words are ids of the store."""
    quoted = ["'" + word.replace("'", "''") + "'" for word in dict.fromkeys(words)]
    return store.ids(f"id in ({', '.join(quoted)})") if quoted else []


def _encoded(store: VectorStore, files: list[str], run: Run | str | Path | None) -> Vectors:
    """Encode image files as the store's images were; of a store of texts, the words are texts themselves."""
    texts = store.info.modality == "text"
    for file in files:
        if texts and os.path.isfile(file):
            raise NearfarError(
                f"{file!r} is a file, and --like and --dislike take ids and texts; give its words."
            )
        if not texts and not os.path.isfile(file):
            raise NearfarError(f"{file!r} is neither an id of {store.address} nor a file; check its name.")
    found: Vectors = run_of(store, run).encode(files)
    return found


def _stacked(found: dict[tuple[str, str], Vectors], keys: list[tuple[str, str]]) -> Vectors:
    return np.array([found[key] for key in keys], np.float32)
