"""Vector stores: one encoder's vectors, with thumbnails, labels and columns, on a disk or on a server."""

from .base import StoreInfo, VectorStore
from .open import open_store

__all__ = ["StoreInfo", "VectorStore", "open_store"]
