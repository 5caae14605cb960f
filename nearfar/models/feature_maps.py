"""Feature maps before pooling, at several strides, and the tokens of a vision transformer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import NearfarError
from .residual import Residual
from .transformer import Transformer

# Of torchvision's networks, the parts that come after the last map, or parallel to it.
_AFTER = ("avgpool", "classifier", "dropout", "fc", "flatten", "head", "heads")
_BESIDE = ("aux1", "aux2", "AuxLogits")


class Tokens(NamedTuple):
    """What a vision transformer makes of its patches.

    Attributes:
        patches: (n, t, d), one token a patch, row by row from the top left; of `keep` those alone.
        prefix: (n, p, d), the tokens that stand for no patch: the class token first, then any registers.
    """

    patches: Tensor
    prefix: Tensor


def maps(net: nn.Module, x: Tensor, name: str) -> list[Tensor]:
    """Compute feature maps.

    Args:
        net: a network without its classifier: ours, torchvision's or timm's.
        x: (n, 3, height, width), normalised as the network expects.
        name: the network's, for the error.

    Returns:
        One map a stride, the last that the network computes at it: (n, c, h, w), finest first.

    Raises:
        NearfarError: the network has no feature maps.
    """
    library = type(net).__module__.partition(".")[0]
    made: list[Tensor] = []
    if isinstance(net, Residual):
        made = list(net.steps(x))
    elif isinstance(net, Transformer):
        rows = x.shape[2] // net.shape.patch
        made = [net.tokens(x).transpose(1, 2).unflatten(2, (rows, -1))]
    elif hasattr(net, "forward_intermediates"):  # timm's
        made = _timm(net, x)[0]
    elif library == "torchvision" and hasattr(net, "class_token"):
        patches = tokens(net, x, name).patches
        side = x.shape[2] // net.patch_size  # type: ignore[operator]
        made = [patches.transpose(1, 2).unflatten(2, (side, -1))]
    elif library == "torchvision":
        made = [y for y in _torchvision(net, x) if y.dim() == 4]
    levels: list[Tensor] = []
    for y in made:
        if levels and round(levels[-1].shape[2] / y.shape[2]) == 1:
            levels.pop()
        levels.append(y)
    if not levels:
        raise NearfarError(
            f"encoder {name!r} has no feature maps; choose a residual or other convolutional network, or a "
            "vision transformer."
        )
    return levels


def strides(levels: list[Tensor], side: int) -> tuple[int, ...]:
    """Tell the strides of feature maps.

    Args:
        levels: from `maps`.
        side: height of the images in pixels.

    Returns:
        Pixels of the image from one place of a map to the next, one number a map.
    """
    steps = [round(a / b) for a, b in itertools.pairwise([side, *(y.shape[2] for y in levels)])]
    return tuple(itertools.accumulate(steps, lambda a, b: a * b))


@torch.no_grad()
def takes_any_shape(encoder: Any) -> bool:
    """Tell whether an encoder gives maps of images that are not square and of another size than its own.

    Args:
        encoder: an `Encoder`; left in the mode that it was in.
    """
    modes, many = [(part, part.training) for part in encoder.modules()], max(encoder.strides)
    encoder.eval()
    try:
        held = next(encoder.parameters())
        return len(encoder.maps(held.new_zeros(1, 3, 2 * many, 3 * many))) > 0
    except Exception:  # each library refuses in its own way
        return False
    finally:
        for part, training in modes:
            part.training = training


def tokens(net: Any, x: Tensor, name: str, keep: Tensor | None = None) -> Tokens:
    """Compute the tokens of a vision transformer, after its last norm.

    Args:
        net: a network without its classifier.
        x: (n, 3, side, side), normalised as the network expects.
        name: the network's, for the error.
        keep: (n, k) int64, the patches of each image that enter the blocks; None for all.

    Returns:
        The tokens.

    Raises:
        NearfarError: the network has no tokens, or cannot leave patches out.

    Source:
        `keep`: He et al. 2022, "Masked autoencoders are scalable vision learners", section 3.
    """
    if isinstance(net, Transformer):
        y = net.tokens(x, keep)
        return Tokens(y, y[:, :0])
    if type(net).__module__.startswith("torchvision.") and hasattr(net, "class_token"):
        y = torch.cat([net.class_token.expand(len(x), -1, -1), net._process_input(x)], 1)
        y = _kept(y + net.encoder.pos_embedding, 1, keep)
        y = net.encoder.ln(net.encoder.layers(net.encoder.dropout(y)))
        return Tokens(y[:, 1:], y[:, :1])
    if _plain_transformer(net):
        count = net.num_prefix_tokens
        y = _kept(net._pos_embed(net.patch_embed(x)), count, keep)
        y = net.norm(net.blocks(net.norm_pre(y)))
        return Tokens(y[:, count:], y[:, :count])
    if hasattr(net, "forward_intermediates"):
        last, y = _timm(net, x)
        if y.dim() == 3 and keep is None:
            count = y.shape[1] - last[-1].shape[2] * last[-1].shape[3]
            return Tokens(y[:, count:], y[:, :count])
        if y.dim() == 3:
            raise NearfarError(
                f"encoder {name!r} cannot drop patches; choose a plain vision transformer, such as "
                "vit_small_patch16_224."
            )
    raise NearfarError(
        f"encoder {name!r} has no tokens; choose a vision transformer, such as vit_small_patch16_224."
    )


def patch_side(net: Any, name: str) -> int:
    """Tell the side of a vision transformer's patches.

    Args:
        net: a network without its classifier.
        name: the network's, for the error.

    Returns:
        Pixels.

    Raises:
        NearfarError: the network has no patches.
    """
    if isinstance(net, Transformer):
        return net.shape.patch
    if hasattr(net, "class_token") and hasattr(net, "patch_size"):
        return int(net.patch_size)
    if _plain_transformer(net):
        return int(net.patch_embed.patch_size[0])
    raise NearfarError(
        f"encoder {name!r} has no patches; choose a vision transformer, such as vit_w192_d6 for small "
        "images or vit_small_patch16_224."
    )


def _kept(y: Tensor, prefix: int, keep: Tensor | None) -> Tensor:
    """Leave out the patches that are not in `keep`; the first `prefix` tokens stay."""
    if keep is None:
        return y
    return torch.cat([y[:, :prefix], y[:, prefix:].take_along_dim(keep[:, :, None], 1)], 1)


def _plain_transformer(net: Any) -> bool:
    """Tell whether this is timm's own vision transformer, whose positions are added before its blocks."""
    if not type(net).__module__.startswith("timm."):
        return False
    from timm.models.vision_transformer import VisionTransformer

    return isinstance(net, VisionTransformer)


def _timm(net: Any, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """Run a timm network: the maps of its stages, the last as the network ends, and that end as it is."""
    end, made = net.forward_intermediates(x)
    height, width = made[-1].shape[2:]
    last = end
    if end.dim() == 3 and end.shape[1] >= height * width:  # tokens, those that stand for no patch first
        last = end[:, end.shape[1] - height * width :].transpose(1, 2).unflatten(2, (height, width))
    elif end.dim() == 4 and end.shape[1:3] == (height, width) != end.shape[2:]:  # channels last
        last = end.permute(0, 3, 1, 2)
    return [*made, last] if last.dim() == 4 else made, end


def _torchvision(net: Any, x: Tensor) -> Iterator[Tensor]:
    """Run a torchvision network step by step up to its pooling, and give what each step makes."""
    channels_last = hasattr(net, "permute")  # swin's stages
    for name, part in net.named_children():
        if name in _AFTER:
            break
        if name in _BESIDE:
            continue
        for step in part if isinstance(part, (nn.Sequential, nn.ModuleList)) else [part]:
            x = step(x)
            yield x.permute(0, 3, 1, 2) if channels_last and name != "permute" else x
    if type(net).__name__ == "DenseNet":  # which ends in a function
        yield F.relu(x)
