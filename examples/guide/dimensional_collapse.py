"""Dimensional collapse: features that fill few of their dimensions, and two cures."""

import torch
from pictures import pictures
from plotting import plots
from torch import nn
from training import encode, nearest, network, simclr, train

from nearfar import methods
from nearfar.health.metrics import rankme
from nearfar.methods.base import Batch

data, test = pictures(2000), pictures(600, seed=1)


def no_head():
    f = network()
    train([f], simclr(f, nn.Identity()), data)
    return f, f


def with_head():
    f = network()
    g = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    train([f, g], simclr(f, g), data)
    return f, nn.Sequential(f, g)


def vicreg():
    VICReg = methods.method("vicreg")
    f = network()
    f.dim = 64
    method = VICReg(f, methods.settings("vicreg")(head=(64, 64)))
    train([method], lambda a, b: method(Batch([a, b], torch.arange(len(a)))).total, data)
    return f, nn.Sequential(f, method.g)


figure, (left, right) = plots(2, sharey=True)
for name, make in {"SimCLR, no head": no_head, "SimCLR, head": with_head, "VICReg": vicreg}.items():
    f, whole = make()
    x, y, z = encode(f, data), encode(f, test), encode(whole, test)
    form = nearest(x, data.form, y, test.form)
    print(f"{name:<16} RankMe of h {rankme(y):4.1f}, of z {rankme(z):4.1f} of 64; form by k-NN {form:.0f} %")
    for at, rows in ((left, y), (right, z)):
        values = torch.linalg.svdvals(rows - rows.mean(0))
        at.plot((values / values[0]).clamp_min(1e-6), label=name)
left.set(yscale="log", xlabel="dimension", title="singular values of h", ylim=(1e-4, 1.5))
right.set(xlabel="dimension", title="singular values of z")
left.legend(frameon=False, fontsize=8)
figure.savefig("dimensional_collapse.png")
