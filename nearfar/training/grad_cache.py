"""Large batches in little memory: the gradient of the full-batch loss, computed one chunk at a time.

Two passes (Gao, Zhang, Han and Callan 2021, "Scaling Deep Contrastive Learning Batch Size under Memory
Limited Setup"): embed every chunk without a graph; take the loss and its gradient at the embeddings;
embed every chunk again, and send its part of that gradient back. Equal to the direct gradient for an
encoder without batch norm; with batch norm, each chunk is normalised by its own statistics.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import NearfarError
from ..data.batch import Batch, leaves, tree_map
from ..methods.base import Loss, Method
from .draws import named_draws


def backward(method: Method, batch: Batch, chunk: int, cast: torch.autocast) -> Loss:
    """Leave the gradient of the whole batch's loss in the parameters, with a chunk in memory at a time.

    Args:
        method: one that has `embed` and `loss`.
        batch: this process's share of the batch.
        chunk: images in memory at a time.
        cast: the precision to embed in.

    Returns:
        The loss's terms and what is watched, detached.

    Raises:
        NearfarError: the method cannot be cut into an embedding and a loss.
    """
    device = next(method.parameters()).device
    slices = [slice(start, start + chunk) for start in range(0, len(batch), chunk)]

    def embed(part: slice) -> tuple[object, ...]:
        # By name, so that the second pass draws what the first one drew.
        with named_draws(batch.key, "embed", part.start, device=device), cast:
            return method.embed(batch.part(part))

    buffers = {name: buffer.clone() for name, buffer in method.named_buffers()}
    try:
        with torch.no_grad():
            embedded = [embed(part) for part in slices]
    except NotImplementedError:
        name = type(method).__name__
        raise NearfarError(
            f"{name} cannot work in chunks; leave --micro-batch out, or choose --method simclr."
        ) from None
    # The second pass updates running statistics again: start it from where the first one started.
    for name, buffer in method.named_buffers():
        buffer.copy_(buffers[name])

    whole = [torch.cat(parts).detach() for parts in zip(*map(leaves, embedded), strict=True)]
    learnt = [place for place, z in enumerate(whole) if z.is_floating_point()]  # the rest are labels
    for place in learnt:
        whole[place].requires_grad_()
    tensors = iter(whole)
    with named_draws(batch.key, "loss", device=device):
        found = method.loss(*tree_map(lambda _: next(tensors), embedded[0]))
    # None where the loss stops the gradient.
    grads = torch.autograd.grad(found.total, [whole[place] for place in learnt], allow_unused=True)

    for part in slices:
        outputs: list[Tensor] = list(leaves(embed(part)))
        pulls = {
            outputs[place]: grad[part].to(outputs[place].dtype)
            for place, grad in zip(learnt, grads, strict=True)
            if grad is not None and outputs[place].requires_grad
        }
        torch.autograd.backward(list(pulls), list(pulls.values()))
    return Loss(*({name: x.detach() for name, x in some.items()} for some in found))
