"""The encoder of captions, in a training on images with captions."""

from __future__ import annotations

from .. import models
from ..core.errors import NearfarError
from ..data.modalities import modality
from ..text.networks import check_name
from .run import Run, is_run, load
from .run_config import RunConfig


def caption_encoder(wanted: RunConfig) -> models.Encoder:
    """Build the encoder of captions: that of the run that training starts from, or the one that is named.

    Args:
        wanted: from `resolve.resolve`.

    Returns:
        The encoder, to be trained.
    """
    start = caption_start(wanted.training.weights, wanted.settings.text_encoder)
    if start is not None:
        return start.encoder.train()
    return modality("text").encoder(
        wanted.settings.text_encoder, size=wanted.preprocess.text.size, seed=wanted.training.seed
    )


def caption_start(weights: str | None, named: str | None) -> Run | None:
    """Open the encoder of texts that a training on images with captions starts from.

    Args:
        weights: what training starts from, which may hold one of both.
        named: the method's setting `text_encoder`.

    Returns:
        A run on texts; None where captions start from random weights.

    Raises:
        NearfarError: it is of another kind, or no encoder has the name.
    """
    if named is not None and is_run(named):
        run = load(named)
        run = run.text or run
        if run.preprocess.modality != "text":
            raise NearfarError(f"--text-encoder {named} is of {run.preprocess.modality}; name one of texts.")
        return run
    found = load(weights).text if weights is not None and is_run(weights) else None
    if named is not None and found is None:  # before a tokenizer is trained for it
        check_name(named)
    return found
