"""The gradient of NT-Xent by hand, and what the temperature does to it."""

import numpy as np
import torch
from plotting import plots

from nearfar.losses import nt_xent, unit

N, D, TAU = 64, 8, 0.2
generator = torch.Generator().manual_seed(0)
z_i = unit(torch.randn(N, D, generator=generator, dtype=torch.float64))
z_j = unit(z_i + 0.5 * torch.randn(N, D, generator=generator, dtype=torch.float64))


def shares(z, tau):
    """Give p(k | i), the softmax over all other views: (2N, 2N)."""
    logits = z @ z.T / tau
    return logits.fill_diagonal_(-torch.inf).softmax(1)


def by_hand(z, tau):
    """Each row is pushed from the others by p(k | i) + p(i | k), and pulled to its partner twice."""
    p = shares(z, tau)
    return ((p + p.T) @ z - 2 * z.roll(N, 0)) / (2 * N * tau)


z = torch.cat([z_i, z_j])
rows = z.clone().requires_grad_()
nt_xent(*rows.chunk(2), TAU).backward()
print(f"largest difference from autograd: {(rows.grad - by_hand(z, TAU)).abs().max():.1e}")

figure, (left, right) = plots(2)
taus = np.geomspace(0.03, 2, 25)
similarity = (z @ z.T)[0].clone()
negative = torch.ones(2 * N, dtype=torch.bool)
negative[[0, N]] = False
for tau in (0.05, 0.2, 1.0):
    p = shares(z, tau)[0][negative]
    order = similarity[negative].argsort()
    left.plot(
        similarity[negative][order], (p / p.sum())[order], "o-", markersize=2, label=f"temperature {tau}"
    )
    top = (p / p.sum()).sort(descending=True).values
    print(
        f"temperature {tau:<4}: the nearest 5 of {len(p)} negatives push {100 * top[:5].sum():.0f} % of all"
    )
held = [
    (p := shares(z, tau)[0][negative], (p / p.sum()).sort(descending=True).values[:5].sum())[1]
    for tau in taus
]
left.set(xlabel="cosine with the anchor", title="share of the push")
left.legend(frameon=False, fontsize=8)
right.plot(taus, np.array(held) * 100)
right.set(xscale="log", xlabel="temperature", title="share of the nearest five, %", ylim=(0, 105))
figure.savefig("gradient.png")
