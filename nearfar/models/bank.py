"""A memory bank: one row of length 1 for each image, a moving average of what the network made of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import collectives


class Bank(nn.Module):
    """One row for each image that is trained on, in half precision, since it is part of every save.

    Source:
        Wu et al. 2018, "Unsupervised feature learning via non-parametric instance discrimination", section 3,
        and the authors' code.
    """

    rows: Tensor

    def __init__(self, images: int, width: int) -> None:
        """Fill the bank with random rows; inside `models.seeded` they are those of its name.

        Args:
            images: how many are trained on.
            width: numbers in a row.
        """
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(images, width), dim=1).half())

    @torch.no_grad()
    def update(self, rows: Tensor, v: Tensor, momentum: float) -> None:
        """Move the rows of the images of all processes.

        Every process must call it at the same time, and after the backward pass, which needs the old rows.

        Args:
            rows: (n,) int64, this process's images.
            v: (n, width) of length 1, what the network makes of them.
            momentum: 0 to 1; 1 changes nothing.
        """
        rows, v = collectives.gather(rows, grad=False), collectives.gather(v, grad=False)
        kind = torch.promote_types(self.rows.dtype, torch.float32)
        moved = momentum * self.rows[rows].to(kind) + (1 - momentum) * v.to(kind)
        self.rows[rows] = F.normalize(moved, dim=1).to(self.rows.dtype)
