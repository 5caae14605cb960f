"""The contrastive losses themselves: each adds its positives to the log-sums of the core."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import collectives, distributed
from ..core.errors import NearfarError
from . import tiled
from .logsumexp import cross_log_sums, log_sums


def unit(z: Tensor) -> Tensor:
    """Scale rows to length 1, in float32 at least, so that a low-precision network keeps an exact loss.

    Args:
        z: (n, d) floating point.

    Returns:
        (n, d) float32, or float64 where `z` is.
    """
    return F.normalize(z if z.dtype == torch.float64 else z.float(), dim=1)


def _rows(**given: Tensor) -> list[Tensor]:
    """Take rows as float32 or float64, all alike, and refuse what is not rows of length 1."""
    exact = any(z.dtype == torch.float64 for z in given.values())
    width = {z.shape[1] for z in given.values() if z.dim() == 2}
    if len(width) != 1 or any(z.dim() != 2 or not len(z) for z in given.values()):
        shapes = ", ".join(f"{name} {tuple(z.shape)}" for name, z in given.items())
        raise NearfarError(f"the shapes {shapes} do not fit; give rows (n, d) of one width d.")
    for name, z in given.items():
        # Elsewhere than on a CPU a look at the values would make the device wait. NaN passes, and shows.
        if z.device.type == "cpu" and bool((z.detach().float().norm(dim=1) - 1).abs().max() > 0.02):
            raise NearfarError(f"the rows of {name} are not of length 1; pass nearfar.losses.unit({name}).")
    return [z if z.dtype == torch.float64 else z.double() if exact else z.float() for z in given.values()]


def paired(z_i: Tensor, z_j: Tensor, names: tuple[str, str]) -> list[Tensor]:
    """Take two sets of rows that belong together, as `_rows` takes them; `names` is for errors."""
    _check_alike(z_i, z_j, names)
    return _rows(**{names[0]: z_i, names[1]: z_j})


def _check_alike(z_i: Tensor, z_j: Tensor, names: tuple[str, str]) -> None:
    if z_i.shape != z_j.shape:
        raise NearfarError(
            f"{names[0]} is {tuple(z_i.shape)} and {names[1]} {tuple(z_j.shape)}; give the same shape."
        )
    if z_i.dim() != 2 or not len(z_i):
        raise NearfarError(f"{names[0]} and {names[1]} are {tuple(z_i.shape)}; give rows (n, d).")


def scale_of(scale: float | Tensor, z: Tensor, inverse: bool) -> tuple[Tensor, bool]:
    """Bring 1 / tau, or a scale itself, to z's type and device; tell whether it may be a wide one."""
    what = "temperature" if inverse else "scale"
    known = scale.item() if isinstance(scale, Tensor) and scale.device.type == "cpu" else scale
    if not isinstance(known, Tensor) and not known > 0:
        raise NearfarError(f"{what} is {known}; it must be above 0.")
    # A value that only the device knows is not waited for.
    wide = isinstance(known, Tensor) or (1 / known if inverse else known) > tiled.WIDEST
    if not isinstance(scale, Tensor):
        return z.new_full((), 1 / scale if inverse else scale), wide
    if inverse:
        scale = 1.0 / (scale.double() if scale.device.type != "mps" else scale.float())
    return scale.to(z.device, z.dtype), wide


def nt_xent(z_i: Tensor, z_j: Tensor, tau: float | Tensor) -> Tensor:
    """The normalised temperature-scaled cross-entropy: tell each view's partner from all other views.

    With the 2N views z_1 ... z_2N of N images, of which i and j are a pair,

        l(i, j) = -log( exp(z_i . z_j / tau) / sum over k != i of exp(z_i . z_k / tau) )

    and the loss is the mean of l over all 2N ordered pairs. (The authors' code returns twice that.)

    Args:
        z_i: (n, d) rows of length 1, the first view of each image, any floating type.
        z_j: (n, d) the second view, row for row; as many rows on every process.
        tau: temperature above 0; a tensor of no dimensions may ask for its gradient.

    Returns:
        A scalar, float32 or float64, at least 0: the mean over this process's own views.

    Raises:
        NearfarError: the rows do not pair or are not of length 1, or tau is not above 0.

    Source:
        Chen et al. 2020, "A simple framework for contrastive learning", equation 1.
    """
    return _pairs_loss(z_i, z_j, tau, partners=False)


def dcl(z_i: Tensor, z_j: Tensor, tau: float | Tensor) -> Tensor:
    """The decoupled contrastive loss: NT-Xent whose denominator leaves the positive out.

        l(i, j) = -z_i . z_j / tau + log( sum over k other than i and j of exp(z_i . z_k / tau) )

    A pair that is near already still pulls as hard, which helps small batches.

    Args:
        z_i: (n, d) rows of length 1, the first view of each of at least two images.
        z_j: (n, d) the second view, row for row; as many rows on every process.
        tau: temperature above 0; a tensor of no dimensions may ask for its gradient.

    Returns:
        A scalar, float32 or float64, which may be below 0: the mean over this process's own views.

    Raises:
        NearfarError: there is one image only, the rows do not pair or are not of length 1, or tau is
            not above 0.

    Source:
        Yeh et al. 2022, "Decoupled contrastive learning", equation 6.
    """
    if len(z_i) * distributed.world() < 2:
        raise NearfarError("dcl needs at least two images, since a single image has no negatives.")
    return _pairs_loss(z_i, z_j, tau, partners=True)


def _pairs_loss(z_i: Tensor, z_j: Tensor, tau: float | Tensor, partners: bool) -> Tensor:
    z_i, z_j = paired(z_i, z_j, ("z_i", "z_j"))
    scale, wide = scale_of(tau, z_i, inverse=True)
    sums = log_sums(torch.cat([z_i, z_j]), scale, wide, partners)
    return sums.mean() - scale * (z_i * z_j).sum(1).mean()


def supcon(z: Tensor, labels: Tensor, tau: float | Tensor) -> Tensor:
    """The supervised contrastive loss, L_out: rows of one label attract each other, all others repel.

    With P(i) the other rows that bear i's label,

        l(i, p) = -log( exp(z_i . z_p / tau) / sum over k != i of exp(z_i . z_k / tau) )

    l(i) is its mean over P(i), and the loss the mean of l(i) over the rows that have any such other. Where
    each label marks the two views of one image, this is NT-Xent.

    Args:
        z: (n, d) rows of length 1, any number of views; as many rows on every process.
        labels: (n,) integers, each row's own; for V views stacked, `labels.repeat(V)`.
        tau: temperature above 0; a tensor of no dimensions may ask for its gradient.

    Returns:
        A scalar, float32 or float64; 0 where no row has another of its label. Over several processes
        these average to the loss of all rows.

    Raises:
        NearfarError: there is not one label a row, the rows are not of length 1, or tau is not above 0.

    Source:
        Khosla et al. 2020, "Supervised contrastive learning", equation 2.
    """
    (z,) = _rows(z=z)
    if labels.shape != z.shape[:1]:
        raise NearfarError(f"z has {len(z)} rows and labels {tuple(labels.shape)}; give one label per row.")
    scale, wide = scale_of(tau, z, inverse=True)
    if len(z) * distributed.world() == 1:
        return 0 * z.sum()  # one row meets no other, and the logarithm of no sum has no gradient
    sums = log_sums(z, scale, wide)
    classes, count = _dense(labels.to(z.device))  # (n,), (C,)
    totals = collectives.total(z.new_zeros(len(count), z.shape[1]).index_add(0, classes, z))  # (C, d)
    others = (count[classes] - 1).to(z.dtype)
    positive = (z * (totals[classes] - z)).sum(1) / others.clamp(min=1)
    each = torch.where(others > 0, sums - scale * positive, 0.0)
    anchors = (count * (count > 1)).sum()
    return each.sum() * distributed.world() / anchors.clamp(min=1)


def _dense(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Number the classes from 0, without waiting for the device: the own rows', and how many bear each."""
    everyone = collectives.gather(labels, grad=False)
    ordered, order = everyone.sort()
    new = torch.cat([ordered.new_zeros(1), (ordered[1:] != ordered[:-1]).to(ordered.dtype)])
    numbers = torch.empty_like(order).scatter_(0, order, new.cumsum(0).long())
    count = torch.zeros_like(order).scatter_add_(0, numbers, torch.ones_like(numbers))
    start = distributed.rank() * len(labels)
    return numbers[start : start + len(labels)], count


def info_nce(
    q: Tensor,
    k: Tensor,
    queue: Tensor | None,
    tau: float | Tensor,
    hard: Tensor | None = None,
    names: Tensor | None = None,
) -> Tensor:
    """InfoNCE in one direction: tell each query's own key from other keys.

        l(i) = -log( exp(q_i . k_i / tau) / sum over k' of exp(q_i . k' / tau) )

    where k' runs over k_i and the queue, or, without a queue, over the keys of all processes and their hard
    negatives.

    Args:
        q: (n, d) rows of length 1, the queries; as many on every process.
        k: (n, d) each query's own key, row for row.
        queue: (m, d) rows of length 1, the negatives; they get no gradient. None: the other keys.
        tau: temperature above 0; a tensor of no dimensions may ask for its gradient.
        hard: (n, d) rows of length 1, without a queue: further negatives of every query; None for none.
        names: (n,) integers, without a queue; keys of the same one are no negatives of each other's queries.
            None: all differ.

    Returns:
        A scalar, float32 or float64, at least 0: the mean over this process's own queries.

    Raises:
        NearfarError: the rows do not pair or are not of length 1, or tau is not above 0.

    Source:
        van den Oord et al. 2018, "Representation learning with contrastive predictive coding", equation
        4; with a queue He et al. 2020, "Momentum contrast", equation 1; without, Chen, Xie and He 2021,
        "An empirical study of training self-supervised vision transformers", equation 1, and SimCSE's.
    """
    q, k = paired(q, k, ("q", "k"))
    scale, wide = scale_of(tau, q, inverse=True)
    positive = scale * (q * k).sum(1)
    if queue is None:
        called = None if names is None or all_differ(names) else names
        sums, _ = cross_log_sums(q, k, scale, wide, names=called)
        if hard is not None:
            _, hard = paired(q, hard, ("q", "hard"))
            sums = torch.logaddexp(sums, cross_log_sums(q, hard, scale, wide)[0])
    else:
        _, queue = _rows(q=q, queue=queue.detach())
        negative, _ = cross_log_sums(q, queue, scale, wide, shared=False)
        sums = torch.logaddexp(positive, negative)
    return (sums - positive).mean()


def clip(z_image: Tensor, z_text: Tensor, scale: float | Tensor, captions: Tensor | None = None) -> Tensor:
    """CLIP's loss: each image must find its text among all texts, and each text its image.

        l = -1/2 mean over i of ( log softmax_k(scale x_i . y_k)[i] + log softmax_k(scale x_k . y_i)[i] )

    Args:
        z_image: (n, d) rows x of length 1; as many on every process.
        z_text: (n, d) rows y of length 1, row for row.
        scale: above 0, what the similarities are multiplied by (CLIP's exp(t), 1 / tau); a tensor of no
            dimensions may ask for its gradient.
        captions: (n,) integers; pairs with the same one are no negatives of each other. None: all differ.

    Returns:
        A scalar, float32 or float64, at least 0: the mean over this process's own pairs.

    Raises:
        NearfarError: the rows do not pair or are not of length 1, or scale is not above 0.

    Source:
        Radford et al. 2021, "Learning transferable visual models from natural language supervision",
        figure 3.
    """
    z_image, z_text = paired(z_image, z_text, ("z_image", "z_text"))
    scale, wide = scale_of(scale, z_image, inverse=False)
    names = None if captions is None or all_differ(captions) else captions
    images, texts = cross_log_sums(z_image, z_text, scale, wide, both=True, names=names)
    return (images.mean() + texts.mean()) / 2 - scale * (z_image * z_text).sum(1).mean()


def all_differ(captions: Tensor) -> bool:
    """Tell whether no two pairs, over all processes, have the same number; every process gets one answer.

    Args:
        captions: (n,) integers.
    """
    everyone = collectives.gather(captions, grad=False)
    return len(everyone.unique()) == len(everyone)


@torch.no_grad()
def contrastive_accuracy(z_i: Tensor, z_j: Tensor) -> Tensor:
    """Share of views, over all processes, whose most similar other view is their partner.

    Every process must call it at the same time.

    Args:
        z_i: (n, d) rows of length 1, the first view of each image.
        z_j: (n, d) the second view, row for row.

    Returns:
        A scalar float32 in [0, 1].
    """
    _check_alike(z_i, z_j, ("z_i", "z_j"))
    with torch.autocast(z_i.device.type, enabled=False):
        z = torch.cat([z_i, z_j]).float()
        everyone = collectives.gather(z, grad=False)
        start, tile = distributed.rank() * len(z), tiled.side(z)
        partner = torch.arange(len(z), device=z.device).roll(len(z) // 2) + start
        hits = z.new_zeros(())
        for top in range(0, len(z), tile):
            best = z.new_full((len(z[top : top + tile]),), -torch.inf)
            which = partner.new_zeros(best.shape)
            for left in range(0, len(everyone), tile):
                similarity = z[top : top + tile] @ everyone[left : left + tile].T
                similarity.diagonal(start + top - left).fill_(-torch.inf)
                top_value, column = similarity.max(1)
                better = top_value > best
                best, which = torch.where(better, top_value, best), torch.where(better, column + left, which)
            hits += (which == partner[top : top + tile]).sum()
        return collectives.total(hits) / len(everyone)


@torch.no_grad()
def key_accuracy(q: Tensor, k: Tensor, names: Tensor | None = None) -> Tensor:
    """Share of queries, over all processes, whose most similar key is their own.

    Where keys come from an EMA copy, queries resemble each other more than any key; they are left out here.
    Every process must call it at the same time.

    Args:
        q: (n, d) rows of length 1, the queries.
        k: (n, d) each query's own key, row for row.
        names: (n,) integers; of pairs with the same one, each meets only its own. None: all meet.

    Returns:
        A scalar float32 in [0, 1].
    """
    _check_alike(q, k, ("q", "k"))
    with torch.autocast(q.device.type, enabled=False):
        everyone = collectives.gather(k.float(), grad=False)
        own = torch.arange(len(q), device=q.device) + distributed.rank() * len(q)
        called = None if names is None else collectives.gather(names, grad=False)
        found = []
        for part, mine in zip(q.float().split(tiled.side(q)), own.split(tiled.side(q)), strict=True):
            similarity = part @ everyone.T
            if called is not None:
                equal = called[mine][:, None] == called
                equal.scatter_(1, mine[:, None], False)
                similarity = similarity.masked_fill(equal, -torch.inf)
            found.append(similarity.argmax(1))
        best = torch.cat(found)
        return collectives.total((best == own).float().sum()) / len(everyone)
