"""What a step is given: the views of some examples, whatever kind of data they are, as trees of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

ALTERNATES = slice(3, None, 4)  # places in a batch of the examples that are changed the second way, if any


def tree_map(change: Callable[[Tensor], Any], tree: Any) -> Any:
    """Apply a function to every tensor of a tree, in the order of `leaves`.

    Args:
        change: takes a tensor.
        tree: a tensor, or dicts, lists and tuples of such, nested in any way.

    Returns:
        A tree of the same form.
    """
    if isinstance(tree, dict):
        return {name: tree_map(change, part) for name, part in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(tree_map(change, part) for part in tree)
    return change(tree)


def leaves(tree: Any) -> Iterator[Tensor]:
    """List every tensor of a tree, from left to right.

    Args:
        tree: as for `tree_map`.

    Yields:
        The tensors.
    """
    if isinstance(tree, dict):
        tree = tree.values()
    if isinstance(tree, Tensor):
        yield tree
    else:
        for part in tree:
            yield from leaves(part)


@dataclass(frozen=True)
class Batch:
    """One step's examples: of several processes, this one's part.

    What a view is, its kind of data decides. Views of images are tensors (n, 3, side, side) in [0, 1]; a view
    may also be a dict, list or tuple of tensors. The first dimension of every tensor counts the examples.
    """

    views: list[Any]  # each a tree of tensors, row for row views of the same examples
    rows: Tensor  # (n,) int64 on the CPU, which examples of the data set
    labels: Tensor | None = None  # (n,) int64, only for a method that needs "labels"
    key: int = 0  # of this step, for draws by name: `rng.uniform(batch.key, batch.rows, count)`
    alternates: Tensor | None = None  # (n,) bool, whose views are made the second way, where there are two
    targets: Tensor | None = None  # (n, d), a teacher's vectors, for a method that needs "targets"

    def __len__(self) -> int:
        """Count the examples."""
        return len(self.rows)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Move all but the row numbers, which stay on the CPU, where draws are made from them.

        Args:
            device: where to.
            non_blocking: whether to return before the copy is done, where the memory is page-locked.

        Returns:
            The batch there.
        """

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return replace(self, views=tree_map(move, self.views), **self._each(move))

    def part(self, rows: slice) -> Batch:
        """Take some of the examples.

        Args:
            rows: which, by their place in this batch.

        Returns:
            A batch with the same key, so that an example's draws stay what they are.
        """
        views = tree_map(lambda tensor: tensor[rows], self.views)
        return replace(self, views=views, rows=self.rows[rows], **self._each(lambda tensor: tensor[rows]))

    def _each(self, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Apply a function to what there is besides views and row numbers."""
        names = ("labels", "alternates", "targets")
        return {name: change(x) for name in names if (x := getattr(self, name)) is not None}
