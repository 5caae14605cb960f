"""Large batches on small memory: the gradient of the full-batch loss, computed a chunk at a time.

Two passes (Gao, Zhang, Han and Callan 2021, "Scaling Deep Contrastive Learning Batch Size under Memory
Limited Setup"): embed every chunk without a graph; take the loss and its gradient at the embeddings;
embed every chunk again, and send its part of that gradient back. Equal to the direct gradient for an
encoder without batch norm; with batch norm, each chunk is normalised by its own statistics.
"""

from __future__ import annotations

import torch

from ..core.errors import NearfarError
from ..methods.base import Batch, Method, Terms


def split(batch: Batch, chunk: int) -> list[Batch]:
    """Cut a batch into chunks of at most `chunk` images.

    Args:
        batch: of any size.
        chunk: images a piece.

    Returns:
        Batches whose views, rows and labels are slices of the whole one's.
    """
    pieces = []
    for start in range(0, len(batch.rows), chunk):
        part = slice(start, start + chunk)
        labels = None if batch.labels is None else batch.labels[part]
        pieces.append(Batch([view[part] for view in batch.views], batch.rows[part], labels))
    return pieces


def backward(method: Method, batch: Batch, chunk: int, cast: torch.autocast) -> Terms:
    """Leave the gradient of the whole batch's loss in the parameters, with a chunk in memory at a time.

    Args:
        method: one that has `embed` and `loss`.
        batch: this process's share of the batch.
        chunk: images in memory at a time.
        cast: the precision to embed in.

    Returns:
        The loss's terms, detached.

    Raises:
        NearfarError: the method cannot be cut into an embedding and a loss.
    """
    pieces = split(batch, chunk)
    buffers = {name: buffer.clone() for name, buffer in method.named_buffers()}
    try:
        with torch.no_grad(), cast:
            embedded = [method.embed(piece) for piece in pieces]
    except NotImplementedError:
        name = type(method).__name__
        raise NearfarError(
            f"{name} cannot work in chunks; leave --micro-batch out, or choose --method simclr."
        ) from None
    # The second pass updates running statistics again: start it from where the first one started.
    for name, buffer in method.named_buffers():
        buffer.copy_(buffers[name])

    whole = [torch.cat(parts).detach() for parts in zip(*embedded, strict=True)]
    learnt = [place for place, z in enumerate(whole) if z.is_floating_point()]  # the rest are labels
    terms = method.loss(*(z.requires_grad_(place in learnt) for place, z in enumerate(whole)))
    loss = torch.stack(list(terms.values())).sum()
    # None where the loss stops the gradient.
    grads = torch.autograd.grad(loss, [whole[place] for place in learnt], allow_unused=True)

    start = 0
    for piece in pieces:
        with cast:
            outputs = method.embed(piece)
        stop = start + len(piece.rows)
        pulls = {
            outputs[place]: grad[start:stop].to(outputs[place].dtype)
            for place, grad in zip(learnt, grads, strict=True)
            if grad is not None and outputs[place].requires_grad
        }
        torch.autograd.backward(list(pulls), list(pulls.values()))
        start = stop
    return {name: term.detach() for name, term in terms.items()}
