"""Texts as a kind of data: each question is passed on to the code in `text/` that answers it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..core.errors import BadImage, NearfarError
from ..text.view_settings import SUFFIXES, TextPreprocess, TextViews
from .modality import Example, Modality

if TYPE_CHECKING:
    import torch

    from ..models import Encoder
    from ..text.views import TextBlock
    from .source import Source

LEAST, MOST = 32, 256  # tokens of an input, where nothing was asked for


class TextModality(Modality):
    """Texts, or pairs and triples of them; a view leaves some tokens out."""

    name = "text"
    noun = "texts"
    easier = "lower --deletion"
    harder = "raise --deletion"
    differ_by = "single words"
    unit = "tokens"
    views = TextViews
    preprocess = TextPreprocess
    suffixes = SUFFIXES
    companion = True
    columns: ClassVar = {"text": "text"}
    training: ClassVar = {
        "encoder": "bag_w512",
        "image_size": None,
        "short_side": None,
        "optimizer": "adamw",
        "lr": 1e-3,
        "lr_scaling": "fixed",
        "weight_decay": 0.0,
    }

    def holds(self, data: Any) -> bool:
        """Tell a table with named columns, FILE:COLUMN, and JSON lines."""
        if not isinstance(data, (str, os.PathLike)):
            return False
        before, colon, _ = os.fspath(data).rpartition(":")
        if Path(data).suffix.lower() in (".jsonl", ".ndjson"):
            return True
        return bool(colon) and Path(before).is_file()

    def open(self, data: Any, *, labels: bool = False, download: bool = True) -> Source:
        """Open a folder, lines, columns or a list of texts."""
        from .texts import open_texts

        return open_texts(data, labels=labels)

    def is_one(self, data: Any) -> bool:
        """Tell one text from a collection: any string is a text, and a path is none."""
        return isinstance(data, str)

    def fetch(self, source: Source, row: int, *, limit: int) -> tuple[bytes, bytes]:
        """Fetch the texts of a row, each checked, as UTF-8 with `BETWEEN` between them."""
        from ..images.files import read
        from ..text.read import BETWEEN, MOST, text_of

        data: Any = source.read(row)
        if isinstance(data, Path):
            parts = [read(data, max_pixels=MOST)]
        else:
            parts = data.split(BETWEEN.encode())
        content = BETWEEN.join(map(text_of, parts)).encode()
        return content, hashlib.blake2b(content, digest_size=16).digest()

    def decode(self, data: bytes, preprocess: TextPreprocess | None, *, limit: int) -> Example:
        """Split texts into tokens; without `preprocess`, give the texts themselves."""
        from ..text import tokenizer
        from ..text.read import BETWEEN

        texts = data.decode().split(BETWEEN)
        if preprocess is None:
            return Example(tuple(texts), {"text": texts[0]})
        ids = tuple(tokenizer.encode(preprocess.tokenizer, text, preprocess.size) for text in texts)
        if not all(map(len, ids)):
            raise BadImage("no token in it")
        return Example(ids, {"text": texts[0]})

    def collate(self, values: Sequence[Any]) -> TextBlock:
        """Put examples together."""
        from ..text.views import TextBlock

        return TextBlock(list(values))

    def decided(
        self, source: Source, asked: Mapping[str, Any], *, folders: Sequence[Path], start: Any
    ) -> dict[str, Any]:
        """Find the tokenizer: the start's, the resumed run's, as asked for, or a new one."""
        from ..text import networks, tokenizer

        if start is None and asked.get("encoder") not in (None, "auto"):
            networks.check_name(asked["encoder"])
        found = tokenizer.choose(asked, folders, start, lambda: self._texts(source))
        return found if start is None else {**found, "image_size": asked.get("image_size") or start.size}

    def _texts(self, source: Source) -> Any:
        """Give every text of a source that can be used, in order."""
        from ..text.read import BETWEEN

        for row in range(len(source)):
            try:
                data, _ = self.fetch(source, row, limit=0)
            except BadImage:
                continue
            yield from data.decode().split(BETWEEN)

    def write_files(self, folder: Path, preprocess: TextPreprocess) -> None:
        """Keep the tokenizer in a run folder."""
        from ..core.atomic import atomic_write
        from ..text import tokenizer

        with atomic_write(folder / tokenizer.FILE) as file:
            file.write(tokenizer.file_of(preprocess.tokenizer).encode())

    def read_files(self, folder: Path, preprocess: TextPreprocess) -> None:
        """Make a run folder's tokenizer known."""
        from ..text import tokenizer

        if tokenizer.read(folder / tokenizer.FILE) != preprocess.tokenizer:
            raise NearfarError(
                f"{folder / tokenizer.FILE} is not the tokenizer that the run was trained with; put its own "
                "back."
            )

    def size_of(self, value: Any) -> int:
        """Count the words of the longest text, and of tokens the tokens."""
        return max(len(text.split()) if isinstance(text, str) else len(text) for text in value)

    def input_size(self, usual: int) -> int:
        """Choose the tokens of an input: twice the median text's words, within bounds."""
        return min(max(2 * usual, LEAST), MOST)

    def preprocess_for(self, size: int, views: TextViews) -> TextPreprocess:
        """Take over the tokenizer."""
        return TextPreprocess(size=size, tokenizer=views.tokenizer or "")

    def labelled_views(self, preprocess: TextPreprocess) -> TextViews:
        """Leave no token out: a label may hang on a single word."""
        return TextViews(deletion=0.0, tokenizer=preprocess.tokenizer)

    def draw(self, view: Any, key: int, ids: Any, block: TextBlock, size: int) -> Any:
        """Draw which tokens are kept; see `text.views.draw`."""
        from ..text import views

        return views.draw(view, key, ids, block)

    def apply(
        self,
        block: TextBlock,
        params: Any,
        view: Any,
        size: int,
        *,
        dtype: torch.dtype | None = None,
        threads: int = 1,
    ) -> torch.Tensor:
        """Compute views, (n, t) int64, 0 after the end of a text; see `text.views.apply`."""
        from ..text import views

        return views.apply(block, params, view)

    def prepare(self, block: TextBlock, preprocess: TextPreprocess, *, threads: int = 1) -> torch.Tensor:
        """Lay the first text of each example in rows: (n, t) int64."""
        from ..text import views

        return views.rows([value[0] for value in block.values])

    def encoder(
        self,
        name: str,
        *,
        stem: str = "auto",
        size: int | None = None,
        weights: str | None = None,
        seed: int = 0,
        **own: Any,
    ) -> Encoder:
        """Build one of the networks of `text.networks`."""
        from ..text import bert, networks, two_towers

        if name == two_towers.TEXT_NAME and own.get("args"):
            return two_towers.build_text(own["args"], size)
        if name == bert.NAME and own.get("args"):  # of a known encoder, or a run that started from one
            return bert.build(own["args"], size)
        return networks.encoder(name, size=size, weights=weights, seed=seed)

    def thumbnail(self, data: bytes, value: Any, side: int, preprocess: Any = None, *, limit: int) -> bytes:
        """Draw the first words of a text; the text itself is in the store's column text."""
        from ..text.picture import picture
        from ..text.read import BETWEEN

        return picture(data.decode().split(BETWEEN)[0], side)


MODALITY = TextModality()
