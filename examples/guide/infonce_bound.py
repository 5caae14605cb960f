"""What InfoNCE bounds: mutual information, and never more than the logarithm of the batch."""

import math

import numpy as np
import torch
from plotting import plots

DIMS, TOTAL = 16, 4096
draws = np.random.default_rng(0)


def pairs(information, count):
    """Draw pairs (x, y) of Gaussian vectors that share so many nats, and their correlation."""
    r = math.sqrt(1 - math.exp(-2 * information / DIMS))
    x = torch.from_numpy(draws.standard_normal((count, DIMS)))
    return x, r * x + math.sqrt(1 - r * r) * torch.from_numpy(draws.standard_normal((count, DIMS))), r


def scores(x, y, r):
    """Compute log p(y|x) / p(y) for all pairs: the best critic that there is."""
    distance = torch.cdist(y, r * x).square().T / (1 - r * r)
    return (y.square().sum(1)[None] - distance) / 2 - DIMS / 2 * math.log(1 - r * r)


figure, (at,) = plots(1, width=6)
sizes = [2**k for k in range(1, 12)]
for k, information in enumerate((1, 3, 6, 9)):
    found = []
    for size in sizes:
        x, y, r = pairs(information, TOTAL)
        blocks = zip(x.split(size), y.split(size), strict=True)
        losses = [torch.nn.functional.cross_entropy(scores(a, b, r), torch.arange(len(a))) for a, b in blocks]
        found.append(math.log(size) - torch.stack(losses).mean().item())
    at.plot(sizes, found, "o-", color=f"C{k}", markersize=3)
    at.axhline(information, color=f"C{k}", linestyle=":")
    cells = ", ".join(
        f"{size}: {value:.2f}" for size, value in zip(sizes, found, strict=True) if size in (8, 128, 2048)
    )
    print(f"true {information} nats; bound by batch size {cells}")
at.plot(sizes, np.log(sizes), "k--", linewidth=1, label="log of the batch size")
at.set(xscale="log", xlabel="batch size", title="log N less the loss, in nats; dotted: the true information")
at.legend(frameon=False, fontsize=8)
figure.savefig("infonce_bound.png")
