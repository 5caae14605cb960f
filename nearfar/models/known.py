"""Known encoders: networks that others have trained, by name, each with what belongs to its weights.

Mean, deviation, interpolation, crop and side come with the weights, and are part of the encoder from then on.

    known                       EfficientNet-Lite0 with ImageNet weights, from the extra nearfar[known]
    timm:NAME                   timm's weights of that name, fetched
    torchvision:NAME            torchvision's default weights, fetched
    hf:ORG/NAME                 a repository of the Hugging Face hub, fetched
    NAME=FILE.safetensors       a network of timm or torchvision, with weights from a file
    a folder                    that timm, transformers or sentence-transformers wrote; for texts, a BERT; for
                                images and words, a CLIP or SigLIP, also of open_clip

`@SIDE` after a name or a folder gives the network images of another side: timm:vit_small_patch14_dinov2@224.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import NearfarError
from ..images.views import Preprocess
from ..text.view_settings import TextPreprocess
from . import Encoder, embedded, encoder, folders, libraries, weights
from .input_config import InputConfig, remark

_NAME = re.compile(
    r"(?P<name>(?:timm|torchvision|hf):[^@=]+|known|[\w.]+(?=[@\d]*=))"
    r"(?:@(?P<side>\d+))?(?:=(?P<file>.+\.(?:safetensors|pth|pt|bin|ckpt|pkl|tar)))?"
)


@dataclass(frozen=True)
class Known:
    """A known encoder.

    Attributes:
        encoder: the network with its weights, on the CPU.
        preprocess: how an image, or a text, becomes its input, as its makers do it.
        licence: of the weights, as their makers name it; "" where that is not known.
    """

    encoder: Encoder
    preprocess: Preprocess | TextPreprocess
    licence: str
    text: Known | None = None  # the encoder of texts whose vectors are compared with this one's
    scale: Mapping[str, float] = field(default_factory=dict)  # what cosines are multiplied by, and a bias


def is_name(text: str) -> bool:
    """Tell whether a text names a known encoder; a folder is asked for by `folders.is_model`.

    Args:
        text: what a user typed.
    """
    return _NAME.fullmatch(text) is not None


def open_name(text: str) -> Known:
    """Open a known encoder by its name; nothing is fetched but what is named.

    Args:
        text: as the head of this file lists them.

    Returns:
        The encoder.

    Raises:
        NearfarError: the name is unknown, a file is missing or a pickle, or the weights cannot be had.
    """
    found = _NAME.fullmatch(text)
    if found is None:
        raise NearfarError(f"{text!r} names no known encoder; write known, timm:NAME or torchvision:NAME.")
    name, file = found["name"], found["file"]
    side = int(found["side"]) if found["side"] else None
    _check_side(text, side)
    if name == "known":
        if file:
            raise NearfarError(f"{text!r}: known has weights of its own; give NAME={file} of their network.")
        return _of_library(embedded.NAME, str(embedded.weights()), embedded.CONFIG, side)
    if name.startswith("hf:"):
        return open_folder(folders.fetch(name.removeprefix("hf:")), side)
    library, plain = libraries.find(name)
    if library == "nearfar":
        raise NearfarError(f"{name!r} is a network of nearfar, of which there are no pretrained weights.")
    if file is None:
        return _of_library(name, "pretrained", libraries.input_config(library, plain), side)
    if Path(file).suffix != ".safetensors":
        raise NearfarError(weights.refusal(Path(file)))
    # `encoder` finds mean and deviation, since those that an `Encoder` wrote into the file count first.
    return _of_library(name, file, weights.input_of(Path(file), library, plain), side, figures=False)


def open_folder(folder: Path, side: int | None = None) -> Known:
    """Open a folder that timm, transformers or sentence-transformers wrote.

    Args:
        folder: it holds config.json and model.safetensors, or leads to them.
        side: of the images in pixels, where it is to be another than the makers'.

    Returns:
        The encoder.

    Raises:
        NearfarError: it holds none, or its weights are a pickle.
    """
    from ..text import bert, two_towers

    _check_side(f"{folder}@{side}", side)
    inner = folders.inner(folder)
    if two_towers.is_two_towers(inner):
        return _of_two_towers(inner, folder, side)
    if bert.is_bert(inner):
        if side is not None:
            raise NearfarError(f"{folder} takes texts, which have no side; leave @{side} out.")
        net, how = bert.open_folder(inner, folder)
        return Known(net, how, folders.licence(folder))
    found = folders.read(folder)
    return _of_library(found.name, str(found.weights), found.config, side, found.args)


def _check_side(text: str, side: int | None) -> None:
    if side is not None and not 8 <= side <= 1024:
        raise NearfarError(f"{text!r} asks for images of {side} px; give 8 to 1024.")


def _of_two_towers(folder: Path, whole: Path, side: int | None) -> Known:
    """Open both towers of a folder of CLIP or SigLIP."""
    from ..text import two_towers

    found = two_towers.open_folder(folder)
    if side not in (None, found.size):
        raise NearfarError(f"{folder} takes images of {found.size} px; leave @{side} out.")
    _say_fit(found.fit, str(folder))
    way, own = found.interpolation, folders.licence(whole)
    how = Preprocess(found.size, 1.0, way, found.size, reduction=way, fit=followed(found.fit))
    return Known(found.image, how, own, Known(found.text, found.words, own), found.scale)


def _of_library(
    name: str,
    file: str,
    config: InputConfig,
    side: int | None,
    args: Mapping[str, Any] | None = None,
    figures: bool = True,
) -> Known:
    """Build the network, give it its weights, and say how its images are prepared.

    With `figures` mean and deviation are the config's; else `encoder` finds them by the file.
    """
    size = side or config.size
    mean, std = (config.mean, config.std) if figures else (None, None)
    net = encoder(name, stem="standard", size=size, weights=file, mean=mean, std=std, args=args).eval()
    cut: Any = getattr(net.net, "patch_embed", None)
    patch = getattr(cut, "patch_size", (1,))[0]
    if side is not None and side % patch and not getattr(cut, "dynamic_img_pad", False):
        near = max(patch, side // patch * patch)
        raise NearfarError(
            f"{name} cuts images into patches of {patch} px; write @{near} in place of @{side}."
        )
    _say_fit(config.fit, name if file == "pretrained" else file)
    return Known(net, preprocess(config, size), config.licence)


def _say_fit(fit: str, what: str) -> None:
    """Say where the makers of weights prepare an image that is not square in another way."""
    if followed(fit) != fit:
        whole = "pad it to a square" if fit == "border" else f"use {fit!r}"
        remark(f"{what}: of an image that is not square nearfar takes the centre, where its makers {whole}")


def followed(fit: str) -> str:
    """Say what nearfar makes of an image that is not square, where the makers of weights do as `fit` says."""
    return fit if fit == "squash" else "center"


def preprocess(config: InputConfig, size: int) -> Preprocess:
    """Say how an image is prepared: reduced to a short side of which the centred square is `size` px.

    Args:
        config: what the weights want.
        size: side of the input in pixels.

    Returns:
        The settings. The square then needs no second resizing.
    """
    short = max(size, int(size / config.crop))
    way = config.interpolation
    return Preprocess(size, size / short, way, short, reduction=way, fit=followed(config.fit))
