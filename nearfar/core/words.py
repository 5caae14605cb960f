"""Splits texts into words, for what counts or compares words: BM25, TF-IDF and copies of texts."""

from __future__ import annotations

import functools
import re
import unicodedata

# Scripts without blanks between words, of which a letter counts as a word: Thai, Lao, Burmese, Khmer,
# Japanese and Chinese.
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_PICTURES = "\u2600-\u27bf\U0001f000-\U0001faff"  # emoji, each of which is a word
_VARIANTS = (range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))  # say how a letter is drawn, and not which


def words_of(text: str) -> list[str]:
    """Take the words of a text, without case and points.

    Accents and vowel signs belong to their letters, as in Hindi, where words differ by them alone. A letter
    of a script without blanks between words is a word, and so is an emoji.

    Args:
        text: any text.

    Returns:
        The words in order; none of a text that is points alone.
    """
    if text.isascii():
        return _ASCII.findall(text.lower())
    return _any_script().findall(unicodedata.normalize("NFKC", text).casefold())


_ASCII = re.compile(r"[a-z0-9]+")


@functools.cache
def _any_script() -> re.Pattern[str]:
    """Make the pattern of a word; it names each mark of Unicode, which takes a tenth of a second to list."""
    marks = [
        chr(at)
        for at in (*range(0x300, 0x20000), *range(0xE0000, 0xE1000))
        if unicodedata.category(chr(at))[0] == "M" and not any(at in some for some in _VARIANTS)
    ]
    mark = f"[{''.join(marks)}]*"
    return re.compile(rf"[{_ALONE}]{mark}|(?:(?![{_ALONE}])[^\W_]{mark})+|[{_PICTURES}]")
