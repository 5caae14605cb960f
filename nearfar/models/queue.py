"""Queues of what earlier steps have seen, the same on every process."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import collectives


class Queue(nn.Module):
    """Rows of length 1, first in, first out; its rows and its place are buffers, so that a save holds them.

    It starts full of random rows, as the authors' does, so that the first step has negatives, and that
    what is compared has one shape from the first step to the last; real rows soon take their places.

    Source:
        He et al. 2020, "Momentum contrast", section 3.2 and algorithm 1.
    """

    rows: Tensor
    place: Tensor

    def __init__(self, size: int, width: int) -> None:
        """Fill the queue with random rows; inside `models.seeded` they are those of its name.

        Args:
            size: rows it holds.
            width: numbers in a row.
        """
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, z: Tensor) -> None:
        """Put the rows of all processes in the places of the oldest, in the order of the global batch.

        Every process must call it at the same time, and after the backward pass, which needs the old rows.

        Args:
            z: (n, width) rows of length 1, this process's; as many on every process.
        """
        everyone = collectives.gather(z, grad=False)[-len(self.rows) :].to(self.rows.dtype)
        where = (self.place + torch.arange(len(everyone), device=everyone.device)) % len(self.rows)
        self.rows[where] = everyone
        self.place.add_(len(everyone)).remainder_(len(self.rows))

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """Find for each row the most similar one in the queue.

        Args:
            z: (n, width) rows of length 1.

        Returns:
            (n, width) rows of the queue, without a gradient.
        """
        with torch.autocast(z.device.type, enabled=False):
            rows = self.rows.to(z.dtype)
            # A few rows at a time, so that memory grows with the queue and not with n times the queue.
            found = torch.cat([(part @ rows.T).argmax(1) for part in z.split(64)])
            return rows[found]


class PastExamples(Queue):
    """Examples of earlier steps, first in, first out; it starts empty, and the first decide their shape."""

    def __init__(self, size: int) -> None:
        """Start it.

        Args:
            size: examples it holds, at most.
        """
        nn.Module.__init__(self)
        self.size = size
        self.register_buffer("rows", torch.empty(0))

    def __len__(self) -> int:
        """Count the examples that it holds now."""
        return len(self.rows)

    @torch.no_grad()
    def push(self, z: Tensor) -> None:
        """Add the examples of all processes, in the order of the global batch, and drop the oldest.

        Args:
            z: (n, ...), this process's; as many on every process.
        """
        everyone = collectives.gather(z, grad=False)
        kept = torch.cat([self.rows.to(everyone), everyone]) if len(self) else everyone
        self.rows = kept[-self.size :]

    def take(self, u: Tensor) -> Tensor:
        """Give the example at each of some places.

        Args:
            u: (n,) from 0, the oldest, to 1, the newest.
        """
        return self.rows[(u * len(self)).long().clamp(max=len(self) - 1)]

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *how: Any) -> None:
        """Take as many examples as there are."""
        self.rows = torch.empty_like(state[f"{prefix}rows"], device=self.rows.device)
        super()._load_from_state_dict(state, prefix, *how)
