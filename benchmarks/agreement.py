"""Do all methods agree with others' code? Values and gradients, in float64, on the same rows.

    .bench/bin/python -m benchmarks.agreement

prints a line a method and ends with 1 if one disagrees; the contrastive ones are those of
`benchmarks.agreement_contrastive`, the other families those of `benchmarks.agreement_family`, and what no
package has is held against slow references, `benchmarks.agreement_references`. Where a peer defines a method
otherwise, the line says what was compared:

- lightly's BYOL example leaves the factor to its user: its negative cosines are (ours - 4) / 4 in the mean
  of both ways round, so ours is compared with 4 + 4 times that mean. The paper's equation is ours.
- lightly's Barlow Twins takes batch norm's mean and variance, as the authors do; it has no scale.
- lightly's VICReg halves the variance term, as the authors' later code does; it is given twice the weight.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nearfar import methods, models
from nearfar.methods.base import Method

from . import agreement_contrastive, agreement_family, agreement_pair, agreement_references

N, WIDTH = 48, 16
BOUND = 1e-9
Loss = Callable[..., Tensor]

torch.manual_seed(1)
_base = torch.randn(N, WIDTH).double()
ROWS = [_base + 0.5 * torch.randn(N, WIDTH).double() for _ in range(5)]


def method(name: str, buffers: Mapping[str, Tensor] | None = None, **settings: float) -> Loss:
    """Give a method's loss, the sum of its terms, over what its `embed` returns."""
    config = methods.settings(name)(head=(WIDTH,), **settings)
    made: Method = methods.method(name)(models.encoder("resnet10_w16"), config)
    for key, value in (buffers or {}).items():
        made.get_buffer(key).data = value
    return lambda *z: made.loss(*z).total


def byol() -> tuple[Loss, Loss]:
    from lightly.loss import NegativeCosineSimilarity

    cosine = NegativeCosineSimilarity()

    def theirs(q_i: Tensor, q_j: Tensor, z_i: Tensor, z_j: Tensor) -> Tensor:
        mean: Tensor = (cosine(q_i, z_j.detach()) + cosine(q_j, z_i.detach())) / 2
        return 4 + 4 * mean

    return method("byol"), theirs


def simsiam() -> tuple[Loss, Loss]:
    from lightly.loss import NegativeCosineSimilarity

    cosine = NegativeCosineSimilarity()

    def theirs(p_i: Tensor, p_j: Tensor, z_i: Tensor, z_j: Tensor) -> Tensor:
        mean: Tensor = (cosine(p_i, z_j.detach()) + cosine(p_j, z_i.detach())) / 2
        return mean

    return method("simsiam"), theirs


def barlow_twins() -> tuple[Loss, Loss]:
    from lightly.loss import BarlowTwinsLoss

    return method("barlow_twins", lambda_=0.0051, scale=1.0), BarlowTwinsLoss(lambda_param=0.0051)


def vicreg() -> tuple[Loss, Loss]:
    from lightly.loss import VICRegLoss

    return method("vicreg"), VICRegLoss(lambda_param=25.0, mu_param=50.0, nu_param=1.0, eps=1e-4)


def swav() -> tuple[Loss, Loss]:
    """Two full views and a small one, each with a row's similarity to WIDTH prototypes."""
    from lightly.loss import SwaVLoss

    theirs = SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)
    loss = method("swav", temperature=0.1, epsilon=0.05, sinkhorn_iterations=3, prototypes=WIDTH)
    return lambda *scores: loss(scores, scores), lambda *scores: theirs(list(scores[:2]), list(scores[2:]))[0]


def dino() -> tuple[Loss, Loss]:
    """Two full views and a small one of the student, the two full ones of the teacher; the same centre."""
    from lightly.loss import DINOLoss

    theirs = DINOLoss(output_dim=WIDTH, student_temp=0.1)
    centre = torch.linspace(-0.5, 0.5, WIDTH).double()
    loss = method(
        "dino",
        {"centre": centre},
        student_temperature=0.1,
        teacher_temperature=0.07,
        teacher_temperature_start=0.07,
        prototypes=WIDTH,
    )

    def given(*z: Tensor) -> Tensor:
        theirs.center.data = centre.view(1, 1, -1).clone()
        loss: Tensor = theirs([each.detach() for each in z[3:]], list(z[:3]), teacher_temp=0.07)
        return loss

    return lambda *z: loss(z[:3], z[3:]), given


CHECKS: dict[str, tuple[Callable[[], tuple[Loss, Loss]], int]] = {
    "byol, lightly": (byol, 4),
    "simsiam, lightly": (simsiam, 4),
    "barlow_twins, lightly": (barlow_twins, 2),
    "vicreg, lightly": (vicreg, 2),
    "swav, lightly": (swav, 3),
    "dino, lightly": (dino, 5),
}


def differences(make: Callable[[], tuple[Loss, Loss]], count: int) -> tuple[float, float]:
    """Compare one method with its peer: the value's difference, and the greatest of the gradients'."""
    found = []
    for compute in make():
        z = [rows.clone().requires_grad_() for rows in ROWS[:count]]
        loss = compute(*z)
        grads = torch.autograd.grad(loss, z, allow_unused=True)
        found.append((loss.detach(), *(torch.zeros(1) if grad is None else grad for grad in grads)))
    ours, theirs = found
    assert max(float(grad.abs().max()) for grad in ours[1:]) > 1e-4
    value, *rest = (float((x - y).abs().max()) for x, y in zip(ours, theirs, strict=True))
    return value, max(rest)


if __name__ == "__main__":
    results = {name: differences(make, count) for name, (make, count) in CHECKS.items()}
    for name, pair in agreement_contrastive.CHECKS.items():
        results[name] = agreement_contrastive.differences(pair)
    for name, (value, grad) in results.items():
        print(f"{name:<60} value {value:.0e}  gradient {grad:.0e}")
    wrong = [name for name, found in results.items() if not max(found) < BOUND]
    wrong += agreement_pair.report(agreement_family.CHECKS, agreement_family.LOOSER)
    wrong += agreement_pair.report(
        agreement_references.CHECKS, agreement_references.LOOSER, ", a slow reference"
    )
    sys.exit(agreement_pair.verdict(wrong))
