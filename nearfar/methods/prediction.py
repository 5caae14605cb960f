"""What the two forms of contrastive predictive coding share: tell what comes from everything else."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core import collectives, distributed


def tell(predicted: Tensor, z: Tensor, at: Tensor, negatives: str = "all") -> tuple[Tensor, Tensor]:
    """Compare each prediction with what came, and with the negatives.

    Args:
        predicted: (n, Q, P), Q predictions for each example.
        z: (n, T, P), what there is at the T places of each example; as many on every process.
        at: (Q,) int64, the place that each prediction is of.
        negatives: "all", or only from the "own" example, or only from the "others".

    Returns:
        The mean of -log softmax, a scalar that averages over processes to that of the global batch; and (n, Q) bool,
        whether what came is the best.

    Source:
        Van den Oord et al. 2018, "Representation learning with contrastive predictive coding".
    """
    wide = torch.promote_types(z.dtype, torch.float32)
    with torch.autocast(z.device.type, enabled=False):
        predicted, z = predicted.to(wide), z.to(wide)
        n, count = predicted.shape[:2]
        scores = collectives.products(predicted.flatten(0, 1), z.flatten(0, 1)).view(n, count, -1, z.shape[1])
        own = torch.arange(n, device=z.device) + distributed.rank() * n
        true = torch.zeros_like(scores, dtype=torch.bool)
        true[torch.arange(n)[:, None], torch.arange(count)[None], own[:, None], at[None].to(z.device)] = True
        if negatives != "all":
            same = torch.zeros(n, scores.shape[2], dtype=torch.bool, device=z.device)
            same[torch.arange(n), own] = True
            left = same if negatives == "others" else ~same
            scores = scores.masked_fill(left[:, None, :, None] & ~true, float("-inf"))
        right = scores.detach().flatten(2).argmax(2) == true.flatten(2).int().argmax(2)
        return (scores.flatten(2).logsumexp(2) - scores[true].view(n, count)).mean(), right


def choices(z: Tensor, negatives: str = "all") -> Tensor:
    """Count what each prediction is compared with, what came among it.

    Args:
        z, negatives: as of `tell`.

    Returns:
        A scalar.
    """
    places, examples = z.shape[1], z.shape[0] * distributed.world()
    found = {"all": examples * places, "own": places, "others": (examples - 1) * places + 1}[negatives]
    return torch.tensor(float(found), device=z.device)
