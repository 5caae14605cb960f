"""An encoder made ready to be traced."""

from __future__ import annotations

import copy

from ..models import Encoder
from ..training.run import Run


def for_one_size(run: Run) -> Encoder:
    """Copy the encoder onto the CPU, in eval mode, for images of its one side.

    timm's transformers are built for images of any side. Traced so, they resize their position embeddings in
    every call, which other runtimes cannot do.

    Args:
        run: a finished run.

    Returns:
        (n, 3, side, side) floats in [0, 1] to (n, d).
    """
    encoder = copy.deepcopy(run.encoder).cpu().eval()
    for part in encoder.modules():
        if getattr(part, "dynamic_img_size", False):
            part.dynamic_img_size = False  # type: ignore[assignment]
            patches = getattr(part, "patch_embed", None)
            if patches is not None:
                patches.strict_img_size, patches.flatten, patches.output_fmt = True, True, None
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)
    return encoder
