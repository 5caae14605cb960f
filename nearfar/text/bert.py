"""Known encoders of texts: folders of BERT's layout, as transformers and sentence-transformers write them.

A folder holds config.json with "model_type": "bert", model.safetensors and tokenizer.json. The names of the
network's parts are those of the file.

Source:
    Devlin et al. 2019, "BERT: Pre-training of deep bidirectional transformers for language understanding";
    the mean of the tokens: Reimers and Gurevych 2019, "Sentence-BERT", section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import NearfarError
from ..core.shapes import check_shape, loads, optional_object
from ..models import Encoder
from ..models.folders import weights_of
from ..models.weights import tensors
from . import folders, tokenizer
from .view_settings import TextPreprocess

NAME = "bert"
_COUNT = range(1, 1 << 20)
SHAPE = {
    "vocab_size": _COUNT,
    "hidden_size": _COUNT,
    "num_hidden_layers": range(1, 1 << 10),
    "num_attention_heads": range(1, 1 << 10),
    "intermediate_size": _COUNT,
    "max_position_embeddings": _COUNT,
    "type_vocab_size?": _COUNT,
    "layer_norm_eps?": float,
    "hidden_dropout_prob?": float,
}


class BertLayer(nn.Module):
    """Attention and two layers, each with a shortcut and a layer norm after it."""

    def __init__(self, width: int, heads: int, inner: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        three = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"self": three, "output": _last(width, width, eps)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = _last(inner, width, eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(n, t, width) and (n, t) bool -> (n, t, width)."""
        three: Any = self.attention["self"]
        q, k, v = (three[name](x).unflatten(2, (self.heads, -1)).transpose(1, 2) for name in three)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = self._after(self.attention["output"], y.transpose(1, 2).flatten(2), x)
        return self._after(self.output, F.gelu(self.intermediate["dense"](x)), x)

    def _after(self, last: Any, y: Tensor, x: Tensor) -> Tensor:
        z: Tensor = last["LayerNorm"](self.dropout(last["dense"](y)) + x)
        return z


def _last(inside: int, outside: int, eps: float) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(inside, outside), "LayerNorm": nn.LayerNorm(outside, eps)})


class BertNetwork(nn.Module):
    """BERT, and the mean of its tokens, or its first one."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Build it with random weights.

        Args:
            config: of config.json, by the names of `SHAPE`; and "pooling", "mean" or "first".
        """
        super().__init__()
        width, eps = config["hidden_size"], config.get("layer_norm_eps", 1e-12)
        self.pooling, dropout = config.get("pooling", "mean"), config.get("hidden_dropout_prob", 0.1)
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config["vocab_size"], width, padding_idx=tokenizer.PAD),
                "position_embeddings": nn.Embedding(config["max_position_embeddings"], width),
                "token_type_embeddings": nn.Embedding(config.get("type_vocab_size", 2), width),
                "LayerNorm": nn.LayerNorm(width, eps),
            }
        )
        heads, inner = config["num_attention_heads"], config["intermediate_size"]
        layers = [BertLayer(width, heads, inner, eps, dropout) for _ in range(config["num_hidden_layers"])]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})
        self.dropout = nn.Dropout(dropout)

    @property
    def table(self) -> nn.Module:
        """A vector for each token."""
        return self.embeddings["word_embeddings"]

    def tokens(self, ids: Tensor) -> Tensor:
        """(n, t) int64 -> (n, t, width), after the last layer."""
        parts: Any = self.embeddings
        x = parts["word_embeddings"](ids) + parts["position_embeddings"].weight[: ids.shape[1]]
        x = self.dropout(parts["LayerNorm"](x + parts["token_type_embeddings"].weight[0]))
        layers: Any = self.encoder["layer"]
        for layer in layers:
            x = layer(x, ids != tokenizer.PAD)
        return x

    def forward(self, ids: Tensor) -> Tensor:
        """(n, t) int64, 0 after the end of a text -> (n, width)."""
        x, there = self.tokens(ids), (ids != tokenizer.PAD)[:, :, None]
        if self.pooling == "first":
            return x[:, 0]
        return (x * there).sum(1) / there.sum(1).clamp(min=1)


def build(config: Mapping[str, Any], size: int | None) -> Encoder:
    """Build an encoder with random weights; see `BertNetwork` and `folders.build`."""
    return folders.build(NAME, BertNetwork, config, size, "--image-size")


def is_bert(folder: Path) -> bool:
    """Tell whether a folder holds such a network."""
    return optional_object(folder / "config.json").get("model_type") == NAME


def open_folder(folder: Path, whole: Path) -> tuple[Encoder, TextPreprocess]:
    """Open such a folder.

    Args:
        folder: with config.json, model.safetensors and tokenizer.json.
        whole: the model's, where sentence-transformers keeps its pooling; the same, or above.

    Returns:
        The encoder, in eval mode, and how texts are prepared for it.

    Raises:
        NearfarError: a file is missing or does not fit.
    """
    where = folder / "config.json"
    held = loads(where.read_bytes())
    check_shape(held, SHAPE, f"{where}: ")
    config = {name: held[name] for name in (key.rstrip("?") for key in SHAPE) if name in held}
    if held.get("hidden_act", "gelu") != "gelu" or config["hidden_size"] % config["num_attention_heads"]:
        raise NearfarError(f"{where} is of a BERT of another make than nearfar builds; give one with gelu.")
    if held.get("position_embedding_type", "absolute") != "absolute":
        raise NearfarError(
            f"{where} is of a BERT whose tokens have no places of their own; give another one."
        )
    config["pooling"] = _pooling(whole)
    limit = optional_object(whole / "sentence_bert_config.json").get("max_seq_length")
    size = min(limit if isinstance(limit, int) and limit > 2 else 512, config["max_position_embeddings"])
    encoder = build(config, size)
    file = weights_of(folder)
    state = {name.removeprefix("bert."): value.float() for name, value in tensors(file).items()}
    wanted = encoder.net.state_dict()
    unfit = [name for name, value in wanted.items() if name not in state or state[name].shape != value.shape]
    if unfit:
        raise NearfarError(
            f"{file} lacks {unfit[0]!r}, or has it in another shape; give a whole folder of one model."
        )
    encoder.net.load_state_dict({name: state[name] for name in wanted})
    encoder.untrained = False
    words = tokenizer.read(folder / tokenizer.FILE)
    if tokenizer.count(words) > config["vocab_size"]:
        raise NearfarError(
            f"{folder / tokenizer.FILE} has {tokenizer.count(words):,} tokens and the model beside it "
            f"{config['vocab_size']:,}; the two belong to others."
        )
    return encoder.eval(), TextPreprocess(size, words)


def _pooling(whole: Path) -> str:
    """Read how a folder of sentence-transformers makes one vector of its tokens: "mean" or "first".

    Raises:
        NearfarError: it does so in another way, or changes the vector afterwards.
    """
    where, place = whole / "modules.json", "1_Pooling"
    if where.is_file():
        modules = loads(where.read_bytes())
        check_shape(modules, [{"path": str, "type": str}], f"{where}: ")
        for module in modules[1:]:  # the first is the network
            kind = module["type"].rpartition(".")[2]
            if kind == "Pooling":
                place = module["path"]
            elif kind != "Normalize":  # which only makes vectors as long as each other
                raise NearfarError(
                    f"{where} names a module {kind}, which nearfar does not build; give a model of a BERT "
                    "and its pooling alone."
                )
    held = optional_object(whole / place / "config.json")
    chosen = sorted(
        name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for name, on in held.items()
        if name.startswith("pooling_mode_") and on is True
    )
    if isinstance(held.get("pooling_mode"), str):
        chosen = [held["pooling_mode"]]
    found = {"mean": "mean", "cls": "first"}.get(" and ".join(chosen) or "mean")
    if found is None:
        raise NearfarError(
            f"{whole / place / 'config.json'} makes vectors of tokens by {' and '.join(chosen)}, which "
            "nearfar does not build; give a model with their mean or the first token."
        )
    return found
