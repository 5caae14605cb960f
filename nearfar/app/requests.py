"""What a browser may send: nothing but these fields, of their own types."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST = 2000  # rows that a request names to read
MOST_CHANGED = 100_000  # rows that a request changes

Number = Annotated[int, Field(ge=0, lt=2**31)]
Key = Annotated[str, Field(max_length=64)]
Name = Annotated[str, Field(min_length=1, max_length=60)]
Condition = Annotated[str, Field(min_length=1)]
Label = Annotated[str, Field(max_length=100_000)] | None  # what is there may be longer than what is typed
NewLabel = Annotated[str, Field(max_length=200, pattern=r"\S")] | None  # of spaces alone it names no class
Side = Annotated[int, Field(ge=64, le=8192)]
Rows = Annotated[list[Number], Field(min_length=1, max_length=MOST_CHANGED)]
Ids = Annotated[list[Annotated[str, Field(max_length=4096)]], Field(max_length=MOST_CHANGED)] | None
By = Annotated[str, Field(max_length=60)]


class RequestBody(BaseModel):
    """A request with a body."""

    model_config = ConfigDict(extra="forbid", strict=True)


class SearchRequest(RequestBody):
    """A search by images of the store, among those that meet a condition."""

    key: Key
    like: list[Number] = Field(min_length=1, max_length=MOST)
    dislike: list[Number] = Field(default=[], max_length=MOST)
    where: Condition | None = None


class WordsRequest(RequestBody):
    """A search by words, among the images that meet a condition."""

    text: Annotated[str, Field(min_length=1, max_length=1000)]
    where: Condition | None = None


class LabelRequest(RequestBody):
    """Labels to set, what they were in the eyes of who sets them, and where they come from."""

    key: Key
    version: int
    column: Name
    rows: Rows
    ids: Ids = None
    before: list[Label]
    after: list[NewLabel]
    origin: Literal["hand", "accepted suggestion", "accepted prediction"] = "hand"
    by: By = ""


class UndoRequest(RequestBody):
    """A change of labels to take back: the one made at a time, or the last one."""

    column: Name
    at: Annotated[str, Field(max_length=64)] | None = None
    by: By = ""


class SetRequest(RequestBody):
    """Values of another column to set: a tag, or whether images are set aside."""

    key: Key
    column: Name
    rows: Rows
    ids: Ids = None
    before: list[Label | bool]
    after: list[Label | bool]


class NormalRequest(RequestBody):
    """Images that are normal, and the score above which others are flagged."""

    key: Key
    rows: Annotated[list[Number], Field(min_length=1, max_length=100)]
    above: float


class ExportRequest(RequestBody):
    """Images to export."""

    key: Key
    rows: Annotated[list[Number], Field(min_length=1, max_length=5_000_000)]
    vectors: bool = False


class SelectionRequest(RequestBody):
    """Images to keep as a selection, in place of one of the same name; none take it away."""

    key: Key
    name: Name
    rows: Annotated[list[Number], Field(max_length=5_000_000)]


class CancelRequest(RequestBody):
    """Long work that is to end."""

    job: Key


class TrainRequest(RequestBody):
    """A classifier to train on the labels in a column, also on accepted ones if asked."""

    column: Name
    accepted: bool = False
