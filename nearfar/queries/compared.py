"""Reads what a search for duplicates compares: images by pixels, texts by words, clips by samples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..analysis.copy_threshold import CopyThreshold, calibrate
from ..analysis.duplicates import Collection
from ..analysis.sound_copies import Clips, Samples, SoundThreshold
from ..analysis.text_copies import Texts, TextThreshold
from ..core.errors import BadImage
from ..data.source import file_of
from ..sound import read as sound
from ..stores import VectorStore
from ..training.settings import Training
from .pictures import Pictures
from .store_access import none_there

RATE = 8000  # samples a second at which clips are compared
LONGEST = 300  # seconds of a clip that are compared


@dataclass(frozen=True)
class Compared:
    """Examples of a store.

    Attributes:
        ids: of them.
        examples: what is compared.
        pictures: where images come from; None for texts, which the store holds whole, and clips.
        lacking: clips that were asked for and are not at hand as files; known after the search.
    """

    ids: Sequence[str]
    examples: Collection | Texts | Clips
    pictures: Pictures | None
    lacking: set[int] = field(default_factory=set)

    def threshold(self, min_similarity: float | None) -> CopyThreshold | TextThreshold | SoundThreshold:
        """Choose from which similarity two are near copies.

        Args:
            min_similarity: the threshold, if it is given.
        """
        if isinstance(self.examples, Collection):
            return calibrate(self.examples, min_similarity)
        kind = TextThreshold if isinstance(self.examples, Texts) else SoundThreshold
        return kind() if min_similarity is None else kind(min_similarity)

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

    Raises:
        NearfarError: there is nothing to compare, or the condition makes no sense.
    """
    ids, x = store.vectors(where)
    if not ids:
        raise none_there(store, where)
    if store.info.modality == "text":
        held = store.rows(["text"], ids=ids).column("text").to_pylist()
        return Compared(ids, Texts.of([one or "" for one in held]), None)
    pictures = Pictures(store, ids)
    if store.info.modality == "sound":
        lacking: set[int] = set()
        read = _reader(store, ids, files, lacking)
        return Compared(ids, Clips(x, pictures.digests, read), None, lacking)
    originals = pictures.originals if files else None
    return Compared(ids, Collection(x, pictures.digests, pictures.small, originals), pictures)


def _reader(
    store: VectorStore, ids: Sequence[str], files: bool, lacking: set[int]
) -> Callable[[int], Samples | None]:
    """Make what reads the samples of a clip, if its file still has the content that the store knows."""
    known = store.rows(["digest", "path"], ids=list(ids)).to_pydict()

    def read(row: int) -> Samples | None:
        path, digest, limit = known["path"][row], known["digest"][row], Training.max_pixels
        try:
            if not files or not path or not digest:
                raise BadImage("not at hand")
            data = sound.read(Path(file_of(path)), limit)
            if hashlib.blake2b(data, digest_size=16).hexdigest() != digest:
                raise BadImage("another one by now")
            samples, rate = sound.decode(data, limit)
        except BadImage:
            lacking.add(row)
            return None
        return sound.resample(samples[: LONGEST * rate], rate, RATE)

    return read
