"""Why augmentations compose: crop alone and colour alone leave a short cut."""

from pictures import BOTH, COLOUR, CROP, pictures
from plotting import bars, plots
from torch import nn
from training import encode, linear, nearest, network, simclr, train

data, test = pictures(2000), pictures(600, seed=1)
found = {"form": {}, "hue": {}}
for name, settings in {"untrained": None, "crop": CROP, "colour": COLOUR, "crop and colour": BOTH}.items():
    f = network()
    g = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
    if settings:
        train([f, g], simclr(f, g), data, settings)
    x, y = encode(f, data), encode(f, test)
    found["form"][name] = nearest(x, data.form, y, test.form)
    found["hue"][name] = nearest(x, data.hue, y, test.hue)
    by_line = linear(x, data.form, y, test.form)
    form, hue = found["form"][name], found["hue"][name]
    print(f"{name:<16} form: k-NN {form:3.0f} %, linear {by_line:3.0f} %   hue: k-NN {hue:3.0f} %")

figure, (at,) = plots(1, width=6)
bars(at, found, "k-NN accuracy in %, by what the views change; chance is 17")
figure.savefig("augmentations.png")
