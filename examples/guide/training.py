"""A small network, its training in seconds, and how good it is: what the examples of the guide share."""

import torch
from pictures import BOTH, PLAIN, QUICK, view
from torch import nn

from nearfar.core import rng
from nearfar.features import knn, logistic
from nearfar.losses import nt_xent, unit


def network(width=16, seed=0):
    """Three convolutions and a mean: (n, 3, 16, 16) to (n, 4 x width)."""
    torch.manual_seed(seed)
    layers = []
    for a, b in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
        layers += [nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def simclr(f, g, tau=0.2):
    """SimCLR's loss of two views."""
    return lambda a, b: nt_xent(unit(g(f(a))), unit(g(f(b))), tau)


def train(
    parts, loss, data, settings=BOTH, steps=150, batch=128, rate=0.01, partner=None, each=None, optimizer=None
):
    """Train modules by `loss(view, other view)`; `partner(rows)` says of which pictures the others are."""
    step_with = (optimizer or torch.optim.AdamW)(nn.ModuleList(parts).train().parameters(), lr=rate)
    steps, batch = (3, 16) if QUICK else (steps, batch)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(step_with, steps)
    for step in range(steps):
        rows = rng.permutation(rng.fold(0, "rows", step), len(data.form))[:batch]
        a = view(data, settings, rng.fold(0, "view", step, 0), rows)
        b = view(data, settings, rng.fold(0, "view", step, 1), partner(rows) if partner else rows)
        step_with.zero_grad()
        loss(a, b).backward()
        step_with.step()
        falling.step()
        if each:
            each(step + 1)


@torch.no_grad()
def encode(f, data):
    """Encode the whole pictures: (n, d)."""
    return f.eval()(view(data, PLAIN, 0, torch.arange(len(data.form)).numpy()))


def linear(x, y, test_x, test_y, l2=1e-3):
    """Fit a linear classifier to features: its accuracy on test features, in %."""
    return 100 * (logistic.fit(x, y, 6, l2).predict(test_x) == test_y).float().mean().item()


def nearest(x, y, test_x, test_y):
    """Let the 20 nearest training features vote, weighted by their cosine: accuracy in %."""
    cosine, who = knn.top_k(test_x, x, min(20, len(x)))
    return 100 * (knn.knn_votes(cosine, y[who], 6, 0.07).argmax(1) == test_y).float().mean().item()
