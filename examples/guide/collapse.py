"""Why BYOL and SimSiam do not collapse: the same training with one part left out."""

import copy

import torch
import torch.nn.functional as F
from pictures import pictures
from plotting import plots
from training import encode, nearest, network, train

from nearfar.models import mlp

data, test = pictures(2000), pictures(600, seed=1)


def learn(stop=True, predictor=True, teacher=False):
    """Train by predicting one view's z from the other's; give the spread of z after each step, and f."""
    f, g, spreads = network(), mlp(64, 64, 64), []
    q = mlp(64, 16, 64, last_norm=False) if predictor else torch.nn.Identity()
    f_slow, g_slow = (copy.deepcopy(part).requires_grad_(False) if teacher else part for part in (f, g))

    def loss(a, b):
        z, seen = [g(f(x)) for x in (a, b)], [g_slow(f_slow(x)) for x in (a, b)]
        aim = [x.detach() if stop else x for x in seen]
        spreads.append(F.normalize(z[0], dim=1).std(0).mean().item() * 8)  # times the root of 64: 1 is even
        return -sum(F.cosine_similarity(q(z[k]), aim[1 - k]).mean() for k in (0, 1)) / 2

    def each(step):
        for slow, fast in ((f_slow, f), (g_slow, g)) if teacher else ():
            for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
                old.lerp_(new.detach(), 0.02)

    train([f, g, q], loss, data, each=each)
    return spreads, f


figure, (at,) = plots(1, width=6)
for name, how in {
    "SimSiam": {},
    "SimSiam without stop-gradient": {"stop": False},
    "SimSiam without predictor": {"predictor": False},
    "BYOL": {"teacher": True},
}.items():
    spreads, f = learn(**how)
    form = nearest(encode(f, data), data.form, encode(f, test), test.form)
    print(f"{name:<30} spread of z at the end {spreads[-1]:.2f}, form by k-NN on h {form:.0f} %")
    at.plot(spreads, label=name, linestyle="--" if how.keys() & {"stop", "predictor"} else "-")
at.set(xlabel="step", title="spread of z: 1 is even on the sphere, 0 a collapse", ylim=(0, 1.1))
at.legend(frameon=False, fontsize=8)
figure.savefig("collapse.png")
