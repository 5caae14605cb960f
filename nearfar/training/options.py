"""The settings of a run as typed keywords, for editors and mypy.

Written by `docs/make.py` from the settings classes; a test says when it is due.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict


class Options(TypedDict, total=False):
    """Any setting of `Training`, of views or a method; None stands for one that is not given."""

    # Training
    modality: str | None
    groups: str | None
    epochs: float | None
    steps: int | None
    minutes: float | None
    batch_size: int | None
    micro_batch: int | None
    encoder: str | None
    stem: str | None
    weights: str | None
    trainable: str | None
    head_warmup: float | None
    encoder_rate: float | None
    rate_decay: float | None
    start_pull: float | None
    freeze_statistics: bool | None
    image_size: int | None
    early_size: float | None
    early_steps: float | None
    short_side: int | None
    optimizer: str | None
    lr: float | None
    lr_scaling: str | None
    momentum: float | None
    weight_decay: float | None
    warmup: float | None
    precision: str | None
    seed: int | None
    device: str | None
    views_on: str | None
    compile: str | None
    parallel: str | None
    checkpoint_activations: bool | None
    threads: int | None
    workers: int | None
    max_bad: float | None
    max_pixels: int | None
    holdout: float | None
    health_checks: int | None
    stop_on_collapse: bool | None
    cache: bool | None
    save_minutes: float | None
    tensorboard: bool | None

    # Views of images
    crop_min: float | None
    crop_max: float | None
    interpolation: str | None
    range: Sequence[float] | float | None
    percentiles: Sequence[float] | float | None
    colour: str | None
    flip: float | None
    jitter: float | None
    brightness: float | None
    contrast: float | None
    saturation: float | None
    hue: float | None
    grayscale: float | None
    blur: float | None
    solarize: float | None

    # Views of sound
    rate: int | None
    mels: int | None
    trim: float | None
    depth: float | None
    level: str | None
    keep: float | None
    stretch: float | None
    shift: float | None
    warp: float | None
    tilt: float | None
    floor: float | None
    masks: float | None

    # Views of text
    deletion: float | None
    tokenizer: str | None

    # Views of pairs
    caption_tokens: int | None

    # Of the methods, each of which has some
    temperature: float | None
    head: Sequence[int] | int | None
    decoupled: bool | None
    keep_colour: bool | None
    queue: int | None
    ema: float | None
    bn_splits: int | None
    predictor: int | None
    projection: int | None
    per_class: int | None
    margin: float | None
    mining: str | None
    pairs: str | None
    mixup: float | None
    memory: int | None
    lambda_: float | None
    scale: float | None
    invariance: float | None
    variance: float | None
    covariance: float | None
    prototypes: int | None
    epsilon: float | None
    sinkhorn_iterations: int | None
    local_crops: int | None
    freeze_last_layer: float | None
    queue_start: float | None
    student_temperature: float | None
    teacher_temperature: float | None
    teacher_temperature_start: float | None
    teacher_temperature_warmup: float | None
    centre: float | None
    patch_weight: float | None
    masked: float | None
    koleo: float | None
    centring: str | None
    norm_head: bool | None
    n_views: int | None
    directions: int | None
    width: int | None
    bank_negatives: int | None
    bank_momentum: float | None
    grid: int | None
    gap: float | None
    estimator: str | None
    local: float | None
    global_: float | None
    prior: float | None
    stride: int | None
    units: int | None
    first: int | None
    predicted: int | None
    negatives: str | None
    rows_below: int | None
    context_depth: int | None
    decoder_width: int | None
    decoder_depth: int | None
    normalised: bool | None
    block: int | None
    context: float | None
    target_blocks: int | None
    standardised: bool | None
    predictor_width: int | None
    predictor_depth: int | None
    teacher: str | None
    words: int | None
    word_temperature: float | None
    kl: float | None
    corruption: str | None
    noise: float | None
    blanked: float | None
    latent: int | None
    beta: float | None
    permutations: int | None
    turn_weight: float | None
    triples: bool | None
    left_in: float | None
    text_encoder: str | None
    caption_weight: float | None
    matching_depth: int | None
    teacher_input: str | None
    cosine: float | None
    classes: int | None
