"""Reads what a search for duplicates compares: images by pixels, texts by words, sounds by spectrograms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..analysis.copy_threshold import CopyThreshold, calibrate
from ..analysis.duplicates import Collection
from ..analysis.text_copies import MIN_SIMILARITY, Texts, TextThreshold
from ..stores import VectorStore
from .pictures import Pictures


@dataclass(frozen=True)
class Compared:
    """Examples of a store.

    Attributes:
        ids: of them.
        examples: what is compared.
        pictures: where these come from; None for texts, which the store holds whole.
    """

    ids: Sequence[str]
    examples: Collection | Texts
    pictures: Pictures | None

    def threshold(self, min_similarity: float | None) -> CopyThreshold | TextThreshold:
        """Choose from which similarity two are near copies.

        Args:
            min_similarity: the threshold, if it is given.
        """
        if isinstance(self.examples, Collection):
            return calibrate(self.examples, min_similarity)
        return TextThreshold(MIN_SIMILARITY if min_similarity is None else min_similarity)

    def read_whole(self, row: int) -> bool:
        """Tell whether an example was compared whole, and not only as a thumbnail.

        Args:
            row: of the examples.
        """
        return self.pictures is None or self.pictures.at_hand.get(row, False)


def compared(store: VectorStore, where: str | None = None, files: bool = True) -> Compared:
    """Read what a search for duplicates needs of a store.

    Args:
        store: a vector store.
        where: a condition.
        files: whether to open the images' own files, where the store says that they are.

    Returns:
        What is compared.
    """
    ids, x = store.vectors(where)
    if store.info.modality == "text":
        held = store.rows(["text"], ids=ids).column("text").to_pylist()
        return Compared(ids, Texts.of([one or "" for one in held]), None)
    pictures = Pictures(store, ids)
    originals = pictures.originals if files else None
    return Compared(ids, Collection(x, pictures.digests, pictures.small, originals), pictures)
