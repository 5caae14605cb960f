"""Our small networks as a finished run keeps them, with the features of every scale, or as trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import EVERY_SCALE, Encoder, encoder
from .residual import SHAPES, Residual


def finished(trained: Encoder) -> Encoder:
    """Give an encoder as a finished run keeps it: our small networks with the features of every scale.

    Args:
        trained: left as it is.

    Returns:
        The same encoder, or one with the same weights, whose vectors `features.whitening` is to whiten.
    """
    return _same_weights(trained, EVERY_SCALE) if _gains_scales(trained) else trained


def finished_dim(trained: Encoder) -> int:
    """Tell how many numbers a vector of an encoder has once `finished` has had it.

    Args:
        trained: as for `finished`.
    """
    return SHAPES[trained.name].every_dim if _gains_scales(trained) else trained.dim


def _gains_scales(trained: Encoder) -> bool:
    """Tell whether a finished run keeps every scale; not where vectors are compared with others' vectors."""
    own = isinstance(trained.net, Residual) and not trained.args and trained.projection is None
    return own and bool(SHAPES[trained.name].kept_scales)


def as_trained(kept: Encoder) -> Encoder:
    """Give an encoder whose vectors are those that training compared, without what `finished` added.

    Args:
        kept: of a finished run; left as it is.

    Returns:
        The same encoder, or one with the same weights.
    """
    return _same_weights(kept, None) if kept.args == EVERY_SCALE else kept


def _same_weights(made: Encoder, args: Mapping[str, Any] | None) -> Encoder:
    """Build one of our small networks again with other arguments; buffers of neither are in both."""
    again = encoder(made.name, stem=made.stem, size=made.size, mean=made.mean, std=made.std, args=args)
    state = again.state_dict()
    again.load_state_dict(state | {name: x for name, x in made.state_dict().items() if name in state})
    again.untrained = made.untrained
    return again.train(made.training)
