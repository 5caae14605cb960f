"""What examples of one kind become for an encoder: views, drawn by chance, and plain inputs."""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch


class ModalityInputs(abc.ABC):
    """The part of a `modality.Modality` between examples in memory and an encoder."""

    views: ClassVar[type]
    """The settings of a view: a settings class, whose flags the command line shows."""

    on_device: ClassVar[bool] = False
    """Whether views can be computed on a GPU."""

    @property
    @abc.abstractmethod
    def preprocess(self) -> type:
        """The settings of `prepare`: a settings class with `size`, whose `modality` is this one's name."""

    @abc.abstractmethod
    def size_of(self, value: Any) -> int:
        """Measure a decoded example, as `preprocess.size` measures an input (the short side of an image)."""

    @abc.abstractmethod
    def input_size(self, usual: int) -> int:
        """Choose the size of a view where nothing was asked for.

        Args:
            usual: the examples' median size.
        """

    @abc.abstractmethod
    def preprocess_for(self, size: int, views: Any) -> Any:
        """Choose the settings of `prepare` that go with views of a size.

        Args:
            size: of a view.
            views: the settings of a view.
        """

    def labelled_views(self, preprocess: Any) -> Any:
        """Choose how examples with labels are changed while an encoder is fine-tuned: less than without.

        Args:
            preprocess: settings of `prepare` of the encoder.

        Returns:
            The settings of a view, whose tensors the encoder takes.
        """
        own = {item.name for item in dataclasses.fields(self.views)}
        kept = {name: value for name, value in dataclasses.asdict(preprocess).items() if name in own}
        return self.views(**kept)

    def towers(self, preprocess: Any) -> tuple[Any, Any]:
        """Give the settings of `prepare` that a finished run keeps with its encoder, and with a text encoder.

        Args:
            preprocess: of the examples that were trained on.

        Returns:
            The same, and None, unless a kind differs.
        """
        return preprocess, None

    @abc.abstractmethod
    def draw(self, view: Any, key: int, ids: Any, block: Any, size: int) -> Any:
        """Draw one view of each example; a row depends on the key and on its own id alone.

        Args:
            view: an entry of a method's `views`: settings of a view, or what wraps them.
            key: from `rng.fold`, one for each epoch and view.
            ids: (n,) integers that name the examples.
            block: the n examples.
            size: of a full view.

        Returns:
            The parameters that `apply` takes.
        """

    @abc.abstractmethod
    def apply(
        self,
        block: Any,
        params: Any,
        view: Any,
        size: int,
        *,
        dtype: torch.dtype | None = None,
        threads: int = 1,
    ) -> torch.Tensor:
        """Compute the views from their parameters.

        Args:
            block: the n examples, or what `place` made of them.
            params: from `draw`, of the same examples, view and size.
            view, size: as in `draw`.
            dtype: of the views; None for float32.
            threads: CPU threads; their number changes no value.

        Returns:
            What an encoder takes, n examples.
        """

    def place(self, block: Any, device: torch.device) -> Any:
        """Send a block to a device, for `apply` to work there; asked only where `on_device`.

        Args:
            block: some examples.
            device: where views are to be computed.
        """
        raise NotImplementedError

    @abc.abstractmethod
    def prepare(self, block: Any, preprocess: Any, *, threads: int = 1) -> torch.Tensor:
        """Turn examples into an encoder's input, without randomness.

        Args:
            block: n examples.
            preprocess: how.
            threads: CPU threads; their number changes no value.

        Returns:
            What an encoder takes, n examples, float32.
        """

    def baseline(self, name: str, preprocess: Any) -> tuple[torch.nn.Module, Any]:
        """Make one of `baselines` that this kind alone has.

        Args:
            name: which.
            preprocess: the encoder's.

        Returns:
            What turns `prepare`'s output into (n, d), and the settings of `prepare` for it.
        """
        raise NotImplementedError

    def ready(self) -> None:  # noqa: B027 - most kinds have nothing to make ready
        """Do now what the first view would wait for, such as compiling."""
