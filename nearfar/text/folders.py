"""What known encoders of texts share: how their folders' settings are read, and their networks built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..core.errors import NearfarError
from ..models import Encoder


def build(
    name: str,
    network: Callable[[Mapping[str, Any]], nn.Module],
    config: Mapping[str, Any],
    size: int | None,
    option: str,
) -> Encoder:
    """Build an encoder with random weights.

    Args:
        name: of the encoder.
        network: makes the network of `config`.
        config: by the names of the folder's config.json.
        size: tokens of a text, at most.
        option: that sets `size`, as it is typed.

    Raises:
        NearfarError: it has places for fewer than `size` tokens.
    """
    places = config["max_position_embeddings"]
    if size is not None and size > places:
        raise NearfarError(f"this encoder reads {places} tokens at most; lower {option}.")
    with torch.random.fork_rng(devices=[]):
        net = network(config)
    return Encoder(net, config["hidden_size"], name, "standard", size, args=config)
