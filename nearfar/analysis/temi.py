"""TEMI: small networks that give neighbours the same cluster and use all clusters, whatever their shape."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..core import dynamo, rng
from ..features import knn

HEADS, WIDTH = 8, 128  # small networks that learn side by side, and the width of their hidden layer
NEIGHBOURS = 50  # of an image, one of which is its partner; fewer where clusters are small
TAU, BETA = 0.1, 0.6  # temperature of the answers; below 1, BETA keeps clusters from being equal by force
LAG, MEAN = 6.0, 0.9  # steps over the steps that a teacher is behind; momentum of the mean answers
BATCH, EPOCHS, STEPS = 512, 100, (150, 1500)  # steps are as many as the epochs need, within these bounds
LR, DECAY = 3e-3, 1e-4
LEAST = 1e-30


class _Heads(nn.Module):
    """Networks of one hidden layer, each with weights of its own: (n, d) -> (heads, n, clusters)."""

    def __init__(self, dim: int, clusters: int, draw: torch.Generator) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(HEADS, dim, WIDTH, generator=draw) * (2 / dim) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(HEADS, 1, WIDTH))
        self.second = nn.Parameter(torch.randn(HEADS, WIDTH, clusters, generator=draw) * WIDTH**-0.5 * TAU)

    def forward(self, x: Tensor) -> Tensor:
        """Answer with logits."""
        hidden = torch.relu(torch.baddbmm(self.bias, x.expand(HEADS, -1, -1), self.first))
        return hidden @ self.second


def temi(
    rows: npt.NDArray[np.float32], n_clusters: int, seed: int, steps: int | None = None
) -> npt.NDArray[np.int64]:
    """Cluster by TEMI: of several heads, take the answers of the one with the least loss.

    Args:
        rows: (n, d) floats of length 1.
        n_clusters: at least 2.
        seed: names the start and the draws.
        steps: to train; None for as many as n needs.

    Returns:
        (n,) int64 in [0, n_clusters); a cluster may stay empty, as all but one do where n is 1.

    Source:
        Adaloglou, Michels, Kalisch and Kollmann 2023, "Exploring the limits of deep image clustering using
        pretrained models" (arXiv:2303.17896), section 3, on stored features, with smaller heads.
    """
    x = torch.from_numpy(np.ascontiguousarray(rows))
    if len(x) < 2:
        return np.zeros(len(x), np.int64)
    count = min(NEIGHBOURS, max(1, len(x) // (2 * n_clusters)), len(x) - 1)
    near = knn.top_k(x, x, count, exclude_self=True)[1].numpy()
    x = (x - x.mean(0)) / x.std().clamp(min=1e-6)  # as networks like it: around 0, of variance 1
    draw = torch.Generator().manual_seed(rng.fold(seed, "temi") >> 1)
    student, teacher = (_Heads(x.shape[1], n_clusters, draw) for _ in range(2))
    teacher.load_state_dict(student.state_dict())
    optimizer = torch.optim.AdamW(student.parameters(), LR, weight_decay=DECAY)
    if steps is None:
        steps = int(np.clip(EPOCHS * len(x) // BATCH, *STEPS))
    ema = 1 - LAG / steps  # 0.996 at 1,500 steps, as in the paper
    mean, score = torch.full((HEADS, 1, n_clusters), 1 / n_clusters), torch.zeros(HEADS)
    for step in range(steps):
        draws = np.random.Generator(np.random.Philox(key=rng.fold(seed, "temi", step)))
        some = draws.integers(len(x), size=min(BATCH, len(x)))
        partners = near[some, draws.integers(count, size=len(some))]
        pair = torch.cat([x[some], x[partners]])
        for group in optimizer.param_groups:
            group["lr"] = LR * (1 + np.cos(np.pi * step / steps)) / 2
        with torch.no_grad():
            told = (teacher(pair) / TAU).softmax(2)  # (heads, 2n, clusters)
            mean = MEAN * mean + (1 - MEAN) * told.mean(1, keepdim=True)
        losses = pair_losses((student(pair) / TAU).softmax(2), told, mean)
        optimizer.zero_grad()
        losses.sum().backward()
        dynamo.step(optimizer)
        with torch.no_grad():
            score = ema * score + (1 - ema) * losses
            for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.lerp_(fast, 1 - ema)
    with torch.no_grad():
        best = int(score.argmin())
        answers = [teacher(part)[best].argmax(1) for part in x.split(4096)]
    return torch.cat(answers).numpy()


def pair_losses(p: Tensor, told: Tensor, mean: Tensor) -> Tensor:
    """Compute equation 8 of each head: how little a student's answer to an image tells of its partner's.

    Args:
        p: (heads, 2n, k) the students' answers, of n images and then of their partners.
        told: (heads, 2n, k) the teachers' answers.
        mean: (heads, 1, k) the teachers' mean answer.

    Returns:
        (heads,), the mean over pairs, each weighted by how alike all heads' teachers answer to both.
    """
    partner = told.roll(told.shape[1] // 2, 1)
    alike = (told * partner).sum(2).mean(0)  # (2n,)
    # The slope of a power below 1 is infinite at 0, where answers that are quite sure end.
    shared = ((p * partner).clamp_min(LEAST) ** BETA / mean).sum(2)  # (heads, 2n)
    return -(alike * (shared + 1e-12).log()).mean(1)
