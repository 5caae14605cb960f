"""How much data and time: accuracy by steps, for collections of three sizes."""

from pictures import QUICK, pictures
from plotting import plots
from torch import nn
from training import encode, nearest, network, simclr, train

labelled, test = pictures(2000, seed=2), pictures(600, seed=1)  # the labels serve the measurement alone
looks = (1, 3) if QUICK else (12, 25, 50, 100, 200, 400)
figure, (at,) = plots(1, width=6)
for count in (60, 300, 3000):
    data, f = pictures(count), network()
    g = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
    found = []

    def each(step, f=f, found=found):
        if step in looks:
            found.append(nearest(encode(f, labelled), labelled.form, encode(f, test), test.form))
            f.train()

    train([f, g], simclr(f, g), data, steps=looks[-1], batch=min(128, count), each=each)
    at.plot(looks, found, "o-", label=f"{count} pictures", markersize=4)
    cells = ", ".join(f"{step}: {value:.0f} %" for step, value in zip(looks, found, strict=True))
    print(f"{count:>4} pictures, form by k-NN after steps {cells}")
at.set(xscale="log", xlabel="steps", title="form by k-NN on h, % (labels serve the measurement alone)")
at.minorticks_off()
at.set_xticks(looks, looks)
at.legend(frameon=False)
figure.savefig("data_and_time.png")
