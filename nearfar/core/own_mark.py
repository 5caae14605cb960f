"""Marks the paths that this user's own runs record: a stranger's run may name any file of the reader's.

The mark is a code made with a secret key that stays in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress

from .cache_root import cache_root

_BYTES = 32


def mark_of(paths: Sequence[str | None]) -> str:
    """Make the mark of paths that are about to be recorded.

    Args:
        paths: as recorded, in their order; None stands for one that is not there.

    Returns:
        64 hex digits, or "" where no key can be kept.
    """
    key = _key()
    return "" if key is None else hmac.new(key, repr([*paths]).encode(), hashlib.sha256).hexdigest()


def is_own(mark: object, paths: Sequence[str | None]) -> bool:
    """Tell whether a mark was made by this user, on this machine, for these paths.

    Args:
        mark: as recorded; anything else than such a text is no mark.
        paths: as recorded.
    """
    made = mark_of(paths)
    return isinstance(mark, str) and made != "" and hmac.compare_digest(made, mark)


def _key() -> bytes | None:
    """Read this user's key, or make it; None where nothing can be written."""
    path = cache_root() / "own-mark.key"
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        if not path.exists():
            with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_BYTES))
            with suppress(FileExistsError):
                os.link(aside, path)  # of two processes that begin together, one wins
            aside.unlink()
        key = path.read_bytes()
        return key if len(key) == _BYTES else None
    return None
