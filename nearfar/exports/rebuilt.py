"""An encoder made ready to be traced."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def for_one_size(network: Network) -> Network:
    """Copy a network onto the CPU, in eval mode, for images of its encoder's one side.

    timm's transformers are built for images of any side. Traced so, they resize their position embeddings in
    every call, which other runtimes cannot do.

    Args:
        network: an encoder, or one with a head on its vectors.

    Returns:
        The copy, whose weights need no gradient.
    """
    made = copy.deepcopy(network).cpu().eval()
    for part in made.modules():
        if getattr(part, "dynamic_img_size", False):
            part.dynamic_img_size = False  # type: ignore[assignment]
            patches = getattr(part, "patch_embed", None)
            if patches is not None:
                patches.strict_img_size, patches.flatten, patches.output_fmt = True, True, None
    for parameter in made.parameters():
        parameter.requires_grad_(False)
    return made
