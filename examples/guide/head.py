"""The head's role: what h knows that z has thrown away, and what happens without a head."""

from pictures import pictures
from plotting import bars, plots
from torch import nn
from training import encode, linear, nearest, network, simclr, train

data, test = pictures(2000), pictures(600, seed=1)
features = {}
for name, g in {
    "head": nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)),
    "no head": nn.Identity(),
}.items():
    f = network()
    train([f, g], simclr(f, g), data)
    if name == "head":
        features["h, before the head"] = f
        features["z, after the head"] = nn.Sequential(f, g)
    else:
        features["h, trained\nwithout a head"] = f
found = {"form, linear": {}, "form, k-NN": {}, "hue, linear": {}}
for name, net in {**features, "untrained": network()}.items():
    x, y = encode(net, data), encode(net, test)
    found["form, linear"][name] = linear(x, data.form, y, test.form)
    found["form, k-NN"][name] = nearest(x, data.form, y, test.form)
    found["hue, linear"][name] = linear(x, data.hue, y, test.hue)
    cells = "   ".join(f"{label} {values[name]:3.0f} %" for label, values in found.items())
    print(f"{' '.join(name.split()):<26} {cells}")

figure, (at,) = plots(1, width=6)
bars(at, found, "accuracy in %; chance is 17; the views change the hue")
figure.savefig("head.png")
