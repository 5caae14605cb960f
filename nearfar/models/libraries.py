"""Networks by name from torchvision and timm, without their classifiers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..core.dynamo import import_without_compiler
from ..core.errors import NearfarError, nearest
from .input_config import InputConfig, share
from .residual import SHAPES
from .transformer import TRANSFORMERS


def torchvision_names() -> list[str]:
    """List torchvision's classification networks."""
    import_without_compiler("torchvision")
    import torchvision.models

    return list(torchvision.models.list_models(module=torchvision.models))


def timm_names() -> list[str]:
    """List timm's networks."""
    import_without_compiler("timm")
    import timm

    return list(timm.list_models())


def names() -> list[str]:
    """List every name that `encoder` knows, ours first; imports torchvision and timm, some seconds."""
    return [*SHAPES, *TRANSFORMERS, *sorted({*torchvision_names(), *timm_names()})]


def find(name: str) -> tuple[str, str]:
    """Find which library builds a name, importing no more than needed.

    Args:
        name: as `encoder` takes it.

    Returns:
        "nearfar", "torchvision" or "timm", and the name that it knows.

    Raises:
        NearfarError: none does.
    """
    before, colon, after = name.partition(":")
    library, plain = (before, after) if colon else ("", name)
    if library not in ("", "timm", "torchvision"):
        raise NearfarError(
            f"encoder {name!r}: there is no library {library!r}; write timm:{plain} or torchvision:{plain}."
        )
    if not library and plain in {*SHAPES, *TRANSFORMERS}:
        return "nearfar", plain
    if library != "timm" and plain in torchvision_names():
        return "torchvision", plain
    # timm takes the tag of its weights after a dot: resnet50.a1_in1k
    network = plain.split(".")[0]
    if library != "torchvision" and network in timm_names():
        return "timm", plain
    known = {"": names, "timm": timm_names, "torchvision": torchvision_names}[library]()
    raise NearfarError(f"encoder {name!r} is not known; {nearest(network, known)}")


def input_config(library: str, name: str) -> InputConfig:
    """Look up what a network's pretrained weights want; where it has none, what most ImageNet weights want.

    Args:
        library: "torchvision" or "timm".
        name: the network's there.

    Returns:
        Its library's own figures.
    """
    import_without_compiler(library)
    if library == "timm":
        import timm

        try:
            made = timm.get_pretrained_cfg(name)
        except RuntimeError:  # a tag that the network has no weights of
            network, _, tag = name.partition(".")
            tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{network}.*")]
            told = (
                nearest(tag, tags)
                if tags
                else "there are none of it: write a file, as in NAME=FILE.safetensors."
            )
            raise NearfarError(f"encoder 'timm:{name}': {network} has no weights {tag!r}; {told}") from None
        return InputConfig() if made is None else InputConfig.of_timm(made.to_dict())
    import torchvision.models

    own: Any = torchvision.models.get_model_weights(name).DEFAULT
    if own is None:
        return InputConfig()
    own = own.transforms()
    mean, std = tuple(own.mean), tuple(own.std)
    if name in ("googlenet", "inception_v3"):  # torchvision turns ImageNet's figures into these inside them
        mean = std = (0.5, 0.5, 0.5)
    side, whole = own.crop_size[0], own.resize_size[0]
    return InputConfig(side, share(side, whole), own.interpolation.value, mean, std)


def from_torchvision(name: str, size: int | None, pretrained: bool) -> tuple[nn.Module, int]:
    """Build a torchvision network without the last layer of its classifier, nor the dropout before it.

    Args:
        name: torchvision's.
        size: side of the images, for the networks that are built for one.
        pretrained: whether to fetch torchvision's default weights.

    Returns:
        The network and its features.

    Raises:
        NearfarError: the weights are for another size, or cannot be fetched.
    """
    import_without_compiler("torchvision")
    import torchvision.models

    best: Any = torchvision.models.get_model_weights(name).DEFAULT
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": pretrained, "init_weights": not pretrained}
    if name.startswith(("vit_", "maxvit")):
        native: int = best.meta["min_size"][0]
        if pretrained and size not in (None, native):
            raise NearfarError(
                f"the pretrained weights of {name!r} are for {native} px; add --image-size {native}, "
                "or take one of timm's vit_ networks, which accept any size."
            )
        side = native if pretrained else size
        if side is not None:
            options = {"image_size": side} if name.startswith("vit_") else {"input_size": (side, side)}
    net: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    if pretrained:
        with fetching(name):
            state = torch.hub.load_state_dict_from_url(best.url, map_location="cpu", weights_only=True)
            net.load_state_dict(state)
        for answer in ("aux1", "aux2", "AuxLogits"):  # googlenet and inception answer twice while training
            if hasattr(net, answer):
                setattr(net, answer, None)
                net.aux_logits = False  # type: ignore[assignment]
    else:
        _zero_last_norms(net)
    layers = [
        key
        for key, part in net.named_modules()
        if isinstance(part, nn.Linear) or (name.startswith("squeezenet") and isinstance(part, nn.Conv2d))
    ]
    last: Any = net.get_submodule(layers[-1])
    net.set_submodule(layers[-1], nn.Identity())
    for part in net.get_submodule(layers[-1].split(".")[0]).modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return net, int(last.in_features if isinstance(last, nn.Linear) else last.in_channels)


def _zero_last_norms(net: nn.Module) -> None:
    """Start the last batch norm of each residual block at 0, as timm and our own networks do."""
    import torchvision.models.resnet as resnet

    for part in net.modules():
        if isinstance(part, resnet.Bottleneck):
            nn.init.zeros_(part.bn3.weight)
        elif isinstance(part, resnet.BasicBlock):
            nn.init.zeros_(part.bn2.weight)


def from_timm(
    name: str, size: int | None, pretrained: bool, args: Mapping[str, Any] | None = None
) -> tuple[nn.Module, int]:
    """Build a timm network without its classifier.

    Args:
        name: timm's.
        size: side of the images, for the networks that are built for one.
        pretrained: whether to fetch timm's weights of that name.
        args: what else `timm.create_model` takes, such as `global_pool`.

    Returns:
        The network and its features.

    Raises:
        NearfarError: there are no such weights, or they cannot be fetched.
    """
    import_without_compiler("timm")
    import timm

    if pretrained and not timm.is_model_pretrained(name):
        raise NearfarError(
            f"there are no pretrained weights for {name!r}; leave --weights out or give a .safetensors file."
        )
    with contextlib.ExitStack() as stack:
        if pretrained:
            stack.enter_context(fetching(name))
            stack.enter_context(hub_once())
        make = functools.partial(timm.create_model, name, pretrained=pretrained, num_classes=0, **args or {})
        for options in ({"img_size": size, "dynamic_img_size": True}, {"img_size": size}, {}):
            try:
                net = make(**options)
                break
            except TypeError:  # it is built for no side, or takes images of any side as it is
                continue
    return net, int(getattr(net, "head_hidden_size", net.num_features))


@contextlib.contextmanager
def hub_once() -> Iterator[None]:
    """Ask once if the Hugging Face hub answers; where it does not, take what its cache holds, or nothing.

    Its library would try six times for each file, over half a minute, and tell every try.

    Raises:
        OSError: it does not answer, and its cache lacks what was wanted.
    """
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import LocalEntryNotFoundError

    offline, why = constants.HF_HUB_OFFLINE, ""
    if not offline:
        try:
            get_session().head(constants.ENDPOINT, timeout=10)
        except Exception as error:
            why = f"{constants.ENDPOINT} does not answer: {error}"
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    except LocalEntryNotFoundError:
        if not why:
            raise
        raise OSError(why) from None
    finally:
        constants.HF_HUB_OFFLINE = offline


@contextlib.contextmanager
def fetching(name: str) -> Iterator[None]:
    """Turn whatever a download fails with into a sentence.

    Args:
        name: the network's, for the error.
    """
    try:
        yield
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NearfarError(
            f"the pretrained weights of {name!r} could not be downloaded ({reason}); "
            "check the network, or give a .safetensors file to --weights."
        ) from error
