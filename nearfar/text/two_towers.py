"""Known models of images and texts: folders of CLIP and SigLIP, as transformers and open_clip write them.

A folder holds config.json and model.safetensors, or open_clip_config.json and open_clip_model.safetensors;
and tokenizer.json. Both towers are adopted, with what similarities are multiplied by.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import NearfarError
from ..core.shapes import check_shape, optional_object
from ..models import Encoder, hf_networks
from ..models.folders import weights_of
from ..models.image_tower import ACTIVATIONS, NAME, ImageTower, Layers
from ..models.input_config import PREPROCESSOR, InputConfig, say_assumed
from ..models.weights import tensors
from . import folders, tokenizer
from .view_settings import TextPreprocess

TEXT_NAME = "clip_text"
KINDS = ("clip", "siglip")
OPEN_CLIP = "open_clip_config.json"
_COUNT = range(1, 1 << 20)
_SIZES = {
    "hidden_size": _COUNT,
    "intermediate_size": _COUNT,
    "num_hidden_layers": range(1, 1 << 10),
    "num_attention_heads": range(1, 1 << 10),
    "hidden_act": str,
    "layer_norm_eps": float,
}
SHAPES: dict[str, dict[str, Any]] = {
    "text": {**_SIZES, "vocab_size": _COUNT, "max_position_embeddings": _COUNT, "pad_token_id?": object},
    "vision": {**_SIZES, "image_size": range(8, 1 << 12), "patch_size": range(1, 1 << 10)},
}
_MARKS = {"text": {"causal": bool}, "vision": {"class_token": bool}}
_SHARED = {
    "clip": {"num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip": {"num_hidden_layers": 12, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
}
_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "image_size": 224}
USUAL: dict[str, dict[str, dict[str, Any]]] = {
    "clip": {
        "text": {
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_attention_heads": 8,
            "vocab_size": 49408,
            "max_position_embeddings": 77,
        },
        "vision": {**_BASE, "patch_size": 32},
    },
    "siglip": {
        "text": {**_BASE, "vocab_size": 32000, "max_position_embeddings": 64, "pad_token_id": 1},
        "vision": {**_BASE, "patch_size": 16},
    },
}
"""What transformers leaves out of a config.json, since it is its default."""


@dataclass(frozen=True)
class ClipFolder:
    """What a folder holds.

    Attributes:
        image, text: the encoders, in eval mode.
        size, interpolation: how images are prepared.
        fit: how their makers make an image square, see `InputConfig`.
        words: how texts are prepared.
        scale: what cosines are multiplied by, "scale", and what is added then, "bias", where it says so.
    """

    image: Encoder
    size: int
    interpolation: str
    text: Encoder
    words: TextPreprocess
    scale: Mapping[str, float]
    fit: str


class TextTower(nn.Module):
    """A transformer over tokens, whose last token stands for the text.

    Tokens are numbered from 1, since 0 fills rows up. CLIP's look at those before; SigLIP's at all, and rows
    are filled up to their whole length with tokens that are looked at too, as it was trained.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Build it with random weights.

        Args:
            config: by the names of transformers' text_config, whole; and "causal", whether tokens look at
                those before alone.
        """
        super().__init__()
        width, places = config["hidden_size"], config["max_position_embeddings"]
        self.causal, self.fill = config["causal"], 1 + config.get("pad_token_id", 0)
        self.embeddings = nn.ModuleDict(
            {
                "token_embedding": nn.Embedding(config["vocab_size"] + 1, width),
                "position_embedding": nn.Embedding(places, width),
            }
        )
        self.encoder = Layers(config)
        self.final_layer_norm = nn.LayerNorm(width, config["layer_norm_eps"])
        self.head = None if self.causal else nn.Linear(width, width)

    def forward(self, ids: Tensor) -> Tensor:
        """(n, t) int64, 0 after the end of a text -> (n, width)."""
        places: Any = self.embeddings["position_embedding"]
        last = (ids != tokenizer.PAD).sum(1) - 1
        if not self.causal:
            whole = ids.new_zeros(len(ids), places.num_embeddings)
            whole[:, : ids.shape[1]] = ids
            ids = torch.where(whole == tokenizer.PAD, self.fill, whole)
            last = torch.full_like(last, ids.shape[1] - 1)
        x = self.embeddings["token_embedding"](ids) + places.weight[: ids.shape[1]]
        x = self.final_layer_norm(self.encoder(x, self.causal))
        h: Tensor = x[torch.arange(len(x), device=x.device), last.clamp(min=0)]
        return h if self.head is None else self.head(h)


def build_text(config: Mapping[str, Any], size: int | None) -> Encoder:
    """Build the encoder of texts with random weights; see `TextTower` and `folders.build`."""
    return folders.build(TEXT_NAME, TextTower, config, size, "--caption-tokens")


def is_two_towers(folder: Path) -> bool:
    """Tell whether a folder holds such a model."""
    return (folder / OPEN_CLIP).is_file() or optional_object(folder / "config.json").get(
        "model_type"
    ) in KINDS


def open_folder(folder: Path) -> ClipFolder:
    """Open such a folder.

    Args:
        folder: with the files that the head of this file names.

    Returns:
        Both encoders, and what their inputs need.

    Raises:
        NearfarError: a file is missing or does not fit.
    """
    configs, state, told = _open_clip(folder) if _is_open_clip(folder) else _transformers(folder)
    for part, config in configs.items():
        check_shape(config, {**SHAPES[part], **_MARKS[part]}, f"{folder}, {part}: ")
        odd = config["hidden_size"] % config["num_attention_heads"]
        if odd or config["hidden_act"] not in ACTIVATIONS:
            raise NearfarError(f"{folder} holds a model of another make than nearfar builds.")
    size = configs["vision"]["image_size"]
    with torch.random.fork_rng(devices=[]):
        net = ImageTower(configs["vision"])
    image = Encoder(
        net,
        configs["vision"]["hidden_size"],
        NAME,
        "standard",
        size,
        told["mean"],
        told["std"],
        untrained=False,
        args=configs["vision"],
    )
    text = build_text(configs["text"], configs["text"]["max_position_embeddings"])
    text.untrained = False
    table = "text_model.embeddings.token_embedding.weight"
    if table in state:  # token 0 fills rows up, so all others move on by one
        state[table] = torch.cat([torch.zeros_like(state[table][:1]), state[table]])
    _fill(folder, net, state, "vision_model.")
    _fill(folder, text.net, state, "text_model.")
    for name in ("visual_projection", "text_projection"):
        if (weight := state.get(f"{name}.weight")) is not None:
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            layer.load_state_dict({"weight": weight})
            image, text = (
                (image.projected(layer), text) if name.startswith("v") else (image, text.projected(layer))
            )
    if image.dim != text.dim:
        raise NearfarError(
            f"{folder} gives images {image.dim} numbers and texts {text.dim}; give a whole folder."
        )
    words = _tokenizer(folder, configs["text"]["vocab_size"])
    scale = {"scale": float(state["logit_scale"].exp())} if "logit_scale" in state else {}
    scale |= {"bias": float(state["logit_bias"])} if "logit_bias" in state else {}
    needs = TextPreprocess(configs["text"]["max_position_embeddings"], words)
    return ClipFolder(image.eval(), size, told["interpolation"], text.eval(), needs, scale, told["fit"])


def _is_open_clip(folder: Path) -> bool:
    return (folder / OPEN_CLIP).is_file() and not (folder / "model.safetensors").is_file()


def _fill(folder: Path, net: nn.Module, state: Mapping[str, Tensor], start: str) -> None:
    """Give a tower its weights."""
    wanted = net.state_dict()
    own = {name: state.get(start + name) for name in wanted}
    unfit = [name for name, value in own.items() if value is None or value.shape != wanted[name].shape]
    if unfit:
        raise NearfarError(
            f"the weights in {folder} lack {start + unfit[0]!r}, or have it in another shape; give a whole "
            "folder of one model."
        )
    net.load_state_dict(own)


def _tokenizer(folder: Path, vocabulary: int) -> str:
    """Read the tokenizer, with a token 0 that fills rows up."""
    path = folder / tokenizer.FILE
    try:
        text = tokenizer.padded(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise NearfarError(
            f"{path} cannot be read as a tokenizer ({error}); give a whole folder of a model, with its "
            "tokenizer.json."
        ) from None
    digest = tokenizer.register(text, str(path))
    if tokenizer.count(digest) > vocabulary + 1:
        raise NearfarError(f"{path} has more tokens than the model in {folder}; the two belong to others.")
    return digest


def _transformers(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor], dict[str, Any]]:
    """Read a folder of transformers: the configs of both towers, all weights, how images are prepared."""
    held = optional_object(folder / "config.json")
    kind = held["model_type"]
    configs = {}
    for part, shape in SHAPES.items():
        said = held.get(f"{part}_config")
        merged = {**_SHARED[kind], **USUAL[kind][part], **(said if isinstance(said, dict) else {})}
        configs[part] = {name: merged[name] for key in shape if (name := key.rstrip("?")) in merged}
        configs[part] |= dict.fromkeys(_MARKS[part], kind == "clip")
    plain = optional_object(folder / PREPROCESSOR)
    mean, std = hf_networks.figures(plain)
    if mean is None or std is None:
        half = (0.5, 0.5, 0.5)
        usual = (half, half) if kind == "siglip" else (_MEAN, _STD)
        mean, std = mean or usual[0], std or usual[1]
        say_assumed(InputConfig(mean=mean, std=std), str(folder), f"those of most {kind} networks", folder)
    told = {"mean": mean, "std": std, "fit": hf_networks.fit(plain)}
    told["interpolation"] = "bilinear" if plain.get("resample") == 2 else "bicubic"
    return configs, _weights(weights_of(folder)), told


_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's images
_RENAMED = (
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
)
"""Names of open_clip's parts, and of transformers'."""


def _open_clip(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor], dict[str, Any]]:
    """Read a folder of open_clip as `_transformers` reads one, its weights by transformers' names."""
    held = optional_object(folder / OPEN_CLIP)
    model, plain = held.get("model_cfg", {}), held.get("preprocess_cfg", {})
    vision, text = model.get("vision_cfg", {}), model.get("text_cfg", {})
    if not isinstance(vision.get("layers"), int) or "timm_model_name" in vision or "hf_model_name" in text:
        raise NearfarError(
            f"{folder / OPEN_CLIP} is of a model of another make than nearfar builds: give one whose towers "
            "are both CLIP's transformers, or the same model as transformers writes it."
        )
    shared = {
        "hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu",
        "layer_norm_eps": 1e-5,
    }
    configs = {}
    for part, said, heads in (
        ("vision", vision, vision.get("width", 768) // vision.get("head_width", 64)),
        ("text", text, text.get("heads", 8)),
    ):
        width = said.get("width", 768 if part == "vision" else 512)
        configs[part] = {
            **shared,
            **dict.fromkeys(_MARKS[part], True),
            "hidden_size": width,
            "intermediate_size": int(width * said.get("mlp_ratio", 4.0)),
            "num_hidden_layers": said.get("layers", 12),
            "num_attention_heads": heads,
        }
    configs["vision"] |= {name: vision.get(name, 224 if name == "image_size" else 16) for name in _VISION}
    configs["text"] |= {
        "vocab_size": text.get("vocab_size", 49408),
        "max_position_embeddings": text.get("context_length", 77),
    }
    state: dict[str, Tensor] = {}
    file = folder / "open_clip_model.safetensors"
    for name, value in _weights(file if file.is_file() else weights_of(folder)).items():
        for before, after in _RENAMED:
            name = re.sub(before, after, name)
        if name in ("visual.proj", "text_projection"):
            state["visual_projection.weight" if name[0] == "v" else "text_projection.weight"] = (
                value.T.contiguous()
            )
        elif (found := re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", name)) is not None:
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                state[f"{found[1]}.self_attn.{part}_proj.{found[2]}"] = piece.contiguous()
        else:
            state[name] = value
    told = {"mean": plain.get("mean", _MEAN), "std": plain.get("std", _STD)}
    told["fit"] = {"squash": "squash", "longest": "border"}.get(plain.get("resize_mode"), "center")
    return configs, state, {**told, "interpolation": plain.get("interpolation", "bicubic")}


_VISION = ("image_size", "patch_size")


def _weights(path: Path) -> dict[str, Tensor]:
    return {name: value.float() for name, value in tensors(path).items()}
