"""Temperature, batch and negatives, with z on a circle that one can look at."""

import numpy as np
import torch
from pictures import CROP, pictures, view
from plotting import plots
from torch import nn
from training import encode, nearest, network, simclr, train

from nearfar.health.metrics import alignment, uniformity
from nearfar.losses import unit

data, test = pictures(2000), pictures(600, seed=1)
rows = np.arange(len(test.form))
first, second = (view(test, CROP, key, rows) for key in (1, 2))
kinds = {
    "temperature 0.05": (0.05, 128),
    "temperature 0.2": (0.2, 128),
    "temperature 1": (1.0, 128),
    "batch of 8": (0.2, 8),
    "no negatives": (None, 128),
}
figure, axes = plots(len(kinds), width=2.1)
for at, (name, (tau, batch)) in zip(axes, kinds.items(), strict=True):
    f = network()
    g = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))  # z is a point on a circle

    def pull(a, b, f=f, g=g):
        return (unit(g(f(a))) - unit(g(f(b)))).square().sum(1).mean()

    train([f, g], simclr(f, g, tau) if tau else pull, data, CROP, batch=batch, rate=0.003)
    with torch.no_grad():
        z, z_a, z_b = (unit(g(x)) for x in (encode(f, test), f(first), f(second)))
    hue = nearest(unit(g(encode(f, data)).detach()), data.ground, z, test.ground)
    near, even = alignment(z_a, z_b), uniformity(z)
    print(
        f"{name:<17} alignment {near:.2f}, uniformity {even:5.2f}, hue of the ground by k-NN on z {hue:.0f} %"
    )
    out = z * (0.75 + 0.5 * torch.rand(len(z), 1, generator=torch.Generator().manual_seed(0)))
    at.scatter(*out.T, c=test.ground, cmap="hsv", vmax=6, s=3)
    at.set_title(f"{name}\nalignment {near:.2f}, uniformity {even:.2f}", fontsize=8)
    at.set_aspect("equal")
    at.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4))
    at.set_axis_off()
figure.savefig("circle.png")
