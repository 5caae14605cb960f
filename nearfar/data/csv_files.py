"""Reads lists in text files as people's programs write them: any Unicode; commas, semicolons or tabs."""

from __future__ import annotations

import codecs
import csv
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO

from ..core.errors import NearfarError
from ..core.text import bytes_of, from_spreadsheet_cell
from .names import Names

PATH_COLUMNS = (
    "path", "file", "image", "filename", "file_name", "filepath", "file_path", "image_path", "img_path",
    "image_file", "image_name", "img",
)  # fmt: skip
"""What the column of the paths is called in the lists that people have, the surest first."""
_DELIMITERS = ",;\t"
_START = 1 << 16  # bytes by which it is told how lines end
_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are no UTF-8
_END = "\ue000end\ue000"  # follows the last line; in a cell it shows that a quote was never closed
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def open_text(path: Path, errors: str = "strict") -> IO[str]:
    """Open a list, whichever Unicode it is in.

    Args:
        path: the list.
        errors: what becomes of bytes that are no UTF-8, as `open` has it.

    Returns:
        The open file, behind its byte-order mark.

    Raises:
        NearfarError: it is UTF-16 without a byte-order mark.
        OSError: it cannot be opened.
    """
    with open(path, "rb") as file:
        start = file.read(256)
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # the first begins as UTF-16 does
        return open(path, encoding="utf-32", newline="")
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return open(path, encoding="utf-16", newline="")
    if 10 * start.count(0) > len(start):  # fewer are faults of single cells
        raise NearfarError(
            f"{path} is not UTF-8 text: it holds NUL bytes; save it as 'CSV UTF-8', which Excel offers."
        )
    return open(path, encoding="utf-8-sig", errors=errors, newline="")


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Read the lines of a file, whichever Unicode it is in, and however its lines end.

    Args:
        path: the file.

    Yields:
        The number of each line, from 1, and its bytes in UTF-8, without their end; bytes that are no UTF-8 as
        they stand.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(_START)
    code, errors = "utf-8-sig", "surrogateescape"
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        code, errors = "utf-32", "strict"
    elif start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        code, errors = "utf-16", "strict"
    seen = start.decode(code, "ignore")
    # As old programs of a Mac end lines; where a line feed is anywhere, a carriage return may be in a line.
    end = "\r" if "\r" in seen and "\n" not in seen else "\n"
    with open(path, encoding=code, errors=errors, newline=end) as lines:
        for number, line in enumerate(lines, 1):
            yield number, bytes_of(line.strip("\r\n"))


def read_text(path: Path) -> str:
    """Read a text file, such as labels in lines, whichever Unicode it is in.

    Args:
        path: the file.

    Raises:
        NearfarError: it cannot be read, or is no such text.
    """
    try:
        with open_text(path) as file:
            return file.read()
    except OSError as error:
        raise NearfarError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise NearfarError(f"{path} is not UTF-8 text; save it as UTF-8.") from None


def read_rows(
    path: Path, errors: str = "strict", *, lenient: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Read a table: the heading first, then each row that is not empty.

    A first line such as "sep=;" names what stands between cells, as Excel writes it; else the heading shows
    it. The apostrophe that keeps spreadsheets from computing is taken away.

    Args:
        path: a .csv or .tsv.
        errors: as `open_text` has it.
        lenient: take rows of more cells than the heading has, and quotes within quoted cells, as they come.

    Yields:
        The number of the line at which the row ends, and its cells.

    Raises:
        NearfarError: it is not UTF-8 text, a quote is never closed, or a row is too long.
        OSError, ValueError: it cannot be read.
    """
    first = 1
    try:
        with open_text(path, errors) as file:
            delimiter, skipped = _delimiter(path, file.readline())
            if not skipped:
                file.seek(0)
            rows = csv.reader(chain(file, [_END]), delimiter=delimiter, strict=not lenient)
            first, width = 1 + skipped, 0
            for row in rows:
                if row == [_END]:
                    return
                if row and row[-1].endswith(_END):
                    raise csv.Error
                line = rows.line_num + skipped
                width = width or len(row)
                if not lenient and any(cell.strip() for cell in row[width:]):
                    raise NearfarError(
                        f"{path}, line {line}: {len(row)} cells, and the heading has {width}; put a cell "
                        f"that holds {delimiter!r} in double quotes."
                    )
                if any(cell.strip() for cell in row):
                    yield line, [from_spreadsheet_cell(cell) for cell in row]
                first = line + 1
    except UnicodeDecodeError:
        raise NearfarError(f"{path} is not UTF-8 text; save it as 'CSV UTF-8', which Excel offers.") from None
    except csv.Error as error:
        if "limit" in str(error):
            most = csv.field_size_limit()
            raise NearfarError(
                f"{path}, line {first}: a cell has more than {most:,} characters; shorten it, or close "
                "its quote."
            ) from None
        raise NearfarError(
            f"{path}, line {first}: a quote that begins a cell is not closed at its end; close it, and "
            "write a quote within a cell twice."
        ) from None


def delimiter_of(path: Path) -> str:
    """Tell what stands between the cells of a table.

    Args:
        path: as `read_rows` reads it.

    Raises:
        NearfarError, OSError, ValueError: as `read_rows` has it.
    """
    with open_text(path, "surrogateescape") as file:
        return _delimiter(path, file.readline())[0]


def _delimiter(path: Path, first: str) -> tuple[str, int]:
    """Find what stands between cells, and how many lines say no more than that.

    By a heading it is what makes the most cells of it; a comma, if nothing makes more than one.
    """
    if first.lower().startswith("sep=") and len(first.strip()) == 5:
        return first.strip()[4], 1
    if path.suffix.lower() == ".tsv":
        return "\t", 0
    return max(_DELIMITERS, key=lambda mark: len(next(csv.reader([first], delimiter=mark), []))), 0


def from_windows(word: str) -> str:
    """Read bytes that are no UTF-8 as Windows-1252, in which Excel writes a plain CSV in the west.

    Args:
        word: such bytes are surrogate-escaped in it.
    """
    return _ESCAPED.sub(lambda found: bytes([ord(found[0]) - 0xDC00]).decode("cp1252", "replace"), word)


def _composed(word: str) -> str:
    return unicodedata.normalize("NFC", from_windows(word))


def _decomposed(word: str) -> str:
    return unicodedata.normalize("NFD", from_windows(word))  # as macOS writes accents


def native_paths(paths: Sequence[str], root: Path, source: Path) -> Sequence[str]:
    """Turn paths as other systems and programs write them into this system's, if that is what they are.

    Args:
        paths: of a list; bytes that are no UTF-8 are surrogate-escaped.
        root: the folder that they are relative to.
        source: what errors call the list.

    Returns:
        The paths, with / for each backslash, and accents in another encoding or form, if no file bears the
        first such name as it stands, but one does in that form.

    Raises:
        NearfarError: they begin with a drive of Windows.
    """
    paths = _with_slashes(paths, root, source)
    if isinstance(paths, Names):
        odd = paths.first_not_ascii()
    else:
        odd = next((path for path in paths if not path.isascii()), None)
    if odd is None or os.path.lexists(root / odd):
        return paths
    for form in (from_windows, _composed, _decomposed):
        if os.path.lexists(root / form(odd)):
            return Names.of(form(path) for path in paths)
    return paths


def _with_slashes(paths: Sequence[str], root: Path, source: Path) -> Sequence[str]:
    """Write / for each backslash of paths, if no file bears the first such name as it stands."""
    if isinstance(paths, Names):
        odd = paths.first_with("\\")
    else:
        odd = next((path for path in paths if "\\" in path), None)
    if odd is None or os.sep == "\\" or os.path.lexists(root / odd):
        return paths
    if _DRIVE.match(odd):
        raise NearfarError(
            f"{source} lists {odd!r}, which only Windows finds; write paths relative to the list's folder."
        )
    return Names.of(path.replace("\\", "/") for path in paths)
