"""Linear and k-NN can disagree: each sees something that the other does not."""

import numpy as np
import torch
from pictures import PLAIN, pictures, view
from plotting import plots
from torch import nn
from training import encode, linear, nearest, network, simclr, train

data, test = pictures(2000), pictures(600, seed=1)
f = network()
g = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
untrained = [encode(f, part) for part in (data, test)]
train([f, g], simclr(f, g), data)
learnt = [encode(f, part) for part in (data, test)]
pixels = [view(part, PLAIN, 0, np.arange(len(part.form))).flatten(1) for part in (data, test)]
for name, (x, y) in {"pixels": pixels, "untrained": untrained, "SimCLR": learnt}.items():
    print(
        f"{name:<10} linear {linear(x, data.form, y, test.form, 1e-2):3.0f} %, "
        f"k-NN {nearest(x, data.form, y, test.form):3.0f} %"
    )

# One more number a picture, which says nothing of the form, louder and louder.
generator, scales = torch.Generator().manual_seed(0), (0, 0.5, 1, 2, 4, 8, 16)
noise = [torch.randn(len(x), 4, generator=generator) * x.std() for x in learnt]
loud = []
for scale in scales:
    x, y = (torch.cat([rows, scale * more], 1) for rows, more in zip(learnt, noise, strict=True))
    loud.append((linear(x, data.form, y, test.form), nearest(x, data.form, y, test.form)))
print(
    "four loud useless numbers: "
    + ", ".join(f"x{s} {a:.0f} / {b:.0f} %" for s, (a, b) in zip(scales, loud, strict=True))
)

# Each class as more and more small clusters in 16 dimensions, whose places say nothing.
counts, islands = (1, 2, 4, 8, 16, 32), []
for count in counts:
    centres = torch.randn(6 * count, 16, generator=generator)
    which = torch.randint(6 * count, (2600,), generator=generator)
    rows, form = centres[which] + 0.2 * torch.randn(2600, 16, generator=generator), which % 6
    split = rows[:2000], form[:2000], rows[2000:], form[2000:]
    islands.append((linear(*split), nearest(*split)))
print(
    "clusters a class: "
    + ", ".join(f"{c} {a:.0f} / {b:.0f} %" for c, (a, b) in zip(counts, islands, strict=True))
)

figure, axes = plots(2, sharey=True)
for at, x, values, title in zip(
    axes, (scales, counts), (loud, islands), ("loudness of useless numbers", "clusters a class"), strict=True
):
    for k, name in enumerate(("linear", "k-NN")):
        at.plot(x, [one[k] for one in values], "o-", label=name, markersize=4)
    at.set(xlabel=title, ylim=(0, 105))
    at.set_xscale("symlog" if 0 in x else "log")
axes[0].set_title("accuracy in %", loc="left")
axes[0].legend(frameon=False)
figure.savefig("linear_and_knn.png")
