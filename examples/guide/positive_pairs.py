"""What a positive pair says: four kinds of pairs, and what the features then know."""

import numpy as np
from pictures import BOTH, CROP, pictures
from plotting import bars, plots
from torch import nn
from training import encode, nearest, network, simclr, train

data, test = pictures(2000), pictures(600, seed=1)


def another(labels):
    """Pair each picture with the next one that has the same label."""
    partner = np.arange(len(labels))
    for label in range(6):
        rows = np.flatnonzero(labels == label)
        partner[rows] = np.roll(rows, 1)
    return lambda rows: partner[rows]


kinds = {
    "itself,\ncolour kept": (CROP, None),
    "itself,\ncolour changed": (BOTH, None),
    "another of\nits form": (CROP, another(data.form.numpy())),
    "another of\nits hue": (CROP, another(data.hue.numpy())),
}
found = {"form": {}, "hue": {}}
for name, (settings, partner) in kinds.items():
    f = network()
    g = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
    train([f, g], simclr(f, g), data, settings, partner=partner)
    x, y = encode(f, data), encode(f, test)
    for label in found:
        found[label][name] = nearest(x, getattr(data, label), y, getattr(test, label))
    print(f"{' '.join(name.split()):<24} form {found['form'][name]:3.0f} %   hue {found['hue'][name]:3.0f} %")

figure, (at,) = plots(1, width=6)
bars(at, found, "k-NN accuracy in %, by the kind of pair; chance is 17")
figure.savefig("positive_pairs.png")
