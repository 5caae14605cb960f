"""An encoder as a folder that timm opens, and transformers by timm.

Only networks of timm's can be written so: the folder names one and holds its weights, not its code. Among
them are torchvision's ResNets, which timm has by the same names, with the same weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

from ..core.errors import NearfarError
from ..images.views import Preprocess
from ..models import Encoder, combined, image_tower
from ..models.input_config import share
from ..models.libraries import find
from ..training.run import Run
from .origin import licence_tags

if TYPE_CHECKING:
    from .timm_classifier import LastLayer

NOTE, WEIGHTS = "config.json", "model.safetensors"


def architecture(encoder: Encoder) -> str | None:
    """Give timm's name of an encoder's network; None where timm has no such network.

    Args:
        encoder: any of images.
    """
    if encoder.stem == "small" or encoder.name in (image_tower.NAME, combined.NAME):
        return None
    library, name = find(encoder.name)
    if library == "torchvision":
        import torchvision.models.resnet as resnet

        return name if isinstance(encoder.net, resnet.ResNet) else None
    return name if library == "timm" else None


def needs(run: Run) -> None:
    """Make sure that the network is timm's.

    Raises:
        NearfarError: it is another library's, or its stem is ours.
    """
    encoder = run.encoder
    if encoder.projection is not None:
        raise NearfarError(
            f"{run.name} projects its vectors to compare them with texts, which timm's networks do not; use "
            "--to onnx or --to torch."
        )
    if architecture(encoder) is not None:
        return
    if encoder.stem == "small":
        raise NearfarError(
            f"{run.name} has a first layer made for small images, which timm's {encoder.name} has not; "
            "use --to onnx or --to torch, or train with --stem standard."
        )
    if encoder.name == combined.NAME:
        raise NearfarError(f"{run.name} consists of several networks; use --to onnx or --to torch.")
    raise NearfarError(
        f"{encoder.name} is no network of timm's, which has only its own; use --to transformers, --to onnx "
        "or --to torch, or train one of timm's with --encoder timm:NAME."
    )


def resized_once(plan: Preprocess) -> bool:
    """Tell whether the centre of a reduced picture has the side of the network's input already.

    Args:
        plan: how pictures are prepared.
    """
    return round(plan.decode_side * plan.crop) == plan.size


def write(run: Run, folder: Path, layer: LastLayer | None = None) -> None:
    """Write config.json and model.safetensors into a folder.

    Args:
        run: what is exported.
        folder: where.
        layer: the last one of a classifier; without it the network gives vectors.
    """
    import timm

    encoder, plan, name = run.encoder, run.preprocess, str(architecture(run.encoder))
    args: dict[str, Any] = dict(encoder.args)
    for options in ({"img_size": plan.size}, {}):  # transformers are built for one side
        try:
            timm.create_model(name, pretrained=False, num_classes=0, **args, **options)
        except TypeError:
            continue
        args |= options
        break
    net: Any = encoder.net
    parts = getattr(net, "pretrained_cfg", {"first_conv": "conv1", "classifier": "fc"})  # torchvision's names
    classes = 0 if layer is None else len(layer.classes)
    made: dict[str, Any] = {
        "architecture": name.split(".")[0],
        "num_classes": classes,
        "num_features": encoder.dim,
        "global_pool": str(args.pop("global_pool", getattr(net, "global_pool", "") or "avg")),
        "model_args": args,
        "pretrained_cfg": {
            "tag": "nearfar",
            "input_size": [3, plan.size, plan.size],
            "fixed_input_size": "img_size" in args,
            "interpolation": plan.reduction if resized_once(plan) else plan.interpolation,
            "crop_pct": share(plan.size, plan.decode_side) if resized_once(plan) else plan.crop,
            "crop_mode": plan.fit,
            "mean": list(encoder.mean),
            "std": list(encoder.std),
            "num_classes": classes,
            "license": licence_tags(run)["license"],
            "first_conv": parts.get("first_conv"),
            "classifier": parts.get("classifier"),
        },
    }
    held = weights(net)
    if layer is not None:
        made["label_names"] = list(layer.classes)
        held |= layer.named(net)
    (folder / NOTE).write_text(json.dumps(made, indent=1), encoding="utf-8")
    save_file(held, folder / WEIGHTS, metadata={"format": "pt"})


def weights(net: nn.Module) -> dict[str, torch.Tensor]:
    """Give a network's weights as a file takes them.

    Args:
        net: without its classifier.
    """
    return {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items()}


def run(opened: Run, folder: Path, x: torch.Tensor) -> torch.Tensor:
    """Encode (n, 3, side, side) with what timm opens, normalised as its own configuration says."""
    import timm

    net = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(net)
    mean, std = (torch.tensor(config[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        found: torch.Tensor = net((x - mean) / std)
    return found
