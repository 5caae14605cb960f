"""Opens a vector store by its address: a folder, an object store or a database server."""

from __future__ import annotations

import re
from pathlib import Path

from ..core.atomic import refuse_address
from ..core.errors import NearfarError
from ..core.redact import redact
from .base import StoreInfo, VectorStore

_POSTGRES = re.compile(r"\s*postgres(?:ql)?(?:\+\w+)?://", re.IGNORECASE)  # also as SQLAlchemy writes it
# Mistyped ones, of which a folder would be made.
_LIKE_POSTGRES = re.compile(r"\W*postgres\w*[^/]*/.*@", re.IGNORECASE | re.DOTALL)


def open_store(address: str | Path, info: StoreInfo | None = None) -> VectorStore:
    """Open a vector store, or make one where there is none yet and `info` is given.

    Args:
        address: a folder such as photos.nf, an object store's address such as s3://bucket/photos.nf, or a
            server's, such as postgresql://user@host/database.
        info: whose vectors are to go in; None opens a store that exists.

    Returns:
        The store.

    Raises:
        NearfarError: there is none, it is another encoder's, or a package is missing.
    """
    text = str(address)
    if found := _POSTGRES.match(text):
        from .postgres import PostgresStore

        return PostgresStore(f"postgresql://{text[found.end() :].strip()}", info)
    if _LIKE_POSTGRES.match(text):
        raise NearfarError(
            f"{redact(text)} is not a server address; write postgresql://user:password@host:port/database"
        )
    if "://" not in text:
        refuse_address(Path(text))
    from .lancedb import LanceStore

    return LanceStore(text, info)
