"""Conditions such as "site = 'A' and width >= 64": read by a small grammar, then written for each database.

Nothing reaches a database but what this grammar knows: columns that are there, values, and the operators
below. Text in other words cannot become a command.

    condition  ::= all { or all }             all ::= one { and one }
    one        ::= not one | ( condition ) | column test | flag column
    test       ::= (= | <> | != | < | <= | > | >=) value | is [not] null
                 | [not] (in (value, ...) | like 'pattern' | between value and value)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from ..core.errors import NearfarError, nearest

Literal = str | float | bool
WORDS = frozenset({"and", "or", "not", "in", "is", "null", "like", "between", "true", "false"})
EXACT = 1 << 53  # whole numbers up to here are exact in float64, which columns of numbers hold
_LONGEST, _DEEPEST = 100_000, 50
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)|"(?P<name>[^"]*)"|(?P<sign><=|>=|<>|!=|[=<>(),]))""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class ColumnTest:
    """A column held against values: `sign` is =, <>, <, <=, >, >=, in, like, between or null."""

    column: str
    sign: str
    values: tuple[Literal, ...] = ()


@dataclass(frozen=True)
class Not:
    """The opposite of a condition."""

    part: Condition


@dataclass(frozen=True)
class Join:
    """Conditions joined by "and" or "or"."""

    word: str
    parts: tuple[Condition, ...]


Condition = ColumnTest | Not | Join


class _Reader:
    """Reads one condition, word by word."""

    def __init__(self, text: str, columns: Mapping[str, str]) -> None:
        self.text, self.columns, self.depth = text, columns, 0
        if len(text) > _LONGEST:
            raise NearfarError(f"the condition is over {_LONGEST:,} characters long; make it shorter.")
        self.tokens: list[tuple[str, str]] = []
        at, end = 0, len(text.rstrip())
        while at < end:
            found = _TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                self.fail(f"{text[at:end].strip()[:20]!r} is not expected there")
            self.tokens.append((found.lastgroup, found[found.lastgroup]))
            at = found.end()
        self.tokens.append(("end", "its end"))
        self.at = 0

    def fail(self, why: str) -> NoReturn:
        """Refuse the condition."""
        shown = self.text if len(self.text) <= 80 else self.text[:77] + "..."
        raise NearfarError(
            f"the condition {shown!r} cannot be read: {why}; write one such as \"label = 'cat'\" "
            f"with the columns {', '.join(self.columns)}."
        )

    def take(self, *wanted: str) -> str | None:
        """Step over the next token if it is one of these words or signs."""
        kind, text = self.tokens[self.at]
        if kind in ("word", "sign") and text.lower() in wanted:
            self.at += 1
            return text.lower()
        return None

    def need(self, wanted: str) -> None:
        """Step over a word or sign that has to come."""
        if not self.take(wanted):
            self.fail(f"{wanted!r} is missing before {self.tokens[self.at][1]!r}")

    def joined(self, word: str, part: Callable[[], Condition]) -> Condition:
        """Read one or several conditions joined by a word."""
        parts = [part()]
        while self.take(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Join(word, tuple(parts))

    def condition(self) -> Condition:
        """Read conditions joined by "or", each of them of some joined by "and"."""
        self.depth += 1
        if self.depth > _DEEPEST:
            self.fail(f"it is nested more than {_DEEPEST} deep")
        found = self.joined("or", lambda: self.joined("and", self.one))
        self.depth -= 1
        return found

    def one(self) -> Condition:
        """Read one condition."""
        turned = False
        while self.take("not"):
            turned = not turned
        if self.take("("):
            found = self.condition()
            self.need(")")
        else:
            found = self.test()
        return Not(found) if turned else found

    def test(self) -> Condition:
        """Read a column and what is asked of it."""
        column = self.column()
        if sign := self.take("=", "<>", "!=", "<", "<=", ">", ">="):
            return ColumnTest(column, "<>" if sign == "!=" else sign, (self.value(column),))
        if self.take("is"):
            turned = self.take("not")
            self.need("null")
            return Not(ColumnTest(column, "null")) if turned else ColumnTest(column, "null")
        turned = self.take("not")
        if self.take("in"):
            self.need("(")
            values = [self.value(column)]
            while self.take(","):
                values.append(self.value(column))
            self.need(")")
            found = ColumnTest(column, "in", tuple(values))
        elif self.take("like"):
            if self.columns[column] != "text":
                self.fail(f"like is for text, and {column} is a {self.columns[column]}")
            found = ColumnTest(column, "like", (self.value(column),))
        elif self.take("between"):
            low = self.value(column)
            self.need("and")
            found = ColumnTest(column, "between", (low, self.value(column)))
        elif self.columns[column] == "flag" and not turned:
            return ColumnTest(column, "=", (True,))
        else:
            self.fail(f"after {column}, {self.tokens[self.at][1]!r} is not expected")
        return Not(found) if turned else found

    def column(self) -> str:
        """Read a column's name."""
        kind, text = self.tokens[self.at]
        if kind not in ("word", "name") or (kind == "word" and text.lower() in WORDS):
            self.fail(f"a column is missing before {text!r}")
        if text not in self.columns:
            self.fail(f"there is no column {text!r}, {nearest(text, self.columns)}".rstrip("?"))
        self.at += 1
        return text

    def value(self, column: str) -> Literal:
        """Read a value of the column's kind."""
        kind, text = self.tokens[self.at]
        wanted, found = self.columns[column], text.lower() if kind == "word" else kind
        self.at += 1
        if wanted == "text" and found == "text":
            return text[1:-1].replace("''", "'")
        if wanted == "number" and found == "number":
            if not math.isfinite(float(text)):
                self.fail(f"{text} is larger than any number that {column} can hold")
            if text.lstrip("+-").isdigit() and abs(int(text)) > EXACT:
                self.fail(f"{column} is a number, and {text} is too long to be held exactly")
            return float(text)
        if wanted == "flag" and found in ("true", "false"):
            return found == "true"
        form = {"text": "in single quotes, such as 'A'", "number": "such as 3", "flag": "true or false"}
        self.fail(f"{column} is compared with a {wanted}, {form[wanted]}, not {text!r}")


def parse(text: str, columns: Mapping[str, str]) -> Condition:
    """Read a condition.

    Args:
        text: what the user typed.
        columns: the columns there are, and their kinds.

    Raises:
        NearfarError: it is no condition, or about a column that is not there.
    """
    reader = _Reader(text, columns)
    found = reader.condition()
    if reader.tokens[reader.at][0] != "end":
        reader.fail(f"{reader.tokens[reader.at][1]!r} comes after its end")
    return found


def columns_of(condition: Condition) -> set[str]:
    """Name the columns that a condition, as `parse` gives it, asks for."""
    if isinstance(condition, ColumnTest):
        return {condition.column}
    parts = condition.parts if isinstance(condition, Join) else (condition.part,)
    return set[str]().union(*map(columns_of, parts))


def to_sql(condition: Condition, name: Callable[[str], str], value: Callable[[Literal], str]) -> str:
    """Write a condition in SQL.

    Args:
        condition: as `parse` gives it.
        name: quotes a column's name.
        value: quotes a value, or binds it and gives its placeholder.

    Returns:
        The expression. In a pattern, only % and _ have a meaning of their own.
    """
    if isinstance(condition, Not):
        return f"(not {to_sql(condition.part, name, value)})"
    if isinstance(condition, Join):
        return "(" + f" {condition.word} ".join(to_sql(part, name, value) for part in condition.parts) + ")"
    column, values = name(condition.column), condition.values
    if condition.sign == "null":
        return f"({column} is null)"
    if condition.sign == "in":
        return f"({column} in ({', '.join(map(value, values))}))"
    if condition.sign == "between":
        return f"({column} between {value(values[0])} and {value(values[1])})"
    if condition.sign == "like":
        return f"({column} like {value(str(values[0]).replace(chr(92), chr(92) * 2))})"
    return f"({column} {condition.sign} {value(values[0])})"
