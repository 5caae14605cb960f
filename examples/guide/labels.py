"""How many labels pretraining is worth: accuracy by the number of labelled pictures."""

import numpy as np
import torch.nn.functional as F
from pictures import QUICK, pictures
from plotting import plots
from torch import nn
from training import encode, linear, network, simclr, train

data, test = pictures(2000), pictures(600, seed=1)
counts, draws = ((2, 4), 1) if QUICK else ((1, 3, 10, 30, 150), 2)


def from_scratch(rows):
    """Train the network and a classifier on labelled pictures alone, with the same views."""
    f, head, order = network(), nn.Linear(64, 6), []

    def chosen(asked):
        order.append(rows[asked % len(rows)])
        return order[-1]

    def loss(a, b):
        return F.cross_entropy(head(f(b)), data.form[order[-1]])

    train([f, head], loss, data, partner=chosen, batch=64, steps=300)
    f.eval()
    return 100 * (head(encode(f, test)).argmax(1) == test.form).float().mean().item()


pretrained, untrained = network(), network()
g = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
train([pretrained, g], simclr(pretrained, g), data, steps=300)
found = {"pretrained, linear": [], "from scratch": [], "untrained, linear": []}
for count in counts:
    tries = {name: [] for name in found}
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(len(data.form))
        rows = np.concatenate([order[data.form[order] == form][:count] for form in range(6)])
        for name, f in {"pretrained, linear": pretrained, "untrained, linear": untrained}.items():
            x, y = encode(f, data)[rows], encode(f, test)
            tries[name].append(linear(x, data.form[rows], y, test.form, 0.02))
        tries["from scratch"].append(from_scratch(rows))
    for name, values in tries.items():
        found[name].append(float(np.mean(values)))
    print(f"labels a class, {count:>3}: " + ", ".join(f"{name} {v[-1]:.0f} %" for name, v in found.items()))

figure, (at,) = plots(1, width=6)
for name, values in found.items():
    at.plot(counts, values, "o-", label=name, markersize=4)
at.set(xscale="log", xlabel="labelled pictures a class", ylim=(0, 105), title="accuracy on test pictures, %")
at.minorticks_off()
at.set_xticks(counts, counts)
at.legend(frameon=False)
figure.savefig("labels.png")
