"""Losses of pairs and triplets, triplet and DrLIM, against loops over every pair."""

import itertools
import math

import pytest
import torch
from small import pictures, rows, small, total

from nearfar import losses
from nearfar.core.errors import NearfarError
from nearfar.methods.base import Batch


def far(x, y, squared):
    return (x - y).square().sum() if squared else (x - y).square().sum().sqrt()


def slow_triplet(z, labels, margin, mining):
    """Every triplet looked at, one by one."""
    count, found = range(len(z)), []
    squared = mining == "semi-hard"  # FaceNet's; Hermans et al. take the distance itself
    distance = [[float(far(z[i].detach(), z[k].detach(), squared)) for k in count] for i in count]
    for a in count:
        P = [p for p in count if p != a and labels[p] == labels[a]]
        N = [n for n in count if labels[n] != labels[a]]
        if not P or not N:
            continue
        if mining == "hard":
            pairs = [(max(P, key=lambda p: distance[a][p]), min(N, key=lambda n: distance[a][n]))]
        elif mining == "all":
            pairs = [(p, n) for p in P for n in N if distance[a][p] + margin > distance[a][n]]
        else:
            pairs = []
            for p in P:
                farther = [n for n in N if distance[a][n] > distance[a][p]]
                near = min(farther, key=lambda n: distance[a][n]) if farther else None
                pairs.append((p, max(N, key=lambda n: distance[a][n]) if near is None else near))
        for p, n in pairs:
            gap = far(z[a], z[p], squared) - far(z[a], z[n], squared)
            found.append((gap + margin).clamp(min=0))
    return torch.stack(found).mean() if found else 0 * z.sum()


LABELS = {
    "views": torch.arange(7).repeat(2),
    "some": torch.tensor([3, 5, 3, 3, 5, 9, 3, 5, 1, 1, 4, 5, 3, 3]),
    "one": torch.zeros(14, dtype=torch.int64),
    "lone": torch.arange(14),
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("margin", [0.0, 0.2, 1.5])
@pytest.mark.parametrize("mining", ["semi-hard", "hard", "all"])
def test_triplet_mining_against_loops(mining, margin, labels):
    z = rows(14, 3).requires_grad_()
    truth = slow_triplet(z, LABELS[labels], margin, mining)
    wanted = torch.autograd.grad(truth, z)[0]
    loss = losses.triplet(z, LABELS[labels], margin, mining)
    torch.testing.assert_close(loss, truth, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], wanted, rtol=1e-11, atol=1e-13)


def test_a_negative_as_far_as_the_positive_is_not_semi_hard():
    # Along the axes all squared distances are 2, but 4 between the first and the last, which is the farther.
    z = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0]], dtype=torch.float64)
    found = losses.triplet(z, torch.tensor([0, 0, 1, 1]), 0.5, "semi-hard")
    assert float(found) == (0 + 0.5 + 0.5 + 0) / 4  # the two in the middle have no farther one


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("margin", [0.0, 0.7, 1.0, 2.0])
def test_drlim_against_loops(margin, labels):
    z, kinds = rows(14, 3).requires_grad_(), LABELS[labels]
    similar, dissimilar = [], []
    for i, k in itertools.combinations(range(14), 2):
        D = (z[i] - z[k]).square().sum().sqrt()
        if kinds[i] == kinds[k]:
            similar.append(D.square() / 2)
        else:
            dissimilar.append((margin - D).clamp(min=0).square() / 2)
    truth = [torch.stack(part).mean() if part else 0 * z.sum() for part in (similar, dissimilar)]
    found = losses.drlim(z, kinds, margin)
    for part, wanted in zip(found, truth, strict=True):
        torch.testing.assert_close(part, wanted, rtol=1e-12, atol=1e-14)
        grads = [torch.autograd.grad(x, z, retain_graph=True)[0] for x in (part, wanted)]
        torch.testing.assert_close(*grads, rtol=1e-11, atol=1e-13)


def test_drlim_at_the_margins_edges():
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    similar, dissimilar = losses.drlim(z, torch.tensor([0, 1, 1]), 2.0)
    assert similar.item() == 2.0  # opposite rows of one kind: D = 2
    assert dissimilar.item() == pytest.approx(
        (2.0 + 0.0) / 2
    )  # D = 0 wholly within, D = 2 just at the margin
    (similar + dissimilar).backward()
    assert torch.isfinite(z.grad).all()
    apart = torch.eye(3, dtype=torch.float64, requires_grad=True)
    _, far = losses.drlim(apart, torch.arange(3), 1.4)  # at right angles D is 1.41: beyond the margin
    assert far.item() == 0.0 and torch.autograd.grad(far, apart)[0].abs().max() == 0
    _, near = losses.drlim(apart, torch.arange(3), 1.5)
    assert near.item() == pytest.approx((1.5 - math.sqrt(2)) ** 2 / 2)


@pytest.mark.parametrize("name", ["triplet", "drlim"])
def test_pairs_are_views_or_labels_as_asked(name):
    views, labelled = small(name), small(name, pairs="labels")
    assert not views.requires(views.config) and labelled.requires(labelled.config) == {"labels"}
    batch = pictures(9)
    assert torch.equal(views.embed(batch)[-1], batch.rows)
    assert torch.equal(labelled.embed(batch)[-1], batch.labels)
    assert views.metrics(views(batch).watched) and not labelled.metrics(labelled(batch).watched)
    unlabelled = Batch(batch.views, batch.rows)
    assert torch.isfinite(total(views(unlabelled)))


def test_pair_losses_under_autocast_and_with_what_does_not_fit():
    z, labels = rows(12, 8).float(), torch.arange(12) % 4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [losses.triplet(z, labels, 0.2), *losses.drlim(z, labels, 1.0)]
    wanted = [losses.triplet(z, labels, 0.2), *losses.drlim(z, labels, 1.0)]
    assert all(torch.equal(a, b) and a.dtype == torch.float32 for a, b in zip(found, wanted, strict=True))
    for call, words in (
        (lambda: losses.triplet(z, labels, 0.2, "soft"), "choose from semi-hard, hard, all"),
        (lambda: losses.triplet(z, labels[:3], 0.2), "one label per row"),
        (lambda: losses.drlim(2 * z, labels, 0.2), "losses.unit"),
    ):
        with pytest.raises(NearfarError, match=words):
            call()
