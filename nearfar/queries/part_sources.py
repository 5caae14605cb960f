"""Opens what `nearfar anomalies --parts` is about: a store, a folder, or an industrial data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..core.errors import NearfarError
from ..core.text import counted
from ..data.defects import GOOD, Truth, find_layout
from ..data.in_memory import InMemorySource
from ..data.modalities import IMAGES
from ..data.open import open_data
from ..data.source import Source, files_of
from ..stores import VectorStore
from ..stores.cut_out import cut_out
from ..training.run import Run, default_encoder, load
from .image_folder import is_store
from .store_access import StoreLike, open_for_query, run_of


@dataclass(frozen=True)
class Asked:
    """What a command is about.

    Attributes:
        source: the pictures to score, and which rows of it.
        normal: normal pictures, if any were named.
        kinds: the kind of each row of `source` where folders tell it, "" for a good one; None where not.
        truth: masks or boxes; None where there are none.
        run: made the encoder.
    """

    source: Source
    rows: list[int]
    normal: Source | None
    kinds: list[str] | None
    truth: Truth | None
    run: Run


def open_asked(
    where: StoreLike,
    normal: str | None,
    anomalous: str | None,
    condition: str | None,
    truth: str | Path | None,
    run: Run | str | Path | None,
) -> Asked:
    """Open the pictures that are to be scored, and those that are normal.

    Args:
        where: a store, a collection of pictures, or a folder with `train/good` and `test`.
        normal: a condition on a store, or a collection; not needed for such a folder.
        anomalous, condition: on a store.
        truth: a folder of masks or boxes.
        run: of the encoder; a store knows its own, and without one it is `known`.

    Raises:
        NearfarError: something is missing.
    """
    if not isinstance(where, (str, Path)) or _is_store(where):
        return _of_store(open_for_query(where), normal, anomalous, condition, truth, run)
    if anomalous is not None or condition is not None:
        raise NearfarError(
            "--anomalous and --where are conditions on a vector store; give --truth for pictures."
        )
    opened = default_encoder("--run RUN") if run is None else load(run)
    known = Truth(Path(truth)) if truth is not None else None
    layout = find_layout(Path(where))
    if layout is not None:
        source = open_data(str(layout.test), expected=opened.preprocess.modality)
        kinds = ["" if one.split("/")[0] == GOOD else one.split("/")[0] for one in source.ids]
        if known is None and layout.truth is not None:
            known = Truth(layout.truth)
        good = open_data(normal or str(layout.normal), expected=opened.preprocess.modality)
        return Asked(source, list(range(len(source))), good, kinds, known, opened)
    source = open_data(where, expected=opened.preprocess.modality)
    learned = None if normal is None else open_data(normal, expected=opened.preprocess.modality)
    return Asked(source, list(range(len(source))), learned, None, known, opened)


def _is_store(address: str | Path) -> bool:
    """Tell a vector store from a collection of pictures."""
    return "://" in str(address) or Path(address).suffix == ".nf" or is_store(Path(address))


def _of_store(
    store: VectorStore,
    normal: str | None,
    anomalous: str | None,
    condition: str | None,
    truth: str | Path | None,
    run: Run | str | Path | None,
) -> Asked:
    """Open the files of a store's pictures."""
    if store.info.modality != IMAGES:
        raise NearfarError(
            f"{store.address} holds {store.info.modality}, and parts are of images; leave --parts out."
        )
    made = run_of(store, run)
    known = set(store.ids(normal)) if normal is not None else set[str]()
    odd = set(store.ids(anomalous)) if anomalous is not None else None
    if odd is not None and known & odd:
        raise NearfarError(
            f"{counted(len(known & odd), 'image meets')} both --normal and --anomalous; change one of them."
        )
    ids = sorted(store.ids(condition))

    def files(some: list[str]) -> Source:
        paths = files_of(store.rows(["path"], ids=some).column("path").to_pylist())
        gone = [one for one, path in zip(some, paths, strict=True) if not path or not Path(path).is_file()]
        if gone:
            raise NearfarError(
                f"the files of {counted(len(gone), 'image is')} gone, such as {gone[0]!r}; parts need the "
                "images: put them back, or embed them again where they are now."
            )
        return cut_out(store, some, InMemorySource(str(store.address), tuple(some), None, paths), paths)

    kinds = None if odd is None else ["defect" if one in odd else "" for one in ids]
    learned = files(sorted(known)) if known else None
    masks = Truth(Path(truth)) if truth is not None else None
    return Asked(files(ids), list(range(len(ids))), learned, kinds, masks, made)
