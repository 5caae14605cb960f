"""Which settings decide: one setting changed at a time, beside the spread of seeds."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from pictures import BOTH, CROP, pictures
from plotting import plots
from torch import nn
from training import encode, nearest, network, simclr, train

SEEDS, STEPS = 2, 100
test = pictures(600, seed=1)
sets = [pictures(2000, seed=10 + seed) for seed in range(SEEDS)]
adam = torch.optim.AdamW
settings = {
    "default": {},
    "colours kept": {"settings": CROP},
    "crops from 0.1, not 0.4": {"settings": replace(BOTH, crop_min=0.1)},
    "temperature 1, not 0.2": {"tau": 1.0},
    "learning rate 0.001, not 0.01": {"rate": 0.001},
    "batch 32, not 128": {"batch": 32, "steps": 4 * STEPS},
    "no head": {"head": False},
    "head twice as wide": {"width": 128},
    "weight decay 0.1, not 0.01": {"optimizer": partial(adam, weight_decay=0.1)},
}


def learn(seed, tau=0.2, head=True, width=64, **how):
    """Train SimCLR on one set of pictures from one start, and measure form by k-NN."""
    f, data = network(seed=seed), sets[seed]
    g = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 32)) if head else nn.Identity()
    train([f, g], simclr(f, g, tau), data, **{"steps": STEPS, **how})
    return nearest(encode(f, data), data.form, encode(f, test), test.form)


found = {name: [learn(seed, **how) for seed in range(SEEDS)] for name, how in settings.items()}
own = np.mean(found["default"])
spread = np.sqrt(np.mean([np.var(values, ddof=1) for values in found.values()]))
noise = 2 * spread * (2 / SEEDS) ** 0.5  # twice the standard error of a difference of two means
print(f"default: form by k-NN {own:.0f} %; standard deviation between seeds {spread:.1f} points")
figure, (at,) = plots(1, width=7)
at.axvspan(-noise, noise, color="0.88", linewidth=0)
names = [name for name in settings if name != "default"]
for row, name in enumerate(names):
    gain = np.mean(found[name]) - own
    print(f"{name:<30} {gain:+5.1f} points, {'beyond' if abs(gain) > noise else 'within'} noise")
    at.plot([value - own for value in found[name]], [row] * SEEDS, "o", color="0.5", markersize=3)
    at.plot(gain, row, "D", color="tab:blue" if abs(gain) > noise else "0.5")
at.set_yticks(range(len(names)), names)
at.invert_yaxis()
at.set_title("points of k-NN above the default; the band is noise", loc="left", fontsize=10)
figure.savefig("settings_decide.png")
