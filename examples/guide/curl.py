"""Two ways to learn from a replay store: CURL, and frames that follow each other."""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from nearfar.losses import nt_xent, unit


def shifted(x, draw):
    """Crop all frames of a stack alike, at random, out of a border of 3 px."""
    x, corners = F.pad(x, (3, 3, 3, 3), mode="replicate"), draw.integers(0, 7, (len(x), 2))
    return torch.stack([one[:, a : a + 24, b : b + 24] for one, (a, b) in zip(x, corners, strict=True)])


def learn(f, store, kind, steps, ahead=3):
    """Train f by "CURL", or by "time", with batches of all episodes or of "one episode"."""
    W, slow, draw = (
        nn.Parameter(torch.eye(64) / 8),
        copy.deepcopy(f).requires_grad_(False),
        np.random.default_rng(0),
    )
    optimizer, rows = torch.optim.AdamW([*f.parameters(), W], lr=1e-3), store.usable(ahead)
    for _ in range(steps):
        own = rows[store.of[rows] == store.of[draw.choice(rows)]] if "one" in kind else rows
        asked = draw.permutation(own)[:64]
        if kind == "CURL":
            q, k = (net(shifted(store.stacks(asked), draw)) for net in (f, slow))
            loss = F.cross_entropy(q @ W @ k.T, torch.arange(len(q)))
        else:
            loss = nt_xent(*(unit(f(store.stacks(at))) for at in (asked, asked + ahead)), 0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for old, new in zip(slow.parameters(), f.parameters(), strict=True):
            old.lerp_(new.detach(), 0.05)
    return f.eval()
