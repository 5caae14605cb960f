"""Attention and a transformer's step in bfloat16 on a core of a CPU: step by step, and by torch's own kernel.

    python -m benchmarks.attention [--rounds 5]

Both take turns, forward and backward together; a row is the middle of the rounds, and the gain the middle of
the rounds' ratios, with the least and the greatest. Prints Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F

from nearfar import models
from nearfar.models.attention import PlainAttention

from .measure import Spread

SHAPES = ((128, 3, 16, 64), (128, 3, 64, 64), (16, 6, 197, 64), (16, 12, 257, 64), (8, 6, 385, 64))
ENCODERS = (("vit_w64_d2", 32, 128), ("vit_w192_d6", 32, 128), ("timm:vit_tiny_patch16_224", 224, 16))

Work = Callable[[], torch.Tensor]


def spent(work: Work, plain: bool) -> float:
    """Give the seconds of one forward and backward pass."""
    began = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16), PlainAttention() if plain else nullcontext():
        y = work()
    y.float().square().mean().backward()
    return time.perf_counter() - began


def row(name: str, work: Work, rounds: int) -> str:
    """Measure both in turns, after one of each that is not counted."""
    pairs = [(spent(work, True), spent(work, False)) for _ in range(rounds + 1)][1:]
    ours, theirs = (1e3 * Spread.of(times).middle for times in zip(*pairs, strict=True))
    gain = Spread.of(other / own for own, other in pairs)
    return f"| {name} | {ours:.1f} | {theirs:.1f} | {gain.middle:.1f} ({gain.low:.1f} to {gain.high:.1f}) |"


def attention(shape: tuple[int, int, int, int]) -> Work:
    """Attend among so many tokens, in so many heads."""
    images, heads, tokens, dim = shape
    qkv = torch.randn(images, tokens, 3, heads, dim, dtype=torch.bfloat16, requires_grad=True)

    def work() -> torch.Tensor:
        return F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))

    return work


def network(name: str, side: int, images: int) -> Work:
    """Encode images."""
    known = name.partition(":")[2]
    net: Any
    if known:
        import timm

        net = timm.create_model(known, num_classes=0)
    else:
        net = models.encoder(name, size=side, seed=0)
    net.train()
    x = torch.rand(images, 3, side, side)
    return lambda: net(x)


def main() -> None:
    """Print a row a shape and a network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| forward and backward | ours, ms | torch's, ms | times as fast |\n|---|---|---|---|")
    for shape in SHAPES:
        images, heads, tokens, dim = shape
        name = f"{images} images, {heads} heads, {tokens} tokens, {dim} numbers a head"
        print(row(name, attention(shape), rounds), flush=True)
    for encoder, side, images in ENCODERS:
        try:
            work = network(encoder, side, images)
        except ImportError:
            continue
        print(row(f"`{encoder}`, {images} images of {side} px", work, rounds), flush=True)


if __name__ == "__main__":
    main()
