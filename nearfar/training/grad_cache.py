"""The gradient of the whole batch's loss, found a part of the batch at a time.

The loss and its gradient at the embeddings are taken of all rows; each part of the batch then gets its share
of that gradient and sends it back through the network. Parts are computed at the same time, by the threads of
`Replicas`, or one after the other in little memory. The second way takes two passes (Gao, Zhang, Han and
Callan 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"): every part is
embedded without a graph, and again for the gradient. Both are equal to the direct gradient for an encoder
without batch norm; with batch norm, each part is normalised by its own statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ..core import distributed
from ..core.errors import NearfarError
from ..data.batch import Batch, leaves, tree_map
from ..methods.base import Loss
from .draws import ThreadDraws, named_draws
from .replicas import Replicas, average, own_buffers

Embedded = tuple[object, ...]


def backward(
    replicas: Replicas,
    batch: Batch,
    chunk: int | None,
    cast: Callable[[], AbstractContextManager[object]],
) -> Loss:
    """Leave the gradient of the whole batch's loss in the method's parameters.

    Args:
        replicas: of a method that has `embed` and `loss`.
        batch: this process's share of the batch.
        chunk: images in memory at a time, of all replicas together; None for all.
        cast: gives the precision to embed in, a new context for each thread.

    Returns:
        The loss's terms and what is watched, detached.

    Raises:
        NearfarError: the method cannot be cut into an embedding and a loss.
    """
    method = replicas.method
    device = next(method.parameters()).device
    own = max(1, (chunk or len(batch)) // replicas.count)
    parts = [[share] if chunk is None else pieces(share, own) for share in replicas.shares(len(batch))]
    once = all(len(some) == 1 for some in parts)  # all is in memory, so the graphs can wait for the gradient
    rank = distributed.rank() * replicas.count

    def embed(number: int, part: slice) -> Embedded:
        # By name, so that a second pass draws what the first one drew.
        names = () if chunk is None else ("embed", part.start - parts[number][0].start)
        drawn: AbstractContextManager[object]
        if replicas.count == 1:
            drawn = named_draws(batch.key, *names, device=device)
        else:
            drawn = ThreadDraws(batch.key, rank + number, *names)
        with drawn, cast():
            return replicas.modules[number].embed(batch.part(part))

    def first(number: int) -> list[Embedded]:
        with torch.set_grad_enabled(once):
            return [embed(number, part) for part in parts[number]]

    def second(number: int) -> None:
        statistics, after = buffers[number], []
        for part, kept in zip(parts[number], embedded[number], strict=True):
            # Running statistics move once a step, by the mean over the parts; the first pass does not count.
            put(statistics, before[number])
            outputs: list[Tensor] = list(leaves(kept if once else embed(number, part)))
            pulls = {
                outputs[place]: grad[part].to(outputs[place].dtype)
                for place, grad in zip(learnt, grads, strict=True)
                if grad is not None and outputs[place].requires_grad
            }
            torch.autograd.backward(list(pulls), list(pulls.values()))
            after.append([x.clone() for x in statistics])
        put(statistics, after[0])
        average(statistics, *after[1:])

    replicas.begin()
    # Where there is one pass, no statistics have to be put back.
    buffers = [[] if once else list(own_buffers(module)) for module in replicas.modules]
    before = [[x.clone() for x in some] for some in buffers]
    try:
        with local(replicas):
            embedded = replicas.run(first)
    except NotImplementedError:
        name = type(method).__name__
        raise NearfarError(
            f"{name} cannot work in chunks; leave --micro-batch out, or choose --method simclr."
        ) from None
    rows = [leaves(some) for own_parts in embedded for some in own_parts]
    whole = [torch.cat(pieces).detach() for pieces in zip(*rows, strict=True)]
    learnt = [place for place, z in enumerate(whole) if z.is_floating_point()]  # the rest are labels
    for place in learnt:
        whole[place].requires_grad_()
    tensors = iter(whole)
    with named_draws(batch.key, "loss", device=device):
        found = method.loss(*tree_map(lambda _: next(tensors), embedded[0][0]))
    # None where the loss stops the gradient.
    grads = torch.autograd.grad(found.total, [whole[place] for place in learnt], allow_unused=True)
    with local(replicas):
        replicas.run(second)
    replicas.finish()
    return Loss(*({name: x.detach() for name, x in some.items()} for some in found))


def pieces(share: slice, most: int) -> list[slice]:
    """Cut a share of a batch into pieces of about one size, so that batch norm counts over no small rest.

    Args:
        share: start and stop.
        most: images in a piece, at most.

    Returns:
        As few consecutive pieces as can be, whose sizes differ by one image at most.
    """
    images = share.stop - share.start
    count = -(-images // most)
    ends = [share.start + images * number // count for number in range(count + 1)]
    return [slice(start, end) for start, end in zip(ends[:-1], ends[1:], strict=True)]


@torch.no_grad()
def put(buffers: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Give buffers other values."""
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)


def local(replicas: Replicas) -> AbstractContextManager[None]:
    """Let several threads compute without the other processes, which they could not take turns with."""
    return nullcontext() if replicas.count == 1 else distributed.alone()
