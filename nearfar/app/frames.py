"""Packs numbers for the page: a JSON head and the arrays it names, in one binary answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

KINDS = {"f4": np.float32, "i4": np.int32, "u1": np.uint8}


def frame(head: Mapping[str, Any], **arrays: Any) -> bytes:
    """Pack a head and arrays.

    Args:
        head: plain values, the page's `frame.head`.
        **arrays: numbers, each of a type of `KINDS`; the page finds them under these names.

    Returns:
        A little-endian uint32, the length of what follows up to the arrays; JSON, {"head", "parts"}, with
        spaces behind; and the arrays, each padded to a multiple of 4 bytes, so that the page maps them.
    """
    parts, bodies = [], []
    for name, values in arrays.items():
        flat = np.ascontiguousarray(values)
        kind = next(word for word, type_ in KINDS.items() if flat.dtype == type_)
        parts.append({"name": name, "kind": kind, "length": flat.size})
        body = flat.astype(flat.dtype.newbyteorder("<"), copy=False).tobytes()
        bodies.append(body + b"\0" * (-len(body) % 4))
    text = json.dumps({"head": head, "parts": parts}).encode()
    text += b" " * (-len(text) % 4)
    return len(text).to_bytes(4, "little") + text + b"".join(bodies)
