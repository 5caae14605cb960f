"""The page to look at a vector store with, in a browser: a map, ranked lists, search, labels."""

from .open import explore

__all__ = ["explore"]
