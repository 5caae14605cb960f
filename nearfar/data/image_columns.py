"""Finds images, ids and labels among the columns of a table: of a Parquet file, or of a Lance data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.errors import BadImage, NearfarError
from ..core.shapes import loads

if TYPE_CHECKING:
    import pyarrow

_IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "content", "data")
_PATHS = ("path", "file", "image", "filename")
_LABELS = ("label", "labels", "fine_label", "class", "cls", "target")
_FEATURES = b"huggingface"  # the key under which Hugging Face's libraries keep what columns mean


def holds_images(schema: pyarrow.Schema) -> bool:
    """Tell whether a table has a column of encoded images, and is no list of paths."""
    import pyarrow as pa

    found = [field.name.lower() for field in schema if _is_bytes(field)]
    paths = any(field.name.lower() in _PATHS and pa.types.is_string(field.type) for field in schema)
    return any(name in _IMAGES for name in found) or bool(found and not paths)


def _is_bytes(field: pyarrow.Field) -> bool:
    """Tell whether a column holds bytes, bare or as {"bytes", "path"}, as Hugging Face writes images."""
    import pyarrow as pa

    kind = field.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or is_blob(field))


def is_blob(field: pyarrow.Field) -> bool:
    """Tell whether a column's bytes lie beside the table, as Lance keeps large ones."""
    return (field.metadata or {}).get(b"ARROW:extension:name", b"").startswith(b"lance.blob")


def image_column(schema: pyarrow.Schema, name: str) -> str:
    """Name the column of the images: the only one with bytes, or the one that is called so.

    Args:
        schema: of the table.
        name: what errors call the table.

    Raises:
        NearfarError: there is none, or there are several.
    """
    found = [field.name for field in schema if _is_bytes(field)]
    named = [column for word in _IMAGES for column in found if column.lower() == word]
    if len(found) == 1 or named:
        return (named or found)[0]
    if found:
        raise NearfarError(f"{name} has several columns of bytes ({', '.join(found)}); name one 'image'.")
    raise NearfarError(f"{name} has no column of encoded images; it has {', '.join(schema.names)}.")


def label_column(schema: pyarrow.Schema, name: str) -> str:
    """Name the column of the labels.

    Args:
        schema: of the table.
        name: what errors call the table.

    Raises:
        NearfarError: there is none.
    """
    found = next((column for word in _LABELS for column in schema.names if column.lower() == word), None)
    if found is None:
        raise NearfarError(f"{name} has no column 'label'; it has {', '.join(schema.names)}.")
    return found


def class_words(schema: pyarrow.Schema, column: str, labels: list[Any]) -> list[Any]:
    """Write labels as words, if Hugging Face's libraries noted the classes' names in the table.

    Args:
        schema: of the table.
        column: of the labels.
        labels: its values.
    """
    try:
        feature = loads((schema.metadata or {})[_FEATURES])["info"]["features"][column]
        words = [str(word) for word in feature["names"]]
    except (KeyError, TypeError, ValueError):
        return labels
    known = range(len(words))
    return [words[label] if isinstance(label, int) and label in known else label for label in labels]


def bytes_of(cell: Any) -> bytes:
    """Take an encoded image out of a cell.

    Raises:
        BadImage: there is none.
    """
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not data:
        raise BadImage("empty cell")
    return bytes(data)
