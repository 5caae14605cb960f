"""A page in a browser to explore a vector store: a map, ranked lists, search, labels."""

from .explore import explore

__all__ = ["explore"]
