"""Images of individuals as a fine-tuning has them, and how well a network's vectors tell them apart."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np

from ..analysis import identity_scores
from ..analysis.identity_scores import RANKS, Identities
from ..analysis.reranking import Reranking
from ..data.identity_labels import IdentityLabels
from ..data.modalities import modality_of
from ..features.extract import Vectors
from ..images.files import MAX_PIXELS
from .task_types import Figures, Labelled, Mistake, Where

ROLES = ("", "query", "gallery")  # in the order of `identity_scores.BOTH`, QUERY, GALLERY
TALL = 1.5  # longer side over the shorter, from which on much of an image is not seen


def load(found: IdentityLabels, preprocess: Any, where: Where) -> Labelled:
    """Decode images, and number who is on them.

    Args:
        found: the images and their labels.
        preprocess: what the encoder's input is.
        where: how many may be unusable, and threads.

    Returns:
        The images; targets are (n, 3) int64: identity, camera or -1, and role.

    Raises:
        NearfarError: too many images cannot be used.
    """
    # Numbers stand for labels while images are decoded, which leaves out those that are unusable.
    rows = replace(found.source, labels=tuple(map(str, range(len(found.source)))))
    dataset = modality_of(preprocess).load(
        rows, preprocess, limit=MAX_PIXELS, max_bad=where.max_bad, threads=where.workers
    )
    kept = [int(dataset.classes[number]) for number in dataset.labels]
    classes, cameras = (tuple(sorted({*words})) for words in (found.identities, found.cameras))
    number = {name: at for at, name in enumerate(classes)}
    camera = {name: at if name else -1 for at, name in enumerate(cameras)}
    columns = [
        [number[found.identities[at]] for at in kept],
        [camera[found.cameras[at]] for at in kept],
        [ROLES.index(found.roles[at]) for at in kept],
    ]
    targets = np.array(columns, np.int64).T
    digest = hashlib.sha256(f"{dataset.fingerprint} {classes} {cameras}".encode())
    digest.update(targets.tobytes())
    return Labelled(
        found.source.name,
        found.source,
        dataset,
        targets,
        classes,
        digest.hexdigest(),
        rejected=tuple(dataset.rejected),
        notes=(*found.notes, *_shape_note(dataset, found.source.name)),
    )


def who(data: Labelled) -> Identities:
    """Give identities, cameras and roles."""
    return Identities(*(np.ascontiguousarray(column) for column in data.targets.T))


def figures(x: Vectors, data: Labelled, *, rerank: bool) -> Figures:
    """Search the gallery for each query.

    Args:
        x: (n, dim) of length 1.
        data: n images.
        rerank: whether to measure after re-ranking too.

    Returns:
        map with its interval, rank_1, rank_5 and rank_10, and chance, the map of a gallery ranked at random;
        images and map of each identity.
    """
    people = who(data)
    found = identity_scores.scores(people, identity_scores.by_cosine(x))
    values = {"map": found.map, "low": found.low, "high": found.high}
    values |= {**{f"rank_{k}": found.ranks[k] for k in RANKS}, "chance": found.chance}
    if rerank and len(x) > 1:
        again = identity_scores.scores(people, Reranking(x))
        values |= {"reranked_map": again.map, "reranked_rank_1": again.ranks[1]}
    if not len(found.queries):  # of a few held-out images
        return Figures("map", values)
    own = people.identities[found.queries]
    there, place = np.unique(own, return_inverse=True)
    total, count = np.bincount(place, found.precisions), np.bincount(place)
    per_class = {
        data.classes[number]: {"images": float(count[at]), "map": float(total[at] / count[at])}
        for at, number in enumerate(there.tolist())
    }
    # An entry an identity, so weighed that their mean is the mean over queries: the queries of one identity
    # are not independent.
    return Figures("map", values, total * len(there) / len(own), per_class)


def mistakes(x: Vectors, data: Labelled, count: int) -> list[Mistake]:
    """Find the queries whose nearest image shows another individual, the most alike first.

    Args:
        x: (n, dim) of length 1.
        data: n images.
        count: how many, at most.
    """
    people = who(data)
    gallery, rows = people.gallery, people.answerable()
    found: list[tuple[float, int, int, int, int]] = []
    for part in np.array_split(rows, max(1, -(-len(rows) * len(gallery) // identity_scores.TILE))):
        close = np.where(people.left_out(part), -np.inf, x[part] @ x[gallery].T)
        own = people.identities[part, None] == people.identities[gallery]
        best, right = close.argmax(1), np.where(own, close, -np.inf).argmax(1)
        for at, row in enumerate(part.tolist()):
            if not own[at, best[at]]:
                rank = 1 + int((close[at] > close[at, right[at]]).sum())
                found.append((-float(close[at, best[at]]), row, gallery[best[at]], gallery[right[at]], rank))
    made = []
    for close_to, row, other, same, rank in sorted(found)[:count]:
        names = [data.classes[people.identities[each]] for each in (row, other)]
        says = f"{names[0]}, taken for {names[1]} ({-close_to:.2f})"
        shown = (("", row), (f"nearest: {names[1]}", other), (f"its own, at rank {rank:,}", same))
        pictures = [(title, data.dataset[int(each)]) for title, each in shown]
        made.append(Mistake(data.dataset.ids[row], says, pictures))
    return made


def _shape_note(dataset: Any, name: str) -> tuple[str, ...]:
    """Say where much of most images is not seen, since the encoder sees the square in the middle."""
    heights, widths = getattr(dataset, "heights", None), getattr(dataset, "widths", None)
    if heights is None or widths is None or not len(heights):
        return ()
    shape = float(np.median(np.maximum(heights, widths) / np.minimum(heights, widths)))
    if shape < TALL:
        return ()
    return (
        f"most images of {name} are {shape:.1f} times as long as wide, and only the square in their middle "
        "is seen; resize them to squares before",
    )
