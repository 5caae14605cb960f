"""Do the contrastive methods agree with others' code? Values and gradients, in float64, on the same rows.

    .bench/bin/python -m benchmarks.agreement_contrastive

prints a line a method and ends with 1 if one disagrees. Gradients are those at the rows before they are
brought to length 1. Where a peer defines a method otherwise, the line says what was compared, and why:

- lightly's memory bank drops the rows of a batch that reach beyond its end, where our queue continues at its
  start; with a queue of whole batches they are the same.
- lightly's NNCLR compares neighbours and predictions as SimCLR does, all 2N with all; the paper, and we,
  compare each neighbour with the predictions of the other view.
- pytorch-metric-learning's semi-hard mining takes every negative within the margin; FaceNet, and we, take
  for each pair the nearest that is farther than the positive. Its miner is asked for each pair's own.
- Its ContrastiveLoss does not square the hinge; Hadsell et al., and we, do. Its hinges are squared here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from nearfar import losses
from nearfar.models.queue import Queue

N, WIDTH, KEYS, TAU, MARGIN = 48, 16, 240, 0.2, 0.2
BOUND = 1e-9
Pair = tuple[Callable[..., Tensor], Callable[..., Tensor]]

torch.manual_seed(0)
# Views of one image, and images of one label, are somewhat similar, so that every kind of triplet occurs.
LABELS = torch.arange(N) % 6
_base = torch.randn(6, WIDTH).double()[LABELS] + torch.randn(N, WIDTH).double()
ROWS = [_base + 0.5 * torch.randn(N, WIDTH).double() for _ in range(2)]
QUEUE = losses.unit(torch.randn(KEYS, WIDTH).double())
IMAGES = torch.arange(N)


def both(a: Tensor, b: Tensor) -> Tensor:
    return losses.unit(torch.cat([a, b]))


def info_nce_by_pairs(q: Tensor, k: Tensor) -> Tensor:
    from pytorch_metric_learning.losses import NTXentLoss

    # A copy: it takes the same labels for a comparison of the same rows.
    found: Tensor = NTXentLoss(temperature=TAU)(q, IMAGES, ref_emb=k, ref_labels=IMAGES.clone())
    return found


def simclr() -> Pair:
    from lightly.loss import NTXentLoss

    return lambda a, b: losses.nt_xent(losses.unit(a), losses.unit(b), TAU), NTXentLoss(TAU)


def simclr_by_pairs() -> Pair:
    from pytorch_metric_learning.losses import NTXentLoss

    def theirs(a: Tensor, b: Tensor) -> Tensor:
        found: Tensor = NTXentLoss(TAU)(torch.cat([a, b]), IMAGES.repeat(2))
        return found

    return lambda a, b: losses.nt_xent(losses.unit(a), losses.unit(b), TAU), theirs


def dcl() -> Pair:
    from lightly.loss import DCLLoss

    return lambda a, b: losses.dcl(losses.unit(a), losses.unit(b), TAU), DCLLoss(TAU)


def moco() -> Pair:
    """One step after two that filled the queue: its content, and the loss against it."""
    from lightly.loss import NTXentLoss

    theirs = NTXentLoss(TAU, memory_bank_size=(KEYS, WIDTH)).double()
    queue = Queue(KEYS, WIDTH).double()
    theirs.memory_bank.bank = queue.rows.clone()
    for step in range(7):
        keys = losses.unit(torch.randn(N, WIDTH, generator=torch.Generator().manual_seed(step)).double())
        theirs(keys.clone().requires_grad_(), keys)
        queue.push(keys)
    torch.testing.assert_close(theirs.memory_bank.bank, queue.rows)  # row by row, in the same order
    rows = queue.rows.clone()

    def again(q: Tensor, k: Tensor) -> Tensor:
        found: Tensor = theirs(q, k)
        return found

    return lambda q, k: losses.info_nce(losses.unit(q), losses.unit(k), rows, TAU), again


def mocov3() -> Pair:
    def ours(q: Tensor, k: Tensor) -> Tensor:
        return 2 * TAU * losses.info_nce(losses.unit(q), losses.unit(k), None, TAU)

    return ours, lambda q, k: 2 * TAU * info_nce_by_pairs(q, k)


def nnclr() -> Pair:
    from lightly.models.modules import NNMemoryBankModule

    bank, queue = NNMemoryBankModule(size=(KEYS, WIDTH)).double(), Queue(KEYS, WIDTH).double()
    bank.bank, queue.rows = QUEUE.clone(), QUEUE.clone()

    def ours(z: Tensor, p: Tensor) -> Tensor:
        return (
            losses.info_nce(queue.nearest(losses.unit(z.detach())), losses.unit(p), None, TAU) + 0 * z.sum()
        )

    def theirs(z: Tensor, p: Tensor) -> Tensor:
        return info_nce_by_pairs(bank(z.detach(), update=False), p) + 0 * z.sum()

    return ours, theirs


def supcon() -> Pair:
    from pytorch_metric_learning.losses import SupConLoss

    def theirs(a: Tensor, b: Tensor) -> Tensor:
        found: Tensor = SupConLoss(TAU)(torch.cat([a, b]), LABELS.repeat(2))
        return found

    return lambda a, b: losses.supcon(both(a, b), LABELS.repeat(2), TAU), theirs


def triplet(mining: str, labels: Tensor) -> Callable[[], Pair]:
    def pair() -> Pair:
        from pytorch_metric_learning import distances, miners, reducers
        from pytorch_metric_learning.losses import TripletMarginLoss
        from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_triplets_indices

        # FaceNet has squared distances; Hermans et al., whose "hard" and "all" are, the distances themselves.
        distance = distances.LpDistance(power=2 if mining == "semi-hard" else 1)
        reducer = reducers.AvgNonZeroReducer() if mining == "all" else reducers.MeanReducer()
        criterion = TripletMarginLoss(margin=MARGIN, distance=distance, reducer=reducer)
        names = labels.repeat(2)

        def theirs(a: Tensor, b: Tensor) -> Tensor:
            z = torch.cat([a, b])
            chosen = None
            if mining == "hard":
                chosen = miners.BatchHardMiner(distance=distance)(z, names)
            elif mining == "semi-hard":
                chosen = _nearest_of_the_farther(distance(z.detach()), get_all_triplets_indices(names))
            found: Tensor = criterion(z, names, chosen)
            return found

        return lambda a, b: losses.triplet(both(a, b), names, MARGIN, mining), theirs

    return pair


def _nearest_of_the_farther(d: Tensor, triplets: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Of all triplets, FaceNet's choice for each anchor and positive."""
    chosen: dict[tuple[int, int], int] = {}
    for a, p, n in zip(*(part.tolist() for part in triplets), strict=True):
        best = chosen.setdefault((a, p), n)
        farther, was = d[a, n] > d[a, p], d[a, best] > d[a, p]
        if (farther and (not was or d[a, n] < d[a, best])) or (
            not farther and not was and d[a, n] > d[a, best]
        ):
            chosen[a, p] = n
    a, p = torch.tensor(list(chosen)).T
    return a, p, torch.tensor(list(chosen.values()))


def drlim(labels: Tensor) -> Callable[[], Pair]:
    def pair() -> Pair:
        from pytorch_metric_learning import distances, reducers
        from pytorch_metric_learning.losses import ContrastiveLoss

        plain = distances.LpDistance()
        criterion = ContrastiveLoss(0.0, 1.0, distance=plain, reducer=reducers.DoNothingReducer())
        names = labels.repeat(2)

        def theirs(a: Tensor, b: Tensor) -> Tensor:
            parts = criterion(torch.cat([a, b]), names)
            hinges = [parts[name]["losses"] for name in ("pos_loss", "neg_loss")]
            return torch.stack([hinge.square().mean() / 2 for hinge in hinges]).sum()

        return lambda a, b: torch.stack(losses.drlim(both(a, b), names, 1.0)).sum(), theirs

    return pair


CHECKS: dict[str, Callable[[], Pair]] = {
    "simclr, lightly": simclr,
    "simclr, pytorch-metric-learning": simclr_by_pairs,
    "simclr --decoupled, lightly": dcl,
    "moco, lightly": moco,
    "mocov3, pytorch-metric-learning": mocov3,
    "nnclr, lightly and pytorch-metric-learning": nnclr,
    "supcon, pytorch-metric-learning": supcon,
    **{
        f"triplet, {mining}, {pairs}, pytorch-metric-learning": triplet(mining, labels)
        for mining in ("semi-hard", "hard", "all")
        for pairs, labels in (("views", IMAGES), ("labels", LABELS))
    },
    "drlim, views, pytorch-metric-learning": drlim(IMAGES),
    "drlim, labels, pytorch-metric-learning": drlim(LABELS),
}


def differences(make: Callable[[], Pair]) -> tuple[float, float]:
    """Compare one method with its peer: the value's difference, and the greatest of the gradients'."""
    found = []
    for compute in make():
        a, b = (z.clone().requires_grad_() for z in ROWS)
        loss = compute(a, b)
        found.append((loss.detach(), *torch.autograd.grad(loss, (a, b))))
    ours, theirs = found
    assert ours[0] > 0 and max(float(grad.abs().max()) for grad in ours[1:]) > 1e-4
    value, *grads = (float((x - y).abs().max()) for x, y in zip(ours, theirs, strict=True))
    return value, max(grads)


if __name__ == "__main__":
    worst = 0.0
    for name, make in CHECKS.items():
        value, grad = differences(make)
        worst = max(worst, value, grad)
        print(f"{name:<52} value {value:.0e}  gradient {grad:.0e}")
    print("all agree" if worst < BOUND else f"they differ by up to {worst:.1e}")
    sys.exit(worst >= BOUND)
