"""Images with captions, decoded: their data set, blocks of some of them, and which caption a step takes."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from ..core import rng
from ..core.config import setting
from ..core.errors import NearfarError
from ..images.view_settings import Views
from ..images.views import Preprocess
from ..text import tokenizer
from ..text.tokenizer import Ids
from ..text.view_settings import TextPreprocess
from ..text.views import rows
from .dataset import Dataset, ImageDataset, RaggedImages, Subset, fingerprint
from .pairs import captions_of
from .reading import Rejected
from .source import Pixels, Source

Captions = tuple[Ids, ...]  # of one image, each as numbers of tokens


@dataclass(frozen=True)
class PairPreprocess(Preprocess):
    """How an image and its captions become the input of the two encoders."""

    modality: ClassVar[str] = "pairs"
    caption_tokens: int = setting(64, "tokens of a caption, at most", low=2, high=8192)
    tokenizer: str = setting("", "the tokenizer, by the digest of its tokenizer.json")

    @property
    def images(self) -> Preprocess:
        """How an image becomes its encoder's input."""
        names = [item.name for item in dataclasses.fields(Preprocess)]
        return Preprocess(**{name: getattr(self, name) for name in names})

    @property
    def text(self) -> TextPreprocess:
        """How a caption becomes its encoder's input."""
        return TextPreprocess(self.caption_tokens, self.tokenizer)


@dataclass(frozen=True)
class CaptionView:
    """The view that is one of an image's captions; `recipe` says how the image's own views are made."""

    picture: ClassVar[bool] = False
    recipe: Views


@dataclass(frozen=True)
class PairBlock(RaggedImages):
    """Some images, as `RaggedImages` has them, and the captions of each."""

    captions: list[Captions]

    @classmethod
    def of(cls, images: RaggedImages, captions: list[Captions]) -> PairBlock:
        """Put images and captions together."""
        return cls(images.pixels, images.offset, images.height, images.width, captions)

    def take(self, rows: npt.NDArray[np.int64]) -> PairBlock:
        """Give some of them."""
        return PairBlock.of(super().take(rows), [self.captions[at] for at in np.asarray(rows).tolist()])


@dataclass(frozen=True)
class PlacedPairs:
    """The same, with the images on a device."""

    images: Any
    captions: list[Captions]


@dataclass(frozen=True, eq=False)
class PairDataset(Dataset):
    """Decoded images with their captions; `digests` (n, 16) uint8 are of both."""

    images: ImageDataset | Subset
    captions: tuple[Captions, ...]
    digests: npt.NDArray[np.uint8]
    rejected: tuple[Rejected, ...]

    @property
    def modality(self) -> str:
        """Name the kind of data."""
        return "pairs"

    @property
    def heights(self) -> npt.NDArray[np.int32]:
        """(n,) heights in pixels."""
        return self.images.heights

    @property
    def widths(self) -> npt.NDArray[np.int32]:
        """(n,) widths in pixels."""
        return self.images.widths

    def __getitem__(self, row: int) -> Pixels:
        """Give one image as (H, W, 3) uint8."""
        return self.images[row]

    def gather(self, rows: npt.NDArray[np.int64]) -> Any:
        """Give some images with their captions."""
        found: RaggedImages = self.images.gather(rows)
        return PairBlock.of(found, [self.captions[row] for row in rows.tolist()])


def joined(images: ImageDataset, source: Source, preprocess: TextPreprocess) -> PairDataset:
    """Put decoded images and their captions together.

    Args:
        images: the usable ones of the source.
        source: has the captions.
        preprocess: how captions are split into tokens.

    Raises:
        NearfarError: no caption has a token.
    """
    texts = {name: captions_of(source, row) for row, name in enumerate(source.ids)}
    split: list[Captions] = []
    for name in images.ids:
        ids = (tokenizer.encode(preprocess.tokenizer, text, preprocess.size) for text in texts[name])
        split.append(tuple(one for one in ids if len(one)))
    kept = np.array([at for at, some in enumerate(split) if some], np.int64)
    without = [
        Rejected(images.ids[at], "no token in its captions") for at, some in enumerate(split) if not some
    ]
    if not len(kept):
        raise NearfarError(f"no caption of {source.name} has a token of the tokenizer; use another one.")
    chosen: ImageDataset | Subset = images if not without else Subset(images, kept)
    own = np.empty((len(kept), 16), np.uint8)
    for row, at in enumerate(kept.tolist()):
        digest = digest_of(images.digests[at].tobytes(), texts[images.ids[at]])
        own[row] = np.frombuffer(digest, np.uint8)
    return PairDataset(
        ids=chosen.ids,
        labels=None,
        classes=(),
        fingerprint=fingerprint(chosen.ids, own),
        resident=images.resident,
        images=chosen,
        captions=tuple(split[at] for at in kept.tolist()),
        digests=own,
        rejected=(*images.rejected, *without, *getattr(source, "set_aside", ())),
    )


def digest_of(image: bytes, captions: tuple[str, ...]) -> bytes:
    """Give a digest of an image and its captions.

    Args:
        image: the image's own digest.
        captions: its captions.
    """
    return hashlib.blake2b(image + "\0".join(captions).encode(), digest_size=16).digest()


def draw_captions(key: int, ids: Any, block: PairBlock) -> npt.NDArray[np.int64]:
    """Draw one caption of each image.

    Args:
        key: of the view and the epoch.
        ids: (n,) integers that name the images.
        block: the n images.

    Returns:
        (n,) which one.
    """
    counts = np.array([len(texts) for texts in block.captions])
    u = rng.uniform(key, np.asarray(ids), 1)[:, 0]
    return np.minimum((u * counts).astype(np.int64), counts - 1)


def caption_rows(captions: list[Captions], chosen: npt.NDArray[np.int64]) -> torch.Tensor:
    """Lay one caption of each image in a row: (n, t) int64, 0 after its end.

    Args:
        captions: of n images.
        chosen: (n,) which one of each.
    """
    return rows([texts[at] for texts, at in zip(captions, chosen.tolist(), strict=True)])
