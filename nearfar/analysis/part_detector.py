"""Reads pictures, computes the features of their patches and feeds a detector of anomalous parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import BadImage, NearfarError, nearest
from ..core.progress import Bar
from ..core.text import counted
from ..core.threads import map_in_order
from ..data.modalities import IMAGES, modality_of
from ..data.source import Source
from ..images.files import MAX_PIXELS
from .padim import Padim
from .patch_banks import NearestPatch, PatchCore
from .patch_features import PatchFeatures
from .spade import Spade
from .whitened import Whitened

PLACES = 64  # of the short side, on the finest map used, to which pictures are reduced by default
ALIKE = 0.05  # share of the normal pictures that may have the same defect without hiding it
FAR = 3.0  # quartile distances above the upper quartile where a normal picture is called unlike the others
LEAST = 8  # normal pictures of which that can be told
COMPARED = 12_000  # patches that are looked at for it
METHOD = "whitened"  # by default
TURNED = ("patchcore", "whitened", "nearest")  # detectors that can learn turned pictures


Detector = NearestPatch | Padim | Whitened
DETECTORS: dict[str, type[NearestPatch] | type[Padim] | type[Whitened]] = {
    "patchcore": PatchCore,
    "padim": Padim,
    "nearest": NearestPatch,
    "spade": Spade,
    "whitened": Whitened,
}


@dataclass(frozen=True)
class UncroppedPicture:
    """A picture as the encoder sees it: its row, x (1, 3, h, w), its own height and width, a digest."""

    row: int
    x: Tensor
    shape: tuple[int, int]
    digest: str


@dataclass(frozen=True)
class PictureScore:
    """A picture's score and those of its patches, (h, w); its row, own height and width, and digest."""

    row: int
    score: float
    places: Tensor
    shape: tuple[int, int]
    digest: str


@dataclass(frozen=True)
class HeldOut:
    """A normal picture outside of the bank: its digest, its score, and the peak of its full-size map."""

    digest: str
    score: float
    peak: float


@dataclass
class PartDetector:
    """A detector of anomalous parts with the encoder and the input that it was made with.

    Attributes:
        features: the encoder and its feature maps.
        preprocess: the encoder's; the range of values of pictures of more than 8 bits is in it.
        side: short side in pixels to which pictures are resized.
        method: one of `DETECTORS`.
        seed: random seed.
        shape: height and width of all pictures, for PaDiM; None before the first and for the others.
        seen: height and width of the first normal picture, as the encoder sees it.
        turned: whether normal pictures are also learned turned by quarters and mirrored.
        pictures: digests of the normal pictures in the bank, by owner.
        detector: made with the first picture.
        rejected: rows that could not be read, with the reason, of the last call.
    """

    features: PatchFeatures
    preprocess: Any
    side: int
    method: str = METHOD
    seed: int = 0
    shape: tuple[int, int] | None = None
    turned: bool = False
    seen: tuple[int, int] | None = None
    pictures: list[str] = field(default_factory=list)
    detector: Detector | None = None
    rejected: list[tuple[int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse an unknown method, and pictures that are none."""
        if self.method not in DETECTORS:
            raise NearfarError(
                f"--parts {self.method!r} is not a detector of parts; {nearest(self.method, DETECTORS)}"
            )
        if self.turned and self.method not in TURNED:
            raise NearfarError(
                f"--turned is for --parts {' or '.join(TURNED)}; {self.method} compares the same places, or "
                "the pictures that look most alike."
            )
        if self.preprocess.modality != IMAGES:
            raise NearfarError("parts of pictures are compared, and this run's data are none.")

    def read(self, source: Source, rows: Sequence[int], threads: int = 2) -> Iterator[UncroppedPicture]:
        """Decode pictures in threads, in order; those that cannot be read are in `rejected`.

        Args:
            source: the collection.
            rows: which of it.
            threads: CPU threads.

        Yields:
            The pictures, uncropped.
        """
        kind, self.rejected = modality_of(self.preprocess), []

        def one(row: int) -> UncroppedPicture | tuple[int, str]:
            try:
                data, digest = kind.fetch(source, row, limit=MAX_PIXELS)
                found = kind.decode(data, self.preprocess_at_side, limit=MAX_PIXELS)
            except BadImage as error:
                return row, str(error)
            pixels: npt.NDArray[np.uint8] = found.value
            own = int(found.columns["height"]), int(found.columns["width"])
            shape = self.shape or self.features.shape_for(*own, self.side)
            x = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
            if x.shape[2:] != shape:
                x = F.interpolate(x, shape, mode=self.preprocess.interpolation, antialias=True).clamp_(0, 1)
            return UncroppedPicture(row, x, own, digest.hex())

        with closing(map_in_order(one, rows, threads=threads, ahead=threads)) as found:
            for picture in found:
                if isinstance(picture, UncroppedPicture):
                    yield picture
                else:
                    self.rejected.append(picture)

    @property
    def preprocess_at_side(self) -> Any:
        """The preprocessing with which pictures are decoded: no smaller than `side`."""
        return replace(self.preprocess, size=self.side, crop=1.0, short_side=None, fit="center")

    def in_bank(self, source: Source, rows: Sequence[int]) -> list[bool]:
        """Tell which pictures are in the bank, by their files' digests.

        Args:
            source: the collection.
            rows: which of it.
        """
        kind, known = modality_of(self.preprocess), set(self.pictures)

        def one(row: int) -> bool:
            try:
                return kind.fetch(source, row, limit=MAX_PIXELS)[1].hex() in known
            except BadImage:
                return False

        return [one(row) for row in rows] if known else [False] * len(rows)

    def add(self, source: Source, rows: Sequence[int], threads: int = 2, vouched: bool = False) -> list[str]:
        """Add normal pictures; what is in the bank already is not added again.

        Args:
            source: the collection.
            rows: which of it.
            threads: CPU threads.
            vouched: whether a person has called each of them normal, so that none is left out.

        Returns:
            Ids of pictures with parts that hardly any other normal picture has, the worst first. They are
            left out of the bank, unless they are more than one in ten, and then a kind of their own.

        Raises:
            NearfarError: no picture can be read.
        """
        held, first = set(self.pictures), len(self.pictures)
        ids: dict[int, str] = {}
        with Bar("learning what is normal", len(rows)) as bar:
            for picture in self.read(source, rows, threads):
                bar.advance()
                if picture.digest in held:
                    continue
                held.add(picture.digest)
                if self.method == "padim" and self.shape is None:
                    height, width = picture.x.shape[2:]
                    self.shape = int(height), int(width)
                self.seen = self.seen or (int(picture.x.shape[2]), int(picture.x.shape[3]))
                owner = len(self.pictures)
                ids[owner] = source.ids[picture.row]
                self.pictures.append(picture.digest)
                for number, x in enumerate(turns(picture.x) if self.turned else (picture.x,)):
                    maps = self._maps(x)
                    if self.detector is None:
                        grid = int(maps[0].shape[2]), int(maps[0].shape[3])
                        self.detector = DETECTORS[self.method](grid, self.seed)
                    name = int(picture.digest[:16], 16) ^ number
                    if isinstance(self.detector, Whitened):
                        self.detector.add(maps, owner, name)
                    else:
                        self.detector.add(maps[0], owner, name)
        if self.detector is None:
            reason = f" ({self.rejected[0][1]})" if self.rejected else ""
            raise NearfarError(f"of {counted(len(rows), 'normal picture')} none can be used{reason}.")
        odd = [] if vouched else unlike(self.detector.pooled(), self.seed)
        fresh = [owner for owner in odd if owner >= first]
        left = fresh if 10 * len(fresh) <= len(self.pictures) else []
        self.detector.settle(frozenset(left))
        return [ids[owner] for owner in fresh]

    def _maps(self, x: Tensor) -> list[Tensor]:
        """Compute the features of a picture, all in one map or map by map, and refuse what is no number."""
        found = self.features.maps(x) if self.method == Whitened.name else [self.features(x)]
        if not all(bool(one.isfinite().all()) for one in found):
            raise NearfarError(
                f"encoder {self.features.encoder.name!r} gives NaN or infinite features; train it again."
            )
        return found

    def score_picture(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Score a picture as the encoder sees it.

        Args:
            x: (1, 3, h, w).

        Returns:
            (1, h, w), the scores of its patches, and (1,), its own.
        """
        assert self.detector is not None, "add normal pictures first"
        maps = self._maps(x)
        return (
            self.detector.score(maps) if isinstance(self.detector, Whitened) else self.detector.score(maps[0])
        )

    def score(
        self, source: Source, rows: Sequence[int], threads: int = 2, inside: bool = False
    ) -> Iterator[PictureScore]:
        """Score pictures, one at a time.

        Args:
            source: the collection.
            rows: which of it.
            threads: CPU threads.
            inside: whether pictures in the bank are scored too.

        Yields:
            The scores, in order, of pictures that are not in the bank; those that cannot be read are in
            `rejected`.
        """
        assert self.detector is not None, "add normal pictures first"
        known = set[str]() if inside else set(self.pictures)
        with Bar("scoring parts", len(rows)) as bar:
            for picture in self.read(source, rows, threads):
                if picture.digest in known:  # its patches are in the bank: its score would say nothing
                    bar.advance()
                    continue
                places, score = self.score_picture(picture.x)
                yield PictureScore(picture.row, float(score[0]), places[0], picture.shape, picture.digest)
                bar.advance()


def turns(x: Tensor) -> Iterator[Tensor]:
    """Turn a picture by quarters, as it is and mirrored.

    Args:
        x: (1, 3, h, w).

    Yields:
        Eight pictures, the first as it is; every other one (1, 3, w, h).
    """
    for one in (x, x.flip(3)):
        for quarters in range(4):
            yield one.rot90(quarters, (2, 3))


def unlike(pooled: tuple[Tensor, Tensor] | None, seed: int = 0) -> list[int]:
    """Find normal pictures with a part that hardly any other normal picture has.

    Args:
        pooled: patches (m, c) and the pictures that they are of, (m,); None where a detector keeps none.
        seed: names the patches that are looked at.

    Returns:
        Their numbers, the worst first. A patch's distance is to the nearest patch of another picture, one in
        twenty pictures passed over; a picture's is that of its worst patch; named is who is more than three
        quartile distances above the upper quartile. Of fewer than eight pictures none is.
    """
    if pooled is None:
        return []
    rows, owners = pooled
    names, number = owners.unique(return_inverse=True)
    if len(names) < LEAST:
        return []
    generator = torch.Generator().manual_seed(seed)
    few = torch.randperm(len(rows), generator=generator)[:COMPARED].sort().values
    rows, number = rows[few], number[few]
    rank = 1 + int(ALIKE * len(names))
    square = rows.square().sum(1)
    worst = torch.zeros(len(names))
    for part in torch.arange(len(rows)).split(256):
        away = square[part, None] + square - 2 * rows[part] @ rows.T
        # Of each picture its nearest patch, and of these the one of the rank; the own picture does not count.
        each = away.new_full((len(part), len(names)), torch.inf)
        each.scatter_reduce_(1, number.expand(len(part), -1), away, "amin")
        each.scatter_(1, number[part, None], torch.inf)
        far = each.kthvalue(rank, dim=1).values.clamp_min(0).sqrt()
        worst.scatter_reduce_(0, number[part], far, "amax")
    low, high = worst.quantile(0.25), worst.quantile(0.75)
    odd = (worst > high + FAR * (high - low).clamp_min(1e-6 + 1e-3 * high)).nonzero()[:, 0]
    return [int(names[at]) for at in odd[worst[odd].argsort(descending=True)]]
