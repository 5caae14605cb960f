"""Settings of views of texts and of an encoder's input; endings of text files. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core.config import setting

SUFFIXES = frozenset({"txt", "md", "text"})  # endings of files that are a text each


@dataclass(frozen=True)
class TextViews:
    """How a text becomes a view: some of its tokens are left out."""

    deletion: float = setting(
        0.2,
        "share of a text's tokens that a view leaves out",
        low=0.0,
        high=0.95,
        source="after Wu et al. 2020, CLEAR",
    )
    tokenizer: str | None = setting(
        None, "a tokenizer.json that splits texts into tokens; one is trained on the texts if not given"
    )


@dataclass(frozen=True)
class TextPreprocess:
    """How a text becomes an encoder's input."""

    modality: ClassVar[str] = "text"
    size: int = setting(64, "tokens of a text, at most; what is longer loses its end", low=1, high=8192)
    tokenizer: str = setting("", "the tokenizer, by the digest of its tokenizer.json")
