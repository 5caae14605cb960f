"""One kind of data: the questions that the rest of nearfar asks about examples.

An example is what one row of a data set holds: an image, say. Only its modality knows more of it than that.
All other code asks: how it is read, how its views are drawn and computed, what an encoder takes, what of it
is kept in a store and shown to people. Nothing here imports torch or NumPy until a modality is at work.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .modality_inputs import ModalityInputs

if TYPE_CHECKING:
    from ..models import Encoder
    from .inspection import Inspection
    from .source import Source


@dataclass(frozen=True)
class Example:
    """One example, decoded.

    Attributes:
        value: what `Modality.collate` takes.
        columns: what a store's row keeps of it, by the names of `Modality.columns`.
    """

    value: Any
    columns: Mapping[str, Any] = field(default_factory=dict)


class Modality(ModalityInputs):
    """One kind of data. To add one: a module with its object, and a line in `modalities.MODALITIES`.

    A block is some examples together, as a data set's `gather` gives them; it has a length, and `take(rows)`
    gives some of it. Tensors come as one tensor whose first dimension counts examples.
    """

    name: ClassVar[str]
    """As in `modalities.MODALITIES`."""

    noun: ClassVar[str] = "examples"
    """The word for several examples in what is said to users; without its last letter, for one."""

    @property
    def one(self) -> str:
        """The word for one example."""
        return self.noun[:-1]

    easier: ClassVar[str] = "let views change less"
    harder: ClassVar[str] = "let views change more"
    """Advice where an untrained network finds next to no partners among views, or nearly all."""

    differ_by: ClassVar[str] = "strength"
    """Something that classes may differ by, and that views change."""

    unit: ClassVar[str] = "places"
    """What the size of an input counts."""

    suffixes: ClassVar[frozenset[str]] = frozenset()
    """Endings of its files, in lower case and without the dot, by which a folder of them is known."""

    by_method: ClassVar[bool] = False
    """Whether data is of this kind only because a method is for it, as images with captions."""

    companion: ClassVar[bool] = False
    """Whether its files often lie beside those of other kinds, which then say what a folder holds."""

    columns: ClassVar[Mapping[str, str]] = {}
    """Columns that a store has for this kind alone, with their kinds; a "number" is a whole one."""

    baselines: ClassVar[tuple[str, ...]] = ()
    """What an evaluation compares an encoder with, besides an untrained one."""

    parts: ClassVar[tuple[str, ...]] = ()
    """Parts of an evaluation that are measured without being asked for."""

    training: ClassVar[Mapping[str, Any]] = {}
    """Settings of the training in which this kind differs from every recipe."""

    pictures: ClassVar[bool] = False
    """Whether an example can be shown as a picture: a data set then gives its pixels by row number."""

    encodes: ClassVar[str] = ""
    """The kind that an encoder trained on this one takes, if another: images, of images with captions."""

    def holds(self, data: Any) -> bool:
        """Tell whether what a user named is of this kind, where no file's ending says so.

        Args:
            data: as `open` takes it.
        """
        return False

    @abc.abstractmethod
    def open(self, data: Any, *, labels: bool = False, download: bool = True) -> Source:
        """Open examples, without decoding one.

        Args:
            data: what a user named: a path, a data set's name, an array, a list.
            labels: whether labels are wanted.
            download: whether a known data set may be fetched where it is missing.

        Returns:
            The source.

        Raises:
            NearfarError: there is nothing of this kind, or no label where labels are wanted.
        """

    def is_one(self, data: Any) -> bool:
        """Tell one example from a collection of them.

        Args:
            data: as Python holds it.
        """
        return False

    def fetch(self, source: Source, row: int, *, limit: int) -> tuple[Any, bytes]:
        """Fetch one example without decoding it.

        Args:
            source: the examples.
            row: which one.
            limit: the largest example allowed; what it counts is the modality's own (pixels of an image).

        Returns:
            What `decode` takes, and a digest of 16 bytes of its content.

        Raises:
            BadImage: it cannot be used.
        """
        from .examples import fetch

        return fetch(source, row)

    @abc.abstractmethod
    def decode(self, data: Any, preprocess: Any, *, limit: int) -> Example:
        """Decode one example, no larger than an encoder's input needs.

        Args:
            data: from `fetch`.
            preprocess: settings of `prepare`; None to keep the example whole.
            limit: as in `fetch`.

        Raises:
            BadImage: it cannot be used.
        """

    @abc.abstractmethod
    def collate(self, values: Sequence[Any]) -> Any:
        """Put examples together in a block.

        Args:
            values: of n decoded examples.
        """

    def load(
        self,
        source: Source,
        preprocess: Any,
        *,
        limit: int,
        max_bad: float,
        threads: int,
        decode_once: bool = True,
        memory: int | None = None,
        short_side: int | None = None,
    ) -> Any:
        """Make a collection ready for use, bad examples rejected by name.

        Args:
            source: the examples.
            preprocess: settings of `prepare`.
            limit: as in `fetch`.
            max_bad: share of bad examples, 0 to 1, beyond which this stops.
            threads: threads that read.
            decode_once: whether to decode everything now.
            memory: bytes that decoded examples may take in memory, where the modality can do with less.
            short_side: where examples are reduced, the least size to which; None: as `preprocess` needs it.

        Returns:
            A `Dataset` that also lists what is `rejected`.

        Raises:
            NearfarError: too many examples are bad, or none is good.
        """
        from .examples import load

        return load(self, source, preprocess, limit=limit, max_bad=max_bad, threads=threads)

    def value_range(
        self, source: Source, *, limit: int, percentiles: Sequence[float] | None = None
    ) -> tuple[float, float] | None:
        """Find the range of values that a collection uses, where examples are scaled by one.

        Args:
            source: the examples.
            limit: as in `fetch`.
            percentiles: two percentiles of the values to take, instead of what is usual.

        Returns:
            The least and the greatest value, or None where nothing is scaled.
        """
        return None

    def with_range(self, preprocess: Any, source: Source, *, limit: int) -> Any:
        """Complete settings of `prepare` by the collection's range, where they name none.

        Args:
            preprocess: settings of `prepare`.
            source: the examples.
            limit: as in `fetch`.
        """
        return preprocess

    def decided(
        self, source: Source, asked: Mapping[str, Any], *, folders: Sequence[Path], start: Any
    ) -> dict[str, Any]:
        """Find the settings of views that a collection decides, such as the tokenizer of texts.

        Args:
            source: the examples.
            asked: explicit settings by name.
            folders: run folders, unfinished or not, whose files may hold it.
            start: settings of `prepare` of the encoder that training starts from; None for random weights.

        Returns:
            Settings by name, which override those asked for.
        """
        return {}

    def write_files(self, folder: Path, preprocess: Any) -> None:
        """Write to a run folder the files that `prepare` needs besides its settings.

        Args:
            folder: of the run.
            preprocess: settings of `prepare`.
        """

    def read_files(self, folder: Path, preprocess: Any) -> None:
        """Read what `write_files` wrote.

        Args:
            folder, preprocess: as there.

        Raises:
            NearfarError: a file is missing, or belongs to other settings.
        """

    @abc.abstractmethod
    def encoder(
        self,
        name: str,
        *,
        stem: str = "auto",
        size: int | None = None,
        weights: str | None = None,
        seed: int = 0,
        **own: Any,
    ) -> Encoder:
        """Build an encoder on the CPU, the same for the same name; see `models.encoder`.

        Args:
            name: of the network.
            stem: which first layers.
            size: of its input.
            weights: None for random ones, or what to start from.
            seed: names the random weights.
            **own: what this kind's encoders have besides, as a run keeps it: of images, `mean` and `std`.

        Raises:
            NearfarError: there is no such network for this kind of data.
        """

    def describe(
        self,
        source: Source,
        *,
        limit: int,
        threads: int,
        seconds: float | None = None,
        glances: dict[str, Any] | None = None,
    ) -> Inspection:
        """Read every example once and say what is in a collection.

        Args:
            source: the examples.
            limit: as in `fetch`.
            threads: threads that read.
            seconds: how long to decode, about; None for every example. A kind whose files have no header
                that says what is in them decodes every example.
            glances: as in `inspection.inspect`; a kind that keeps none leaves it empty.
        """
        from .examples import describe

        return describe(self, source, limit=limit, threads=threads)

    def thumbnail(self, data: Any, value: Any, side: int, preprocess: Any = None, *, limit: int) -> bytes:
        """Make a small picture of an example.

        Args:
            data, preprocess, limit: as in `decode`.
            value: what `decode` made of it.
            side: the longer side in pixels, at most.

        Returns:
            An image file; b"" where there is nothing to see.
        """
        return b""
