"""Images with captions as a kind of data: images, as `image_modality` has them, and a caption drawn a step.

A run on them keeps an encoder of images and one of texts, so they are the kind of its training alone.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..core.config import setting
from ..core.errors import NearfarError
from ..core.plain_path import from_home
from ..images.view_settings import Views
from .image_modality import ImageModality
from .modalities import IMAGES, modality
from .modality import Example

if TYPE_CHECKING:
    import torch

    from ..text.view_settings import TextPreprocess
    from .inspection import Inspection
    from .pair_blocks import PairPreprocess
    from .source import Source


TABLE, TABLES = "captions", (".csv", ".tsv", ".jsonl", ".parquet")  # what a table of captions is called


@dataclass(frozen=True)
class PairViews(Views):
    """How an image with captions becomes a view: a crop whose colours and sides stay, and one caption."""

    crop_min: float = setting(
        0.6, "least area of a random crop, as a share of the image", low=0.01, high=1.0, source="ours"
    )
    flip: float = setting(
        0.0, "chance of a left-right flip", low=0.0, high=1.0, source="CLIP, section 2.4: crops alone"
    )
    jitter: float = setting(
        0.0, "chance of colour jitter", low=0.0, high=1.0, source="CLIP, section 2.4: crops alone"
    )
    grayscale: float = setting(
        0.0, "chance of turning grey", low=0.0, high=1.0, source="CLIP, section 2.4: crops alone"
    )
    caption_tokens: int = setting(
        64,
        "tokens of a caption, at most; what is longer loses its end",
        low=2,
        high=8192,
        source="SigLIP, its code; CLIP has 77",
    )
    tokenizer: str | None = setting(
        None, "a tokenizer.json that splits captions into tokens; one is trained on them if not given"
    )


class PairModality(ImageModality):
    """Images with captions: what is asked of images, and views that are captions."""

    name = "pairs"
    noun = "pairs"
    unit = "px"
    views = PairViews
    suffixes = frozenset()
    by_method = True
    encodes = IMAGES
    training: ClassVar = {
        "optimizer": "adamw",
        "lr": 1e-3,
        "lr_scaling": "fixed",
        "weight_decay": 0.1,
    }

    @property
    def preprocess(self) -> type[PairPreprocess]:
        """Those of images, and how captions are split."""
        from .pair_blocks import PairPreprocess

        return PairPreprocess

    def holds(self, data: Any) -> bool:
        """Tell a table of captions, or a folder that holds one."""
        if not isinstance(data, (str, os.PathLike)):
            return False
        path = from_home(data)
        found = [path] if path.stem == TABLE else [path / f"{TABLE}{suffix}" for suffix in TABLES]
        return any(one.suffix.lower() in TABLES and one.is_file() for one in found)

    def open(self, data: Any, *, labels: bool = False, download: bool = True) -> Source:
        """Open a folder, a table, shards or a list of pairs; see `pairs.open_pairs`."""
        from .pairs import open_pairs

        if labels:
            raise NearfarError("images with captions have no labels; give a folder of labelled images.")
        return open_pairs(data)

    def is_one(self, data: Any) -> bool:
        """Tell a single pair from a collection: there is no such."""
        return False

    def fetch(self, source: Source, row: int, *, limit: int) -> tuple[Any, bytes]:
        """Fetch an image and its captions; `limit` counts pixels."""
        from .pair_blocks import digest_of
        from .pairs import captions_of

        data, digest = super().fetch(source, row, limit=limit)
        captions = captions_of(source, row)
        return (data, captions), digest_of(digest, captions)

    def decode(self, data: Any, preprocess: Any, *, limit: int) -> Example:
        """Decode an image, and split its captions into tokens where there is a tokenizer."""
        from ..text import tokenizer

        image, captions = data
        found = super().decode(image, preprocess, limit=limit)
        named = "" if preprocess is None else preprocess.tokenizer
        ids = tuple(tokenizer.encode(named, text, preprocess.caption_tokens) for text in captions if named)
        return dataclasses.replace(found, value=(found.value, ids))

    def collate(self, values: Sequence[Any]) -> Any:
        """Lay images in one buffer, and their captions beside them."""
        from .pair_blocks import PairBlock

        return PairBlock.of(super().collate([image for image, _ in values]), [ids for _, ids in values])

    def size_of(self, value: Any) -> int:
        """Measure an image's short side, in pixels."""
        return super().size_of(value[0])

    def describe(self, source: Any, **how: Any) -> Inspection:
        """Describe the images, and name the captions that cannot be used."""
        aside = getattr(source, "set_aside", ())  # a part of a source has the captions of its images alone
        return dataclasses.replace(super().describe(source, **how), captions=aside)

    def load(
        self,
        source: Any,
        preprocess: Any,
        *,
        limit: int,
        max_bad: float,
        threads: int,
        decode_once: bool = True,
        memory: int | None = None,
        short_side: int | None = None,
    ) -> Any:
        """Decode images as those without captions are, and split the captions into tokens."""
        from .pair_blocks import joined

        if not decode_once:
            raise NearfarError(
                "images with captions are decoded once, so that each keeps its own; leave --no-cache out."
            )
        images = super().load(
            source,
            preprocess,
            limit=limit,
            max_bad=max_bad,
            threads=threads,
            memory=memory,
            short_side=short_side,
        )
        return joined(images, source, preprocess.text)

    def decided(
        self, source: Any, asked: Mapping[str, Any], *, folders: Sequence[Path], start: Any
    ) -> dict[str, Any]:
        """Find the tokenizer: the start's text encoder's, the resumed run's, as asked for, or a new one."""
        from ..text import tokenizer

        found = tokenizer.choose(
            asked, folders, start, lambda: (text for texts in source.captions for text in texts)
        )
        if start is None:
            return found
        return {**found, "caption_tokens": asked.get("caption_tokens") or start.size}

    def write_files(self, folder: Path, preprocess: PairPreprocess) -> None:
        """Keep the tokenizer in a run folder."""
        modality("text").write_files(folder, preprocess.text)

    def read_files(self, folder: Path, preprocess: PairPreprocess) -> None:
        """Make a run folder's tokenizer known."""
        modality("text").read_files(folder, preprocess.text)

    def preprocess_for(self, size: int, views: Any) -> PairPreprocess:
        """Choose how an image is prepared, as for images alone, and take over the tokenizer."""
        from ..images.views import Preprocess

        plain = dataclasses.asdict(Preprocess.of(size, views.interpolation, views.range))
        return self.preprocess(**plain, caption_tokens=views.caption_tokens, tokenizer=views.tokenizer or "")

    def towers(self, preprocess: PairPreprocess) -> tuple[Any, TextPreprocess]:
        """Part the settings into those of images and those of captions."""
        return preprocess.images, preprocess.text

    def draw(self, view: Any, key: int, ids: Any, block: Any, size: int) -> Any:
        """Draw crops of the images, or which caption is taken."""
        from .pair_blocks import CaptionView, draw_captions

        if isinstance(view, CaptionView):
            return draw_captions(key, ids, block)
        return super().draw(view, key, ids, block, size)

    def apply(self, block: Any, params: Any, view: Any, size: int, **how: Any) -> torch.Tensor:
        """Compute views of the images, or lay captions in rows: (n, t) int64."""
        from .pair_blocks import CaptionView, PlacedPairs, caption_rows

        if isinstance(view, CaptionView):
            return caption_rows(block.captions, params)
        images = block.images if isinstance(block, PlacedPairs) else block
        return super().apply(images, params, view, size, **how)

    def place(self, block: Any, device: torch.device) -> Any:
        """Send pixels to a device; captions stay."""
        from .pair_blocks import PlacedPairs

        return PlacedPairs(super().place(block, device), block.captions)


MODALITY = PairModality()
