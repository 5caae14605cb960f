"""Errors that tutorials spread, and what each costs."""

import torch
from pictures import BOTH, COLOUR, pictures
from plotting import bars, plots
from torch import nn
from training import encode, nearest, network, train

from nearfar.losses import nt_xent, unit

data, test = pictures(2000), pictures(600, seed=1)


def learn(change=None, settings=BOTH, classifier=False, of=nt_xent, **how):
    """Train SimCLR with something changed, and measure k-NN on what would be used as features."""
    f = network()
    if classifier:  # the last layer of a classifier is left where the features should be
        f = nn.Sequential(f, nn.Linear(64, 6))
    g = nn.Sequential(nn.Linear(6 if classifier else 64, 64), nn.ReLU(), nn.Linear(64, 32))

    def loss(a, b):
        a, b = change(a, b) if change else (a, b)
        return of(unit(g(f(a))), unit(g(f(b))), 0.2)

    train([f, g], loss, data, settings, **how)
    return nearest(encode(f, data), data.form, encode(f, test), test.form)


def turned(a, b):
    """Turn the second view of each picture by a quarter, a half or three quarters, instead of cropping it."""
    return a, torch.cat([torch.rot90(part, k + 1, (2, 3)) for k, part in enumerate(b.chunk(3))])


def ones(z_a, z_b, tau):
    """Take a softmax over the pairs of a batch, against ones: no pair is compared with another picture."""
    return -(z_a * z_b).sum(1).log_softmax(0).sum()


sgd = {"optimizer": torch.optim.SGD, "rate": 1.0}
found = {
    "right": learn(),
    "sum over N,\nAdamW": learn(of=lambda *z: 2 * nt_xent(*z)),
    "right,\nSGD": learn(**sgd),
    "sum over N,\nSGD": learn(of=lambda *z: 2 * nt_xent(*z), **sgd),
    "classifier\nleft on": learn(classifier=True),
    "two equal\nviews": learn(lambda a, b: (a, a)),
    "rotation\nfor crop": learn(turned, COLOUR),
    "softmax\nagainst ones": learn(of=ones),
}
for name, value in found.items():
    print(f"{' '.join(name.split()):<22} form by k-NN {value:3.0f} %")
figure, (at,) = plots(1, width=8)
bars(at, {"form": found}, "form by k-NN, %; chance is 17")
figure.savefig("errors.png")
