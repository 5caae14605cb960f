"""Control from pixels: what learnt features know of a pendulum's state, by a linear fit."""

import torch
from curl import learn
from pendulum import episode
from pictures import QUICK
from plotting import bars, plots
from replay import Replay
from torch import nn

EPISODES, LENGTH, STEPS = (4, 40, 3) if QUICK else (80, 120, 500)
store, test = Replay(EPISODES * LENGTH), Replay(10 * LENGTH)
for number in range(EPISODES + 10):
    (store if number < EPISODES else test).add(number, *episode(number, LENGTH))


def network():
    """Three convolutions, a linear layer and a layer norm: (n, 3, 24, 24) to (n, 64)."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    layers += [nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 64), nn.LayerNorm(64)]
    return nn.Sequential(*layers)


@torch.no_grad()
def knows(f):
    """Fit the states by a ridge regression on features, and give R2 on episodes that were not seen, in %."""
    (x, y), (test_x, test_y) = (
        (f(held.stacks(rows)).double(), torch.from_numpy(held.states[rows]).double())
        for held, rows in ((store, store.usable()), (test, test.usable()))
    )
    mean, std, own = x.mean(0), x.std(0) + 1e-6, y.mean(0)
    x, test_x = (x - mean) / std, (test_x - mean) / std
    fit = torch.linalg.solve(x.T @ x + 0.01 * len(x) * torch.eye(x.shape[1]).double(), x.T @ (y - own))
    r2 = 1 - (test_x @ fit + own - test_y).square().sum(0) / (test_y - test_y.mean(0)).square().sum(0)
    position, velocity, sine, cosine, spin = (100 * r2).tolist()
    return {
        "position": position,
        "velocity": velocity,
        "angle": (sine + cosine) / 2,
        "angular\nvelocity": spin,
    }


pixels = nn.Flatten()
axes = torch.linalg.eigh(torch.cov(pixels(store.stacks(store.usable())).T)).eigenvectors[:, -64:]
found = {"pixels": knows(pixels), "PCA": knows(lambda x: pixels(x) @ axes), "untrained": knows(network())}
for kind in ("CURL", "time", "time, one episode"):
    found[kind] = knows(learn(network(), store, kind, STEPS))
print(f"{'R2, %':<18}" + "".join(f"{' '.join(name.split()):>18}" for name in found["PCA"]))
for name, values in found.items():
    print(f"{name:<18}" + "".join(f"{value:18.0f}" for value in values.values()))
figure, (at,) = plots(1, width=8)
bars(
    at,
    {name: {k: max(0, v) for k, v in values.items()} for name, values in found.items()},
    "R2 of a linear fit, %",
)
figure.savefig("control.png")
