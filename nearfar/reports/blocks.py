"""What a section of the report is made of: sentences, tables, plots and rows of pictures; no HTML here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

Blocks = Sequence["Note | Command | TableBlock | Plots | Grid | Heat | Fold | Columns"]


@dataclass(frozen=True)
class Note:
    """A sentence and, where something is missing, the command that would make it."""

    text: str
    command: str = ""
    kind: ClassVar[str] = "note"


@dataclass(frozen=True)
class Command:
    """What a command does, and the command."""

    text: str
    command: str
    kind: ClassVar[str] = "command"


@dataclass(frozen=True)
class TableBlock:
    """A table: its first column names the rows; facts have no `head`; `strong` sets off the first row."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: bool = False
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Plot:
    """One plot: SVG that is inserted into the page unchanged, its title, and a caption."""

    svg: str
    title: str
    says: str


@dataclass(frozen=True)
class Plots:
    """Plots side by side, and the runs that their colours stand for, if several."""

    items: Sequence[Plot]
    runs: Sequence[str] = ()
    kind: ClassVar[str] = "plots"


@dataclass(frozen=True)
class ImageTile:
    """One picture: its bytes as an address, its name, and what is marked on it.

    Attributes:
        src: a data: address.
        name: what it is called; read out by who cannot see it.
        width, height: in pixels, as in `src`.
        mark: "right", "wrong", "first" or nothing: the frame around it.
        note: a word or two under it.
        boxes: crops marked on it, each left, top, width and height in per cent of the picture.
    """

    src: str
    name: str
    width: int
    height: int
    mark: str = ""
    note: str = ""
    boxes: Sequence[tuple[float, float, float, float]] = ()


@dataclass(frozen=True)
class Grid:
    """Rows of pictures: `columns` a row, or as many as fit where it is 0; `wide` ones span the page."""

    title: str
    says: str
    rows: Sequence[Sequence[ImageTile]]
    columns: int = 0
    wide: bool = False
    kind: ClassVar[str] = "grid"


@dataclass(frozen=True)
class Heat:
    """A confusion matrix: shares of each true class, row by row, and a caption."""

    caption: str
    says: str
    names: Sequence[str]
    cells: Sequence[Sequence[float]]
    kind: ClassVar[str] = "heat"


@dataclass(frozen=True)
class Fold:
    """Blocks that open on a click, and on paper."""

    summary: str
    blocks: Blocks
    kind: ClassVar[str] = "fold"


@dataclass(frozen=True)
class Columns:
    """Blocks side by side, a column a run, each under the run's name; `marks` are the runs' colours."""

    columns: Sequence[tuple[str, Blocks]]
    marks: Sequence[int] = ()
    kind: ClassVar[str] = "columns"


def of_run(name: str, blocks: Blocks) -> Blocks:
    """Say in their captions whose some blocks are, so that none has to be read under a heading far above.

    Args:
        name: of the run.
        blocks: of that run alone.
    """
    made: list[Any] = []
    for block in blocks:
        if isinstance(block, (TableBlock, Heat)):
            block = replace(block, caption=f"{name}: {block.caption}")
        elif isinstance(block, Grid):
            block = replace(block, title=f"{name}: {block.title}")
        elif isinstance(block, Fold):
            block = replace(block, summary=f"{name}: {block.summary}", blocks=of_run(name, block.blocks))
        elif isinstance(block, Note):
            block = replace(block, text=f"{name}: {block.text}")
        made.append(block)
    return made


@dataclass(frozen=True)
class Section:
    """A section of the page: where links lead, its title, what it is about, and its blocks."""

    id: str
    title: str
    lead: str
    blocks: Blocks = field(default=())
