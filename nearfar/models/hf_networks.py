"""Networks of images in folders that transformers wrote, as the same networks of timm's.

`network` says which of timm's it is, `input_config` what its images are, and `renamed` gives its weights
timm's names. CLIP and SigLIP, which are two networks, are read in `text/two_towers.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import NearfarError
from ..core.shapes import check_shape
from .input_config import FIGURES, InputConfig, numbers, share

Made = tuple[str, dict[str, Any]]  # a name of timm's, and what else it builds the network with

_COUNT = range(1, 1 << 16)
_TRANSFORMER: dict[str, Any] = {
    "hidden_size": _COUNT,
    "num_hidden_layers": range(1, 1 << 10),
    "num_attention_heads": range(1, 1 << 10),
    "patch_size": range(1, 1 << 10),
    "image_size": range(8, 1 << 12),
    "hidden_act": str,
    "qkv_bias": bool,
    "intermediate_size": _COUNT,
    "mlp_ratio": float,
    "use_swiglu_ffn": bool,
    "num_register_tokens": range(1 << 10),
}
_BASE: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 16,
    "image_size": 224,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "intermediate_size": 3072,
    "mlp_ratio": 4.0,
    "use_swiglu_ffn": False,
    "num_register_tokens": 0,
}
"""What transformers leaves out of a config.json, since it is its default."""

_STAGED: dict[str, Any] = {"hidden_sizes": [_COUNT], "depths": [range(1, 1 << 10)], "hidden_act": str}
_TINY: dict[str, Any] = {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3], "hidden_act": "gelu"}
_RESNET: dict[str, Any] = {
    "hidden_sizes": [256, 512, 1024, 2048],
    "depths": [3, 4, 6, 3],
    "hidden_act": "relu",
    "layer_type": "bottleneck",
    "embedding_size": 64,
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": False,
}


def _vit(name: str, **more: Any) -> Callable[[Mapping[str, Any]], Made]:
    """Give what makes timm's `name` of a config of a vision transformer."""

    def make(said: Mapping[str, Any]) -> Made:
        width, kind = said["hidden_size"], said["model_type"]
        ratio, own = said["intermediate_size"] / width, name
        if kind.startswith("dinov2"):
            ratio = said["mlp_ratio"]
            if said["use_swiglu_ffn"]:  # two layers side by side, of which one is the other's gate
                ratio = 2 * ((int(int(width * ratio) * 2 / 3) + 7) // 8 * 8) / width
                own = own.replace("small", "giant")
        registers = said["num_register_tokens"]
        own = own.replace("_reg4", "" if kind.endswith("registers") and not registers else "_reg4")
        return own, {
            "patch_size": said["patch_size"],
            "embed_dim": width,
            "depth": said["num_hidden_layers"],
            "num_heads": said["num_attention_heads"],
            "mlp_ratio": ratio,
            **({} if kind == "dinov3_vit" else {"qkv_bias": said["qkv_bias"]}),
            **({"reg_tokens": registers} if "_reg4" in own else {}),
            **({"num_reg_tokens": registers} if kind == "dinov3_vit" else {}),
            **more,
        }

    return make


def _convnext(name: str) -> Callable[[Mapping[str, Any]], Made]:
    return lambda said: (name, {"dims": said["hidden_sizes"], "depths": said["depths"]})


def _resnet(said: Mapping[str, Any]) -> Made:
    deep = said["layer_type"] == "bottleneck"
    if said["embedding_size"] != 64 or said["downsample_in_first_stage"] or said["downsample_in_bottleneck"]:
        raise NearfarError("its first layers, or where it halves the side, are not those of timm's ResNets.")
    widths = [width // (4 if deep else 1) for width in said["hidden_sizes"]]
    return "resnet50" if deep else "resnet18", {"layers": said["depths"], "channels": widths}


CLASS = {"global_pool": "token"}
KINDS: dict[str, Callable[[Mapping[str, Any]], Made]] = {
    "vit": _vit("vit_base_patch16_224", **CLASS),
    "vit_mae": _vit("vit_base_patch16_224", **CLASS),
    "deit": _vit("deit_base_distilled_patch16_224"),
    "ijepa": _vit(
        "vit_base_patch16_224", class_token=False, no_embed_class=True, global_pool="avg", fc_norm=False
    ),
    "dinov2": _vit("vit_small_patch14_dinov2", **CLASS),
    "dinov2_with_registers": _vit("vit_small_patch14_reg4_dinov2", **CLASS),
    "dinov3_vit": _vit("vit_small_patch16_dinov3_qkvb", **CLASS),
    "convnext": _convnext("convnext_tiny"),
    "convnextv2": _convnext("convnextv2_tiny"),
    "dinov3_convnext": _convnext("convnext_tiny"),
    "resnet": _resnet,
}
"""By transformers' name of a kind of network: what makes it timm's. Vectors are the class token where there
is one, the mean of both tokens of a distilled network, else the mean over the plane, as their authors take
them."""


def network(said: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """Say which network of timm's a folder holds.

    Args:
        said: its config.json.
        where: the file, for errors.

    Returns:
        timm's name, and what else timm builds it with, in plain values.

    Raises:
        NearfarError: it is of another kind, or damaged.
    """
    kind = str(said.get("model_type"))
    if kind not in KINDS:
        raise NearfarError(
            f"{where} is of a {kind} of transformers, which nearfar does not build (it builds "
            f"{', '.join(KINDS)}, clip and siglip); give the same network as timm:NAME."
        )
    if kind == "resnet":
        flags = dict.fromkeys(("downsample_in_first_stage", "downsample_in_bottleneck"), bool)
        shape, usual = {**_STAGED, "layer_type": str, "embedding_size": _COUNT, **flags}, _RESNET
    elif "convnext" in kind:
        shape, usual = _STAGED, _TINY
    else:
        shape, usual = _TRANSFORMER, _BASE
    whole = {name: said.get(name, usual[name]) for name in shape}
    check_shape(whole, shape, f"{where}: ")
    if whole["hidden_act"] != usual["hidden_act"] or said.get("use_gated_mlp"):
        raise NearfarError(
            f"{where} names layers that nearfar does not build; give the same network as timm:NAME."
        )
    if shape is _TRANSFORMER and whole["hidden_size"] % whole["num_attention_heads"]:
        raise NearfarError(
            f"{where}: hidden_size is no multiple of num_attention_heads; give a whole folder."
        )
    try:
        return KINDS[kind]({**whole, "model_type": kind})
    except NearfarError as error:
        raise NearfarError(f"{where}: {error}") from None


def input_config(said: Mapping[str, Any], how: Mapping[str, Any]) -> InputConfig:
    """Say what the images of a folder's network are.

    Args:
        said: its config.json.
        how: its preprocessor_config.json; {} where there is none.

    Returns:
        Side, crop, interpolation, mean and deviation, and whether the makers squash an image into a square.
    """
    usual = InputConfig()
    crop = _side(how.get("crop_size")) if how.get("do_center_crop") else None
    short, own = _side(how.get("size")), how.get("crop_pct")
    side = crop or short or said.get("image_size")
    side = side if isinstance(side, int) and 8 <= side <= 1024 else usual.size
    kept = share(min(crop, short), short) if crop and short else 1.0
    if isinstance(own, float) and 0 < own <= 1 and side < 384:  # ConvNeXt's own way
        kept = own
    half = (0.5, 0.5, 0.5) if said.get("model_type") == "vit" else None
    mean, std = figures(how)
    bicubic = how.get("resample", 3 if said.get("model_type") != "vit" else 2) == 3
    return InputConfig(
        side,
        kept,
        "bicubic" if bicubic else "bilinear",
        mean or half or usual.mean,
        std or half or usual.std,
        fit=fit(how),
        assumed=mean is None or std is None,
    )


def figures(how: Mapping[str, Any]) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Read mean and deviation from a preprocessor_config.json; None where it does not say them.

    Args:
        how: what the file holds.
    """
    if how.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = (how.get(name) for name in FIGURES)
    return numbers(mean), numbers(std, low=0.0)


def fit(how: Mapping[str, Any]) -> str:
    """Read from a preprocessor_config.json how an image that is not square becomes one, as timm names it.

    Args:
        how: what the file holds.
    """
    size = how.get("size")
    squashed = isinstance(size, Mapping) and "height" in size and not how.get("do_center_crop")
    return "squash" if squashed and how.get("do_resize") is not False else "center"


def _side(size: Any) -> int | None:
    """Read a side, which is a number or a table in transformers' files."""
    if isinstance(size, Mapping):
        size = size.get("shortest_edge", size.get("height"))
    return size if isinstance(size, int) and 8 <= size <= 4096 else None


_BODIES = (
    "vit|deit|ijepa|dinov2|dinov2_with_registers|dinov3_vit|convnext|convnextv2|dinov3_convnext|resnet|model"
)
_NAMES = (
    # Vision transformers.
    (r"^embeddings\.(cls|mask)_token$", r"\1_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:encoder\.|model\.)?layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.(?:intermediate\.dense|mlp\.up_proj|mlp\.weights_in)\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.(?:output\.dense|mlp\.down_proj|mlp\.weights_out)\.", r"\1.mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    # ConvNeXt.
    (r"^embeddings\.patch_embeddings\.", "stem.0."),
    (r"^embeddings\.layernorm\.", "stem.1."),
    (r"^(?:model\.)?stages\.0\.downsample_layers\.", "stem."),
    (
        r"^(?:encoder\.|model\.)?stages\.(\d+)\.(?:downsampling_layer|downsample_layers)\.",
        r"stages.\1.downsample.",
    ),
    (r"^(?:encoder\.|model\.)?stages\.(\d+)\.layers\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.(?:dwconv|depthwise_conv)\.", ".conv_dw."),
    (r"(stages\..*)\.layer_?norm\.", r"\1.norm."),
    (r"\.(?:pwconv|pointwise_conv)([12])\.", r".mlp.fc\1."),
    (r"\.grn\.", ".mlp.grn."),
    (r"\.layer_scale_parameter$", ".gamma"),
    # ResNets, whose layers were called blocks above.
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
)
"""Names of transformers' parts, and of timm's, in the order in which they are looked for."""


def renamed(state: dict[str, Tensor], net: Any) -> dict[str, Tensor]:
    """Give weights of transformers the names, and the forms, that they have in timm.

    Args:
        state: what a file holds.
        net: timm's network, which they are for.

    Returns:
        The weights for `net`; the same where they are not of transformers.
    """
    plain = {re.sub(rf"^(?:{_BODIES})\.(?=embed|encoder|layer|stages|norm)", "", key): key for key in state}
    if not any(
        re.match(r"embeddings\.(?:cls|position|patch)|embedder\.|stages\.0\.downsample_l", key)
        for key in plain
    ):
        return state
    found = {_renamed(key): state[own] for key, own in plain.items()}
    if "cls_token" in found:  # DINOv3 names its patches as ConvNeXt names its first layer
        found = {key.replace("stem.0.", "patch_embed.proj."): value for key, value in found.items()}
    wanted = net.state_dict()
    _joined(found, wanted)
    if "head.norm.weight" in wanted:  # ConvNeXt's last norm
        found = {
            key.replace("norm.", "head.norm.") if key.startswith("norm.") else key: found[key]
            for key in found
        }
    for key in ("grn.weight", "grn.bias"):
        found |= {name: value.flatten() for name, value in found.items() if name.endswith(key)}
    _positions(found, net)
    dropped = re.compile(r"(?:pooler|classifier|cls_classifier|distillation_classifier|decoder|mask_token)\b")
    return {key: value for key, value in found.items() if not dropped.match(key)}


def _renamed(key: str) -> str:
    for before, after in _NAMES:
        key = re.sub(before, after, key)
    key = re.sub(r"^(?:layernorm|layer_norm)\.", "norm.", key)
    if (block := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.(layer\.(\d+)\.|downsample\.)", key)) is not None:
        rest = key[block.end() :]
        if block[4] is None:
            return f"layer{int(block[1]) + 1}.{block[2]}.downsample.{rest}"
        number = int(block[4]) + 1
        rest = rest.replace("convolution.", f"conv{number}.").replace("normalization.", f"bn{number}.")
        return f"layer{int(block[1]) + 1}.{block[2]}.{rest}"
    return key


def _joined(found: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Join queries, keys and values, which timm computes at once, and name scales as `wanted` does."""
    for key in [name for name in found if re.search(r"\.attn\.(?:query|q)\.weight$", name)]:
        start, long = key.rsplit(".", 2)[0], key.endswith("query.weight")
        parts = [f"{start}.{part}" for part in (("query", "key", "value") if long else "qkv")]
        found[f"{start}.qkv.weight"] = torch.cat([found.pop(f"{part}.weight") for part in parts])
        biases = [found.pop(f"{part}.bias", None) for part in parts]
        if f"{start}.q_bias" in wanted:  # keys have none
            for letter, bias in (("q", biases[0]), ("v", biases[2])):
                own = wanted[f"{start}.{letter}_bias"]
                found[f"{start}.{letter}_bias"] = torch.zeros_like(own) if bias is None else bias
        elif biases[0] is not None and biases[1] is not None and biases[2] is not None:
            found[f"{start}.qkv.bias"] = torch.cat([biases[0], biases[1], biases[2]])
    for key in [name for name in found if re.search(r"\.ls[12]\.gamma$", name)]:
        if (other := re.sub(r"\.ls([12])\.gamma$", r".gamma_\1", key)) in wanted:
            found[other] = found.pop(key)


def _positions(found: dict[str, Tensor], net: Any) -> None:
    """Bring learnt positions to the grid of `net` as transformers does, and to the tokens that have one."""
    places = found.get("pos_embed")
    if places is None:
        return
    prefix = int("cls_token" in found) + int("dist_token" in found)
    head, plane = places[:, :prefix], places[:, prefix:]
    grid, side = list(net.patch_embed.grid_size), round(plane.shape[1] ** 0.5)
    if side * side == plane.shape[1] and grid != [side, side]:
        square = plane.transpose(1, 2).unflatten(2, (side, side))
        smooth = "reg_token" in found  # DINOv2's networks with registers were trained so
        square = F.interpolate(square.float(), size=grid, mode="bicubic", antialias=smooth).to(plane.dtype)
        plane = square.flatten(2).transpose(1, 2)
    if getattr(net, "no_embed_class", False) and prefix:
        found["cls_token"] = found["cls_token"] + head[:, :1]
        found["pos_embed"] = plane
    else:
        found["pos_embed"] = torch.cat([head, plane], 1)
