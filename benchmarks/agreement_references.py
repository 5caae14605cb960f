"""Do the methods of which no package has the loss agree with their papers?

    .bench/bin/python -m benchmarks.agreement_references

prints a line a method and ends with 1 if one disagrees: values and gradients, in float64, of our methods'
losses and of slow references, which are written here from the equations of the papers, number by number, and
use nothing of ours. Where another way to the same number is known, the reference takes it:

- SIGReg: Epps and Pulley's integral from -3 to 3 by SciPy's adaptive quadrature, and its derivative by
  another. Ours, as the authors' code, has 17 knots, so the two are compared to 0.001.
- Sinkhorn and Knopp's codes, after many rounds: the one matrix diag(u) exp(s / tau) diag(v) with even sums,
  by Newton's method on its dual, which is what the rounds approach.
- RotNet: each image turned by NumPy and encoded by itself, with gradients at the pixels.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nearfar import losses
from nearfar.analysis.temi import BETA, pair_losses
from nearfar.data.batch import Batch
from nearfar.methods.cpc import CPC
from nearfar.methods.lejepa import sigreg
from nearfar.methods.swav import codes

from .agreement_pair import SIDE, Loss, Pair, drawn, made, report, verdict

N, WIDTH = 5, 6
LOOSER = {"lejepa, SIGReg by SciPy": 1e-3}  # 17 knots of the trapezoidal rule


def total(method: Any) -> Loss:
    """The sum of a method's terms."""
    return lambda *given: method.loss(*given).total


def add(numbers: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(numbers)).sum()


def mean(numbers: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(numbers)).mean()


def surprise(scores: Tensor, at: int) -> Tensor:
    """Of a softmax over a row of scores: minus the logarithm of one of its probabilities."""
    return -(scores[at].exp() / add(score.exp() for score in scores)).log()


def rotnet() -> Pair:
    ours = made("rotnet").eval()

    def own(x: Tensor) -> Tensor:
        loss: Tensor = ours.loss(*ours.embed(Batch([x], torch.arange(len(x))))).total
        return loss

    def reference(x: Tensor) -> Tensor:
        places = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
        found = []
        for image in x:
            for r in range(4):
                turned = image.flatten(1)[:, torch.from_numpy(np.rot90(places, r).copy())]
                found.append(surprise(ours.g(ours.f(turned[None]))[0], r))
        return mean(found)

    return own, reference, [drawn(3, 3, SIDE, SIDE).sigmoid()]


def jigsaw() -> Pair:
    ours, y = made("jigsaw"), torch.tensor([3, 0, 11, 7, 3])
    return (
        lambda z: ours.loss(z, y).total,
        lambda z: mean(surprise(row, int(order)) for row, order in zip(z, y, strict=True)),
        [drawn(N, 24)],
    )


def relative_position() -> Pair:
    """All ordered pairs of neighbours of 2 x 2 tiles; of eight directions the first is up and left."""
    around = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
    tiles = [(0, 0), (0, 1), (1, 0), (1, 1)]
    told = [around.index((b[0] - a[0], b[1] - a[1])) for a in tiles for b in tiles if a != b]
    ours = made("relative_position", grid=2)
    return (
        total(ours),
        lambda z: mean(surprise(pair, way) for image in z for pair, way in zip(image, told, strict=True)),
        [drawn(N, 12, 8)],
    )


def deep_infomax(estimator: str) -> Callable[[], Pair]:
    """Hjelm et al., equations 4 (JSD) and 5 (InfoNCE) over places, and over the whole, and 7 (the prior)."""

    def soft(x: Tensor) -> Tensor:
        return (1 + x.exp()).log()

    def bound(maps: Tensor, h: Tensor) -> Tensor:
        joint, product = [], []
        for i in range(N):
            fakes = [maps[j, q] @ h[i] for j in range(N) if j != i for q in range(maps.shape[1])]
            product += [soft(fake) for fake in fakes]
            for place in maps[i]:
                true = place @ h[i]
                joint.append(
                    -soft(-true)
                    if estimator == "jsd"
                    else true - add(score.exp() for score in (true, *fakes)).log()
                )
        return mean(joint) - mean(product) if estimator == "jsd" else mean(joint)

    def reference(
        maps: Tensor, h: Tensor, whole: Tensor, told: Tensor, even: Tensor, *encoded: Tensor
    ) -> Tensor:
        # The discriminator's side of equation 7, where D is near 1 for even draws; ours answers the other way
        # round. The encoder's side too, where it is a term of its own.
        real, fake, *fooled = (1 / (1 + answer.exp()) for answer in (even, told, *encoded))
        prior = mean(real.log()) + mean((1 - share).log() for share in fake)
        prior = prior + sum(mean(share.log()) for share in fooled)
        return -0.7 * bound(maps, h) - 0.3 * bound(whole[:, None], h) - 0.2 * prior

    def pair() -> Pair:
        ours = made("deep_infomax", estimator=estimator, local=0.7, global_=0.3, prior=0.2, units=WIDTH)
        answers = len(inspect.signature(ours.loss).parameters) - 3
        shapes = ((N, 4, WIDTH), (N, WIDTH), (N, WIDTH), *answers * [(N,)])
        return total(ours), reference, [drawn(*shape, seed=k) / 2 for k, shape in enumerate(shapes)]

    return pair


def cpc_images() -> Pair:
    """Van den Oord et al., equation 4, over a grid of 4 x 4 patches, for the second and third rows below."""

    def reference(z: Tensor, told: Tensor) -> Tensor:
        found = []
        everything = [(i, r, c) for i in range(2) for r in range(4) for c in range(4)]
        for i, r, c in everything:
            for k in range(2):
                if r + 2 + k < 4:
                    scores = torch.stack([told[i, k, r, c] @ z[place] for place in everything])
                    found.append(surprise(scores, everything.index((i, r + 2 + k, c))))
        return mean(found)

    ours = made("cpc_images", grid=4, rows_below=2, width=WIDTH)
    return total(ours), reference, [drawn(2, 4, 4, WIDTH), drawn(2, 2, 4, 4, WIDTH, seed=1)]


def cpc(negatives: str) -> Callable[[], Pair]:
    """The same for steps of sound."""

    def pair() -> Pair:
        steps = 6
        ours = SimpleNamespace(first=2, config=SimpleNamespace(negatives=negatives))

        def own(z: Tensor, told: Tensor) -> Tensor:
            loss: Tensor = CPC.loss(ours, z, told).total  # type: ignore[arg-type]
            return loss

        def reference(z: Tensor, told: Tensor) -> Tensor:
            found = []
            for i, t, k in ((i, t, k) for i in range(3) for t in range(steps) for k in range(2)):
                came = (i, t + 2 + k)
                if came[1] >= steps:
                    continue
                among = [
                    (j, s)
                    for j in range(3)
                    for s in range(steps)
                    if (j, s) == came or negatives == "all" or (j == i) == (negatives == "own")
                ]
                scores = torch.stack([told[i, k, t] @ z[place] for place in among])
                found.append(surprise(scores, among.index(came)))
            return mean(found)

        return own, reference, [drawn(3, steps, WIDTH), drawn(3, 2, steps, WIDTH, seed=1)]

    return pair


def dae() -> Pair:
    ours = made("dae")
    x = drawn(2, 3, 8, 8, seed=1).sigmoid()
    return (
        lambda y: ours.loss(y, x).total,
        lambda y: mean((a - b) ** 2 for a, b in zip(y.flatten(), x.flatten(), strict=True)),
        [drawn(2, 3, 8, 8)],
    )


def dvae() -> Pair:
    """The squared error, and how far a place's words are from even ones (Ramesh et al., section 2)."""
    ours, words = made("dvae", encoder="resnet5_w64", kl=0.3, words=WIDTH), WIDTH
    x = drawn(2, 3, 8, 8, seed=1).sigmoid()

    def reference(y: Tensor, s: Tensor) -> Tensor:
        apart = []
        for place in s.flatten(0, 1):
            q = [score.exp() / add(each.exp() for each in place) for score in place]
            apart.append(add(share * (share / (1 / words)).log() for share in q))
        return mean((a - b) ** 2 for a, b in zip(y.flatten(), x.flatten(), strict=True)) + 0.3 * mean(apart)

    return lambda y, s: ours.loss(y, x, s).total, reference, [drawn(2, 3, 8, 8), drawn(2, 4, words, seed=2)]


def bigan() -> Pair:
    """The hinge's two sides (Miyato et al., equations 16 and 17), for the pairs of Donahue et al."""
    ours, x = made("bigan", latent=WIDTH), drawn(N, 3, SIDE, SIDE)

    def reference(real: Tensor, made: Tensor, encoded: Tensor, generated: Tensor) -> Tensor:
        zero = torch.zeros((), dtype=torch.float64)
        tells = mean(torch.minimum(zero, score - 1) for score in real)
        tells = tells + mean(torch.minimum(zero, -score - 1) for score in made)
        return -tells + mean(encoded) - mean(generated)

    return (
        lambda *scores: ours.loss(*scores, x, x).total,
        reference,
        [drawn(N, seed=k) for k in range(4)],
    )


def ijepa() -> Pair:
    """The smooth absolute error; targets less their place's mean, over each number's deviation."""
    ours = made("ijepa", encoder="vit_w64_d2", predictor_width=32, predictor_depth=1)
    target, at = drawn(N, 9, WIDTH, seed=1), torch.tensor([[[0, 1], [4, 5]]] * (N - 1) + [[[7, 8], [3, 4]]])
    values = target.numpy()
    brought = np.empty_like(values)
    for place in range(values.shape[1]):
        brought[:, place] = values[:, place] - values[:, place].mean(0)
    for number in range(WIDTH):
        brought[..., number] /= math.sqrt(np.var(brought[..., number]) + 1e-6)

    def reference(y: Tensor) -> Tensor:
        found = []
        for i, b, k, d in np.ndindex(*y.shape):
            far = abs(y[i, b, k, d] - float(brought[i, int(at[i, b, k]), d]))
            found.append(far**2 / 2 if far < 1 else far - 0.5)
        return mean(found)

    return lambda y: ours.loss(y, target, at).total, reference, [drawn(N, 2, 2, WIDTH)]


def epps_pulley() -> Pair:
    """N times the integral of |mean exp(i t x) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) over t from -3 to 3."""
    from scipy.integrate import quad

    directions = losses.unit(drawn(2, WIDTH, seed=9))

    def error(t: float, x: Any) -> tuple[float, float]:
        return float(np.cos(t * x).mean() - math.exp(-t * t / 2)), float(np.sin(t * x).mean())

    def reference(z: Tensor) -> Tensor:
        found = torch.zeros((), dtype=torch.float64)
        for a in directions:
            x = (z.detach() @ a).numpy()

            def height(t: float, x: Any = x) -> float:
                real, imaginary = error(t, x)
                return (real**2 + imaginary**2) * math.exp(-t * t / 2)

            def slope(t: float, at: float, x: Any = x) -> float:
                real, imaginary = error(t, x)
                turned = -real * math.sin(t * at) + imaginary * math.cos(t * at)
                return 2 * t * turned / len(x) * math.exp(-t * t / 2)

            value = len(x) * quad(height, -3, 3)[0]
            slopes = [len(x) * quad(slope, -3, 3, args=(float(at),))[0] for at in x]
            # A plane through z, which has the value and the gradient.
            found = found + value + ((z - z.detach()) @ a) @ torch.tensor(slopes, dtype=torch.float64)
        return found / len(directions)

    return lambda z: sigreg(z, directions), reference, [1.3 * drawn(12, WIDTH) + 0.2]


def sinkhorn() -> Pair:
    """Cross-entropy against codes that use all outputs evenly; iBOT's `--centring sinkhorn` has 3 rounds."""
    s, tau = drawn(8, WIDTH, seed=1) / 4, 0.2
    kernel = np.exp(s.numpy() / tau)
    n, k = kernel.shape
    wanted = np.concatenate([np.full(n, 1.0), np.full(k, n / k)])
    dual = np.zeros(n + k)
    for _ in range(50):  # Newton's method, with half steps while they are long
        q = np.exp(dual[:n, None] + dual[None, n:]) * kernel
        gradient = np.concatenate([q.sum(1), q.sum(0)]) - wanted
        curvature = np.block([[np.diag(q.sum(1)), q], [q.T, np.diag(q.sum(0))]])
        step = np.linalg.lstsq(curvature, gradient, rcond=1e-12)[0]
        dual -= step * min(1.0, 1 / np.abs(step).max(initial=1e-9))
    even = torch.from_numpy(np.exp(dual[:n, None] + dual[None, n:]) * kernel)

    def of(target: Tensor) -> Loss:
        return lambda x: -(target * F.log_softmax(x, 1)).sum(1).mean()

    return of(codes(s / tau, 1.0, 400)), of(even), [drawn(n, k, seed=2)]


def temi() -> Pair:
    """Adaloglou et al., equation 8: pointwise mutual information, weighted by how alike teachers answer."""
    heads, pairs = 3, 4
    told = drawn(heads, 2 * pairs, WIDTH, seed=1).softmax(2)
    often = drawn(heads, 1, WIDTH, seed=2).softmax(2)

    def reference(s: Tensor) -> Tensor:
        found = []
        for h in range(heads):
            row = []
            for i in range(2 * pairs):
                j = (i + pairs) % (2 * pairs)
                q = [score.exp() / add(each.exp() for each in s[h, i]) for score in s[h, i]]
                inside = add((q[c] * told[h, j, c]) ** BETA / often[h, 0, c] for c in range(WIDTH))
                weight = mean(told[g, i] @ told[g, j] for g in range(heads))
                row.append(-weight * inside.log())
            found.append(mean(row))
        return add(found)

    return (
        lambda s: pair_losses(s.softmax(2), told, often).sum(),
        reference,
        [drawn(heads, 2 * pairs, WIDTH)],
    )


CHECKS: dict[str, Callable[[], Pair]] = {
    "rotnet": rotnet,
    "jigsaw": jigsaw,
    "relative_position": relative_position,
    "deep_infomax --estimator jsd": deep_infomax("jsd"),
    "deep_infomax --estimator infonce": deep_infomax("infonce"),
    "cpc_images": cpc_images,
    **{f"cpc --negatives {kind}": cpc(kind) for kind in ("all", "own", "others")},
    "dae": dae,
    "dvae --kl 0.3": dvae,
    "bigan": bigan,
    "ijepa": ijepa,
    "lejepa, SIGReg by SciPy": epps_pulley,
    "ibot's codes by Sinkhorn": sinkhorn,
    "TEMI": temi,
}


if __name__ == "__main__":
    sys.exit(verdict(report(CHECKS, LOOSER, ", a slow reference")))
