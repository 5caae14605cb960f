"""The page to look at a vector store with, in a browser: a map, ranked lists, search, labels."""

from .explore import explore

__all__ = ["explore"]
