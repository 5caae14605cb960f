"""What the store commands share: open a store, read labels, load its run, write the result."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from ..core import progress
from ..core.errors import NearfarError
from ..core.text import counted
from ..data.dataset import class_numbers
from ..data.source import label_of
from ..stores import VectorStore, open_store
from ..stores.base import Value
from ..stores.schema import check_kinds
from ..stores.set_aside import SET_ASIDE, KeptImages, has_set_aside
from .image_folder import store_of
from .listing import Listing, check_name, write

if TYPE_CHECKING:
    from ..training.run import Run

StoreLike = VectorStore | str | Path
MAP_COLUMNS = ("map_x", "map_y")  # where the map is kept: x and y may be columns of the user's own
UNKNOWN = -1  # the class number of a row without a label


def open_for_query(
    store: StoreLike, out: str | Path | None = None, run: Run | str | Path | None = None
) -> VectorStore:
    """Open a store, unless it is open, without the images that were set aside.

    An output file that cannot be written is refused, before any work.

    Args:
        store: a store or its address; or a folder of images, which is embedded first.
        out: the output file, or None.
        run: the encoder of such a folder, if it is to be another than `known`.
    """
    if out is not None:
        check_name(Path(out))
    if store == "":  # a variable of the shell that is not set; as a folder it would be the current one
        raise NearfarError("no vector store is named; name one, such as photos.nf.")
    opened = open_store(store_of(store, run)) if isinstance(store, (str, Path)) else store
    return opened if isinstance(opened, KeptImages) else cast(VectorStore, KeptImages(opened))


def check_save(store: VectorStore, save: str | None, kind: str) -> None:
    """Refuse a column that a result cannot be written to, before any work.

    Args:
        store: the store.
        save: the column that --save names, or None.
        kind: of the values: "text" or "number".

    Raises:
        NearfarError: the name cannot be a column's, or the column holds another kind.
    """
    if save is not None:
        check_kinds({save: kind}, store)


def replace_columns(store: VectorStore, values: Mapping[str, Mapping[str, Value]]) -> tuple[str, ...]:
    """Set columns of some rows and empty them in the others, whose values an earlier run wrote.

    For values that mean something only beside those of the same run, such as numbers of clusters.

    Args:
        store: the store.
        values: column to id to value, as `update_columns` takes them.

    Returns:
        A sentence on the rows that were emptied, if there were any.
    """
    names, ids = list(values), set(next(iter(values.values())))
    others: set[str] = set()
    # What was set aside is in no view of the store, but may come back.
    for where in (None, f"{SET_ASIDE} = true") if has_set_aside(store) else (None,):
        table = store.rows(["id", *(name for name in names if name in store.columns)], where)
        for held in table.columns[1:]:
            others.update(table["id"].filter(held.is_valid()).to_pylist())
    others -= ids
    store.update_columns({name: {**some, **dict.fromkeys(others)} for name, some in values.items()})
    if not others:
        return ()
    what, are = ("column", "is") if len(names) == 1 else ("columns", "are")
    many = counted(len(others), f"other {store.info.one}")
    return (f"The {what} {' and '.join(names)} of {many} held what an earlier run wrote, and {are} emptied.",)


def kept_places(store: VectorStore, ids: Sequence[str] | None = None) -> npt.NDArray[np.float32] | None:
    """Read the 2-D coordinates that `map` has kept, (n, 2), if every one of some rows has them.

    Args:
        store: the store.
        ids: the rows wanted, in this order; default all, sorted by id.
    """
    if not all(store.columns.get(name) == "number" for name in MAP_COLUMNS):
        return None  # none, or columns of the user's own
    table = store.rows(list(MAP_COLUMNS), ids=ids)
    found = np.stack([table[name].to_numpy() for name in MAP_COLUMNS], axis=1).astype(np.float32)
    return found if np.isfinite(found).all() else None


def check_limit(limit: int) -> int:
    """Refuse a limit below 1.

    Args:
        limit: how many images to list.
    """
    if limit < 1:
        raise NearfarError(f"--limit is {limit}; give 1 or more.")
    return limit


def none_there(store: VectorStore, where: str | None) -> NearfarError:
    """Say that there is nothing to work on.

    Args:
        store: the store.
        where: the condition that nothing meets, or None.
    """
    if where is None:
        return NearfarError(
            f"{store.address} holds no {store.info.noun}; add some: nearfar embed RUN DATA --store "
            f"{shlex.quote(store.address)}"
        )
    return NearfarError(f"{store.address} has no {store.info.one} that meets --where; change the condition.")


def delete_row(store: VectorStore, one: str) -> str:
    """Say how a row is deleted.

    Args:
        store: the store.
        one: the row's id.
    """
    condition = "id = '" + one.replace("'", "''") + "'"
    command = shlex.join(["nearfar", "store", store.address, "--delete", condition])
    return f"delete its row: {command}"


def write_result(listing: Listing, store: VectorStore, out: str | Path | None) -> Listing:
    """Write a listing to its output file, if there is one, and return it.

    Args:
        listing: what was found.
        store: has the thumbnails.
        out: a .csv, .json or .png file, or None.
    """
    if out is not None:
        write(listing, Path(out), store.thumbnails)
        progress.say(f"{out} is written")
    return listing


def run_of(store: VectorStore, run: Run | str | Path | None) -> Run:
    """Load the run whose vectors a store holds.

    Args:
        store: the store.
        run: the run or its folder, if it is no longer where it was when the store was made.

    Raises:
        NearfarError: it is not there, or is another run.
    """
    from ..features.extract import fingerprint  # these import torch, which a store itself does not need
    from ..models import folders, known
    from ..training.run import load

    there = known.is_name(store.info.run) or folders.sided(store.info.run or "-")[0].is_dir()
    if run is None and not there:
        raise NearfarError(
            f"the run that made {store.address} is no longer in {store.info.run or 'any known folder'}; "
            "give its folder with --run."
        )
    found = load(run or store.info.run)
    if fingerprint(found.encoder) != store.info.encoder:
        raise NearfarError(
            f"{found.name} is not the run that made {store.address}; its vectors cannot be compared: "
            "name the right one with --run."
        )
    return found


def read_labels(
    store: VectorStore, column: str, ids: list[str]
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Read a column as labels.

    Args:
        store: the store.
        column: its name; numbers and flags become words.
        ids: the rows.

    Returns:
        (n,) int64, UNKNOWN where `label_of` finds none; and the names that the others point to.

    Raises:
        NearfarError: there is no such column.
    """
    words = [label_of(value) for value in store.rows([column], ids=ids).column(column).to_pylist()]
    known = np.array([word is not None for word in words], np.bool_)
    numbers, names = class_numbers([word for word in words if word is not None])
    labels = np.full(len(ids), UNKNOWN, np.int64)
    if numbers is not None:
        labels[known] = numbers
    return labels, names


def lone_classes_left_out(
    labels: npt.NDArray[np.int64], names: tuple[str, ...]
) -> tuple[npt.NDArray[np.int64], tuple[str, ...], tuple[str, ...]]:
    """Leave out classes with one image, which no cross-validation can know.

    Args:
        labels: (n,) int64, UNKNOWN or a number of `names`.
        names: the classes.

    Returns:
        The labels, UNKNOWN where the class is left out; the names of the others; the names left out.
    """
    many = np.bincount(labels[labels != UNKNOWN], minlength=len(names)) > 1
    number = np.append(np.where(many, np.cumsum(many) - 1, UNKNOWN), UNKNOWN)  # the last is UNKNOWN's own
    kept = tuple(name for name, there in zip(names, many, strict=True) if there)
    return number[labels], kept, tuple(name for name in names if name not in kept)


def left_out_sentence(lone: tuple[str, ...], one: str = "image") -> str:
    """Say which classes `lone_classes_left_out` left out.

    Args:
        lone: their names, one at least.
        one: the word for one of what the store holds.
    """
    shown = f"{', '.join(lone[:5])}{', ...' if len(lone) > 5 else ''}"
    return f"Left out, since there is only one {one} of each: {shown}."
